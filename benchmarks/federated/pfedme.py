"""FedAvg on pFedMe's Synthetic(0.5, 0.5), trained in WebAssembly, with each way to write updates.

    python -m benchmarks.federated.pfedme [--schemes f32 int8 ...] [--seeds N] [--rounds N] [--json PATH]

100 users, multinomial logistic regression of 60 features and 10 classes (610 parameters), 600 rounds of 10
users, 20 steps with batches of 20 and a learning rate of 0.02 (Dinh et al., NeurIPS 2020; published: 77.62
+- 0.11). A seed decides the first model, who is asked, the order of examples and the rounding of codecs; the
data are the published ones. Accuracy: of the last global model, on the last tenth of each user's examples,
pooled. Bytes: of the encoded updates, against 4 a parameter. Each update passes the gate.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.federated.learning import Cloud, Devices, Uplink
from benchmarks.federated.spreading import spread
from benchmarks.federated.tables import told
from benchmarks.measuring import Found, machine, write_json
from cloud.compiler.training import compile_training
from cloud.federated.strategies import resolve
from edge.training.examples import Array
from shared.codecs import encode
from shared.learning import Codec, CodecName, TrainingPlan
from shared.package import pack

FEATURES, CLASSES, USERS = 60, 10, 100
TRAINED_SHARE = 0.9
ASKED, BATCH, ROUNDS, SEEDS = 10, 20, 600, 3
PLAN = TrainingPlan(source="synthetic", steps=20, lr=0.02)
BIG = 199_210  # parameters, for the bytes of a model where a frame's header does not count

SCHEMES = {
    "f32": Codec(name=CodecName.F32),
    "int8": Codec(name=CodecName.INT8),
    "top-10 %": Codec(name=CodecName.TOPK, ratio=0.1),
    "top-10 %, no feedback": Codec(name=CodecName.TOPK, ratio=0.1, feedback=False),
    "top-2 %": Codec(name=CodecName.TOPK, ratio=0.02),
    "top-2 %, no feedback": Codec(name=CodecName.TOPK, ratio=0.02, feedback=False),
}

User = tuple[Array, Array]


@cache
def generate(alpha: float = 0.5, beta: float = 0.5, multiple: int = 5, seed: int = 0) -> list[User]:
    """x float32 [n, 60] and y int64 [n] of each user.

    From the paper's description; its published code takes alpha and beta for standard deviations, and so does
    this. NumPy's legacy seeding is frozen (NEP 19): the data are the same everywhere.
    """
    rng = np.random.RandomState(seed)
    sizes = (rng.lognormal(4, 2, USERS).astype(int) + 50) * multiple
    mean_w, mean_b = rng.normal(0, alpha, USERS), rng.normal(0, beta, USERS)
    covariance = np.diag((np.arange(FEATURES) + 1.0) ** -1.2)
    means = [rng.normal(mean_b[user], 1, FEATURES) for user in range(USERS)]
    users = []
    for user in range(USERS):
        w: NDArray[np.float64] = rng.normal(mean_w[user], 1, (FEATURES, CLASSES))
        b = rng.normal(mean_w[user], 1, CLASSES)
        x = rng.multivariate_normal(means[user], covariance, sizes[user])
        users.append((x.astype(np.float32), np.argmax(x @ w + b, axis=1)))
    return users


def package(seed: int) -> bytes:
    """The train step, and a first model of torch's own initialisation."""
    torch.manual_seed(seed)
    batch = torch.zeros(BATCH, FEATURES), torch.zeros(BATCH, dtype=torch.int64)
    model = torch.nn.Linear(FEATURES, CLASSES)
    return pack(compile_training(model, "cross_entropy", "sgd", batch, name="mlr").package)


async def learn(users: Sequence[User], scheme: str, seed: int, rounds: int) -> Found:
    """One run."""
    cuts = [int(TRAINED_SHARE * len(y)) for _, y in users]
    trained = [(x[:cut], y[:cut]) for (x, y), cut in zip(users, cuts, strict=True)]
    x_test = np.concatenate([x[cut:] for (x, _), cut in zip(users, cuts, strict=True)])
    y_test = np.concatenate([y[cut:] for (_, y), cut in zip(users, cuts, strict=True)])
    rng, began = np.random.default_rng(seed), time.perf_counter()
    sent, updates, curve = 0, 0, []
    async with Devices(package(seed)) as devices:
        layout = devices.layout
        first = layout.flatten({name: one.astype(np.float32) for name, one in devices.start.items()})
        cloud = Cloud(resolve("fedavg", {}), layout, first, ASKED, max(len(y) for _, y in trained))
        uplink = Uplink(SCHEMES[scheme], layout)
        for number in range(rounds):
            for user in map(int, rng.choice(len(trained), ASKED, replace=False)):
                outcome = await devices.train(*trained[user], cloud.model, PLAN, f"{seed}/{number}/{user}")
                if outcome is None or outcome.delta is None:
                    continue
                header, data = uplink.write(user, outcome, outcome.delta, cloud.version, rng)
                sent, updates = sent + len(data), updates + 1
                cloud.receive(header, data)
            cloud.close()
            if (number + 1) % max(1, rounds // 6) == 0:
                curve.append(100 * await devices.accuracy(x_test, y_test, cloud.model))
    return {
        "scheme": scheme,
        "seed": seed,
        "rounds": rounds,
        "accuracy": curve[-1],
        "curve": curve,
        "update_bytes": sent / updates,
        "ratio": 4 * layout.n_params * updates / sent,
        "updates": updates,
        "rejected": dict(cloud.rejected),
        "seconds": time.perf_counter() - began,
    }


def one(case: tuple[str, int], rounds: int) -> Found:
    """In a process of its own."""
    return asyncio.run(learn(generate(), *case, rounds))


def big_ratio(scheme: str) -> float:
    """How much smaller one update of a larger model is: of random numbers, which do not compress."""
    rng = np.random.default_rng(0)
    delta = rng.standard_normal(BIG, np.float32)
    return 4 * BIG / len(encode(SCHEMES[scheme], delta, None, rng).data)


def summary(runs: Sequence[Found]) -> list[Found]:
    """Means over the seeds."""
    rows = []
    for scheme in dict.fromkeys(run["scheme"] for run in runs):
        chosen = [run for run in runs if run["scheme"] == scheme]
        accuracies = [run["accuracy"] for run in chosen]
        rows.append(
            {
                "scheme": scheme,
                "seeds": len(chosen),
                "accuracy": mean(accuracies),
                "spread": stdev(accuracies) if len(chosen) > 1 else 0.0,
                "update_bytes": mean(run["update_bytes"] for run in chosen),
                "ratio": mean(run["ratio"] for run in chosen),
                "ratio_big": big_ratio(scheme),
            }
        )
    return rows


def table(rows: Sequence[Found]) -> Table:
    made = Table("updates as", title="pFedMe Synthetic(0.5, 0.5), FedAvg-MLR, in WebAssembly")
    names = ("accuracy %", "+-", "points lost", "bytes an update", "x smaller", f"x, {BIG:,} parameters")
    for name in names:
        made.add_column(name, justify="right")
    plain = next((row["accuracy"] for row in rows if row["scheme"] == "f32"), None)
    for row in rows:
        lost = "" if plain is None else f"{plain - row['accuracy']:.2f}"
        shown = (f"{row['update_bytes']:.0f}", f"{row['ratio']:.1f}", f"{row['ratio_big']:.1f}")
        made.add_row(row["scheme"], f"{row['accuracy']:.2f}", f"{row['spread']:.2f}", lost, *shown)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--schemes", nargs="+", choices=SCHEMES, default=list(SCHEMES))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cases = [(scheme, seed) for seed in range(arguments.seeds) for scheme in arguments.schemes]
    runs = spread(partial(one, rounds=arguments.rounds), cases, "pFedMe")
    rows = summary(runs)
    found: Found = {"machine": machine(), "runs": runs, "rows": rows}
    write_json(arguments.json, found)
    return told("pfedme", found, [table(rows)])


if __name__ == "__main__":
    sys.exit(main())

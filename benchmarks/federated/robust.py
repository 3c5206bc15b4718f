"""Rules that bear liars: handwritten digits, 20 devices, 4 of which send -10 x what they have learned.

    python -m benchmarks.federated.robust [--rounds N] [--seeds N] [--json PATH]

examples/digits: the perceptron of 17,226 parameters, its 1297 images dealt to the devices evenly or by
Dirichlet(0.5), accuracy on its 500 held-out ones after the last round. Every device is asked in each round:
five passes over its images, in WebAssembly, with a learning rate of 0.1. A seed decides the deal, who lies,
and the order of examples. "gate open" lets everything finite pass, so that the rule alone is what helps;
"gate" has the defaults of a job: no coordinate beyond 16, no norm beyond 10 times the usual.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean

import numpy as np
from rich.table import Table

from benchmarks.federated.learning import Cloud, Devices, Uplink
from benchmarks.federated.spreading import spread
from benchmarks.federated.tables import told
from benchmarks.measuring import Found, machine, write_json
from cloud.federated.strategies import resolve
from edge.training.examples import Array
from examples.digits.shards import deal
from shared.learning import Codec, CodecName, TrainingPlan

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
DEVICES, LIARS, TIMES = 20, 4, np.float32(-10)
ROUNDS, SEEDS = 50, 3
ALPHA = 0.5
PLAN = TrainingPlan(source="digits", epochs=5, lr=0.1)
OPEN = (1e6, 1e12)  # the largest coordinate; the largest norm, in usual ones
GATE = (16.0, 10.0)
RULES = {
    "mean": ("fedavg", OPEN),
    "mean, behind the gate": ("fedavg", GATE),
    "norm clipping, gate open": ("norm-clipping", OPEN),
    "median": ("median", OPEN),
    "trimmed mean": ("trimmed-mean", OPEN),
    "multi-Krum": ("multi-krum", OPEN),
}
PUBLISHED = {("trimmed mean", "even"): 0.956, ("multi-Krum", "even"): 0.975} | {
    ("trimmed mean", "Dirichlet"): 0.906,
    ("multi-Krum", "Dirichlet"): 0.958,
}

Shard = tuple[Array, Array]


def shards(how: str, seed: int) -> list[Shard]:
    """Each device's x float32 [n, 64] and y int64 [n]."""
    with np.load(DIGITS / "train.npz") as arrays:
        images, labels = arrays["images"].astype(np.float32) / 16, arrays["labels"]
    rng = np.random.default_rng(seed)
    if how == "even":
        hands = np.array_split(rng.permutation(len(labels)), DEVICES)
    else:
        hands = deal(labels, DEVICES, ALPHA, rng)
    return [(images[hand], labels[hand].astype(np.int64)) for hand in hands]


def held_out() -> Shard:
    with np.load(DIGITS / "heldout.npz") as arrays:
        return arrays["images"].astype(np.float32) / 16, arrays["labels"].astype(np.int64)


async def learn(rule: str, how: str, liars: int, seed: int, rounds: int) -> Found:
    """One run; it ends early when no device's training gives finite numbers any more."""
    dealt, rng = shards(how, seed), np.random.default_rng(1000 + seed)
    lying = set(map(int, rng.choice(DEVICES, liars, replace=False)))
    name, (clip, ratio) = RULES[rule]
    async with Devices((DIGITS / "digits-train.shoal").read_bytes()) as devices:
        layout = devices.layout
        first = layout.flatten({key: one.astype(np.float32) for key, one in devices.start.items()})
        most = max(len(y) for _, y in dealt)
        cloud = Cloud(resolve(name, {}), layout, first, DEVICES, most, clip, ratio)
        uplink, done = Uplink(Codec(name=CodecName.F32), layout), 0
        for number in range(rounds):
            for device, (x, y) in enumerate(dealt):
                outcome = await devices.train(x, y, cloud.model, PLAN, f"{seed}/{number}/{device}")
                if outcome is None or outcome.delta is None:
                    continue
                delta = outcome.delta * TIMES if device in lying else outcome.delta
                cloud.receive(*uplink.write(device, outcome, delta, cloud.version, rng))
            if not cloud.close():
                break
            done += 1
        accuracy = await devices.accuracy(*held_out(), cloud.model)
    what = {"rule": rule, "how": how, "liars": liars, "seed": seed, "rounds": done, "accuracy": accuracy}
    return what | {"rejected": dict(cloud.rejected)}


def one(case: tuple[str, str, int, int], rounds: int) -> Found:
    """In a process of its own."""
    return asyncio.run(learn(*case, rounds))


def summary(runs: Sequence[Found]) -> list[Found]:
    """A line for each rule: means over the seeds."""
    rows = []
    for rule in dict.fromkeys(run["rule"] for run in runs):
        row: Found = {"rule": rule}
        for how in ("even", "Dirichlet"):
            for liars in (0, LIARS):
                chosen = [
                    run["accuracy"]
                    for run in runs
                    if (run["rule"], run["how"], run["liars"]) == (rule, how, liars)
                ]
                row[f"{how} {liars}"] = mean(chosen)
        row["shortfall"] = _shortfall(row)
        rows.append(row)
    return rows


def _shortfall(row: Found) -> float | None:
    """By how much it is under what is known of the rule, in the worse deal."""
    known = {how: value for (rule, how), value in PUBLISHED.items() if rule == row["rule"]}
    return max((value - row[f"{how} {LIARS}"] for how, value in known.items()), default=None)


def table(rows: Sequence[Found]) -> Table:
    made = Table("rule", title=f"digits, {DEVICES} devices: accuracy with no liar, and with {LIARS}")
    for how in ("even", "Dirichlet"):
        for liars in (0, LIARS):
            made.add_column(f"{how}, {liars}", justify="right")
        made.add_column("expected", justify="right")
    for row in rows:
        cells = []
        for how in ("even", "Dirichlet"):
            cells += [f"{row[f'{how} {liars}']:.3f}" for liars in (0, LIARS)]
            expected = PUBLISHED.get((row["rule"], how))
            cells.append("" if expected is None else f"{expected:.3f}")
        made.add_row(row["rule"], *cells)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cases = [
        (rule, how, liars, seed)
        for rule in RULES
        for how in ("even", "Dirichlet")
        for liars in (0, LIARS)
        for seed in range(arguments.seeds)
    ]
    runs = spread(partial(one, rounds=arguments.rounds), cases, "digits")
    rows = summary(runs)
    found: Found = {"machine": machine(), "runs": runs, "rows": rows}
    write_json(arguments.json, found)
    return told("robust", found, [table(rows)])


if __name__ == "__main__":
    sys.exit(main())

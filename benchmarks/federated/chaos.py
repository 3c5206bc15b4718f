"""Fifty devices in trouble, against the same fifty without: what does it cost, and do the books agree?

    python -m benchmarks.federated.chaos [--rounds N] [--seeds N] [--json PATH]

In the simulation: the coordinator's and the devices' own cores, journal, gate and sums, every message through
the wire format, training in WebAssembly. A seed decides the deal of the digits (Dirichlet 0.5), who is asked,
and everything that goes wrong: in each round 20 % of the devices that were asked are lost, 10 % of their
updates come late, 10 % of all deliveries come twice, 10 % of the devices lie, clocks are off by up to five
seconds, and the coordinator is killed and started again. The clean run has none of that, and the same job:
the one of examples/digits, with a gate that knows its updates: a coordinate is seldom beyond a half, so it
refuses what is beyond one, and what is more than three times as long as usual. (The length alone says nothing
in the first round, when nobody knows what is usual; one lie that is let in there may spoil all that follows.)
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.federated.tables import told
from benchmarks.measuring import Found, machine, write_json
from cloud.learning.jobfile import JobFile, read_job
from shared.learning import Stop
from simulation.federation.troubles import DROP, DUPLICATE, LATE, POISON, SKEW_S, Troubles
from simulation.federation.world import Outcome, Setting
from simulation.learn import play

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "digits"
DEVICES, CLIENTS, QUORUM = 50, 20, 5
ROUNDS, SEEDS = 30, 3
TROUBLED = Troubles(DROP, DUPLICATE, LATE, POISON, SKEW_S, kill=True)


def job_of(rounds: int) -> JobFile:
    """The digits, with a gate that knows their updates."""
    return read_job(FOLDER).replace(
        rounds=rounds,
        clients=CLIENTS,
        quorum=QUORUM,
        over_select=1.5,
        stop=Stop(),
        clip=1.0,
        norm_ratio_max=3.0,
        deadline_s_min=3.0,
        deadline_s_max=60.0,
    )


def outcome(job: JobFile, troubles: Troubles, seed: int) -> Outcome:
    """One run."""
    spec = job.replace(seed=seed).spec
    setting = Setting(spec=spec, devices=DEVICES, seed=seed, troubles=troubles)
    return play(setting, job, None, None)


def row_of(name: str, found: Outcome, seconds: float) -> Found:
    """``wrong``: complaints of the audit, and no journal that was looked at counts as one."""
    rows = found.rounds
    return {
        "run": name,
        "seed": found.seed,
        "phase": found.phase,
        "accuracy": found.accuracy,
        "rounds": len(rows),
        "asked": sum(row.asked for row in rows),
        "accepted": sum(row.accepted for row in rows),
        "rejected": sum(row.rejected for row in rows),
        "late": sum(row.late for row in rows),
        "kills": found.kills,
        "receipts": dict(found.receipts),
        "wrong": len(found.complaints) + (found.version == 0),
        "complaints": list(found.complaints),
        "digest": found.digest,
        "virtual_s": found.virtual_s,
        "seconds": seconds,
        "error": "" if found.phase == "completed" else found.detail or found.phase,
    }


def lost(rows: Sequence[Found]) -> float:
    """How much less accurate the troubled runs are, mean over the seeds."""
    accuracies = {name: mean(row["accuracy"] for row in rows if row["run"] == name) for name in RUNS}
    return accuracies["clean"] - accuracies["troubled"]


RUNS = {"clean": Troubles(), "troubled": TROUBLED}


def tables(found: Found) -> list[Table]:
    made = Table("run", title=f"{DEVICES} devices, digits, {CLIENTS} updates close a round")
    names = ("seed", "accuracy", "rounds", "asked", "accepted", "rejected", "late", "kills", "wrong", "s")
    for name in names:
        made.add_column(name, justify="right")
    for row in found["rows"]:
        cells = (str(row[name]) for name in names[2:-1])
        made.add_row(row["run"], str(row["seed"]), f"{row['accuracy']:.4f}", *cells, f"{row['seconds']:.1f}")
    receipts = Table("receipt", title="what the troubled devices were told")
    receipts.add_column("how often", justify="right")
    counts: dict[str, int] = {}
    for row in found["rows"]:
        for name, count in row["receipts"].items() if row["run"] == "troubled" else ():
            counts[name] = counts.get(name, 0) + count
    for name, count in sorted(counts.items()):
        receipts.add_row(name, f"{count:,}")
    return [made, receipts]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    job, rows = job_of(arguments.rounds), []
    cases = [(seed, name) for seed in range(1, arguments.seeds + 1) for name in RUNS]
    with Progress(console=Console(stderr=True)) as bar:
        for seed, name in bar.track(cases, description="digits"):
            began = time.perf_counter()
            found = outcome(job, RUNS[name], seed)
            rows.append(row_of(name, found, time.perf_counter() - began))
    result: Found = {"machine": machine(), "rows": rows, "lost": lost(rows)}
    write_json(arguments.json, result)
    return told("chaos", result, tables(result))


if __name__ == "__main__":
    sys.exit(main())

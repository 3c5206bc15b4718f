"""What a round costs us beyond training, measured as Flower's is: real processes, one broker.

    python -m benchmarks.federated.ours [--devices 2 8 32] [--params 610 199210 1000000] [--rounds N]
                                        [--json PATH]

Broker, cloud and devices are the product's own processes; a device calls Flower's training function in place
of a WebAssembly module (benchmarks/federated/device.py). Each device reaches the broker through a counting
proxy of its own. A round lasts from the moment in which the cloud says that it is open until it says so of
the next one; what is beyond training is that less the longest training in it. Rows of an existing PATH that
are not measured again stay. Nothing else may run on the machine meanwhile.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise, product
from math import nan
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.federated.flower.__main__ import DEVICES, PARAMS, kept
from benchmarks.federated.processes import pss_mib, tree_cpu_s
from benchmarks.federated.proxy import Link, counting
from benchmarks.federated.rows import FIRST, Journal, Row, empty, row_of
from benchmarks.federated.tables import overhead_table, told
from benchmarks.fleet import until
from benchmarks.measuring import Found, machine, progress, write_json
from broker.process import fast_loop
from broker.settings import read_config
from cloud.client import Fleet, connected
from cloud.local.processes import LocalFleet, LocalProcess
from shared import learning as fl

SYSTEM, ENGINE, JOB = "shoal", "processes", "overhead"
ROUNDS = 12
SAMPLES = 100  # as many as Flower's client says
IDLE_S = 15.0
START_S_MAX = 240.0  # so many processes on so few cores
RUN_S_MAX = 300.0
FLOWER = Path(__file__).resolve().parents[1] / "results" / "federated" / "flower.json"  # to compare with
LAYERS = {610: (60, 10), 199_210: (784, 200, 200, 10), 1_000_000: (999, 1000)}  # of so many parameters


def package(params: int) -> bytes:
    """A training package with so many parameters. Raises ``ValueError`` for a size that has no layers."""
    import torch  # compiling needs it; nothing that is measured does

    from cloud.compiler.training import compile_training
    from shared.package import pack

    if params not in LAYERS:
        raise ValueError(f"{params} parameters; there are layers for {', '.join(map(str, LAYERS))}")
    sizes, parts = LAYERS[params], []
    torch.manual_seed(0)
    for before, after in pairwise(sizes):
        parts += [torch.nn.Linear(before, after), torch.nn.ReLU()]
    batch = torch.zeros(8, sizes[0]), torch.zeros(8, dtype=torch.int64)
    model = torch.nn.Sequential(*parts[:-1])
    return pack(compile_training(model, "cross_entropy", "sgd", batch, name=JOB).package)


def specification(digest: str, devices: int, rounds: int) -> fl.JobSpec:
    """Everybody is asked, and everybody is waited for."""
    return fl.JobSpec(
        job=JOB,
        package=digest,
        plan=fl.TrainingPlan(source="nothing", steps=1),
        rounds=rounds,
        clients=devices,
        quorum=devices,
        over_select=1.0,
        deadline_s_min=60.0,
        evaluate_every=0,
    )


def fleet_of(folder: Path, devices: int) -> LocalFleet:
    """Not started yet; its devices train with the function of this benchmark."""
    nodes: dict[str, dict[str, object]] = {
        f"edge-{number}": {"benchmark_s": 0.2} for number in range(1, devices + 1)
    }
    local = LocalFleet(folder / "fleet", nodes, log_level="warning")
    nothing = folder / "nothing.npz"
    x, y = np.zeros((SAMPLES, 1), np.float32), np.zeros(SAMPLES, np.float32)
    np.savez(nothing, x=x, y=y, x_held=x[:0], y_held=y[:0])
    for node, device in local.devices.items():
        device.command = tuple(
            "benchmarks.federated.device" if part == "edge" else part for part in device.command
        )
        with local.workspace.config(node).open("a") as file:
            file.write(f'\n[training.sources]\nnothing = "{nothing}"\n')
    return local


def through(local: LocalFleet, links: Sequence[Link]) -> None:
    """Each device reaches the broker through its link."""
    for node, link in zip(local.devices, links, strict=True):
        path = local.workspace.config(node)
        path.write_text(path.read_text().replace(f":{local.port}", f":{link.port}", 1))


async def measure(folder: Path, devices: int, params: int, rounds: int, *, idle: bool) -> Row:
    """One run. ``idle``: whether memory is measured before, which takes 15 seconds."""
    progress(f"ours: {devices} devices, {params:,} parameters")
    local = fleet_of(folder, devices)
    async with counting("127.0.0.1", local.port, devices) as links:
        through(local, links)
        operator = read_config(local.workspace.config("operator"))
        async with local, connected(operator, "operator") as fleet:
            await until("every device can learn", local, lambda: _present(fleet, devices), START_S_MAX)
            digest = (await fleet.upload(package(params))).digest
            idle_mib = await _idle(list(local.devices.values())) if idle else None
            journal = Journal(folder / "rounds.jsonl")
            async with asyncio.timeout(RUN_S_MAX):
                await _watched(fleet, specification(digest, devices, rounds), local, links, journal)
    return row_of(SYSTEM, ENGINE, devices, params, journal, idle_mib)


async def _present(fleet: Fleet, devices: int) -> bool:
    return len(await fleet.learning.learners()) >= devices


async def _idle(devices: Sequence[LocalProcess]) -> float:
    await asyncio.sleep(IDLE_S)
    return median(pss_mib(one.pid) for one in devices)


async def _watched(
    fleet: Fleet, spec: fl.JobSpec, local: LocalFleet, links: Sequence[Link], journal: Journal
) -> None:
    """Create the job, and take note of each round as it ends.

    CPU is read at the two moments that a row needs. To look for processes takes milliseconds in which this
    one passes nothing on, and they would count as the round's.
    """
    pids = [process.pid for process in local.processes]
    opened: dict[int, float] = {}
    lines: list[dict[str, float]] = []
    with fleet.learning.watch(spec.job) as news:
        await fleet.learning.create(spec)
        while True:
            fact, now = (await news.get()).fact, time.perf_counter()
            if fact is None or fact.phase is fl.Phase.ERROR:
                raise RuntimeError(f"the job failed: {fact.detail if fact else 'deleted'}")
            ended = fact.phase is fl.Phase.COMPLETED and fact.version >= spec.rounds
            if (fact.phase is fl.Phase.TRAINING and fact.round not in opened) or ended:
                if opened:
                    number, began = opened.popitem()
                    lines.append({"round": number, "seconds": now - began, "train_s": 0.0, "clients": 0})
                    _write(journal.path, lines)
                    cpu_s = tree_cpu_s(pids) if len(lines) in (FIRST, spec.rounds) else nan
                    journal.look(links, partial(float, cpu_s))
                opened[fact.round] = now
            if ended:
                break
    for line in lines:
        clients = (await fleet.learning.round(spec.job, int(line["round"]))).clients
        line["train_s"] = max((one.train_s for one in clients), default=0.0)
        line["clients"] = sum(one.status == fl.ReceiptStatus.ACCEPTED for one in clients)
    _write(journal.path, lines)


def _write(path: Path, lines: Sequence[dict[str, float]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def attempted(devices: int, params: int, rounds: int, idle: bool) -> Row:
    """A failure is a row as well: it says why."""
    with (
        tempfile.TemporaryDirectory(prefix="shoal-", ignore_cleanup_errors=True) as folder,
        asyncio.Runner(loop_factory=fast_loop()) as runner,
    ):
        try:
            return runner.run(measure(Path(folder), devices, params, rounds, idle=idle))
        except (Exception, ExceptionGroup) as error:
            progress(f"failed: {error}")
            return empty(SYSTEM, ENGINE, devices, params, f"{type(error).__name__}: {error}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", nargs="+", type=int, default=list(DEVICES))
    parser.add_argument("--params", nargs="+", type=int, choices=LAYERS, default=list(PARAMS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = kept(arguments.json)
    for devices, params in product(arguments.devices, arguments.params):
        row = attempted(devices, params, arguments.rounds, params == min(arguments.params))
        rows[ENGINE, devices, params] = row
        found: Found = {"machine": machine(), "rows": list(rows.values())}
        write_json(arguments.json, found)  # each row is kept as soon as there is one
    return told(
        "ours", found, [overhead_table(found["rows"])], {"flower": {"rows": list(kept(FLOWER).values())}}
    )


if __name__ == "__main__":
    sys.exit(main())

"""Flower's overhead, measured as ours is.

    python -m benchmarks.federated.flower [--engines simulation ...] [--devices 2 8 32]
                                          [--params 610 199210 1000000] [--json PATH]

Rows of an existing PATH that are not measured again stay. Nothing else may run on the machine meanwhile.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

from benchmarks.federated.flower import deployment
from benchmarks.federated.flower.environment import BIN, ROOT, installed, variables
from benchmarks.federated.processes import tree_cpu_s
from benchmarks.federated.rows import Journal, Row, empty, row_of
from benchmarks.federated.tables import overhead_table, told
from benchmarks.measuring import Found, machine, progress, write_json

DEVICES, PARAMS = (2, 8, 32), (610, 199_210, 1_000_000)
ROUNDS = {"simulation": 12, "deployment": 6}
MANY, ROUNDS_OF_MANY = 16, 2  # a deployed round of so many devices takes minutes on a small machine
RUN_S_MAX = 600.0
POLL_S = 0.02
LOG_CHARS = 400


def simulated(home: Path, devices: int, params: int, _idle: bool) -> Row:
    """In one machine's memory, with Ray. The CPU is that of the driver and of all that Ray started."""
    progress(f"flower, simulation: {devices} devices, {params:,} parameters")
    journal, rounds = Journal(home / "rounds.jsonl"), ROUNDS["simulation"]
    command = [str(BIN / "python"), "-m", "benchmarks.federated.flower.simulate"]
    command += [str(devices), str(params), str(rounds), str(journal.path)]
    log, deadline = home / "simulation.log", time.monotonic() + RUN_S_MAX
    with (
        log.open("wb") as file,
        subprocess.Popen(command, cwd=ROOT, env=variables(home), stdout=file, stderr=file) as process,
    ):
        while process.poll() is None:
            journal.look((), lambda: tree_cpu_s([process.pid]))
            if time.monotonic() > deadline:
                process.kill()
                raise TimeoutError(f"{len(journal.lines())} of {rounds} rounds in {RUN_S_MAX:g} s")
            time.sleep(POLL_S)
    if len(journal.lines()) < rounds:
        raise RuntimeError(log.read_text(errors="replace")[-LOG_CHARS:])
    return row_of("flower", "simulation", devices, params, journal, None)


def deployed(home: Path, devices: int, params: int, idle: bool) -> Row:
    """As processes."""
    rounds = ROUNDS["deployment"] if devices < MANY else ROUNDS_OF_MANY
    return asyncio.run(deployment.measure(home, devices, params, rounds, idle=idle))


ENGINES: dict[str, Callable[[Path, int, int, bool], Row]] = {"simulation": simulated, "deployment": deployed}


def attempted(engine: str, devices: int, params: int, idle: bool) -> Row:
    """A failure is a row as well: it says why. ``idle``: whether memory is measured, which takes a while."""
    if not installed():
        return empty("flower", engine, devices, params, "not installed: make bench-federated")
    with tempfile.TemporaryDirectory(prefix="shoal-flower-", ignore_cleanup_errors=True) as folder:
        try:
            return ENGINES[engine](Path(folder), devices, params, idle)
        except (Exception, ExceptionGroup) as error:
            progress(f"failed: {error}")
            return empty("flower", engine, devices, params, f"{type(error).__name__}: {error}")


def kept(path: Path | None) -> dict[tuple[str, int, int], Row]:
    """Rows of an earlier run, by engine, devices and parameters."""
    if path is None or not path.exists():
        return {}
    rows: list[Row] = json.loads(path.read_text())["rows"]
    return {(row["engine"], row["devices"], row["params"]): row for row in rows}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--devices", nargs="+", type=int, default=list(DEVICES))
    parser.add_argument("--params", nargs="+", type=int, default=list(PARAMS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = kept(arguments.json)
    for engine, devices, params in product(arguments.engines, arguments.devices, arguments.params):
        idle = params == min(arguments.params)
        rows[engine, devices, params] = attempted(engine, devices, params, idle)
        found: Found = {"machine": machine(), "rows": list(rows.values())}
        write_json(arguments.json, found)  # each row is kept as soon as there is one
    return told("flower", found, [overhead_table(found["rows"])])


if __name__ == "__main__":
    sys.exit(main())

"""What an agent costs its device: memory when idle, and how long from its start to its first answers.

    python -m benchmarks.bench_device [--starts 5] [--idle 30] [--json PATH]

memory      proportional set size (pages shared with others counted by share) with the digits model loaded,
            after ``--idle`` seconds of nothing; with five agents on one machine, and with one
cold start  from the start of the process to the first answer on its own socket and to the first answer over
            MQTT, compiled modules cached from an earlier start; medians
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.fleet import MODEL, digit, run, serving
from benchmarks.measuring import Found, cpu_s, memory_bytes, progress, write_json
from cloud.client import Fleet
from cloud.local.processes import LocalFleet, LocalProcess
from edge.agent.local import LocalInfer, ask_locally
from shared.errors import RequestFailed, Unavailable
from shared.messages import ReplyStatus
from shared.tensors import pack_inputs

DEVICES = 5
POLL_S = 0.01
START_S_MAX = 30.0
MIB = 1 << 20


async def cold_starts(local: LocalFleet, fleet: Fleet, starts: int) -> Found:
    """Seconds, and the CPU seconds that the agent had used by its first answer over MQTT."""
    node, device = next(iter(local.devices.items()))
    rows = []
    for number in range(starts):
        progress(f"cold start, {number + 1} of {starts}")
        await device.stop()
        began = time.monotonic()
        await device.start()
        async with asyncio.timeout(START_S_MAX):
            rows.append(
                (
                    *await asyncio.gather(
                        _first_local_answer(local.workspace.folder / node, began),
                        _first_fleet_answer(fleet, node, began),
                    ),
                    cpu_s(device.pid),
                )
            )
    names = ("local_answer_s", "fleet_answer_s", "cpu_s")
    return {name: median(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


async def _first_local_answer(data: Path, began: float) -> float:
    question = LocalInfer(model=MODEL, inputs=pack_inputs([digit()]))
    while True:
        try:
            if (await ask_locally(data, question)).status is ReplyStatus.OK:
                return time.monotonic() - began
        except Unavailable:
            pass  # the socket is not there yet
        await asyncio.sleep(POLL_S)


async def _first_fleet_answer(fleet: Fleet, node: str, began: float) -> float:
    while True:
        try:
            await fleet.infer(MODEL, digit(), node=node, budget_s=1.0)
            return time.monotonic() - began
        except RequestFailed:
            await asyncio.sleep(POLL_S)


async def idle_memory(local: LocalFleet, idle_s: float) -> Found:
    """MiB of one agent when five run, and of the last one when the others have stopped."""
    devices = list(local.devices.values())
    progress(f"memory: {idle_s:g} s of nothing")
    await asyncio.sleep(idle_s)
    found = {f"{len(devices)}_agents": _memory(devices)}
    await asyncio.gather(*(device.stop() for device in devices[1:]))
    await asyncio.sleep(1.0)
    return found | {"1_agent": _memory(devices[:1])}


def _memory(devices: list[LocalProcess]) -> Found:
    """Medians over the agents, MiB."""
    each = [memory_bytes(device.pid) for device in devices]
    return {f"{name.lower()}_mib": median(one[name] for one in each) / MIB for name in ("Pss", "Rss")}


async def measured(folder: Path, starts: int, idle_s: float) -> Found:
    async with serving(folder, DEVICES) as (local, fleet):
        cold = await cold_starts(local, fleet, starts)
        return {"cold_start": cold, "memory": await idle_memory(local, idle_s)}


def show(found: Found) -> None:
    cold = found["cold_start"]
    table = Table("cold start to", "s")
    table.add_row("the first answer on its own socket", f"{cold['local_answer_s']:.2f}")
    table.add_row("the first answer over MQTT", f"{cold['fleet_answer_s']:.2f}")
    table.add_row("CPU used by then", f"{cold['cpu_s']:.2f}")
    Console().print(table)
    table = Table("idle agent, model loaded", "PSS MiB", "RSS MiB")
    for name, one in found["memory"].items():
        table.add_row(
            f"{name.replace('_', ' ')} on the machine", f"{one['pss_mib']:.1f}", f"{one['rss_mib']:.1f}"
        )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--idle", type=float, default=30.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoal-") as folder:
        found = run(lambda: measured(Path(folder), arguments.starts, arguments.idle))
    show(found)
    write_json(arguments.json, found)


if __name__ == "__main__":
    main()

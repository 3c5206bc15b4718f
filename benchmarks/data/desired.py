"""Desired state: updates a second, each durable before it is acknowledged over MQTT.

A fleet of our own broker and one cloud process, with simulated devices. One application keeps a number of
updates under way; each puts a model on one device, or takes it off again, so that each changes the device's
orders. An update is done when the cloud has answered, which it does once rule and orders are committed.
"""

import asyncio
import tempfile
import time
from collections.abc import Iterable, Iterator
from itertools import cycle
from pathlib import Path
from statistics import median

from rich.table import Table

from benchmarks.bench_scale import enrol, heartbeating, simulated
from benchmarks.data import Part
from benchmarks.fleet import EXAMPLE, MODEL, run, until
from benchmarks.measuring import Found, percentile, progress
from benchmarks.simulated import name_of
from broker.settings import read_config
from cloud.client import Fleet, connected
from cloud.local.processes import LocalFleet

DEVICES, UNDER_WAY, ROUND_S, ROUNDS = 200, 16, 4.0, 5
WARM_S = 2.0


async def flood(fleet: Fleet, updates: Iterator[tuple[str, bool]], seconds: float) -> list[float]:
    """Latencies of all that were answered in the time, in seconds."""
    took: list[float] = []
    ends = time.perf_counter() + seconds

    async def one_after_the_other() -> None:
        while (began := time.perf_counter()) < ends:
            node, remove = next(updates)
            await fleet.deploy(MODEL, node, remove=remove)
            took.append(time.perf_counter() - began)

    async with asyncio.TaskGroup() as group:
        for _ in range(UNDER_WAY):
            group.create_task(one_after_the_other())
    return took


def turns(devices: int) -> Iterator[tuple[str, bool]]:
    """Every device gets the model, then every device loses it, and so on."""
    return ((name_of(number), remove) for remove in cycle((False, True)) for number in range(devices))


async def measured(folder: Path, share: float) -> Found:
    rounds = max(2, round(ROUNDS * share))
    local = LocalFleet(folder, {}, log_level="warning")
    passwords = enrol(local.workspace.credentials_dir, DEVICES)
    config = read_config(local.workspace.config("operator"))
    async with local, connected(config, "operator") as fleet, simulated(local, passwords):
        await until("every device heartbeats", local, lambda: heartbeating(fleet, DEVICES))
        await fleet.upload((EXAMPLE / "digits.shoal").read_bytes())
        updates, found = turns(DEVICES), []
        await flood(fleet, updates, WARM_S)
        for number in range(rounds):
            found.append(await flood(fleet, updates, ROUND_S))
            progress(f"round {number + 1} of {rounds}: {len(found[-1]) / ROUND_S:,.0f} a second")
    return {
        "devices": DEVICES,
        "under_way": UNDER_WAY,
        "rounds": rounds,
        "per_s": median(len(one) / ROUND_S for one in found),
        **{f"p{at}_ms": median(percentile(one, at / 100) for one in found) * 1e3 for at in (50, 95, 99)},
    }


def measure(share: float) -> Found:
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        return run(lambda: measured(Path(folder), share))


def tables(found: Found) -> Iterable[Table]:
    table = Table(title=f"desired state, {found['devices']} devices, {found['under_way']} updates under way")
    for heading in ("updates/s", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(heading, justify="right")
    table.add_row(f"{found['per_s']:,.0f}", *(f"{found[f'p{at}_ms']:.1f}" for at in (50, 95, 99)))
    yield table


PARTS = (
    Part(
        "desired",
        measure,
        tables,
        """\
A local fleet (broker and cloud are processes of their own, SQLite on a real disk) with simulated devices. One
application keeps updates under way; each puts a model on one device or takes it off, so each changes that
device's orders. Done is an update when the cloud has answered over MQTT, which it does after the commit. The
devices receive their new orders meanwhile. Medians of the rounds.""",
    ),
)

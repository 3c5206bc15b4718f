"""Sync under every fault at once: schedules without a broken promise, and mistakes that are found."""

import os
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor

from rich.table import Table

from benchmarks.data import Part
from benchmarks.measuring import Found, progress
from tests.support.linearizability import TooHard
from tests.support.sync_bugs import BUGS
from tests.support.sync_faults import FaultyWorld

SCHEDULES, AT_ONCE, SCHEDULES_PER_BUG = 1_000, 20, 60


def measure(share: float) -> Found:
    """All schedules, then each mistake until it is found."""
    count = max(AT_ONCE, int(SCHEDULES * share))
    start = time.perf_counter()
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        progress(f"{count} schedules")
        rows = list(pool.map(_schedules, range(0, count, AT_ONCE)))
        progress(f"{len(BUGS)} mistakes")
        needed = dict(zip(BUGS, pool.map(_needed, BUGS), strict=True))
    operations, known, broken = (sum(column) for column in zip(*rows, strict=True))
    return {
        "schedules": len(rows) * AT_ONCE,
        "operations": operations,
        "known": known,
        "broken": broken,
        "bugs": len(BUGS),
        "found": sum(schedules > 0 for schedules in needed.values()),
        "needed": needed,
        "took_s": time.perf_counter() - start,
    }


def _schedules(first: int) -> tuple[int, int, int]:
    operations = known = broken = 0
    for seed in range(first, first + AT_ONCE):
        world = FaultyWorld(seed)
        try:
            world.play()
        except (AssertionError, TooHard):
            broken += 1
        operations, known = operations + len(world.history), known + world.known
    return operations, known, broken


def _needed(name: str) -> int:
    """How many schedules it took to find a mistake; 0: it was not found."""
    parts, faults = BUGS[name]
    for seed in range(SCHEDULES_PER_BUG):
        try:
            FaultyWorld(seed, parts, faults).play()
        except AssertionError:
            return seed + 1
    return 0


def tables(found: Found) -> Iterable[Table]:
    table = Table(title="consistency", box=None, pad_edge=False)
    table.add_column("what")
    table.add_column("figure", justify="right")
    table.add_row("random schedules, each with every fault", f"{found['schedules']:,}")
    table.add_row(
        "STRONG operations, of which the end is known", f"{found['operations']:,} / {found['known']:,}"
    )
    table.add_row("schedules with a broken promise", f"{found['broken']}")
    table.add_row("mistakes put in, and found", f"{found['bugs']} / {found['found']}")
    for name, schedules in found["needed"].items():
        table.add_row(f"  {name}: schedules until it was found", str(schedules or "never"))
    return [table]


PARTS = (
    Part(
        "consistency",
        measure,
        tables,
        "The real cores of a cloud and five devices on a simulated network, a virtual clock and one seed per "
        "schedule: messages lost, repeated and reordered, partitions, crashes that lose what was not synced, "
        "wall clocks that jump by an hour, a second cloud while the first one lives or sleeps. Each history "
        "of STRONG operations is judged by a linearizability checker (Wing and Gong, Lowe), key by key; "
        "after healing all replicas must have the same state hash within two rounds, with every "
        "write that was acknowledged.",
        seconds_max=3600.0,
    ),
)

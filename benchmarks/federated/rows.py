"""One row of the table: a system, how it was run, and what a round cost there.

A journal is a file that whoever coordinates appends a line of JSON to after each round:
``{"seconds": wall time of the round, "train_s": the longest training in it, "clients": who answered}``.
Bytes and CPU are read when a line appears, so that a round's share is the difference of two looks.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.federated.proxy import Link

Row = dict[str, Any]
FIGURES = ("round_s", "overhead_s", "bytes_up", "bytes_down", "idle_mib", "cpu_s")
FIRST = 1  # rounds that are not counted: processes start, caches fill


@dataclass(frozen=True, slots=True)
class Look:
    """Totals since the start, over all devices."""

    up: int
    down: int
    cpu_s: float


@dataclass
class Journal:
    """The rounds so far, and a look for each."""

    path: Path
    looks: list[Look] = field(default_factory=list)

    def lines(self) -> list[dict[str, float]]:
        """The rounds that have ended."""
        if not self.path.exists():
            return []
        whole, _, _ = self.path.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def look(self, links: Sequence[Link], cpu_s: Callable[[], float]) -> None:
        """Take note of the totals if a round has ended since the last time."""
        if len(self.lines()) > len(self.looks):
            up, down = sum(link.up for link in links), sum(link.down for link in links)
            look = Look(up, down, cpu_s())
            self.looks += [look] * (len(self.lines()) - len(self.looks))


def row_of(
    system: str, engine: str, devices: int, params: int, journal: Journal, idle_mib: float | None
) -> Row:
    """Medians over the rounds but the first; bytes are those of one device in one round."""
    lines = journal.lines()[FIRST:]
    counted = {}
    if len(journal.looks) > FIRST:
        begin, end, rounds = journal.looks[FIRST - 1], journal.looks[-1], len(journal.looks) - FIRST
        counted = {
            "bytes_up": round((end.up - begin.up) / rounds / devices) or None,
            "bytes_down": round((end.down - begin.down) / rounds / devices) or None,
            "cpu_s": (end.cpu_s - begin.cpu_s) / rounds,
        }
    return empty(system, engine, devices, params) | {
        "rounds": len(lines),
        "round_s": median(line["seconds"] for line in lines),
        "overhead_s": median(line["seconds"] - line["train_s"] for line in lines),
        "answered": min(line["clients"] for line in lines),
        "idle_mib": idle_mib,
        **counted,
    }


def empty(system: str, engine: str, devices: int, params: int, error: str = "") -> Row:
    """A row without figures, and why."""
    what: Row = {"system": system, "engine": engine, "devices": devices, "params": params}
    return what | dict.fromkeys(FIGURES) | {"error": error}

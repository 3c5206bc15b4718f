"""What processes and all their descendants used (proc(5)): frameworks start helpers of their own."""

import os
from collections.abc import Iterable
from pathlib import Path

from benchmarks.measuring import memory_bytes

MIB = 1 << 20
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PARENT, _TIMES = 1, slice(11, 15)  # fields after the name: ppid; utime, stime, cutime, cstime


def _stat(pid: int) -> list[str]:
    """The fields after the name. Raises :class:`OSError` when it has ended."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def tree(*roots: int) -> list[int]:
    """The processes and their descendants that are alive, ancestors first; none of those that have ended."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                children.setdefault(int(_stat(int(entry.name))[_PARENT]), []).append(int(entry.name))
            except OSError:
                continue  # it has ended meanwhile
    found = [root for root in roots if Path(f"/proc/{root}").exists()]
    for pid in found:
        found += children.get(pid, [])
    return found


def tree_cpu_s(roots: Iterable[int]) -> float:
    """Seconds of user and system time of the trees, with the children that have ended and were waited for."""
    total = 0
    for pid in tree(*roots):
        try:
            total += sum(int(field) for field in _stat(pid)[_TIMES])
        except OSError:
            continue
    return total / _TICKS_PER_S


def pss_mib(root: int) -> float:
    """Proportional set size of the tree: pages shared with others count by share."""
    return sum(memory_bytes(pid)["Pss"] for pid in tree(root)) / MIB

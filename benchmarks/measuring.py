"""What every benchmark needs: percentiles, what a process used, which machine this is, progress, JSON."""

import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

_TICKS_PER_S = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100

Found = dict[str, Any]


def percentile(samples: Sequence[float], at: float) -> float:
    """The sample below which the share ``at`` (0 to 1) of all lies."""
    return sorted(samples)[min(int(len(samples) * at), len(samples) - 1)]


def median_of(rounds: Sequence[Sequence[float]], at: float) -> float:
    """The median over rounds of each round's percentile: one bad round does not colour the result."""
    return median(percentile(samples, at) for samples in rounds)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least squares: how much the second number grows per unit of the first."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


# One process ----------------------------------------------------------------------------------------


def cpu_s(pid: int) -> float:
    """User and system seconds of all its threads since it started (proc(5), /proc/pid/stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def memory_bytes(pid: int) -> dict[str, int]:
    """``Rss``, ``Pss`` (pages shared with others counted by share) and so on (/proc/pid/smaps_rollup)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


# The machine and the run ----------------------------------------------------------------------------


def machine() -> Found:
    """What a figure must be read with."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version() + (" of the system" if sys.base_prefix == "/usr" else ""),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: version(name) for name in ("mqtt5", "msgspec", "uvloop", "wasmtime", "numpy")},
        "load_before": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d"),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def progress(text: str) -> None:
    """To standard error: standard output holds tables only."""
    sys.stderr.write(f"  {text}\n")
    sys.stderr.flush()


def write_json(path: Path | None, found: Found) -> None:
    """Keep the figures, if the caller wants them kept."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=2) + "\n")

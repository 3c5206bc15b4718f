"""Everything about learning together, one benchmark after the other.

    python -m benchmarks.federated [--only NAME ...] [--short] [--docs]

Each is a process of its own, prints its own tables, and keeps its figures as benchmarks/results/federated/
NAME.json. ``--docs`` then writes docs/benchmarks-federated.md from all that is kept; with an empty ``--only``
nothing is measured before. ``--short`` is for a look: its figures are printed, not kept. The exit code is 1
when a benchmark failed or a goal is missed.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.federated.page import SECTIONS, page
from benchmarks.measuring import progress

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "federated"
PAGE = ROOT / "docs" / "benchmarks-federated.md"
BENCHMARK_S_MAX = 3600.0
SHORT: Mapping[str, Sequence[str]] = {
    "aggregation": ("--rounds", "7"),
    "pfedme": ("--rounds", "60", "--seeds", "1"),
    "robust": ("--rounds", "5", "--seeds", "1"),
    "chaos": ("--seeds", "1", "--rounds", "6"),
    "ours": ("--devices", "2", "--params", "610", "--rounds", "4"),
    "flower": ("--devices", "2", "--params", "610"),
}


def run(name: str, short: bool) -> bool:
    """Whether it ended well and every goal is met."""
    began = time.monotonic()
    options = SHORT[name] if short else ("--json", str(RESULTS / f"{name}.json"))
    command = [sys.executable, "-m", f"benchmarks.federated.{name}", *options]
    try:
        code = subprocess.run(command, cwd=ROOT, timeout=BENCHMARK_S_MAX, check=False).returncode
    except subprocess.TimeoutExpired:
        progress(f"{name} did not end within {BENCHMARK_S_MAX:g} s")
        return False
    progress(f"{name}: {time.monotonic() - began:.0f} s, exit code {code}")
    return code == 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--short", action="store_true", help="about a tenth of the length; nothing is kept")
    parser.add_argument("--docs", action="store_true", help=f"renew {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    in_turn = sorted(arguments.only, key=lambda name: name == "ours")  # is compared with Flower's
    well = [run(name, arguments.short) for name in in_turn]
    if arguments.docs:
        kept = {name: RESULTS / f"{name}.json" for name in SECTIONS}
        PAGE.write_text(
            page({name: json.loads(path.read_text()) for name, path in kept.items() if path.exists()})
        )
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())

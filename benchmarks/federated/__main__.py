"""Everything about learning together, one benchmark after the other.

    python -m benchmarks.federated [--only NAME ...] [--docs]

Each is a process of its own, prints its own tables, and keeps its figures as benchmarks/results/federated/
NAME.json. ``--docs`` then writes docs/federated-benchmarks.md from all that is kept; with an empty ``--only``
nothing is measured before. The exit code is 1 when a benchmark failed or a goal is missed.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.federated.page import SECTIONS, page
from benchmarks.measuring import progress

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "federated"
PAGE = ROOT / "docs" / "federated-benchmarks.md"
BENCHMARK_S_MAX = 3600.0


def run(name: str) -> bool:
    """Whether it ended well and every goal is met."""
    began = time.monotonic()
    command = [sys.executable, "-m", f"benchmarks.federated.{name}", "--json", str(RESULTS / f"{name}.json")]
    done = subprocess.run(command, cwd=ROOT, timeout=BENCHMARK_S_MAX, check=False)
    progress(f"{name}: {time.monotonic() - began:.0f} s, exit code {done.returncode}")
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--docs", action="store_true", help=f"renew {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    well = [run(name) for name in arguments.only]
    if arguments.docs:
        kept = {name: RESULTS / f"{name}.json" for name in SECTIONS}
        PAGE.write_text(
            page({name: json.loads(path.read_text()) for name, path in kept.items() if path.exists()})
        )
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())

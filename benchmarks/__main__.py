"""Every benchmark, one after the other, and how the figures stand against the goals.

    python -m benchmarks [--only NAME ...] [--json PATH] [--docs]

Each benchmark is a process of its own and prints its own tables; progress goes to standard error. ``--docs``
writes the figures into docs/benchmarks.md. The exit code is 1 when a benchmark failed or a goal is missed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from benchmarks.measuring import Found, machine, progress, write_json
from benchmarks.report import goals_table, missed, update

BENCHMARKS = ("balancer", "transport", "runtime", "fleet", "device", "scale")
ROOT = Path(__file__).parents[1]
LATEST = ROOT / "benchmarks" / "results" / "latest.json"
PAGE = ROOT / "docs" / "benchmarks.md"
BENCHMARK_S_MAX = 600


def run(name: str, folder: Path) -> object | None:
    """What the benchmark measured; None when it failed, which it has said itself."""
    result = folder / f"{name}.json"
    command = [sys.executable, "-m", f"benchmarks.bench_{name}", "--json", str(result)]
    try:
        done = subprocess.run(command, cwd=ROOT, timeout=BENCHMARK_S_MAX, check=False)
    except subprocess.TimeoutExpired:
        progress(f"{name} did not end within {BENCHMARK_S_MAX} s")
        return None
    if done.returncode or not result.exists():
        progress(f"{name} failed with exit code {done.returncode}")
        return None
    found: object = json.loads(result.read_text())
    return found


def run_all(names: list[str]) -> Found:
    """The machine, and what each benchmark measured."""
    results: Found = {"machine": machine()}
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        for name in names:
            began = time.monotonic()
            progress(f"{name} ...")
            results[name] = run(name, Path(folder))
            progress(f"{name}: {time.monotonic() - began:.0f} s")
    return results


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    parser.add_argument("--json", type=Path, default=LATEST)
    parser.add_argument("--docs", action="store_true", help=f"renew {PAGE.relative_to(ROOT)}")
    arguments = parser.parse_args()
    results = run_all(arguments.only)
    write_json(arguments.json, results)
    Console().print(goals_table(results))
    if arguments.docs:
        PAGE.write_text(update(PAGE.read_text(), results))
    failed = [name for name in arguments.only if results[name] is None]
    return 1 if failed or missed(results) else 0


if __name__ == "__main__":
    sys.exit(main())

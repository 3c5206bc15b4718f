"""Telemetry, stores, sync and residency: every figure, one part after the other.

    python -m benchmarks.data [--only NAME ...] [--short] [--docs] [--list]

Each part is a process of its own, prints its own tables, and keeps its figures as benchmarks/results/data/
NAME.json. ``--docs`` then writes docs/benchmarks-data.md from all that is kept; with an empty ``--only``
nothing is measured before. ``--short`` is for a look: its figures are printed, not kept. The exit code is 1
when a part failed or a goal is missed.
"""

import argparse
import importlib
import json
import pkgutil
import subprocess
import sys
import time
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

import benchmarks.data
from benchmarks.data import Part
from benchmarks.data.goals import DATA_GOALS
from benchmarks.measuring import Found, machine, progress, write_json
from benchmarks.report import goals_table, missed

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "data"
PAGE = ROOT / "docs" / "benchmarks-data.md"
SHORT = 0.1
TABLE_COLUMNS = 140  # where standard output is no terminal
_HEAD = """\
# Nothing lost: benchmarks

Written by `python -m benchmarks.data --docs`, from the figures in `benchmarks/results/data/`. `make
bench-data` measures all of it; each part has a command of its own: `python -m benchmarks.data --only NAME`.
"""


def parts() -> dict[str, Part]:
    """Every part, by name. A module that can't be imported is told of, and does not stop the others."""
    found: dict[str, Part] = {}
    for module in pkgutil.iter_modules(benchmarks.data.__path__):
        if module.name.startswith("_"):
            continue
        try:
            loaded = importlib.import_module(f"benchmarks.data.{module.name}")
        except ImportError as error:
            progress(f"benchmarks.data.{module.name} is left out: {error}")
            continue
        found.update((part.name, part) for part in getattr(loaded, "PARTS", ()))
    return found


def run(part: Part, short: bool) -> bool:
    """In a process of its own: whether it ended well and every goal is met."""
    began = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "benchmarks.data",
        "--inside",
        part.name,
        *(["--short"] if short else []),
    ]
    try:
        code = subprocess.run(command, cwd=ROOT, timeout=part.seconds_max, check=False).returncode
    except subprocess.TimeoutExpired:
        progress(f"{part.name} did not end within {part.seconds_max:g} s")
        return False
    progress(f"{part.name}: {time.monotonic() - began:.0f} s, exit code {code}")
    return code == 0


def run_inside(part: Part, short: bool) -> int:
    """Measure, print, keep."""
    results: Found = {"machine": machine(), part.name: part.measure(SHORT if short else 1.0)}
    console = Console()
    if not console.is_terminal:
        console.width = TABLE_COLUMNS
    for table in part.tables(results[part.name]):
        console.print(table)
    goals = [goal for goal in DATA_GOALS if goal.part == part.name]
    console.print(goals_table(results, goals))
    if not short:
        write_json(RESULTS / f"{part.name}.json", results)
    return 1 if missed(results, goals) else 0


def page(known: Mapping[str, Part], kept: Mapping[str, Found]) -> str:
    """The page: the goals first, then each part with its tables."""
    console = Console(file=StringIO(), width=400, color_system=None)
    figures = {name: found[name] for name, found in kept.items()}
    _markdown(console, goals_table(figures, DATA_GOALS))
    for name, part in known.items():
        if name not in kept:
            continue
        one = kept[name]["machine"]
        console.print(f"## {name.replace('_', ' ').capitalize()}", end="\n\n", markup=False)
        console.print(part.about.strip(), markup=False, soft_wrap=True, end="\n\n")
        console.print(
            f"{one['date']}, {one['cpu']}, {one['cores']} cores, Python {one['python']}; load before "
            f"{one['load_before']:.2f}.",
            end="\n\n",
            markup=False,
        )
        for table in part.tables(figures[name]):
            _markdown(console, table, heading="###")
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    body = "\n".join(line.rstrip() for line in text.splitlines()).strip()
    return f"{_HEAD}\n{body}\n"


def _markdown(console: Console, table: Table, heading: str = "##") -> None:
    console.print(f"{heading} {str(table.title).capitalize()}", end="\n\n", markup=False)
    table.title, table.box = None, box.MARKDOWN
    for row in table.rows:
        row.end_section = False
    console.print(table)
    console.print()


def main() -> int:
    known = parts()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=known, default=list(known))
    parser.add_argument("--short", action="store_true", help="about a tenth of the length; nothing is kept")
    parser.add_argument("--docs", action="store_true", help=f"renew {PAGE.relative_to(ROOT)}")
    parser.add_argument("--list", action="store_true", help="the names of the parts")
    parser.add_argument("--inside", choices=known, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(known))
        return 0
    if arguments.inside:
        return run_inside(known[arguments.inside], arguments.short)
    well = [run(known[name], arguments.short) for name in arguments.only]
    if arguments.docs:
        files = {name: RESULTS / f"{name}.json" for name in known}
        PAGE.write_text(
            page(known, {name: json.loads(path.read_text()) for name, path in files.items() if path.exists()})
        )
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())

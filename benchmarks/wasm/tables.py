"""The figures of a run for a person. What failed stands in its place, and its reason below."""

from collections.abc import Iterator, Sequence
from io import StringIO
from math import isfinite

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from benchmarks.goals import Goal, Results
from benchmarks.report import verdict
from benchmarks.wasm.goals import OURS, WASM_GOALS, overall

PRECISE = "shoal exact"
FAILED = "[red]failed[/]"
_HEAD = """\
# The compiler's benchmarks

Written by `python -m benchmarks.bench_wasm --docs` (`make bench-wasm` measures, and prints the same tables).

- One run, one thread each: rounds of all candidates alternate, and the median over rounds counts. The clock
  of the machine drifts, so read the ratios within a row.
- "fast" and "exact" are the compiler's two precisions; without convolutions their code is the same, and
  so a difference between them is noise. Modules run through `Compiled.load()`, which never interrupts them;
  what a device pays for a deadline is in the last table.
- Agreement is the largest difference relative to the largest magnitude of the output, and the goal, in exact
  and in fast mode, is judged on the distance to what torch computes in float64 from the same weights and
  inputs: torch's float32 rounds as ours does, and where it is further from the true value than the limit,
  nobody could be near both. Its own distance and ours from it stand beside.
- Native onnxruntime and torch use 512-bit vectors with fused multiply-add here, WebAssembly 128-bit ones
  without: an eighth of the operations an instruction. Large batches of dense layers show that.
"""


def page(results: Results) -> RenderableType:
    """Every table of the run."""
    found = (inference_table, agreement_table, training_table, modules_table, failures_table, goals_table)
    return Group(*(make(results) for make in found))


def markdown(results: Results) -> str:
    """The page docs/benchmarks-compiler.md: the goals first, then what they come from."""
    console = Console(file=StringIO(), width=400, color_system=None)
    for make in (goals_table, inference_table, agreement_table, training_table, modules_table):
        table = make(results)
        console.print(f"## {str(table.title).capitalize()}", end="\n\n", markup=False)
        table.title, table.box = None, box.MARKDOWN
        for row in table.rows:
            row.end_section = False
        console.print(table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    tables = "\n".join(line.rstrip() for line in text.splitlines())
    one = results["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in one["packages"].items())
    where = (
        f"Measured on {one['date']}: {one['cpu']}, {one['cores']} cores, {one['system']}, "
        f"Python {one['python']} ({packages}); load before the run {one['load_before']:.2f}."
    )
    return f"{_HEAD}\n{where}\n\n{tables}\n"


def inference_table(results: Results) -> Table:
    """Microseconds, and how many times as fast as each peer the fast one of ours is."""
    names = list(dict.fromkeys(row["candidate"] for row in results["inference"]))
    peers = [name for name in names if not name.startswith("shoal")]
    table = Table("model", "batch", title="inference, us a run (ratio: peer / ours; more is better for us)")
    for name in (*names, *(f"/ {peer}" for peer in peers)):
        table.add_column(name, justify="right")
    cases: dict[tuple[str, int], dict[str, Results]] = {}
    for row in results["inference"]:
        cases.setdefault((row["model"], row["batch"]), {})[row["candidate"]] = row
    for (model, batch), found in cases.items():
        ratios = (_ratio_text(_ratio(found, peer, OURS)) for peer in peers)
        table.add_row(model, str(batch), *(_us(found.get(name)) for name in names), *ratios)
    table.add_section()
    for ours in (OURS, PRECISE):
        for batch in dict.fromkeys(batch for _, batch in cases):
            means = [
                _mean([one for (_, size), one in cases.items() if size == batch], peer, ours)
                for peer in peers
            ]
            table.add_row(f"mean, {ours}", str(batch), *("" for _ in names), *means)
    return table


def _us(row: Results | None) -> str:
    if row is None:
        return ""
    return FAILED if row["us"] is None else f"{row['us']:,.1f}" if row["us"] < 1000 else f"{row['us']:,.0f}"


def _ratio(found: dict[str, Results], peer: str, ours: str) -> float | None:
    theirs, mine = (found.get(name, {}).get("us") for name in (peer, ours))
    return None if theirs is None or mine is None else float(theirs / mine)


def _ratio_text(ratio: float | None) -> str:
    return "" if ratio is None else f"[{'green' if ratio >= 1 else 'red'}]{ratio:.2f}[/]"


def _mean(cases: Sequence[dict[str, Results]], peer: str, ours: str) -> str:
    """The geometric mean of what could be compared, and how much that is when it is not everything."""
    known = [ratio for one in cases if (ratio := _ratio(one, peer, ours)) is not None]
    if not known:
        return ""
    share = "" if len(known) == len(cases) else f" ({len(known)}/{len(cases)})"
    return _ratio_text(overall(dict(enumerate_names(known)))) + share


def enumerate_names(values: Sequence[float]) -> Iterator[tuple[str, float]]:
    return ((str(index), value) for index, value in enumerate(values))


def agreement_table(results: Results) -> Table:
    table = Table("model", "batch", "precision", title="largest difference, relative to the output's scale")
    columns = ("from_float64", "torch_from_float64", "from_torch")
    for name in ("ours from float64", "torch's float32 from float64", "ours from torch's float32"):
        table.add_column(name, justify="right")
    for row in results["agreement"]:
        figures = (f"{row[name]:.1e}" if row.get(name) is not None else FAILED for name in columns)
        table.add_row(row["model"], str(row["batch"]), row["precision"], *figures)
    return table


def training_table(results: Results) -> Table:
    table = Table("model", "batch", "candidate", title="train step (forward, loss, backward, update)")
    table.add_column("us", justify="right")
    for row in results["training"]:
        table.add_row(row["model"], str(row["batch"]), row["candidate"], _us(row))
    return table


def modules_table(results: Results) -> Table:
    table = Table("model", title="modules, smallest batch, fast")
    columns = {
        "module_bytes": "bytes",
        "memory_bytes": "memory",
        "passes_ms": "passes ms",
        "emit_ms": "emit ms",
        "compile_ms": "compile ms",
        "cached_start_ms": "cached start ms",
        "interruption": "interruption x",
    }
    for title in columns.values():
        table.add_column(title, justify="right")
    for row in results["modules"]:
        cells = (FAILED if row["error"] else _figure(row[name]) for name in columns)
        table.add_row(row["model"], *cells)
    return table


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"


def failures_table(results: Results) -> RenderableType:
    """Each reason once, with everything that it stopped."""
    reasons: dict[str, list[str]] = {}
    for section in ("inference", "agreement", "training", "modules"):
        for row in results[section]:
            if row["error"]:
                who = " ".join(str(row[key]) for key in ("model", "candidate", "precision") if key in row)
                reasons.setdefault(row["error"], []).append(f"{section}: {who}")
    if not reasons:
        return Text("nothing failed", style="green")
    table = Table("reason", "what failed", title="failures", show_lines=True)
    for reason, what in reasons.items():
        table.add_row(Text(reason), Text("\n".join(dict.fromkeys(what))))
    return table


def figures(results: Results) -> Iterator[tuple[Goal, float | None]]:
    """Each goal with its figure; None when what it needs was not measured."""
    for goal in WASM_GOALS:
        try:
            yield goal, float(goal.figure(results))
        except (KeyError, ValueError, StopIteration):
            yield goal, None


def missed(results: Results) -> list[Goal]:
    """The goals whose figure is not good enough."""
    return [goal for goal, figure in figures(results) if figure is not None and not goal.met(figure)]


def goals_table(results: Results) -> Table:
    table = Table("goal", "measured", "promised", "", title=f"goals, for '{OURS}'")
    for goal, figure in figures(results):
        said = verdict(goal, figure)
        colour = {"met": "green", "missed": "red"}.get(said, "yellow")
        shown = "" if figure is None else f"{figure:.3g}" if isfinite(figure) else "failed"
        table.add_row(goal.what, shown, goal.promise, f"[{colour}]{said}[/]")
    return table

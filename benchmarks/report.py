"""The figures of a run against the goals: as a table on the terminal, and as the page docs/benchmarks.md."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from benchmarks.goals import GOALS, Goal, Results

BEGIN, END = "<!-- figures: begin (written by python -m benchmarks --docs) -->", "<!-- figures: end -->"


def figures(results: Results, goals: Sequence[Goal] = GOALS) -> Iterator[tuple[Goal, float | None]]:
    """Each goal with its figure; None when its benchmark was not run or failed."""
    for goal in goals:
        try:
            yield goal, float(goal.figure(results))
        except (KeyError, TypeError, StopIteration):
            yield goal, None


def missed(results: Results, goals: Sequence[Goal] = GOALS) -> list[Goal]:
    """The goals that have a figure which is not good enough."""
    return [goal for goal, figure in figures(results, goals) if figure is not None and not goal.met(figure)]


def verdict(goal: Goal, figure: float | None) -> str:
    """One word."""
    return "not measured" if figure is None else "met" if goal.met(figure) else "missed"


def rows(results: Results, goals: Sequence[Goal] = GOALS) -> Iterator[tuple[str, str, str, str]]:
    """What, measured, goal, verdict."""
    for goal, figure in figures(results, goals):
        shown = "" if figure is None else f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.2f}"
        yield goal.what, shown, goal.promise, verdict(goal, figure)


def goals_table(results: Results, goals: Sequence[Goal] = GOALS) -> Table:
    table = Table("goal", "measured", "promised", "", title="goals")
    for what, measured, promise, said in rows(results, goals):
        colour = {"met": "green", "missed": "red"}.get(said, "yellow")
        table.add_row(what, measured, promise, f"[{colour}]{said}[/]")
    return table


def page(results: Results) -> str:
    """Markdown between the marks: the machine, the goals, and the details worth keeping."""
    one = results["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in one["packages"].items())
    lines = [
        f"Measured on {one['date']}: {one['cpu']}, {one['cores']} cores, {one['system']}, "
        f"Python {one['python']} ({packages}); load before the run {one['load_before']:.2f}.",
        "",
        "| what | measured | goal | |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows(results)),
    ]
    if results.get("fleet"):
        lines += ["", *_fleet(results["fleet"])]
    if results.get("device"):
        lines += ["", *_device(results["device"])]
    return "\n".join(lines)


def _fleet(found: Results) -> Iterator[str]:
    one, many = found["latency"], found["throughput"]
    yield "One device, one request at a time, milliseconds:"
    yield ""
    yield "| | p50 | p99 |"
    yield "|---|---|---|"
    for name, row in one.items():
        if name != "ratio":
            yield f"| {name} | {row['p50_ms']:.3f} | {row['p99_ms']:.3f} |"
    yield ""
    yield (
        f"Five devices, 64 in flight: {many['requests_per_s']:,.0f} requests/s, p50 {many['p50_ms']:.1f} ms, "
        f"p99 {many['p99_ms']:.1f} ms. Where the CPU time of one request goes (at most "
        f"{many['ceiling_per_s']:,.0f} requests/s on these cores):"
    )
    yield ""
    yield "| process | CPU µs per request |"
    yield "|---|---|"
    for name, cost in many["cpu_us_per_request"].items():
        yield f"| {name} | {cost:.0f} |"


def _device(found: Results) -> Iterator[str]:
    yield "| idle agent with the digits model | PSS MiB | RSS MiB |"
    yield "|---|---|---|"
    for name, one in found["memory"].items():
        yield f"| {name.replace('_', ' ')} on the machine | {one['pss_mib']:.1f} | {one['rss_mib']:.1f} |"


def update(text: str, results: Results) -> str:
    """The page with new figures. Raises ``ValueError`` when it has lost its marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the page has no place for figures any more")
    return f"{before}{BEGIN}\n\n{page(results)}\n\n{END}{after}"

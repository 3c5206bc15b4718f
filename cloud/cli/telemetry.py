"""Commands about telemetry: what devices measured, and the ledger that says whether all of it arrived."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloud.cli.options import (
    BrokerOption,
    ConfigOption,
    FleetOption,
    JsonOption,
    ask,
    emit,
    examples,
    load_config,
)
from cloud.times import moment, span_s
from shared.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cloud.client import Fleet
    from shared.telemetry import LedgerRow, Series

POINTS_SHOWN = 60
STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400, 604800)


def telemetry(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        name="telemetry",
        epilog=examples(
            "shoal telemetry edge-1",
            "shoal telemetry edge-1 system --since 1h --every 1m --plot",
            "shoal telemetry edge-1 system --field cpu_ratio --png cpu.png",
            "shoal telemetry edge-1 system --since 2026-11-28T10:00 --every 0 --json",
        ),
    )(_telemetry)
    app.command(
        name="ledger", epilog=examples("shoal ledger", "shoal ledger edge-1 --json", "shoal ledger --letters")
    )(_ledger)


def _telemetry(
    node: Annotated[str, typer.Argument(help="The node's id.")],
    stream: Annotated[
        str | None, typer.Argument(help="The stream; without one, the node's streams are listed.")
    ] = None,
    since: Annotated[str, typer.Option(help="How far back (90s, 15m, 1h, 7d), or a time (ISO, UTC).")] = "1h",
    until: Annotated[
        str | None, typer.Option(help="Up to when, in the same forms; nothing: now.", show_default=False)
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(help="Length of an interval (10s, 1m); 0: every sample.", show_default=False),
    ] = None,
    field: Annotated[
        list[str] | None, typer.Option("--field", "-f", help="Only these fields.", show_default=False)
    ] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Draw it in the terminal.")] = False,
    png: Annotated[
        Path | None, typer.Option("--png", help="Draw it into this file.", show_default=False)
    ] = None,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Show what a device measured: least, mean and greatest value of each interval."""
    from cloud.cli.plots import picture, series_table, terminal_plots

    settings = load_config(config, broker, fleet)
    if stream is None:
        rows = ask(settings, lambda client: client.ledger(node))
        emit(rows, json, lambda: _ledger_table(rows))
        return
    now = time.time()
    begin, end = moment(since, now), moment(until, now) if until else now
    step_s = span_s(every) if every is not None else step_for(end - begin)

    async def asked(client: "Fleet") -> "Series":
        return await client.telemetry(node, stream, begin, end + 0.001, step_s)

    found = only(ask(settings, asked), field)
    if png is not None:
        picture(found, png)
    if not json and png is not None and not plot:
        typer.echo(f"wrote {png}", err=True)
        return
    emit(found, json, lambda: terminal_plots(found) if plot else series_table(found))


def _ledger(
    node: Annotated[str, typer.Argument(help="Only this node.", show_default=False)] = "",
    letters: Annotated[
        bool, typer.Option("--letters", help="Show what could not be taken (dead letters) instead.")
    ] = False,
    config: ConfigOption = None,
    broker: BrokerOption = None,
    fleet: FleetOption = None,
    json: JsonOption = False,
) -> None:
    """Say for each stream what the device produced and what became of it: stored, dropped, lost, missing."""
    settings = load_config(config, broker, fleet)
    if letters:
        from cloud.cli.plots import letters_table

        found = ask(settings, lambda client: client.letters(node))
        emit(found, json, lambda: letters_table(found))
        return
    rows = ask(settings, lambda client: client.ledger(node))
    emit(rows, json, lambda: _ledger_table(rows))


def _ledger_table(rows: "list[LedgerRow]") -> "RenderableType":
    from cloud.cli.plots import ledger_table

    return ledger_table(rows)


def only(series: "Series", fields: list[str] | None) -> "Series":
    """The series with some of its fields. Raises :class:`ConfigError` when it has none of them."""
    import msgspec

    from shared.telemetry import Point

    if not fields:
        return series
    known = {name for point in series.points for name in point.values}
    if known and not known & set(fields):
        raise ConfigError(f"no such field; {series.node} {series.stream} has {', '.join(sorted(known))}")
    points = (
        Point(one.at_unix_s, one.count, {name: one.values[name] for name in fields if name in one.values})
        for one in series.points
    )
    return msgspec.structs.replace(series, points=tuple(points))


def step_for(span: float) -> float:
    """An interval that people think in, of which about sixty make the span."""
    return float(next((step for step in STEPS_S if step >= span / POINTS_SHOWN), STEPS_S[-1]))

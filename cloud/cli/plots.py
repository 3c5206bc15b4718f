"""Telemetry for people: tables, plots in the terminal, pictures."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shared.errors import ConfigError
from shared.telemetry import LedgerRow, LetterView, Series

_BARS = " ▁▂▃▄▅▆▇█"
HEIGHT = 6
FIELDS_BY_TIME = 3
SPARK_WIDTH = 20
FATES = ("dropped", "lost", "dead", "pending", "duplicates")
PAYLOAD_SHOWN = 60


def clock(at_unix_s: float) -> str:
    """A time as text, UTC."""
    return datetime.fromtimestamp(at_unix_s, UTC).strftime("%m-%d %H:%M:%S")


def number(value: float) -> str:
    """Short, and exact where it can be."""
    return f"{value:,.0f}" if 10_000 <= abs(value) < 1e9 else f"{value:.4g}"


def names_of(series: Series) -> list[str]:
    """Every field that occurs."""
    return list(dict.fromkeys(name for point in series.points for name in point.values))


def series_table(series: Series) -> RenderableType:
    """A line for each interval with the mean and the range; where the fields are many, a line for each."""
    if not series.points:
        return _nothing(series)
    names = names_of(series)
    table = _by_time(series, names) if len(names) <= FIELDS_BY_TIME else _by_field(series, names)
    where = f"more from {clock(series.next_unix_s)} on: --since, or a longer --every"
    return Group(table, *([Text(where)] if series.next_unix_s else []))


def _by_time(series: Series, names: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("time (UTC)", no_wrap=True)
    for name in ("n", *names):
        table.add_column(Text(name), justify="right")
    for point in series.points:
        cells = [clock(point.at_unix_s), str(point.count)]
        cells += [_cell(point.values.get(name)) for name in names]
        table.add_row(*map(Text, cells))
    return table


def _by_field(series: Series, names: Sequence[str]) -> Table:
    first, last = clock(series.points[0].at_unix_s), clock(series.points[-1].at_unix_s)
    title = f"{first} to {last} UTC, {sum(point.count for point in series.points)} samples; --field for one"
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="dim")
    table.add_column("field")
    for column in ("least", "mean", "greatest", "last"):
        table.add_column(column, justify="right")
    table.add_column("", no_wrap=True)
    for name in names:
        values = [point.values[name] for point in series.points if name in point.values]
        means = [mean for _, mean, _ in values]
        numbers = (min(least for least, _, _ in values), sum(means) / len(means))
        shown = (*numbers, max(most for _, _, most in values), means[-1])
        table.add_row(*map(Text, (name, *map(number, shown), spark(means))))
    return table


def spark(values: Sequence[float], width: int = SPARK_WIDTH) -> str:
    """All of it in one line."""
    step = max(1, -(-len(values) // width))
    means = [sum(part) / len(part) for part in (values[at : at + step] for at in range(0, len(values), step))]
    low = min(means)
    span = (max(means) - low) or 1.0
    return "".join(_BARS[1 + round((mean - low) / span * 7)] for mean in means)


def _cell(value: tuple[float, float, float] | None) -> str:
    if value is None:
        return "-"
    least, mean, most = value
    return number(mean) if least == most else f"{number(mean)} ({number(least)} to {number(most)})"


def terminal_plots(series: Series) -> RenderableType:
    """A small plot for each field: means as columns, the scale beside it."""
    if not series.points:
        return _nothing(series)
    parts: list[RenderableType] = []
    for name in names_of(series):
        means = [point.values[name][1] if name in point.values else None for point in series.points]
        parts += [Text(name, style="bold"), *map(Text, bars(means))]
    first, last = clock(series.points[0].at_unix_s), clock(series.points[-1].at_unix_s)
    return Group(*parts, Text(f"{first} to {last} UTC, {len(series.points)} points", style="dim"))


def bars(values: Sequence[float | None], height: int = HEIGHT) -> list[str]:
    """Lines of block characters, the highest first, with the scale at the left."""
    known = [value for value in values if value is not None]
    low, high = min(known), max(known)
    span = (high - low) or 1.0
    eighths = [
        None if value is None else 1 + round((value - low) / span * (height * 8 - 1)) for value in values
    ]
    lines = []
    for row in reversed(range(height)):
        label = number(high) if row == height - 1 else number(low) if row == 0 else ""
        columns = (0 if filled is None else min(8, max(0, filled - row * 8)) for filled in eighths)
        lines.append(f"{label:>12} |{''.join(_BARS[column] for column in columns)}")
    return lines


def picture(series: Series, path: Path) -> None:
    """Each field in a panel of its own: the mean as a line, the range as a band. Raises ``ConfigError``."""
    if not series.points:
        raise ConfigError(f"nothing to draw: {_nothing(series).plain}")
    from matplotlib.figure import Figure

    names = names_of(series)
    figure = Figure(figsize=(9, 0.8 + 1.6 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for panel, name in zip(panels, names, strict=True):
        points = [point for point in series.points if name in point.values]
        times = [datetime.fromtimestamp(point.at_unix_s, UTC) for point in points]
        least, mean, most = zip(*(point.values[name] for point in points), strict=True)
        panel.fill_between(times, least, most, alpha=0.25, linewidth=0)
        panel.plot(times, mean, linewidth=1)
        panel.set_title(name, loc="left", fontsize=9)
    figure.suptitle(f"{series.node} {series.stream}")
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise ConfigError(f"can't draw into {path}: {error}") from None


def ledger_table(rows: Sequence[LedgerRow]) -> RenderableType:
    """One line a stream of a boot, and what it comes to. Fates that nothing met are left out."""
    if not rows:
        return Text("No telemetry has arrived yet.")
    fates = [name for name in FATES if any(getattr(row, name) for row in rows)]
    table = Table(box=None, pad_edge=False)
    for column in ("node", "stream", "boot"):
        table.add_column(column, no_wrap=column == "boot")
    for column in ("produced", "stored", *fates):
        table.add_column(column.replace("duplicates", "twice"), justify="right", no_wrap=True)
    table.add_column("")
    for row in rows:
        counts = (str(getattr(row, name)) for name in ("produced", "stored", *fates))
        boot = str(row.epoch) if row.numbered else "-"
        table.add_row(*map(Text, (row.node, row.stream, boot, *counts)), _verdict(row))
    return Group(table, Text(totals(rows)))


def _verdict(row: LedgerRow) -> Text:
    if not row.numbered:
        return Text("not numbered", style="dim")
    if row.exact:
        return Text("exact", style="green")
    gaps = ", ".join(f"{first}-{end - 1}" for first, end in row.missing[:3])
    return Text(f"missing {gaps}{', ...' if len(row.missing) > 3 else ''}", style="yellow")


def totals(rows: Iterable[LedgerRow]) -> str:
    """The sum of all numbered streams, as a sentence that can be checked."""
    numbered = [row for row in rows if row.numbered]
    produced, stored = sum(one.produced for one in numbered), sum(one.stored for one in numbered)
    away = sum(one.dropped + one.lost + one.dead for one in numbered)
    pending = sum(one.pending for one in numbered)
    sign = "==" if produced == stored + away else "!="
    text = f"produced {produced} {sign} stored {stored} + dropped, lost or dead {away}"
    return text + (f"; {pending} on their way or missing" if pending else "")


def letters_table(letters: Sequence[LetterView]) -> RenderableType:
    """One line a letter."""
    if not letters:
        return Text("No dead letters.")
    table = Table(box=None, pad_edge=False)
    for column in ("number", "time (UTC)", "node", "stream", "reason", "begins with"):
        table.add_column(column)
    for one in letters:
        shown = repr(one.payload[:PAYLOAD_SHOWN])[2:-1]
        table.add_row(
            *map(Text, (str(one.number), clock(one.at_unix_s), one.node, one.stream, one.reason, shown))
        )
    return table


def _nothing(series: Series) -> Text:
    return Text(
        f"{series.node} {series.stream}: no samples in that time; "
        f"'shoal ledger {series.node}' lists the streams"
    )

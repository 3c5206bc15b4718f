"""A report as pictures: four charts in one PNG, or each as an SVG that takes its colours from the page.

    accuracy       of each round's model; a dashed line where the central training ended
    bytes          up and down, per round
    duration       of each round, and of computing its model
    participation  per client: accepted, late, refused, silent

An SVG is drawn with colours that nobody would choose, one for each role, and these are replaced by CSS
variables: the page shows the same drawing in light and in dark.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from cloud.learning.report import Participation, Report
from shared.learning import RoundRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROLES = ("ink", "muted", "grid", "surface", "first", "second", "bad", "quiet")
BARS_MAX = 24  # clients in the picture; the page's table has all
MARKERS_MAX = 40  # rounds
WIDTH_IN, HEIGHT_IN, DPI = 5.2, 3.1, 160
SVG_WIDTH_IN, SVG_HEIGHT_IN = 4.3, 2.8  # smaller, so that its text is larger: phones
_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_drawing = threading.Lock()  # matplotlib's settings belong to the process


@dataclass(frozen=True, slots=True)
class Palette:
    """A colour for each role. ``first``, ``second``: two series; told apart without their colour too."""

    ink: str
    muted: str
    grid: str
    surface: str
    first: str
    second: str
    bad: str
    quiet: str


LIGHT = Palette("#1b1f24", "#5b6470", "#e3e6ea", "#ffffff", "#2459c4", "#b45f06", "#b3261e", "#a9b0ba")
DARK = Palette("#e8eaed", "#9aa4b2", "#2c323b", "#14171c", "#7aa7ff", "#f0b35a", "#ff8a80", "#5b6470")
_ROLES = Palette(*(f"#0102{number:02x}" for number in range(1, len(ROLES) + 1)))

Chart = Callable[["Axes", Report, Palette], None]


def png(report: Report, palette: Palette = LIGHT) -> bytes:
    """All charts in one picture. Blocks for about a second: use a thread."""
    with _drawing, mpl.rc_context(_settings(palette)):
        layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15)
        figure = Figure(figsize=(2 * WIDTH_IN, 2 * HEIGHT_IN), layout=layout, dpi=DPI)
        for axes, (title, chart) in zip(figure.subplots(2, 2).flat, CHARTS.items(), strict=True):
            _draw(axes, title, chart, report, palette)
        about = f"{report.job.spec.job}: {report.job.spec.strategy}, {len(report.rounds)} rounds"
        figure.suptitle(about, x=0.01, ha="left", fontsize=13, color=palette.ink, parse_math=False)
        out = BytesIO()
        figure.savefig(out, format="png", metadata={"Software": "shoal"})
        return out.getvalue()


def svgs(report: Report) -> dict[str, str]:
    """Title -> an ``<svg>`` element whose colours are ``var(--ink)`` and so on. Blocks as :func:`png`."""
    with _drawing, mpl.rc_context(_settings(_ROLES)):
        return {title: _svg(title, chart, report) for title, chart in CHARTS.items()}


def _svg(title: str, chart: Chart, report: Report) -> str:
    mpl.rcParams["svg.hashsalt"] = title  # ids of several drawings share one page
    figure = Figure(figsize=(SVG_WIDTH_IN, SVG_HEIGHT_IN), layout="constrained")
    _draw(figure.subplots(), "", chart, report, _ROLES)
    out = StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    for role in ROLES:
        text = text.replace(getattr(_ROLES, role), f"var(--{role})")
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


def _settings(palette: Palette) -> Any:
    """For ``rc_context``."""
    return {
        "axes.edgecolor": palette.grid,
        "axes.facecolor": palette.surface,
        "axes.labelcolor": palette.muted,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.facecolor": palette.surface,
        "font.family": "sans-serif",
        "font.size": 9,
        "legend.frameon": False,
        "legend.labelcolor": palette.ink,
        "svg.fonttype": "none",
        "text.color": palette.ink,
        "text.parse_math": False,
        "xtick.color": palette.muted,
        "ytick.color": palette.muted,
    }


def _draw(axes: "Axes", title: str, chart: Chart, report: Report, palette: Palette) -> None:
    if title:
        axes.set_title(title, loc="left", fontsize=10, color=palette.ink)
    axes.tick_params(length=0)
    axes.grid(axis="y", color=palette.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    if report.rounds:
        chart(axes, report, palette)
    else:
        axes.text(0.5, 0.5, "no round yet", ha="center", transform=axes.transAxes, color=palette.muted)
        axes.set_xticks([])
        axes.set_yticks([])


# The charts ---------------------------------------------------------------------------------------------


def _accuracy(axes: "Axes", report: Report, palette: Palette) -> None:
    metric = report.job.spec.stop.metric
    known = [row for row in report.rounds if metric in row.metrics]
    values = [row.metrics[metric] for row in known]
    _line(axes, known, values, palette.first, f"{metric}, examples held out on devices")
    if values:
        axes.annotate(
            f"{values[-1]:.1%}" if metric == "accuracy" else f"{values[-1]:.4g}",
            (known[-1].round, values[-1]),
            xytext=(0, -12),
            textcoords="offset points",
            ha="right",
            va="top",
            color=palette.first,
            weight="bold",
        )
    if metric == "accuracy":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        axes.set_ylim(top=1.02)
        if report.central_accuracy is not None:
            central = report.central_accuracy
            label = f"all data in one place, test data: {central:.1%}"
            axes.axhline(central, color=palette.muted, linestyle="--", linewidth=1, label=label)
            axes.legend(loc="lower right", fontsize=8)
    _by_round(axes)


def _bytes(axes: "Axes", report: Report, palette: Palette) -> None:
    up, down = [row.bytes_up for row in report.rounds], [row.bytes_down for row in report.rounds]
    size, unit = next(((size, unit) for size, unit in _UNITS if max(*up, *down) >= size), (1, "B"))
    _line(axes, report.rounds, [one / size for one in up], palette.first, "up, from all devices")
    _line(axes, report.rounds, [one / size for one in down], palette.second, "down, once for all", "s")
    axes.set_ylabel(unit)
    _from_zero(axes)
    _legend(axes)
    _by_round(axes)


def _duration(axes: "Axes", report: Report, palette: Palette) -> None:
    _line(axes, report.rounds, [row.wall_s for row in report.rounds], palette.first, "whole round")
    aggregate = [row.aggregate_s for row in report.rounds]
    _line(axes, report.rounds, aggregate, palette.second, "computing the model", "s")
    axes.set_ylabel("seconds")
    _from_zero(axes)
    _legend(axes)
    _by_round(axes)


def _participation(axes: "Axes", report: Report, palette: Palette) -> None:
    shown = most_telling(report.clients, BARS_MAX)[::-1]
    left = [0] * len(shown)
    for name, colour, hatch in (
        ("accepted", palette.first, ""),
        ("late", palette.second, "//"),
        ("refused", palette.bad, "xx"),
        ("silent", palette.quiet, ".."),
    ):
        counts = [getattr(one, name) for one in shown]
        if any(counts):
            bars = axes.barh(
                range(len(shown)), counts, left=left, color=colour, height=0.7, label=name, hatch=hatch
            )
            for bar in bars:
                bar.set_edgecolor(palette.surface)
                bar.set_linewidth(0.8)
        left = [before + count for before, count in zip(left, counts, strict=True)]
    size = 9 if len(shown) <= 12 else 6
    axes.set_yticks(range(len(shown)), [one.client[:24] for one in shown], fontsize=size)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=palette.grid, linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    some = f"; {BARS_MAX} of {len(report.clients)}" if len(shown) < len(report.clients) else ""
    axes.set_xlabel(f"rounds{some}")
    _legend(axes, below=True)


CHARTS: Mapping[str, Chart] = {
    "Accuracy": _accuracy,
    "Bytes per round": _bytes,
    "Duration of a round": _duration,
    "Participation": _participation,
}


def most_telling(clients: Sequence[Participation], count: int) -> list[Participation]:
    """All of them by name, or those with most trouble where there are too many."""
    troubled = sorted(clients, key=lambda one: (one.accepted - one.asked, one.client))[:count]
    return sorted(troubled, key=lambda one: one.client)


def _line(
    axes: "Axes", rows: Sequence[RoundRow], values: Sequence[float], colour: str, label: str, mark: str = "o"
) -> None:
    shown = mark if len(rows) <= MARKERS_MAX else ""
    axes.plot(
        [row.round for row in rows],
        values,
        color=colour,
        linewidth=1.6,
        marker=shown,
        markersize=3.5,
        label=label,
    )


def _from_zero(axes: "Axes") -> None:
    """With room for the legend above the data."""
    axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.25 or 1)


def _legend(axes: "Axes", *, below: bool = False) -> None:
    where = {"loc": "upper center", "bbox_to_anchor": (0.45, -0.16)} if below else {"loc": "upper right"}
    axes.legend(ncols=4 if below else 2, fontsize=8, **where)


def _by_round(axes: "Axes") -> None:
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))

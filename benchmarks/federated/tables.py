"""The figures of a run for a person."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.federated.goals import FEDERATED_GOALS
from benchmarks.federated.rows import Row
from benchmarks.measuring import Found
from benchmarks.report import goals_table, missed

COLUMNS = 140  # where standard output is no terminal


def told(part: str, found: Found, tables: Sequence[Table], others: Found | None = None) -> int:
    """Print a part's tables and its goals; the exit code: 1 when something failed or a goal is missed.

    ``others``: figures of parts that a goal compares with, by their names.
    """
    console = Console()
    if not console.is_terminal:
        console.width = COLUMNS
    for table in tables:
        console.print(table)
    goals = [goal for goal in FEDERATED_GOALS if goal.part == part]
    results = {**(others or {}), part: found}
    if goals:
        console.print(goals_table(results, goals))
    failed = any(row.get("error") for row in found.get("rows", ()))
    return 1 if failed or missed(results, goals) else 0


def overhead_table(rows: Sequence[Row]) -> Table:
    """One line for each system, engine and size; what failed says so."""
    table = Table(title="a round that trains nothing (per device: bytes, memory)")
    for name in ("system", "engine"):
        table.add_column(name)
    for name in (
        "devices",
        "parameters",
        "round s",
        "beyond training s",
        "up KB",
        "down KB",
        "idle MiB",
        "CPU s",
    ):
        table.add_column(name, justify="right")
    for row in rows:
        size = (row["system"], row["engine"], str(row["devices"]), f"{row['params']:,}")
        table.add_row(*size, *(("failed",) if row["error"] else _figures(row)))
    for row in rows:
        if row["error"]:
            table.caption = f"{table.caption or ''}{row['system']} {row['engine']}: {row['error'][:200]}\n"
    return table


def _figures(row: Row) -> tuple[str, ...]:
    return (
        _shown(row["round_s"], "{:.3f}"),
        _shown(row["overhead_s"], "{:.3f}"),
        _shown(row["bytes_up"], "{:.1f}", 1e-3),
        _shown(row["bytes_down"], "{:.1f}", 1e-3),
        _shown(row["idle_mib"], "{:.0f}"),
        _shown(row["cpu_s"], "{:.2f}"),
    )


def _shown(figure: float | None, form: str, scale: float = 1.0) -> str:
    return "" if figure is None else form.format(figure * scale)

"""Tables of replicated keys, for people."""

import time
from collections.abc import Sequence
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cloud.cli.show import age_text, coloured, facts_table
from shared.sync_views import ConflictView, KeyView, PutResult, SyncTaskView

VALUE_SHOWN_MAX = 80
_WHOLE = ("task", "key", "level", "status", "state", "age")  # columns that are never broken


def done_text(done: PutResult) -> RenderableType:
    """What became of a write."""
    revision = f" at revision {done.revision}" if done.revision else ""
    have = f"{len(done.acked)} of {len(done.targets)} targets have it"
    return Text(f"{done.key}{revision}: {done.status}; {have}\ntask {done.task_id}")


def keys_table(keys: Sequence[KeyView]) -> RenderableType:
    """One line a key."""
    if not keys:
        return Text("no keys; 'shoal sync put KEY VALUE --to NODE' makes one")
    table = _table("key", "value", "level", "rev", "targets", "waiting", "conflicts")
    for one in keys:
        waiting = Text(", ".join(one.waiting), style="yellow")
        cells = (one.key, _short(one), one.level, _number(one.revision), ", ".join(one.targets))
        _add(table, *cells, waiting, _number(one.conflicts, "red"))
    return table


def key_page(one: KeyView) -> RenderableType:
    """One key with all that is known."""
    return facts_table(
        [
            ("key", one.key),
            ("value", "erased" if one.erased else msgspec.json.encode(one.value).decode()),
            ("level", f"{one.level}, {one.strategy}"),
            ("revision", str(one.revision) if one.revision else "-"),
            ("changed", _ago(one.changed_at_unix_ms)),
            ("targets", ", ".join(one.targets) or "none: only the cloud has it"),
            ("waiting", ", ".join(one.waiting) or "nobody"),
            ("conflicts", str(one.conflicts)),
        ]
    )


def tasks_table(tasks: Sequence[SyncTaskView]) -> RenderableType:
    """One line a task, the newest first."""
    if not tasks:
        return Text("no writes within the last hour")
    table = _table("task", "key", "level", "status", "acked", "tries", "lag", "age")
    for one in tasks:
        acked = sum(replica.state == "acked" for replica in one.replicas.values())
        lag = f"{one.lag_s:.1f} s" if one.lag else "-"
        cells = (one.task_id, one.key, one.level)
        counts = (f"{acked}/{len(one.targets)}", str(one.attempts), lag, _ago(one.created_at_unix_ms))
        _add(table, *cells, coloured(one.status), *counts)
    return table


def task_page(one: SyncTaskView) -> RenderableType:
    """One task, target by target."""
    facts = facts_table(
        [
            ("task", one.task_id),
            ("key", f"{one.key} ({one.kind})"),
            ("level", f"{one.level}, {one.sync_type}, priority {one.priority}"),
            ("status", coloured(one.status)),
            ("revision", str(one.revision) if one.revision else "-"),
            ("lag", f"{one.lag} targets, {one.lag_s:.1f} s" if one.lag else "none"),
            ("conflicts", str(one.conflicts)),
            ("detail", one.detail or "-"),
        ]
    )
    table = _table("target", "state", "attempts", "reason")
    for node, replica in sorted(one.replicas.items()):
        _add(table, node, coloured(replica.state), str(replica.attempts), replica.reason)
    return Group(facts, Text(), table)


def conflicts_table(conflicts: Sequence[ConflictView]) -> RenderableType:
    """One line a field."""
    if not conflicts:
        return Text("no conflicts")
    table = _table("key", "field", "shows", "written by", "lost")
    for one in conflicts:
        lost = ", ".join(f"{origin}: {_json(value)}" for origin, value in sorted(one.lost.items()))
        _add(table, one.key, one.field or "(whole)", _json(one.won), one.won_by, lost)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in _WHOLE)
    return table


def _add(table: Table, *cells: str | Text) -> None:
    """Keys and values come from the network and are no markup."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def _short(one: KeyView) -> str:
    return "erased" if one.erased else _json(one.value)


def _json(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= VALUE_SHOWN_MAX else text[: VALUE_SHOWN_MAX - 3] + "..."


def _number(count: int, style: str = "") -> Text:
    return Text(str(count) if count else "-", style=style if count else "")


def _ago(unix_ms: int) -> str:
    return age_text(max(0.0, time.time() - unix_ms / 1000)) if unix_ms else "-"

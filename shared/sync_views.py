"""What people and programs read of the replicated keys: bodies of replies, and the API's JSON. Data only."""

from typing import Any

import msgspec


class ConflictView(msgspec.Struct, frozen=True, kw_only=True):
    """A field that was written by several who did not see each other. ``lost``: origin -> its value."""

    key: str
    field: str
    won_by: str
    won: Any
    lost: dict[str, Any]


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """One key. ``revision`` counts the writes of a STRONG key; ``waiting``: targets without the newest."""

    key: str
    value: Any
    level: str
    strategy: str
    revision: int = 0
    erased: bool = False
    targets: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    conflicts: int = 0
    changed_at_unix_ms: int = 0


class ReplicaView(msgspec.Struct, frozen=True, kw_only=True):
    """One target of a task. ``state``: acked, waiting, flying, held (until it asks), refused, sent (WEAK)."""

    state: str
    attempts: int = 0
    reason: str = ""


class SyncTaskView(msgspec.Struct, frozen=True, kw_only=True):
    """One write on its way. ``payload``: the key, or an artifact's digest; ``lag``: targets that do not
    have it yet; ``attempts``: the most of any."""

    task_id: str
    kind: str
    sync_type: str
    level: str
    key: str
    payload: str
    source: str
    targets: tuple[str, ...]
    status: str
    priority: int
    revision: int
    attempts: int
    lag: int
    lag_s: float
    replicas: dict[str, ReplicaView]
    conflicts: int
    created_at_unix_ms: int
    code: str = ""
    detail: str = ""


class PutResult(msgspec.Struct, frozen=True, kw_only=True):
    """A write was accepted as its level promises. ``acked``: targets that have it already."""

    task_id: str
    key: str
    status: str
    revision: int = 0
    acked: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()

"""What the cloud keeps of each key and of each task, beside the entry itself. Data only."""

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from shared.sync import ConsistencyLevel, Required, SyncStrategy
from shared.versions import Entry


class Sharing(msgspec.Struct, frozen=True):
    """Who holds a key. ``tag``: the residency tag its writer gave, packed."""

    targets: tuple[str, ...]
    priority: int = 5
    tag: bytes = b""


class Record(msgspec.Struct, frozen=True):
    """One key as it is stored."""

    entry: Entry
    sharing: Sharing


class NodeMemory(msgspec.Struct, frozen=True):
    """What must be known of a node after a restart: the messages heard of its newest life (a prefix and a
    window), and the round of forgotten tombstones that it has to have seen."""

    life: int
    upto: int
    beyond: tuple[int, ...] = ()
    floor: int = 0


class SyncKind(StrEnum):
    """What a task moves."""

    DATA = "data"
    CONFIG = "config"
    MODEL = "model"


class TaskStatus(StrEnum):
    """How far a task is."""

    PENDING = "pending"  # not journaled yet
    SYNCING = "syncing"  # journaled; targets are missing
    DONE = "done"  # every target has it, or nobody waits for them (WEAK)
    CONFLICT = "conflict"  # a stale version: nothing was written
    CANCELLED = "cancelled"  # no target may have it: nothing was sent
    INDETERMINATE = "indeterminate"  # STRONG, too few in time: it may land later
    FAILED = "failed"  # a target refused it, or never took it


NEXT: Mapping[TaskStatus, frozenset[TaskStatus]] = {
    TaskStatus.PENDING: frozenset({TaskStatus.SYNCING, TaskStatus.INDETERMINATE, TaskStatus.FAILED}),
    TaskStatus.SYNCING: frozenset({TaskStatus.DONE, TaskStatus.INDETERMINATE, TaskStatus.FAILED}),
    TaskStatus.INDETERMINATE: frozenset({TaskStatus.SYNCING, TaskStatus.DONE, TaskStatus.FAILED}),
    TaskStatus.FAILED: frozenset({TaskStatus.DONE}),  # a dead letter was sent again
    TaskStatus.DONE: frozenset(),
    TaskStatus.CONFLICT: frozenset(),
    TaskStatus.CANCELLED: frozenset(),
}


class SyncTask(msgspec.Struct, frozen=True, kw_only=True):
    """One write on its way to its targets. ``task_id`` is the operation's id: who repeats it finds it.

    ``acked``: targets with the write (or a newer one) on their disks. ``revision``: of the key after it.
    ``refused``: target -> why it will not have it.
    """

    task_id: str
    sync_type: SyncStrategy
    level: ConsistencyLevel
    kind: SyncKind
    key: str
    source: str
    targets: tuple[str, ...]
    required: Required = Required.ALL
    priority: int = 5
    status: TaskStatus = TaskStatus.PENDING
    acked: tuple[str, ...] = ()
    refused: dict[str, str] = {}
    revision: int = 0
    digest: str = ""
    created_at_unix_ms: int = 0
    code: str = ""
    detail: str = ""

    @property
    def payload(self) -> str:
        """What it moves: a key, whose newest value it is, or an artifact's digest."""
        return self.digest or self.key

    @property
    def is_open(self) -> bool:
        """Whether targets may still come to have it."""
        return bool(NEXT[self.status])

    @property
    def enough(self) -> bool:
        """Whether as many targets have it as its writer requires."""
        return len(self.acked) >= self.required.of(len(self.targets))

    def name_for(self, node: str) -> str:
        """The entry that the task moves to this target."""
        return f"desired/{node}/{self.key}" if self.kind is SyncKind.CONFIG else self.key

"""What may be read of the sync core. Reads only."""

from typing import Any

import msgspec

from cloud.sync.fleet import Fleet
from cloud.sync.records import Sharing, SyncTask
from shared.entries import level_of, strategy_of
from shared.lanes import Lane
from shared.sync import ConsistencyLevel
from shared.sync_views import ConflictView, KeyView, ReplicaView, SyncTaskView
from shared.versions import Entry, conflicts_of, stamp_unix_ms, value_of


def key_view(entry: Entry, fleet: Fleet, sharing: Sharing | None = None) -> KeyView:
    """One key with who still lacks its newest state. ``sharing``: of a WEAK one."""
    sharing = sharing or fleet.sharing.get(entry.name)
    targets = () if sharing is None else sharing.targets
    return KeyView(
        key=entry.name,
        value=value_of(entry),
        level=level_of(entry).value,
        strategy=strategy_of(entry).value,
        revision=entry.revision,
        erased=entry.erased,
        targets=targets,
        waiting=tuple(node for node in targets if _waits(fleet, node, entry.name)),
        conflicts=len(conflicts_of(entry)),
        changed_at_unix_ms=max((stamp_unix_ms(one.stamp) for one in entry.writes), default=0),
    )


def conflict_views(entry: Entry) -> list[ConflictView]:
    """Every field of a key on which its writers disagree."""
    return [
        ConflictView(
            key=entry.name,
            field=one.field,
            won_by=one.won.origin,
            won=_plain(one.won.fields[one.field]),
            lost={write.origin: _plain(write.fields[one.field]) for write in one.lost},
        )
        for one in conflicts_of(entry)
    ]


def task_view(task: SyncTask, fleet: Fleet, unix_ms: int) -> SyncTaskView:
    """One task, target by target."""
    replicas = {node: _replica(task, node, fleet) for node in task.targets}
    lag = sum(one.state not in ("acked", "sent") for one in replicas.values()) if task.is_open else 0
    conflicts = sum(
        len(conflicts_of(fleet.journal.read(name)))
        for name in {task.name_for(node) for node in task.targets} | {task.key}
    )
    return SyncTaskView(
        task_id=task.task_id,
        kind=task.kind.value,
        sync_type=task.sync_type.value,
        level=task.level.value,
        key=task.key,
        payload=task.payload,
        source=task.source,
        targets=task.targets,
        status=task.status.value,
        priority=task.priority,
        revision=task.revision,
        attempts=max((one.attempts for one in replicas.values()), default=0),
        lag=lag,
        lag_s=max(0, unix_ms - task.created_at_unix_ms) / 1000 if lag else 0.0,
        replicas=replicas,
        conflicts=conflicts,
        created_at_unix_ms=task.created_at_unix_ms,
        code=task.code,
        detail=task.detail,
    )


def _waits(fleet: Fleet, node: str, name: str) -> bool:
    peer = fleet.peers.get(node)
    return peer is not None and (name in peer.lane.items or name in peer.lane.dead)


def _replica(task: SyncTask, node: str, fleet: Fleet) -> ReplicaView:
    if node in task.acked:
        return ReplicaView(state="acked")
    if task.level is ConsistencyLevel.WEAK:
        return ReplicaView(state="sent")
    if node in task.refused:
        return ReplicaView(state="refused", reason=task.refused[node])
    peer = fleet.peers.get(node)
    return ReplicaView(state="unknown") if peer is None else _in_lane(task.name_for(node), peer.lane)


def _in_lane(name: str, lane: Lane) -> ReplicaView:
    item = lane.items.get(name)
    if item is None:
        return ReplicaView(state="waiting", reason="" if lane.online else "offline")
    state = "flying" if item.flying is not None else "held" if item.held else "waiting"
    return ReplicaView(state=state, attempts=item.attempts, reason="" if lane.online else "offline")


def _plain(value: bytes) -> Any:
    return msgspec.msgpack.decode(value)

"""Replicated keys in the database. See :class:`cloud.sync.store.SyncStore` for what is promised.

    sync_keys     one row per key: its entry (writes and vector) and who shares it, packed
    sync_tasks    one row per write that is on its way, or ended within the last hour
    sync_nodes    one row per node: which of its operations were done, and its floor

Packed, because nothing is ever asked of a part: the core holds all of it in memory, and a save replaces rows.
"""

from typing import Any

import msgspec
from sqlalchemy import Connection, Table, select

from cloud.store.database import Database, remove, together, upsert
from cloud.store.tables import META, SYNC_KEYS, SYNC_NODES, SYNC_TASKS
from cloud.sync.events import Fenced, Restored, Save, Saved
from cloud.sync.records import NodeMemory, Record, SyncTask

_CLEARED, _STAMP = "sync-cleared", "sync-stamp"
_encode = msgspec.msgpack.Encoder().encode
_record = msgspec.msgpack.Decoder(Record).decode
_task = msgspec.msgpack.Decoder(SyncTask).decode
_memory = msgspec.msgpack.Decoder(NodeMemory).decode


class SqlSync:
    """See the protocol. Any number of threads and processes may use the same database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load_sync(self) -> Restored:
        """See the protocol, as for all below."""
        with self._database.transaction() as connection:
            records = [_record(packed) for _, packed in _pairs(connection, SYNC_KEYS)]
            tasks = [_task(packed) for _, packed in _pairs(connection, SYNC_TASKS)]
            nodes = {node: _memory(packed) for node, packed in _pairs(connection, SYNC_NODES)}
            cleared = connection.scalar(select(META.c.value).where(META.c.name == _CLEARED)) or 0
            stamp = connection.scalar(select(META.c.value).where(META.c.name == _STAMP)) or 0
        return Restored(tuple(records), tuple(tasks), nodes, cleared, stamp)

    def save_sync(self, save: Save) -> Saved | Fenced:
        """The term is read under a lock that the next start of a cloud has to wait for."""
        with self._database.transaction() as connection:
            together(connection, META)
            term = connection.scalar(select(META.c.value).where(META.c.name == "term")) or 0
            if term != save.term:
                return Fenced(term)
            records = {one.entry.name: _encode(one) for one in save.records}
            _put(connection, SYNC_KEYS, "name", "record", records)
            remove(connection, SYNC_KEYS, ("name",), [{"name": name} for name in save.forgotten])
            _put(connection, SYNC_TASKS, "id", "task", {one.task_id: _encode(one) for one in save.tasks})
            remove(connection, SYNC_TASKS, ("id",), [{"id": task_id} for task_id in save.tasks_forgotten])
            memories = {node: _encode(one) for node, one in save.nodes.items()}
            _put(connection, SYNC_NODES, "node", "memory", memories)
            if save.records:
                upsert(connection, META, [{"name": _STAMP, "value": save.stamp}])
            if save.cleared:
                upsert(connection, META, [{"name": _CLEARED, "value": save.cleared}])
        return Saved()


def _pairs(connection: Connection, table: Table) -> Any:
    return connection.execute(select(*table.c).order_by(*table.primary_key))


def _put(connection: Connection, table: Table, key: str, value: str, rows: dict[str, bytes]) -> None:
    upsert(connection, table, [{key: name, value: packed} for name, packed in sorted(rows.items())])

"""What the capabilities keep, as rows and back."""

from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from typing import TypeVar

import msgspec

from cloud.artifacts.entry import Entry
from cloud.rollout.events import NodeDesired
from cloud.store.database import DAMAGE, Row, StoreDamaged
from cloud.tasks.core import Task, TaskSpec, TaskState
from shared.messages import Birth, DesiredModels, Manifest
from shared.package import PackageInfo

T = TypeVar("T")


def _reads(read: Callable[[Row], T]) -> Callable[[Row], T]:
    """What can't be read is the database's fault, for it was written by the function beside it."""

    @wraps(read)
    def checked(row: Row) -> T:
        try:
            return read(row)
        except (*DAMAGE, ValueError, TypeError, KeyError) as error:
            name = next(iter(row.values()), "")
            raise StoreDamaged(f"{read.__name__}: the row of {name!r} can't be read: {error}") from error

    return checked


def birth_row(node: str, birth: Birth, first_seen_unix_s: float) -> Row:
    """A node and its newest birth."""
    return {
        "node": node,
        "first_seen_unix_s": first_seen_unix_s,
        "last_epoch": birth.epoch,
        "birth": msgspec.msgpack.encode(birth),
    }


@_reads
def birth_of(row: Row) -> tuple[str, Birth]:
    """The other way."""
    return row["node"], msgspec.msgpack.decode(row["birth"], type=Birth)


def entry_row(entry: Entry) -> Row:
    """The manifest stays packed, since it is signed as it is; the columns beside it are for queries."""
    manifest = entry.manifest
    return {
        "digest": manifest.digest,
        "name": manifest.name,
        "version": manifest.version,
        "kind": manifest.kind.value,
        "size_bytes": manifest.size_bytes,
        "created_at_unix_s": entry.created_at_unix_s,
        "manifest": msgspec.msgpack.encode(manifest),
        "info": msgspec.msgpack.encode(entry.info),
    }


@_reads
def entry_of(row: Row) -> Entry:
    """The other way."""
    return Entry(
        manifest=msgspec.msgpack.decode(row["manifest"], type=Manifest),
        info=msgspec.msgpack.decode(row["info"], type=PackageInfo),
        created_at_unix_s=row["created_at_unix_s"],
    )


def orders_row(one: NodeDesired) -> Row:
    """The orders of a node, as JSON that a person can read."""
    models = msgspec.to_builtins(one.desired.models)
    return {"node": one.node, "version": one.desired.version, "models": models}


@_reads
def orders_of(row: Row) -> NodeDesired:
    """The other way."""
    desired = msgspec.convert({"version": row["version"], "models": row["models"]}, DesiredModels)
    return NodeDesired(row["node"], desired)


def task_row(task: Task) -> Row:
    """The inputs stay packed."""
    return {**asdict(task), "spec": msgspec.msgpack.encode(task.spec), "state": task.state.value}


@_reads
def task_of(row: Row) -> Task:
    """The other way."""
    spec = msgspec.msgpack.decode(row["spec"], type=TaskSpec)
    return Task(**{**row, "spec": spec, "state": TaskState(row["state"])})

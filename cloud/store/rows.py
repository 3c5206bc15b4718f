"""What the capabilities keep, as rows and back."""

from dataclasses import asdict

import msgspec

from cloud.artifacts.entry import Entry
from cloud.rollout.events import NodeDesired
from cloud.store.database import Row
from cloud.tasks.core import Task, TaskSpec, TaskState
from shared.messages import DesiredModels, Manifest
from shared.package import PackageInfo


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


def orders_of(row: Row) -> NodeDesired:
    """The other way."""
    desired = msgspec.convert({"version": row["version"], "models": row["models"]}, DesiredModels)
    return NodeDesired(row["node"], desired)


def task_row(task: Task) -> Row:
    """The inputs stay packed."""
    return {**asdict(task), "spec": msgspec.msgpack.encode(task.spec), "state": task.state.value}


def task_of(row: Row) -> Task:
    """The other way."""
    spec = msgspec.msgpack.decode(row["spec"], type=TaskSpec)
    return Task(**{**row, "spec": spec, "state": TaskState(row["state"])})

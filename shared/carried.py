"""Which messages carry data that somebody may have tagged, whose data they are, and who reads them there.

What is in :data:`CARRIES` is looked at before it is published. A test lists all other topics with the
reason why they need no look, so that a new one is thought about.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from shared import topics as t
from shared.errors import RemoteError
from shared.messages import Manifest
from shared.residency import Kind
from shared.sync import Call, Outcome, Push, Result, Setting, SyncMessage, setting_of
from shared.topics import Topic
from shared.versions import WHOLE, Entry
from shared.wire import decode

MODEL_PREFIX = "model/"
CLOUD_READER, ALL_READERS = "@", ""

_DATA_LEVELS = ("sync", "desired", "reported")
_CHUNKS = t.CHUNK.pattern.partition("{")[0]
_MANIFESTS = t.MANIFEST.pattern.partition("{")[0]


@dataclass(frozen=True, slots=True)
class Item:
    """One value on its way. ``key``: as policies name it; ``writes``: its fields, packed, those of a conflict
    too; ``artifact``: the digest, where only that is known yet; ``tag``: its writer's, packed."""

    key: str
    kind: Kind
    writes: tuple[Mapping[str, bytes], ...] = ()
    artifact: str = ""
    tag: bytes = b""

    def value(self) -> Any:
        """All of it, for a look at its fields."""
        return [_unpacked(fields) for fields in self.writes]


@dataclass(frozen=True, slots=True)
class Cargo:
    """What a message carries. ``reader``: the node that can read its topic, or the cloud, or all."""

    reader: str
    items: tuple[Item, ...]


def _unpacked(fields: Mapping[str, bytes]) -> Any:
    if WHOLE in fields:
        return msgspec.msgpack.decode(fields[WHOLE])
    return {name: msgspec.msgpack.decode(value) for name, value in fields.items()}


def item_of(entry: Entry, tag: bytes = b"") -> Item:
    """A replicated key."""
    return Item(entry.name, kind_of(entry.name), tuple(write.fields for write in entry.writes), tag=tag)


def kind_of(key: str) -> Kind:
    """What a key is about."""
    if key.startswith(MODEL_PREFIX):
        return Kind.MODEL
    return Kind.CONFIG if setting_of(key) else Kind.DATA


def _of_sync(message: SyncMessage) -> tuple[Item, ...]:
    match message.part:
        case Push(_, entries, tags):
            return tuple(item_of(entry, tags.get(entry.name, b"")) for entry in entries if entry.writes)
        case Result(_, Outcome(value=bytes() as value), name, tag):
            return (Item(name, kind_of(name), ({WHOLE: value},), tag=tag),)
        case Call(name=name, value=bytes() as value):
            return (Item(name, kind_of(name), ({WHOLE: value},)),)
    return ()


def _of_setting(message: Setting) -> tuple[Item, ...]:
    return (item_of(message.entry, message.tag),) if message.entry.writes else ()


def _of_manifest(message: Manifest) -> tuple[Item, ...]:
    return (Item(MODEL_PREFIX + message.name, Kind.MODEL, artifact=message.digest),)


CARRIES: Mapping[str, Callable[[Any], tuple[Item, ...]]] = {
    t.SYNC_DOWN.pattern: _of_sync,
    t.SYNC_UP.pattern: _of_sync,
    t.DESIRED_KEY.pattern: _of_setting,
    t.REPORTED_KEY.pattern: _of_setting,
    t.MANIFEST.pattern: _of_manifest,
}
"""Topic -> what a message on it carries. Chunks are known by the artifact in their topic's name."""


def cargo_of(topic: Topic[Any], ids: Mapping[str, str], message: Any) -> Cargo:
    """What a message carries; nothing for most."""
    items = CARRIES[topic.pattern](message) if topic.pattern in CARRIES else ()
    return Cargo(reader_of(topic, ids), items)


def chunk_cargo(artifact: str) -> Cargo:
    """A piece of an artifact, of which only the digest is known here."""
    return Cargo(ALL_READERS, (Item("", Kind.MODEL, artifact=artifact),))


def reader_of(topic: Topic[Any], ids: Mapping[str, str]) -> str:
    """Which device may read it beside the cloud: the owner of what the cloud says to one, all of what it says
    to all, and none of what a device says."""
    if topic.writer is t.Writer.CLOUD:
        return ids.get("node", ALL_READERS)
    return CLOUD_READER


def concerns(topic: str) -> bool:
    """Whether messages on this topic can carry tagged data; quick, for it is asked of every message."""
    if topic.startswith("all/"):
        return topic.startswith((_CHUNKS, _MANIFESTS))
    levels = topic.split("/", 4)
    return len(levels) > 3 and levels[0] == "node" and levels[3] in _DATA_LEVELS and levels[4:] != ["models"]


def cargo_in(topic: str, payload: bytes) -> Cargo | None:
    """What a payload carries. None: it is on a topic for data, and can't be read."""
    if topic.startswith(_CHUNKS):
        return chunk_cargo(topic.split("/")[2])
    found = t.find(topic)
    if found is None:
        return None
    try:
        return cargo_of(found[0], found[1], decode(found[0], payload))
    except RemoteError:
        return None

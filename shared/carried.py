"""Which messages carry data that somebody may have tagged, whose data they are, and who reads them there.

Every topic is in one of two tables, and a test says so for each new one: what is in :data:`CARRIES` is looked
at before it is published; what is in :data:`CARRIES_NO_TAGGED_DATA` says why it needs no look.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from shared import topics as t
from shared.messages import Manifest
from shared.residency import Kind
from shared.sync import Push, Result, Setting, SyncMessage, setting_of
from shared.topics import Topic
from shared.versions import WHOLE, Entry

MODEL_PREFIX = "model/"
CLOUD_READER, ALL_READERS = "@", ""


@dataclass(frozen=True, slots=True)
class Item:
    """One value on its way. ``key``: as policies name it; ``writes``: the fields it is made of, packed, those
    of a conflict too; ``artifact``: the digest, where only that is known yet."""

    key: str
    kind: Kind
    writes: tuple[Mapping[str, bytes], ...] = ()
    artifact: str = ""

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


def item_of(entry: Entry) -> Item:
    """A replicated key."""
    kind = Kind.CONFIG if setting_of(entry.name) else Kind.DATA
    return Item(entry.name, kind, tuple(write.fields for write in entry.writes))


def kind_of(key: str) -> Kind:
    """What a key is about."""
    if key.startswith(MODEL_PREFIX):
        return Kind.MODEL
    return Kind.CONFIG if setting_of(key) else Kind.DATA


def _of_entries(entries: Iterable[Entry]) -> tuple[Item, ...]:
    return tuple(item_of(entry) for entry in entries if entry.writes)


def _of_sync(message: SyncMessage) -> tuple[Item, ...]:
    part = message.part
    if isinstance(part, Push):
        return _of_entries(part.entries)
    if isinstance(part, Result) and part.outcome.value is not None:
        return (Item(part.name, kind_of(part.name), ({WHOLE: part.outcome.value},)),)
    return ()


def _of_setting(message: Setting) -> tuple[Item, ...]:
    return _of_entries((message.entry,))


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

CARRIES_NO_TAGGED_DATA: Mapping[str, str] = {}


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


def guarded() -> Iterator[Topic[Any]]:
    """The topics that are looked at."""
    yield from (topic for topic in t.ALL if topic.pattern in CARRIES or topic is t.CHUNK)

"""Versions of replicated values: who wrote what, what somebody has seen, and how two replicas become one.

    entry = writes + vector        write = dot (origin, epoch, sequence) + stamp + the fields it still owns
    vector: for each origin, the last of its writes that this entry has seen

A value that is a map is kept field by field. A put compares with what its writer saw (the base) and takes
over only the fields that it changed; a field that it removed is dropped, and the vector remembers that it
was seen. So the usual three-way merge needs no base at hand: of two replicas, *what one has seen and no
longer holds was replaced or removed there*, and everything else stays. That is a join of a lattice (the
optimised observed-remove map of Bieniusa et al., 2012, arXiv:1210.3368): commutative, associative,
idempotent, whatever arrives how often in which order.

Two writes of one field that did not see each other both stay. Readers see the one that :func:`winner` says;
the other is a *conflict*, kept and shown until somebody who saw both writes the field again. An edit
survives a concurrent deletion.

Vectors decide what is newer. The hybrid clock (Kulkarni et al., 2014) only breaks ties between writes that
are really concurrent, so a wrong clock can prefer its owner's writes but never undo a later one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import msgspec

Mark = tuple[int, int]
"""(epoch, sequence): epochs grow with every life of a writer, sequences within one."""

Vector = dict[str, Mark]
"""Origin -> the last of its writes that was seen."""

CLOUD_ORIGIN = "@"  # no node can be called so
WHOLE = ""  # the field of a value that is no map
FIELDS_MAX = 256
DRIFT_MS_MAX = 60_000
PRINT_BYTES = 8
_COUNTER_BITS = 16

DESIRED_PREFIX, REPORTED_PREFIX = "desired/", "reported/"

_encoder = msgspec.msgpack.Encoder(order="deterministic")


class Write(msgspec.Struct, frozen=True, array_like=True):
    """One write, with those of its fields that nobody has replaced. ``fields``: packed values by name."""

    origin: str
    epoch: int
    sequence: int
    stamp: int
    fields: dict[str, bytes]

    @property
    def mark(self) -> Mark:
        """When, in the life of its origin."""
        return self.epoch, self.sequence


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """Everything that is known of one key. Without writes it is a tombstone.

    ``writes`` stand in the order of their dots, so that equal entries have equal bytes. ``traits``: level and
    strategy, and the stamp of the write that set them; the larger tuple holds. ``revision``: counts the
    writes of a STRONG key.
    """

    name: str
    writes: tuple[Write, ...] = ()
    vector: Vector = {}
    traits: tuple[int, str, str] = (0, "", "")
    revision: int = 0

    @property
    def erased(self) -> bool:
        """Whether there is no value any more."""
        return not self.writes


@dataclass(frozen=True, slots=True)
class Conflict:
    """A field that was written by two who did not see each other. ``lost``: the newest first."""

    field: str
    won: Write
    lost: tuple[Write, ...]


# Vectors --------------------------------------------------------------------------------------------


def seen(vector: Mapping[str, Mark], origin: str, mark: Mark) -> bool:
    """Whether ``vector`` has seen this write."""
    return mark <= vector.get(origin, (0, 0))


def covers(larger: Mapping[str, Mark], smaller: Mapping[str, Mark]) -> bool:
    """Whether ``larger`` has seen everything that ``smaller`` has."""
    return all(seen(larger, origin, mark) for origin, mark in smaller.items())


def joined(*vectors: Mapping[str, Mark]) -> Vector:
    """The least vector that covers them all."""
    together: Vector = {}
    for vector in vectors:
        for origin, mark in vector.items():
            if mark > together.get(origin, (0, 0)):
                together[origin] = mark
    return together


# Merge ----------------------------------------------------------------------------------------------


def merged(ours: Entry, theirs: Entry) -> Entry:
    """Both entries of one key as one. Returns ``ours`` itself where it holds all of ``theirs`` already."""
    if ours == theirs:
        return ours
    mine = {(one.origin, *one.mark): one for one in ours.writes}
    their = {(one.origin, *one.mark): one for one in theirs.writes}
    kept = []
    for dot in sorted(mine.keys() | their.keys()):
        one, other = mine.get(dot), their.get(dot)
        survivor = _survivor(one, other, ours.vector, theirs.vector)
        if survivor is not None:
            kept.append(survivor)
    both = Entry(
        ours.name,
        tuple(kept),
        joined(ours.vector, theirs.vector),
        max(ours.traits, theirs.traits),
        max(ours.revision, theirs.revision),
    )
    return ours if both == ours else both


def _survivor(one: Write | None, other: Write | None, mine: Vector, their: Vector) -> Write | None:
    """What is left of one write when the two sides meet."""
    if one is None or other is None:
        alone, vector = (one, their) if one is not None else (other, mine)
        assert alone is not None
        return None if seen(vector, alone.origin, alone.mark) else alone
    fields = {name: value for name, value in one.fields.items() if name in other.fields}
    if len(fields) == len(one.fields):
        return one
    return msgspec.structs.replace(one, fields=fields) if fields else None


# Reading --------------------------------------------------------------------------------------------


def _rank(name: str, write: Write) -> tuple[bool, int, str, Mark]:
    """Desired state: the cloud wins. Reported state: the device wins. Else the last writer."""
    by_cloud = write.origin == CLOUD_ORIGIN
    preferred = by_cloud if name.startswith(DESIRED_PREFIX) else name.startswith(REPORTED_PREFIX) > by_cloud
    return preferred, write.stamp, write.origin, write.mark


def owners(entry: Entry) -> dict[str, list[Write]]:
    """Field -> the writes that hold it, the winner first."""
    found: dict[str, list[Write]] = {}
    for write in sorted(entry.writes, key=lambda one: _rank(entry.name, one), reverse=True):
        for name in write.fields:
            found.setdefault(name, []).append(write)
    return found


def fields_of(entry: Entry) -> dict[str, bytes]:
    """What a reader sees, packed. A whole value and a map that met: the newer one shows."""
    holding = {name: writes[0] for name, writes in owners(entry).items()}
    whole = holding.pop(WHOLE, None)
    if whole is not None and all(
        _rank(entry.name, whole) > _rank(entry.name, one) for one in holding.values()
    ):
        return {WHOLE: whole.fields[WHOLE]}
    return {name: one.fields[name] for name, one in sorted(holding.items())}


def value_of(entry: Entry) -> Any:
    """What a reader sees; None when it was erased."""
    fields = fields_of(entry)
    if WHOLE in fields:
        return msgspec.msgpack.decode(fields[WHOLE])
    if not fields:
        return None if entry.erased else {}
    return {name: msgspec.msgpack.decode(value) for name, value in fields.items()}


def conflicts_of(entry: Entry) -> list[Conflict]:
    """Every field that two have written at once, by name."""
    return [
        Conflict(name, writes[0], tuple(writes[1:]))
        for name, writes in sorted(owners(entry).items())
        if len(writes) > 1
    ]


# Writing --------------------------------------------------------------------------------------------


def fields_in(value: Any) -> dict[str, bytes]:
    """A value taken apart: a map with names by its fields, anything else as a whole.

    Raises ``TypeError`` for what is not a value: what JSON can say and bytes, maps by text only.
    """
    if isinstance(value, dict) and 0 < len(value) <= FIELDS_MAX and all(_is_field(name) for name in value):
        return {name: _encoder.encode(one) for name, one in value.items()}
    return {WHOLE: _encoder.encode(value)}


def packed_value(value: Any) -> bytes:
    """A value as a whole. Raises ``TypeError`` as :func:`fields_in`."""
    return _encoder.encode(value)


def _is_field(name: object) -> bool:
    return isinstance(name, str) and name != WHOLE


def written(
    before: Entry, dot: tuple[str, int, int], stamp: int, fields: Mapping[str, bytes], *, anew: bool = False
) -> Entry:
    """``before`` after its owner put ``fields`` in place of what it saw; empty: it erased the key.

    Fields with an unchanged value stay with the write that set them, unless they are in conflict: whoever
    writes them now has seen both. ``anew``: take all of them over. Returns ``before`` where nothing changes.
    """
    holding = owners(before)
    taken = {
        name: value
        for name, value in fields.items()
        if anew or len(holding.get(name, ())) != 1 or holding[name][0].fields[name] != value
    }
    gone = taken.keys() | (holding.keys() - fields.keys())
    if not gone:
        return before
    origin, epoch, sequence = dot
    writes = [left for one in before.writes if (left := _without(one, gone)) is not None]
    if taken:
        writes.append(Write(origin, epoch, sequence, stamp, taken))
    writes.sort(key=lambda one: (one.origin, *one.mark))
    vector = joined(before.vector, {origin: (epoch, sequence)})
    return Entry(before.name, tuple(writes), vector, before.traits, before.revision)


def _without(write: Write, names: Iterable[str]) -> Write | None:
    if write.fields.keys().isdisjoint(names):
        return write
    left = {name: value for name, value in write.fields.items() if name not in names}
    return msgspec.structs.replace(write, fields=left) if left else None


# Identity -------------------------------------------------------------------------------------------


def packed_entry(entry: Entry) -> bytes:
    """The same bytes for the same entry, wherever it is packed."""
    return _encoder.encode(entry)


def fingerprint(packed: bytes) -> bytes:
    """What a packed entry is, in ``PRINT_BYTES`` bytes."""
    return blake2b(packed, digest_size=PRINT_BYTES).digest()


# Time -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class HybridClock:
    """Stamps that grow, whatever the wall clock does: milliseconds since 1970, and a counter below them.

    ``drift_ms_max``: how far ahead of us another's stamp may be.
    """

    latest: int = 0
    drift_ms_max: int = DRIFT_MS_MAX

    def tick(self, unix_ms: int) -> int:
        """The stamp of something that happens here now: larger than every stamp given or heard before."""
        self.latest = max(self.latest + 1, unix_ms << _COUNTER_BITS)
        return self.latest

    def peek(self, unix_ms: int) -> int:
        """What time it is, without anything happening."""
        return max(self.latest, unix_ms << _COUNTER_BITS)

    def hear(self, stamp: int) -> None:
        """Never fall behind what was accepted from somebody else."""
        self.latest = max(self.latest, stamp)

    def is_ahead(self, stamp: int, unix_ms: int) -> bool:
        """Whether a stamp lies too far in the future to be heard."""
        now_ms = max(unix_ms, self.latest >> _COUNTER_BITS)
        return (stamp >> _COUNTER_BITS) > now_ms + self.drift_ms_max

    def set_back(self, stamp: int) -> None:
        """Follow a better clock: what we stamped beyond it was refused, and has to be stamped again."""
        self.latest = stamp


def stamp_unix_ms(stamp: int) -> int:
    """The wall clock inside a stamp, for people."""
    return stamp >> _COUNTER_BITS

"""What becomes of arrivals: a pure function from positions and items to what is to be written.

    sequence   0      settled                                    produced
               |▓▓▓▓▓▓▓|          |▓▓▓▓|        |▓▓|      ·········|
                 settled    gap    ahead   gap  ahead    not seen yet

A batch brings the sequences that are not settled yet; the others are counted as duplicates. A report settles
what the device gave up. Nothing else moves a position, and nothing settles a sequence twice: this is the
whole proof of ``stored + dropped + lost + dead == settled + size(ahead)``.

One choice a reader might question: a sequence that the device reported as dropped and that arrives after all
(it was on its way while the device made room) counts as a duplicate and is not stored. To take it back we
would have to remember every dropped range for ever; the ledger is exact either way.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from cloud.telemetry.joining import joined
from cloud.telemetry.store import (
    AHEAD_MAX,
    BatchItem,
    Chunk,
    Item,
    Letter,
    Outcome,
    Position,
    ReportItem,
    StreamKey,
)
from shared.messages import Sample
from shared.ranges import Range, Ranges, size, subtract, union


def keys_of(items: Iterable[Item]) -> tuple[StreamKey, ...]:
    """The streams whose positions :func:`settle` needs, sorted."""
    return tuple(sorted({item.key for item in items if not isinstance(item, Letter)}))


def settle(positions: Mapping[StreamKey, Position], items: Sequence[Item]) -> Outcome:
    """What to write for ``items``, in their order. Streams without a position are new."""
    changed: dict[StreamKey, Position] = {}
    chunks: list[Chunk] = []
    letters: list[Letter] = []
    refused = 0
    for item in items:
        if isinstance(item, Letter):
            letters.append(item)
            continue
        key = item.key
        before = changed.get(key) or positions.get(key) or Position(key, first_at_unix_s=item.at_unix_s)
        if isinstance(item, ReportItem):
            changed[key] = _reported(before, item)
            continue
        after, found = _arrived(before, item)
        changed[key] = after
        if found is None:
            refused += 1
        else:
            chunks += found
    return Outcome(tuple(changed[key] for key in sorted(changed)), joined(chunks), tuple(letters), refused)


def missing(position: Position) -> Ranges:
    """The gaps below the highest sequence seen or claimed."""
    return subtract(((position.settled, position.produced),), position.ahead)


def gaps(position: Position) -> Ranges:
    """The gaps before something that has arrived: what lies behind may simply not have come yet."""
    if not position.ahead:
        return ()
    return subtract(((position.settled, position.ahead[-1][1]),), position.ahead)


def exact(position: Position) -> bool:
    """The invariant of the ledger."""
    fates = position.stored + position.dropped + position.lost + position.dead
    return fates == position.settled + size(position.ahead) and position.settled <= position.produced


def _arrived(before: Position, item: BatchItem) -> tuple[Position, list[Chunk] | None]:
    """The new position and chunks; None: not taken."""
    first = before.produced if item.key.epoch == 0 else item.first  # unnumbered: whatever comes is new
    end = first + item.count
    if first == before.settled and not before.ahead and not item.dead:
        return _followed(before, item, end)
    fresh = subtract(((first, end),), _known(before))
    settled, ahead = _advanced(before, fresh)
    if len(ahead) > AHEAD_MAX:
        return replace(before, last_at_unix_s=item.at_unix_s), None
    dead = tuple((first + place, first + place + 1) for place in item.dead)
    good = subtract(fresh, dead)
    chunks = [_chunk(item, one, other, first) for one, other in good]
    after = replace(
        before,
        settled=settled,
        ahead=ahead,
        produced=max(before.produced, end),
        stored=before.stored + size(good),
        dead=before.dead + size(fresh) - size(good),
        duplicates=before.duplicates + end - first - size(fresh),
        last_at_unix_s=item.at_unix_s,
    )
    return after, chunks


def _followed(before: Position, item: BatchItem, end: int) -> tuple[Position, list[Chunk]]:
    """What nearly always happens: the batch that was due. As the general way, for a quarter of its time."""
    after = Position(
        before.key,
        end,
        (),
        max(before.produced, end),
        before.stored + item.count,
        before.dropped,
        before.lost,
        before.dead,
        before.duplicates,
        before.grade,
        before.first_at_unix_s,
        item.at_unix_s,
    )
    first, at = before.settled, (item.at_min_unix_s, item.at_max_unix_s)
    return after, [Chunk(item.key, first, end, *at, item.samples)] if item.count else []


def _reported(before: Position, item: ReportItem) -> Position:
    dropped = subtract(union((), item.dropped), _known(before))
    lost = subtract(subtract(union((), item.lost), _known(before)), dropped)
    settled, ahead = _advanced(before, union(dropped, lost))
    if len(ahead) > AHEAD_MAX:  # the device says it again once the gaps before it are closed
        dropped, lost, settled, ahead = (), (), before.settled, before.ahead
    ends = (end for _, end in (*dropped, *lost))
    return replace(
        before,
        settled=settled,
        ahead=ahead,
        produced=max(before.produced, item.produced, *ends),
        dropped=before.dropped + size(dropped),
        lost=before.lost + size(lost),
        grade=item.grade,
        last_at_unix_s=item.at_unix_s,
    )


def _known(position: Position) -> tuple[Range, ...]:
    return ((0, position.settled), *position.ahead)


def _advanced(before: Position, fresh: Ranges) -> tuple[int, Ranges]:
    """``settled`` and ``ahead`` with ``fresh`` added."""
    if not fresh:
        return before.settled, before.ahead
    if not before.ahead and len(fresh) == 1 and fresh[0][0] == before.settled:  # nearly always
        return fresh[0][1], ()
    all_of_it = union(_known(before), fresh)
    return (all_of_it[0][1], all_of_it[1:]) if all_of_it[0][0] == 0 else (0, all_of_it)


def _chunk(item: BatchItem, first: int, end: int, at: int) -> Chunk:
    """Sequences ``first`` to ``end - 1`` of a batch whose first sample is ``at``."""
    if end - first == item.count:
        return Chunk(item.key, first, end, item.at_min_unix_s, item.at_max_unix_s, item.samples)
    kept = msgspec.msgpack.decode(item.samples, type=list[Sample])[first - at : end - at]
    times = [one.at_unix_s for one in kept]
    return Chunk(item.key, first, end, min(times), max(times), msgspec.msgpack.encode(kept))

"""What is on this device: streams, the one write under way, the room on the disk.

The half of :mod:`edge.telemetry.core` that has to do with the disk. It decides what is written, what gives
way when room is short, and what becomes of samples while the disk refuses; not what is sent.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from edge.telemetry.events import (
    Append,
    Appended,
    Discard,
    Discarded,
    Durable,
    GaveWay,
    Lot,
    Restored,
    StreamId,
    Trouble,
)
from edge.telemetry.limits import Limits, lowest_first
from edge.telemetry.stream import Stream
from shared.core import Effect, Ignore
from shared.messages import Grade, Sample


@dataclass(slots=True)
class Keeping:
    """All streams of one device, those of earlier boots as well. ``grades``: by stream, else normal.

    ``writing``: a write is under way, or it is not known yet what earlier boots left; ``trouble``: why the
    disk refuses; ``refused``: samples of more streams than there may be.
    """

    epoch: int
    grades: Mapping[str, Grade]
    limits: Limits
    streams: dict[tuple[int, str], Stream] = field(default_factory=dict)
    writing: bool = True
    discarding: bool = False
    write_at: float = 0.0  # after a failed write
    write_failures: int = 0
    trouble: str = ""
    refused: int = 0

    def stream(self, id: StreamId) -> Stream:
        """That stream, begun if need be."""
        return self.streams.get((id.epoch, id.stream)) or self.add(id)

    def record(self, name: str, sample: Sample, now: float) -> list[Effect]:
        """One more sample of this boot."""
        stream = self.streams.get((self.epoch, name))
        if stream is None:
            if sum(epoch == self.epoch for epoch, _ in self.streams) >= self.limits.streams:
                self.refused += 1
                return [Ignore(f"{name}: {self.limits.streams} streams are the most a device may have")]
            stream = self.add(StreamId(self.epoch, name, self.grades.get(name, Grade.NORMAL)))
        stream.record(sample)
        gone = self._bound_unwritten() if self.trouble else []
        return [*gone, *self.write(now)]

    def add(self, id: StreamId) -> Stream:
        """A stream that is not here yet."""
        stream = self.streams[id.epoch, id.stream] = Stream(id)
        return stream

    def write(self, now: float) -> list[Effect]:
        """One write at a time: what comes meanwhile goes into the next."""
        if self.writing or now < self.write_at:
            return []
        lots, room = [], self.limits.append
        for stream in self.streams.values():
            first = max(stream.durable, stream.tail_first)
            end = min(stream.produced, first + room)
            if first < end:
                lots.append(Lot(stream.id, first, stream.samples(first, end)))
                room -= end - first
        self.writing = bool(lots)
        return [Append(tuple(lots))] if lots else []

    def _bound_unwritten(self) -> list[Effect]:
        """While the disk refuses, the oldest of the lowest grade in memory gives way."""
        waiting = [stream for stream in self.streams.values() if stream.produced > stream.durable]
        over = sum(stream.produced - stream.durable for stream in waiting) - self.limits.unwritten
        gone: list[Effect] = []
        for stream in sorted(waiting, key=lowest_first):
            if over > 0:
                first, end = stream.durable, min(stream.produced, stream.durable + over)
                stream.give_up(first, end)
                stream.durable = end
                stream.trim(stream.produced - end)
                over -= end - first
                gone.append(GaveWay(stream.id, first, end))
        return gone

    def restore(self, found: Restored, now: float) -> list[Effect]:
        """Take up what earlier boots left."""
        self.writing = False
        for piece in found.kept:
            stream = self.stream(piece.id)
            if not stream.kept:
                stream.settled = min([piece.first, *(one.first for one in found.gone if one.id == piece.id)])
            stream.kept.append(piece)
            stream.produced = stream.durable = max(stream.produced, piece.end)
        for piece in found.gone:
            stream = self.stream(piece.id)
            stream.produced = stream.durable = max(stream.produced, piece.end)
            stream.give_up(piece.first, piece.end)
        for id, damaged in found.damaged:
            stream = self.stream(id)
            stream.produced = stream.durable = max(stream.produced, damaged[-1][1])
            stream.lose(damaged)
        for stream in self.streams.values():
            stream.owe(tuple((piece.first, piece.end) for piece in stream.kept), now)
        return [*self._make_room(), *self.write(now)]

    def appended(self, event: Appended, now: float) -> list[Effect]:
        """A write is durable: what it held may be sent."""
        self.writing, self.write_failures, self.write_at = False, 0, 0.0
        effects: list[Effect] = [Trouble("")] if self.trouble else []
        self.trouble = ""
        for piece in event.kept:
            self.stream(piece.id).grew(piece)
        for lot in event.lots:
            stream, end = self.stream(lot.id), lot.first + len(lot.samples)
            first = max(lot.first, stream.durable)
            if first < end:
                stream.owe(((first, end),), now)
                stream.durable = end
                effects.append(Durable(lot.id, first, end))
        return [*effects, *self._make_room(), *self.write(now)]

    def write_failed(self, lots: Iterable[Lot], reason: str, now: float) -> list[Effect]:
        """The samples stay in memory and are sent from there; the disk is tried again. When memory gets short
        as well, something older on the disk gives way."""
        self.writing, self.write_failures = False, self.write_failures + 1
        self.write_at = now + min(self.limits.resend_max_s, 2.0 ** min(self.write_failures, 6) / 2)
        effects: list[Effect] = [] if self.trouble else [Trouble(reason)]
        self.trouble = reason
        for lot in lots:
            self.stream(lot.id).owe(((lot.first, lot.first + len(lot.samples)),), now)
        if self.unwritten * 2 > self.limits.unwritten:
            effects += self._give_up_oldest()
        return [*effects, *self._bound_unwritten()]

    def discarded(self, event: Discarded, now: float) -> list[Effect]:
        """A piece has given way; perhaps one more has to."""
        self.discarding = False
        self.stream(event.kept.id).gave_way(event.kept)
        return [*self._make_room(), *self.write(now)]

    @property
    def unwritten(self) -> int:
        """Samples that are only in memory."""
        return sum(stream.produced - stream.durable for stream in self.streams.values())

    def _make_room(self) -> list[Effect]:
        over = sum(stream.bytes for stream in self.streams.values()) > self.limits.bytes_max
        many = sum(len(stream.kept) for stream in self.streams.values()) > self.limits.pieces
        return self._give_up_oldest() if over or many else []

    def _give_up_oldest(self) -> list[Effect]:
        """The oldest piece of the lowest grade; its stream keeps counting."""
        streams = [stream for stream in self.streams.values() if stream.kept]
        if self.discarding or not streams:
            return []
        self.discarding = True
        return [Discard(min(streams, key=lowest_first).kept[0])]

    def check(self) -> None:
        """Invariants."""
        for stream in self.streams.values():
            stream.check()
        assert not self.trouble or self.unwritten <= self.limits.unwritten

"""The streams of a device on its disk: samples to records and back. Blocks; one thread at a time."""

from pathlib import Path

import msgspec

from edge.store.segments import Lot as Records
from edge.store.segments import Segment, Segments
from edge.telemetry.events import (
    Append,
    Appended,
    Discard,
    Discarded,
    Forget,
    Kept,
    Load,
    Loaded,
    Restored,
    StreamId,
)
from shared.ids import is_id
from shared.messages import Grade, Sample

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Sample)


class StreamFiles:
    """Performs the core's work. Writes raise :class:`shared.errors.Unavailable` (the store's own kinds).

    ``torn_bytes``: cut off from the ends of files when they were found, after a crash.
    """

    def __init__(self, folder: Path) -> None:
        self._segments = Segments(folder)
        self.torn_bytes = 0

    def restore(self) -> Restored:
        """Everything that earlier boots left. Call first."""
        found = self._segments.recover()
        self.torn_bytes = found.torn_bytes
        return Restored(
            tuple(piece for piece in map(_kept, found.segments) if piece is not None),
            tuple(piece for piece in map(_kept, found.gone) if piece is not None),
            tuple((id, bad) for log, bad in found.damaged.items() if (id := stream_of(log)) is not None),
        )

    def append(self, work: Append) -> Appended:
        """Durable when this returns; all of it, or nothing."""
        lots = [
            Records(log_of(lot.id), lot.first, [_encoder.encode(sample) for sample in lot.samples])
            for lot in work.lots
        ]
        kept = (_kept(piece) for piece in self._segments.append(lots))
        return Appended(work.lots, tuple(piece for piece in kept if piece is not None))

    def load(self, work: Load) -> Loaded:
        """What can be read of it."""
        samples = {}
        for sequence, payload in self._segments.read(log_of(work.id), work.first, work.end).items():
            try:
                samples[sequence] = _decoder.decode(payload)
            except msgspec.MsgspecError:
                continue  # a record of another version of this program: it is reported as lost
        return Loaded(work.id, work.first, work.end, samples)

    def discard(self, work: Discard) -> Discarded:
        """Give up a piece, durably, with what has been added to it meanwhile."""
        piece = self._segments.discard(log_of(work.kept.id), work.kept.first)
        end, size = (piece.end, piece.bytes) if piece is not None else (work.kept.first, 0)
        return Discarded(Kept(work.kept.id, work.kept.first, end, size))

    def forget(self, effect: Forget) -> None:
        """The cloud has it."""
        if effect.whole:
            self._segments.close(log_of(effect.id))
        else:
            self._segments.forget(log_of(effect.id), effect.until)

    def shut(self) -> None:
        """At the end of the process."""
        self._segments.shut()


def log_of(id: StreamId) -> str:
    """The name of a stream's files."""
    return f"{id.stream}.{id.epoch}.{id.grade.value}"


def stream_of(log: str) -> StreamId | None:
    """The other way; None for files that are not ours."""
    stream, _, rest = log.partition(".")
    epoch, _, grade = rest.partition(".")
    if not is_id(stream) or not epoch.isdigit() or grade not in set(Grade):
        return None
    return StreamId(int(epoch), stream, Grade(grade))


def _kept(piece: Segment) -> Kept | None:
    id = stream_of(piece.log)
    return None if id is None else Kept(id, piece.first, piece.end, piece.bytes)

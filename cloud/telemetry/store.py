"""What the cloud's telemetry needs of a database, and the values that pass between them.

    chunk      one row for the new samples of a batch: (node, epoch, stream, first) -> packed samples
    position   one row per stream of one boot: what is settled, and the counts of the ledger
    letter     one row for what could not be taken, with its bytes

A *sequence* numbers the samples of one stream of one boot (``epoch``) of a device from 0. A sequence is
*settled* once the cloud knows its fate for good: stored, dropped by the device's policy, lost, or dead (it
came and did not fit). A position says which are: all below ``settled``, and the ranges ``ahead``. So

    stored + dropped + lost + dead == settled + size(ahead)      always
    produced == settled                                          when the stream is complete

What to do with arrivals is decided by :func:`cloud.telemetry.ledger.settle`, a pure function. A store calls
it *inside* the transaction, between reading the positions and writing the outcome: so any number of workers
may hand in the same batch at the same time, in any order, and it is stored once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec

from shared.ranges import Range

LETTER_BYTES_MAX = 4096  # of a dead letter's payload that are kept
AHEAD_MAX = 256  # ranges beyond the first gap; a batch that would make more is not taken, and comes again


class StreamKey(NamedTuple):
    """One stream of one boot of one node.

    ``epoch`` 0: a plain MQTT device that does not number its samples; its sequences are the cloud's own.
    """

    node: str
    epoch: int
    stream: str


class Position(msgspec.Struct, frozen=True, gc=False):
    """How far one stream is: a row of the ledger. Counts are samples; times are the cloud's clock.

    ``produced``: the highest end that the device showed or claimed; ``grade``: the device's class of the
    stream (critical, normal, bulk); ``lost``: damaged on the device's disk or forgotten by it, which the
    device said itself; ``duplicates``: samples that came again.
    """

    key: StreamKey
    settled: int = 0
    ahead: tuple[Range, ...] = ()
    produced: int = 0
    stored: int = 0
    dropped: int = 0
    lost: int = 0
    dead: int = 0
    duplicates: int = 0
    grade: str = "normal"
    first_at_unix_s: float = 0.0
    last_at_unix_s: float = 0.0


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """Samples ``first`` to ``end - 1`` of a stream. ``samples``: MessagePack of ``list[Sample]``.

    ``at_min_unix_s``, ``at_max_unix_s``: times of the earliest and the latest sample, the device's clock.
    """

    key: StreamKey
    first: int
    end: int
    at_min_unix_s: float
    at_max_unix_s: float
    samples: bytes


@dataclass(frozen=True, slots=True)
class Letter:
    """Something that could not be taken. ``number``: given by the store, grows; 0 before it is stored.

    ``first`` to ``end - 1`` are the sequences it stood for; both 0 where they are not known.
    """

    node: str
    stream: str
    reason: str
    payload: bytes
    at_unix_s: float
    epoch: int = 0
    first: int = 0
    end: int = 0
    number: int = 0


class BatchItem(msgspec.Struct, frozen=True, gc=False):
    """A batch as it arrived, checked and packed: ``count`` samples from sequence ``first`` on.

    ``samples``: MessagePack of ``list[Sample]``, all of them with a time (the device's clock, or the cloud's
    where the device has none). ``dead``: places (0 ..) in that list of samples that do not fit: they are
    settled but not stored.
    """

    key: StreamKey
    first: int
    count: int
    at_min_unix_s: float
    at_max_unix_s: float
    samples: bytes
    at_unix_s: float
    dead: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ReportItem:
    """What a device says of one of its streams. ``dropped`` and ``lost``: ranges that will never come.

    ``produced``: samples that it made durable; 0: it does not say.
    """

    key: StreamKey
    produced: int
    at_unix_s: float
    dropped: tuple[Range, ...] = ()
    lost: tuple[Range, ...] = ()
    grade: str = "normal"


Item = BatchItem | ReportItem | Letter


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a store has to write for some items: replace ``positions`` by key, insert the rest.

    No chunk overlaps a stored one. ``refused``: batches that were not taken because their stream would have
    become too scattered; nothing of them is written.
    """

    positions: tuple[Position, ...]
    chunks: tuple[Chunk, ...]
    letters: tuple[Letter, ...]
    refused: int = 0


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a page of :meth:`TelemetryStore.chunks` ended."""

    at_min_unix_s: float
    epoch: int
    first: int


class TelemetryStore(Protocol):
    """One database. Each method blocks, is one transaction, and may be called from any thread and process.

    What a method wrote is durable when it returns. All raise :class:`shared.errors.Unavailable` (as
    ``StoreFailed``) when the database refuses; nothing of the call is stored then, and it may be repeated.
    """

    def telemetry_group(self) -> str:
        """The secret name of the fleet's shared group: 16 hex digits, random, made at the first call."""
        ...

    # Arrivals ---------------------------------------------------------------------------------------

    def ingest(self, items: Sequence[Item]) -> Outcome:
        """Read and lock the positions of the items' keys (those that exist; in the order of the keys, so that
        two workers can't deadlock), ``settle(positions, items)``, write the outcome, return it.

        A few hundred items at most, which together hold a few MB.
        """
        ...

    def positions(self, keys: Sequence[StreamKey]) -> Mapping[StreamKey, Position]:
        """The newest position of each key that has one. Reads only."""
        ...

    # Readers ----------------------------------------------------------------------------------------

    def ledger(self, node: str = "", after: StreamKey | None = None, limit: int = 500) -> list[Position]:
        """Positions by key, those after ``after``; ``node`` empty: of all nodes."""
        ...

    def unsettled(self, limit: int = 10_000) -> list[Position]:
        """Positions with ``settled < produced``, the newest ``last_at_unix_s`` first."""
        ...

    def chunks(
        self,
        node: str,
        stream: str,
        since_unix_s: float,
        until_unix_s: float,
        after: Place | None = None,
        limit: int = 200,
    ) -> list[Chunk]:
        """Chunks that touch ``since <= time < until`` by (at_min, epoch, first), those after ``after``.

        They may hold samples outside: whoever asked cuts them.
        """
        ...

    def letters(self, node: str = "", before: int = 0, limit: int = 100) -> list[Letter]:
        """Dead letters, the newest first; with ``before``, those with a lower number."""
        ...

    # Retention --------------------------------------------------------------------------------------

    def trim(
        self, node: str, stream: str, before_unix_s: float, samples_max: int, chunks_max: int = 500
    ) -> int:
        """Delete the oldest chunks of a node's stream (all epochs): those with ``at_max < before``, and those
        that hold what is over ``samples_max`` samples (0: no limit; no more than that goes, so a chunk that
        is only partly over stays). At most ``chunks_max`` of them; returns how many. Counts of the ledger
        stay as they are.
        """
        ...

    def trim_letters(self, keep: int, limit: int = 500) -> int:
        """Delete the oldest letters over ``keep``, at most ``limit``; returns how many."""
        ...

    def retire(self, before_unix_s: float, limit: int = 500) -> int:
        """Delete positions that are complete (``produced == settled``), not heard of since ``before``, of an
        epoch that is not their node's newest, and without a chunk left. Returns how many.
        """
        ...

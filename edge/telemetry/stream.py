"""One stream of one boot on the device: which of its samples are where.

    sequence  0        settled                durable            produced
              |─ cloud ──|──── on the disk ──────|── only in memory ──|
                         |  flying | due | held  |
              tail:                     [ the newest samples, also in memory ]

``due`` is what may be sent now, ``flights`` what is under way; what is neither, is settled already, or was
given up (``dropped``) or can't be read any more (``lost``). Those two are reported until the cloud has
settled them as well.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from edge.telemetry.events import Kept, StreamId
from shared.messages import Sample, StreamReport
from shared.ranges import Ranges, subtract, union, within

RANGES_REPORTED_MAX = 100


@dataclass(slots=True)
class Flight:
    """A batch under way."""

    end: int
    expires: float


@dataclass(slots=True)
class Stream:
    """``hold_until``: a stream of an earlier boot is not sent before the cloud has said what it has of it."""

    id: StreamId
    produced: int = 0
    durable: int = 0
    settled: int = 0
    tail: deque[Sample] = field(default_factory=deque)
    due: Ranges = ()
    due_since: float = 0.0
    flights: dict[int, Flight] = field(default_factory=dict)
    kept: list[Kept] = field(default_factory=list)
    dropped: Ranges = ()
    lost: Ranges = ()
    hold_until: float = 0.0
    loading: bool = False

    @property
    def tail_first(self) -> int:
        """Sequence of the oldest sample in memory."""
        return self.produced - len(self.tail)

    @property
    def empty(self) -> bool:
        """Nothing is left to be done for it."""
        return self.settled >= self.produced and not (self.dropped or self.lost or self.flights)

    @property
    def bytes(self) -> int:
        """On the disk."""
        return sum(piece.bytes for piece in self.kept)

    def record(self, sample: Sample) -> None:
        """One more."""
        self.tail.append(sample)
        self.produced += 1

    def samples(self, first: int, end: int) -> tuple[Sample, ...]:
        """From memory; all of them have to be there."""
        start = first - self.tail_first
        return tuple(islice(self.tail, start, start + end - first))

    def owe(self, ranges: Ranges, now: float) -> None:
        """They are to be sent."""
        wanted = subtract(ranges, ((0, self.settled), *self.dropped, *self.lost, *self._flying()))
        if wanted and not self.due:
            self.due_since = now
        self.due = union(self.due, wanted)

    def take_off(self, first: int, end: int, expires: float, now: float) -> None:
        """A batch leaves."""
        self.due = subtract(self.due, ((first, end),))
        self.due_since = now
        self.flights[first] = Flight(end, expires)

    def settle(self, until: int, ahead: Ranges) -> bool:
        """The cloud has these. Whether that is news."""
        news = until > self.settled or any(self._has_flown(first, end) for first, end in ahead)
        self.settled = max(self.settled, until)
        self.produced = max(self.produced, self.settled)  # of an earlier boot: the cloud knows more than we
        self.durable = max(self.durable, self.settled)
        gone = ((0, self.settled), *ahead)
        self.due, self.dropped, self.lost = (
            subtract(one, gone) for one in (self.due, self.dropped, self.lost)
        )
        for first, flight in list(self.flights.items()):
            if not subtract(((first, flight.end),), gone):
                del self.flights[first]
        while self.tail and self.tail_first < self.settled:
            self.tail.popleft()
        return news

    def _has_flown(self, first: int, end: int) -> bool:
        return any(first <= start and flight.end <= end for start, flight in self.flights.items())

    def forgotten(self) -> bool:
        """Take away the pieces that hold only what is settled. Whether there were any."""
        before = len(self.kept)
        self.kept = [piece for piece in self.kept if piece.end > self.settled]
        return len(self.kept) < before

    def grew(self, piece: Kept) -> None:
        """A piece on the disk is as it says now."""
        if self.kept and self.kept[-1].first == piece.first:
            self.kept.pop()
        if piece.end > self.settled:
            self.kept.append(piece)

    def give_up(self, first: int, end: int) -> None:
        """These are dropped, as far as they are not settled."""
        gone = subtract(((first, end),), ((0, self.settled), *self.lost))
        self.dropped = union(self.dropped, gone)
        self.due = subtract(self.due, gone)

    def gave_way(self, piece: Kept) -> None:
        """A piece is no longer on the disk."""
        self.kept = [one for one in self.kept if one.first != piece.first]
        self.give_up(piece.first, piece.end)

    def lose(self, ranges: Ranges) -> None:
        """These can't be read, or are not known here."""
        self.lost = union(self.lost, subtract(ranges, self.dropped))
        self.due = subtract(self.due, self.lost)

    def asked(self, missing: Ranges, now: float) -> None:
        """The cloud lacks these: send what is held, own up to the rest."""
        lost = [(first, one.end) for first, one in self.flights.items() if within(missing, first, one.end)]
        for first, _ in lost:
            del self.flights[first]
        self.owe(tuple(lost), now)  # all of such a batch: nobody else remembers the rest of it
        self.lose(subtract(missing, (*self._held(), *self.dropped)))
        wanted = subtract(within(missing, self.settled, self.produced), (*self.dropped, *self.lost))
        if wanted and not self.due:
            self.due_since = now
        self.due = union(self.due, subtract(wanted, self._flying()))

    def expired(self, now: float) -> bool:
        """Batches that nobody acknowledged in time are due again. Whether there were any."""
        late = [(first, one.end) for first, one in self.flights.items() if one.expires <= now]
        for first, _ in late:
            del self.flights[first]
        self.owe(tuple(late), now)
        return bool(late)

    def trim(self, keep: int) -> None:
        """Forget the oldest samples in memory that are on the disk as well."""
        while len(self.tail) > keep and self.tail_first < self.durable:
            self.tail.popleft()

    def report(self) -> StreamReport:
        """What the cloud should know. Batches under way are not given up: they may arrive."""
        flying = tuple(self._flying())
        return StreamReport(
            epoch=self.id.epoch,
            stream=self.id.stream,
            produced=self.durable,
            grade=self.id.grade,
            dropped=subtract(self.dropped, flying)[:RANGES_REPORTED_MAX],
            lost=subtract(self.lost, flying)[:RANGES_REPORTED_MAX],
        )

    def _flying(self) -> Iterator[tuple[int, int]]:
        return ((first, one.end) for first, one in self.flights.items())

    def _held(self) -> Iterator[tuple[int, int]]:
        yield from ((piece.first, piece.end) for piece in self.kept)
        yield self.tail_first, self.produced

    def check(self) -> None:
        """Invariants."""
        assert self.settled <= self.durable <= self.produced, self
        assert len(self.tail) <= self.produced
        assert self.tail_first <= max(self.durable, self.settled), "a sample is nowhere"
        assert not within(self.due, 0, self.settled)
        assert self.due == subtract(self.due, (*self.dropped, *self.lost, *self._flying()))

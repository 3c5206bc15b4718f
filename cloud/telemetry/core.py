"""Takes telemetry in: many messages a transaction, an acknowledgement after each, questions about gaps.

    message ──> item ──> queue ──one transaction at a time: all that came meanwhile──> store
                                                   │
                     node/{node}/down/ack  <───────┘  "durable up to n", ahead, window

The store is the only truth about positions: it settles items inside its transaction, so any number of workers
may run, in any number of processes, and a message may come to two of them. This core keeps no position; it
remembers which streams had gaps, to ask for what is missing when time has not closed them. Before it asks it
looks again, for another worker may have closed them.

A store that fails is tried again with the same items, then with half of them, so that one item which the
store can't take does not hold up the others: it becomes a dead letter. What no longer fits into the queue is
left unacknowledged, and its device sends it again.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from math import inf

from cloud.telemetry.events import (
    Arrived,
    Event,
    Gather,
    Gathered,
    Look,
    LookAt,
    Looked,
    LookedAt,
    Reported,
    Store,
    Stored,
)
from cloud.telemetry.ledger import gaps, missing
from cloud.telemetry.store import Item, Letter, Outcome, Position, StreamKey
from shared.core import Effect, Failed, Ignore, LinkUp, Publish, Tick
from shared.messages import StreamAck, TelemetryAck
from shared.ranges import Ranges
from shared.topics import ACK

RANGES_TOLD_MAX = 32
STREAMS_PER_ACK = 100


@dataclass(frozen=True, slots=True)
class IngestLimits:
    """``window_*``: samples that one device may have under way. ``gaps``: streams that are asked about."""

    queue_items: int = 20_000
    queue_bytes: int = 64 << 20
    items: int = 1000  # of one transaction
    bytes: int = 8 << 20
    window_min: int = 100
    window_max: int = 4000
    gather_s: float = 0.01  # between the starts of two transactions, unless many wait
    gather_items: int = 64
    grace_s: float = 2.0  # for a gap that is only a message overtaken by another
    ask_s_max: float = 300.0
    look_s: float = 600.0  # at what a node does not list, unless there is a reason
    look_s_min: float = 5.0
    gaps: int = 20_000
    boots: int = 20_000
    streams: int = 200  # of one node that are new to us, a minute
    known: int = 100_000
    letters: int = 60  # of one node, a minute
    tries: int = 5


@dataclass(slots=True)
class Gap:
    """A stream with a gap, or one that its device does not list (``whole``)."""

    ask_at: float
    tries: int = 0
    whole: bool = False


@dataclass(slots=True)
class Ingest:
    """One worker. ``counts``: since its start."""

    limits: IngestLimits = field(default_factory=IngestLimits)
    queue: deque[tuple[Item, int]] = field(default_factory=deque)
    queued_bytes: int = 0
    writing: bool = False
    gathering: bool = False
    rest_until: float = 0.0
    looking: bool = False
    room: int = 0  # items of the next transaction, after a failure; 0: as many as fit
    tries: int = 0
    retry_at: float = 0.0
    gaps: dict[StreamKey, Gap] = field(default_factory=dict)
    boots: dict[str, tuple[int, float]] = field(default_factory=dict)  # the newest, and when we looked at it
    known: dict[StreamKey, None] = field(default_factory=dict)  # the newest last
    strange: Counter[str] = field(default_factory=Counter)
    lettered: Counter[str] = field(default_factory=Counter)
    minute_ends: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)

    def step(self, event: Event, now: float) -> list[Effect]:
        """See :class:`shared.core.Core`."""
        match event:
            case Arrived(items, size):
                return self._take(items, size, now)
            case Stored(outcome):
                return self._stored(outcome, now)
            case Gathered():
                self.gathering, self.rest_until = False, now
                return self._flush(now)
            case Reported() | Looked() | LookedAt():
                return self._about_gaps(event, now)
            case Failed(work, reason):
                return self._failed(work, reason, now)
            case Tick():
                if now >= self.minute_ends:
                    self.minute_ends = now + 60.0
                    self.lettered.clear()
                    self.strange.clear()
                return [*self._flush(now), *self._ask(now)]
            case LinkUp():  # what we did not hear of meanwhile is told again
                self.boots.clear()
        return []

    def _about_gaps(self, event: Reported | Looked | LookedAt, now: float) -> list[Effect]:
        match event:
            case Reported(node, epoch, listed):
                return self._reported(node, epoch, listed, now)
            case Looked(positions):
                return self._looked(positions, now)
            case LookedAt(unlisted):
                return self._looked_at(unlisted, now)

    @property
    def full(self) -> bool:
        """More than half of the room is taken: senders should be held back."""
        return (
            self.queued_bytes * 2 > self.limits.queue_bytes or len(self.queue) * 2 > self.limits.queue_items
        )

    # Taking in --------------------------------------------------------------------------------------

    def _take(self, items: tuple[Item, ...], size: int, now: float) -> list[Effect]:
        limits = self.limits
        if len(self.queue) + len(items) > limits.queue_items or self.queued_bytes + size > limits.queue_bytes:
            self.counts["no room"] += len(items)
            return [Ignore(f"no room: {len(self.queue)} items wait for the store")]
        self.counts["messages"] += 1
        refused: list[Effect] = []
        for item in items:
            if self._welcome(item):
                self.queue.append((item, size))
                self.queued_bytes += size
                size = 0
            else:
                refused = [Ignore("too many streams, or too many dead letters")]
        return refused + self._flush(now)

    def _welcome(self, item: Item) -> bool:
        """Whether a node is not yet over its limits: what one device sends must not fill the store."""
        if isinstance(item, Letter):
            self.lettered[item.node] += 1
            fits = self.lettered[item.node] <= self.limits.letters
        else:
            fits = item.key in self.known or self._meet(item.key)
        if not fits:
            self.counts["not welcome"] += 1
        return fits

    def _meet(self, key: StreamKey) -> bool:
        self.strange[key.node] += 1
        if self.strange[key.node] > self.limits.streams:
            return False
        if len(self.known) >= self.limits.known:
            self.known.pop(next(iter(self.known)))
        self.known[key] = None
        return True

    def _flush(self, now: float) -> list[Effect]:
        """Everything that waits, as far as it fits into one transaction."""
        if self.writing or not self.queue or now < self.retry_at:
            return []
        if now < self.rest_until and len(self.queue) < self.limits.gather_items:
            rests = not self.gathering
            self.gathering = True
            return [Gather(self.rest_until - now)] if rests else []
        self.rest_until = now + self.limits.gather_s
        items: list[Item] = []
        size, most = 0, self.room or self.limits.items
        while self.queue and len(items) < most and (not items or size < self.limits.bytes):
            item, bytes = self.queue.popleft()
            items.append(item)
            size += bytes
        self.queued_bytes -= size
        self.writing = True
        return [Store(tuple(items))]

    def _stored(self, outcome: Outcome, now: float) -> list[Effect]:
        self.writing, self.room, self.tries, self.retry_at = False, 0, 0, 0.0
        self.counts["transactions"] += 1
        self.counts["samples"] += sum(chunk.end - chunk.first for chunk in outcome.chunks)
        self.counts["letters"] += len(outcome.letters)
        self.counts["refused"] += outcome.refused
        numbered = [one for one in outcome.positions if one.key.epoch]
        for position in numbered:
            self._watch(position, now)
            self._doubt(position)
        return [*self._acks(numbered, {}), *self._flush(now)]

    def _failed(self, work: object, reason: str, now: float) -> list[Effect]:
        if not isinstance(work, Store):
            if isinstance(work, LookAt):  # with its next report
                self.boots[work.node] = self.boots.get(work.node, (0, 0.0))[0], -inf
            self.looking = self.looking and not isinstance(work, Look)
            return [Ignore(f"{type(work).__name__} failed: {reason}")]
        self.writing, self.tries = False, self.tries + 1
        self.retry_at = now + min(30.0, 2.0**self.tries / 4)
        self.counts["failures"] += 1
        items = list(work.items)
        if len(items) == 1 and self.tries > self.limits.tries:
            self.tries = 0
            items = self._given_up(items[0], reason)
        self.room = max(1, len(work.items) // 2)
        self.queue.extendleft((item, 0) for item in reversed(items))
        return [Ignore(f"the store failed ({self.tries}): {reason}")]

    def _given_up(self, item: Item, reason: str) -> list[Item]:
        """One item that the store can't take: its letter is tried instead, and that only once more."""
        self.counts["given up"] += 1
        if isinstance(item, Letter):
            return []
        key = item.key
        why = f"the store did not take it: {reason}"[:500]
        return [Letter(key.node, key.stream, why, b"", item.at_unix_s, key.epoch)]

    # Acknowledging ----------------------------------------------------------------------------------

    def _acks(self, positions: Iterable[Position], asked: Mapping[StreamKey, Ranges]) -> list[Effect]:
        """One message a node, or a few where it has many streams."""
        effects: list[Effect] = []
        window = self._window()
        for node, group in groupby(positions, key=lambda position: position.key.node):
            told = [_ack(position, asked.get(position.key, ())) for position in group]
            for start in range(0, len(told), STREAMS_PER_ACK):
                ack = TelemetryAck(window=window, streams=tuple(told[start : start + STREAMS_PER_ACK]))
                effects.append(Publish(ACK.at(node=node), ack))
        return effects

    def _window(self) -> int:
        """The fuller the queue, the less may be under way."""
        free = 1.0 - self.queued_bytes / self.limits.queue_bytes
        return max(self.limits.window_min, int(self.limits.window_max * free))

    # Gaps -------------------------------------------------------------------------------------------

    def _watch(self, position: Position, now: float) -> None:
        gap = self.gaps.get(position.key)
        if gap is not None:
            done = position.settled >= position.produced if gap.whole else not gaps(position)
            if done:
                del self.gaps[position.key]
        elif position.ahead and len(self.gaps) < self.limits.gaps:
            self.gaps[position.key] = Gap(now + self.limits.grace_s)

    def _doubt(self, position: Position) -> None:
        """Something of an earlier boot came, and there should be more: the next report tells whether there
        is."""
        newest, looked = self.boots.get(position.key.node, (0, -inf))
        if position.key.epoch < newest and position.settled < position.produced and looked > -inf:
            self.boots[position.key.node] = newest, -inf

    def _reported(self, node: str, epoch: int, listed: Mapping[StreamKey, int], now: float) -> list[Effect]:
        """What a node does not list will never come by itself: it is asked for. A report of an earlier boot,
        overtaken on its way, may list what is long gone."""
        newest, looked = self.boots.pop(node, (0, -inf))
        if epoch < newest:
            listed, due = {}, now - looked >= self.limits.look_s_min
            looked = now if due else -inf  # too soon: with the next report
        else:
            due = epoch > newest or now - looked >= self.limits.look_s
            looked = now if due else looked
        if len(self.boots) >= self.limits.boots:
            self.boots.pop(next(iter(self.boots)))
        self.boots[node] = max(epoch, newest), looked
        return [LookAt(node, listed)] if due else []

    def _looked_at(self, unlisted: tuple[Position, ...], now: float) -> list[Effect]:
        for position in unlisted:
            if len(self.gaps) < self.limits.gaps:
                self.gaps[position.key] = Gap(now, whole=True)
        return self._ask(now)

    def _ask(self, now: float) -> list[Effect]:
        if self.looking or not self.gaps:
            return []
        due = [key for key, gap in self.gaps.items() if gap.ask_at <= now][: self.limits.items]
        self.looking = bool(due)
        return [Look(tuple(sorted(due)))] if due else []

    def _looked(self, positions: tuple[Position, ...], now: float) -> list[Effect]:
        self.looking = False
        asked: dict[StreamKey, Ranges] = {}
        for position in positions:
            self._watch(position, now)
            gap = self.gaps.get(position.key)
            if gap is None:
                continue
            gap.tries += 1
            gap.ask_at = now + min(self.limits.ask_s_max, self.limits.grace_s * 2.0 ** min(gap.tries, 10))
            wanted = missing(position) if gap.whole else gaps(position)
            asked[position.key] = wanted[:RANGES_TOLD_MAX]
            self.counts["asked"] += 1
        return self._acks((one for one in positions if one.key in asked), asked)

    def check(self) -> None:
        """Invariants."""
        assert len(self.queue) <= self.limits.queue_items + self.limits.items
        assert self.queued_bytes >= 0
        assert len(self.gaps) <= self.limits.gaps
        assert len(self.boots) <= self.limits.boots
        assert len(self.known) <= self.limits.known


def _ack(position: Position, asked: Ranges) -> StreamAck:
    key = position.key
    return StreamAck(
        epoch=key.epoch,
        stream=key.stream,
        until=position.settled,
        ahead=position.ahead[:RANGES_TOLD_MAX],
        missing=asked,
    )

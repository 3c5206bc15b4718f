"""Decides when a device's samples are written, sent, sent again, forgotten and, if need be, given up.

    record ──> number ──> disk (one write for all that came meanwhile) ──> batch ──> cloud
                             ^                                               │ acknowledges after its commit
                             └────────── read back what is no longer in memory   v
                                                                          deleted here

A sample is sent only once it is durable here, and deleted only once it is durable there. So a power cut loses
what nobody was told is kept, and the ledger of the cloud can be exact: every number is stored, or this device
says that it was dropped or lost. The one exception: while the disk refuses, samples are sent from memory,
for a device with a broken disk is still worth hearing.

Sending is bounded by the cloud's window (samples under way, all streams together), the more important stream
first. What is not acknowledged in time is due again; after silence one batch goes out as a probe, at growing
intervals with full jitter, until somebody answers. While the cloud says that it is offline only critical
streams are sent. A question for samples that are not here is answered with a report that they are lost.

At ``bytes_max`` the oldest piece of the lowest grade goes, whichever stream it belongs to.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from edge.telemetry.events import (
    AckArrived,
    Append,
    Appended,
    CloudSeen,
    Discard,
    Discarded,
    Event,
    Forget,
    Load,
    Loaded,
    ReadSample,
    Recorded,
    Restored,
    SampleRead,
    StreamId,
)
from edge.telemetry.keeping import Keeping
from edge.telemetry.limits import Limits, highest_first
from edge.telemetry.stream import Stream
from shared.core import Chance, Effect, Failed, Ignore, LinkDown, LinkUp, Publish, Tick
from shared.messages import (
    Grade,
    Sample,
    StreamAck,
    StreamReport,
    StreamsReport,
    TelemetryAck,
    TelemetryBatch,
)
from shared.topics import STREAMS, TELEMETRY

REPORT_BYTES = STREAMS.bytes_max // 2  # of one message; the next two are the most that each takes
STREAM_BYTES, RANGE_BYTES = 200, 20
MACHINE = "system"


@dataclass(slots=True)
class Telemetry:
    """One boot of one device. ``grades``: by stream; the others are normal."""

    node: str
    epoch: int
    chance: Chance
    grades: Mapping[str, Grade] = field(default_factory=dict)
    interval_s: float = 5.0
    limits: Limits = field(default_factory=Limits)
    online: bool = False
    cloud_online: bool = True
    cloud_term: int = 0
    window: int = 0
    silence: int = 0  # rounds of repeats that nobody answered
    probe_at: float = 0.0
    next_read: float = 0.0
    report_at: float = 0.0
    reported_at: float = -1e9
    read_failures: int = 0
    keeping: Keeping = field(init=False)

    def __post_init__(self) -> None:
        self.keeping = Keeping(self.epoch, self.grades, self.limits)

    @property
    def streams(self) -> dict[tuple[int, str], Stream]:
        """Of this boot and of earlier ones, by epoch and name."""
        return self.keeping.streams

    def step(self, event: Event, now: float) -> list[Effect]:
        """See :class:`shared.core.Core`."""
        match event:
            case Recorded(stream, sample):
                return self.keeping.record(stream, sample, now)
            case SampleRead(sample):
                return self.keeping.record(MACHINE, sample, now)
            case Tick():
                return self._tick(now)
            case AckArrived(ack):
                return self._acknowledged(ack, now)
            case LinkUp() | LinkDown() | CloudSeen():
                return self._reachable(event, now)
            case _:
                return self._from_disk(event, now)

    def produced(self, stream: str) -> int:
        """Samples of a stream so far, in this boot."""
        found = self.streams.get((self.epoch, stream))
        return found.produced if found is not None else 0

    # What the disk says -----------------------------------------------------------------------------

    def _from_disk(self, event: Event, now: float) -> list[Effect]:
        match event:
            case Appended():
                return self._appended(event, now)
            case Loaded():
                return self._loaded(event, now)
            case Discarded():
                self._report_soon(now)
                return self.keeping.discarded(event, now)
            case Restored():
                return self.keeping.restore(event, now)
            case Failed(work, reason):
                return self._failed(work, reason, now)
            case _:
                return [Ignore(f"nobody takes {type(event).__name__}")]

    def _appended(self, event: Appended, now: float) -> list[Effect]:
        effects = [*self.keeping.appended(event, now), *self._send(now)]
        for lot in event.lots:
            self.keeping.stream(lot.id).trim(self.limits.memory)
        return effects

    def _failed(self, work: object, reason: str, now: float) -> list[Effect]:
        match work:
            case Append(lots):
                return [*self.keeping.write_failed(lots, reason, now), *self._send(now)]
            case Load(id):
                stream = self.keeping.stream(id)
                stream.loading, stream.hold_until = False, now + self.limits.resend_min_s
            case Discard():
                self.keeping.discarding = False
            case ReadSample():
                self.read_failures += 1
        return [Ignore(f"{type(work).__name__} failed: {reason}")]

    # What the cloud says ----------------------------------------------------------------------------

    def _reachable(self, event: LinkUp | LinkDown | CloudSeen, now: float) -> list[Effect]:
        match event:
            case LinkDown():
                self.online = False
                return []
            case LinkUp():
                self.online = True
            case CloudSeen(presence):
                again = self.cloud_online and presence.term == self.cloud_term
                self.cloud_online, self.cloud_term = presence.online, presence.term
                if again or not presence.online:
                    return []
        return self._begin_again(now)

    def _begin_again(self, now: float) -> list[Effect]:
        """Say what is here first: the answer tells what the cloud has of it."""
        self.silence, self.probe_at = 0, 0.0
        for stream in self.streams.values():
            for flight in stream.flights.values():
                flight.expires = min(flight.expires, now + self._patience())
            if stream.id.epoch != self.epoch:
                stream.hold_until = now + self.limits.hold_s
        return [*self._report(now), *self._send(now)]

    def _acknowledged(self, ack: TelemetryAck, now: float) -> list[Effect]:
        self.window = min(max(ack.window, self.limits.batch_min), self.limits.window_max)
        effects: list[Effect] = []
        news = False
        for one in ack.streams:
            stream = self._known(one)
            if stream is None:
                continue
            stream.hold_until = 0.0
            until = one.until if one.epoch != self.epoch else min(one.until, stream.produced)
            news = stream.settle(until, one.ahead) or news
            if one.missing:
                stream.asked(one.missing, now)
                if stream.dropped or stream.lost:
                    self._report_soon(now)
            effects += self._forget(stream)
        if news:
            self.silence, self.probe_at = 0, 0.0
        return [*effects, *self._send(now)]

    def _known(self, ack: StreamAck) -> Stream | None:
        """The stream; one that is not known here, and that the cloud asks for, is known to be lost."""
        found = self.streams.get((ack.epoch, ack.stream))
        if found is None and ack.missing and ack.epoch <= self.epoch:
            strangers = sum(stream.produced == 0 for stream in self.streams.values())
            if strangers < self.limits.strangers:
                return self.keeping.add(StreamId(ack.epoch, ack.stream))
        return found

    def _forget(self, stream: Stream) -> list[Effect]:
        over = stream.empty and stream.id.epoch != self.epoch
        if over:
            del self.streams[stream.id.epoch, stream.id.stream]
        elif not stream.forgotten():
            return []
        return [Forget(stream.id, stream.settled, over)]

    # Sending ----------------------------------------------------------------------------------------

    def _tick(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        if now >= self.next_read:
            self.next_read = now + self.interval_s
            effects.append(ReadSample())
        late = [stream for stream in self.streams.values() if stream.expired(now)]
        if late and self.online:
            self.silence += 1
            wait_s = min(self.limits.resend_max_s, 2.0 ** min(self.silence, 6))
            self.probe_at = now + self.chance.uniform(0.0, wait_s)
        if self.online and now >= self.report_at:
            effects += self._report(now)
        return [*effects, *self.keeping.write(now), *self._send(now)]

    def _send(self, now: float) -> list[Effect]:
        """Batches, as far as the window goes; the more important stream first."""
        effects: list[Effect] = []
        if not self.online or now < self.probe_at:
            return effects
        room = self._room()
        for stream in sorted(self._sendable(now), key=highest_first):
            while room > 0 and stream.due and not stream.loading:
                first, end = stream.due[0]
                end = min(end, first + min(room, self.limits.batch_max))
                if not self._ripe(stream, first, end, now):
                    break
                effects.append(self._leave(stream, first, end, now))
                room -= end - first
        return effects

    def _leave(self, stream: Stream, first: int, end: int, now: float) -> Effect:
        if first >= stream.tail_first:
            return self._publish(stream, first, stream.samples(first, end), now)
        end = min(end, stream.tail_first)
        stream.loading = True
        return Load(stream.id, first, end)

    def _room(self) -> int:
        flying = sum(
            flight.end - first for stream in self.streams.values() for first, flight in stream.flights.items()
        )
        window = self.window or self.limits.window
        return (self.limits.batch_max if self.silence else window) - flying

    def _sendable(self, now: float) -> Iterator[Stream]:
        for stream in self.streams.values():
            urgent = stream.id.grade is Grade.CRITICAL
            if (self.cloud_online or urgent) and now >= stream.hold_until:
                yield stream

    def _ripe(self, stream: Stream, first: int, end: int, now: float) -> bool:
        """Alone a sample waits for company, unless it is critical or more comes right behind it."""
        full = end - first >= self.limits.batch_min or len(stream.due) > 1
        lingers_s = 0.0 if stream.id.grade is Grade.CRITICAL else self.limits.linger_s
        return full or now - stream.due_since >= lingers_s

    def _loaded(self, event: Loaded, now: float) -> list[Effect]:
        """Send the readable beginning of it; what is not readable is lost."""
        stream = self.streams.get((event.id.epoch, event.id.stream))
        if stream is None:
            return [Ignore(f"{event.id.stream}: settled while it was read")]
        stream.loading = False
        wanted = range(max(event.first, stream.settled), event.end)
        unreadable = tuple((one, one + 1) for one in wanted if one not in event.samples)
        if unreadable:
            stream.lose(unreadable)
            self._report_soon(now)
        effects: list[Effect] = []
        for first, end in _runs(wanted, event.samples):
            if _is_due(stream, first, end):
                samples = tuple(event.samples[one] for one in range(first, end))
                effects.append(self._publish(stream, first, samples, now))
        return [*effects, *self._send(now)]

    def _publish(self, stream: Stream, first: int, samples: tuple[Sample, ...], now: float) -> Effect:
        stream.take_off(first, first + len(samples), now + self._patience(), now)
        to = TELEMETRY.at(node=self.node, stream=stream.id.stream)
        return Publish(to, TelemetryBatch(epoch=stream.id.epoch, first=first, samples=samples))

    def _patience(self) -> float:
        """How long an acknowledgement may take; a fleet does not repeat itself in step."""
        return self.limits.resend_min_s * (1.0 + self.chance.random())

    # Reports ----------------------------------------------------------------------------------------

    def _report(self, now: float) -> list[Effect]:
        self.report_at, self.reported_at = now + self.limits.report_s, now
        told: list[StreamReport] = []
        effects: list[Effect] = []
        room = REPORT_BYTES
        for stream in self.streams.values():
            one = stream.report()
            room -= STREAM_BYTES + RANGE_BYTES * (len(one.dropped) + len(one.lost))
            if room < 0:
                effects.append(self._told(told))
                told, room = [], REPORT_BYTES
            told.append(one)
        return [*effects, self._told(told)]  # an empty one as well: then nothing is here any more

    def _told(self, told: list[StreamReport]) -> Effect:
        return Publish(STREAMS.at(node=self.node), StreamsReport(epoch=self.epoch, streams=tuple(told)))

    def _report_soon(self, now: float) -> None:
        """At the next tick, but not more than once a second."""
        self.report_at = min(self.report_at, max(now, self.reported_at + 1.0))

    def check(self) -> None:
        """Invariants."""
        self.keeping.check()
        assert self._room() >= -self.limits.window_max


def _is_due(stream: Stream, first: int, end: int) -> bool:
    return any(one <= first and end <= other for one, other in stream.due)


def _runs(wanted: range, samples: Mapping[int, Sample]) -> Iterator[tuple[int, int]]:
    """The stretches of ``wanted`` that are there."""
    first: int | None = None
    for number in wanted:
        if number in samples:
            first = number if first is None else first
        elif first is not None:
            yield first, number
            first = None
    if first is not None:
        yield first, wanted.stop

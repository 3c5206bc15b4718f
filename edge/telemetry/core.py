"""Batches the device's own readings and sends them while the link is up.

Samples wait in memory, bounded; at the bound the oldest leaves first and is counted. They go out as one
batch when ``batch_max`` are there or the oldest has waited ``linger_s``: one message of many samples costs
the broker as much as one of a single sample.
"""

from collections import deque
from dataclasses import dataclass, field

from shared.core import Effect, Failed, LinkDown, LinkUp, Publish, Tick, Work
from shared.messages import Sample, TelemetryBatch
from shared.topics import TELEMETRY


@dataclass(frozen=True, slots=True)
class ReadSample(Work):
    """Read the machine's vitals."""


@dataclass(frozen=True, slots=True)
class SampleRead:
    """One reading."""

    sample: Sample


Event = SampleRead | Tick | LinkUp | LinkDown | Failed


@dataclass(slots=True)
class Telemetry:
    """One stream of one boot of one device."""

    node: str
    epoch: int
    stream: str = "system"
    interval_s: float = 5.0
    batch_max: int = 20
    linger_s: float = 5.0
    kept_max: int = 2000
    samples: deque[Sample] = field(default_factory=deque)
    first: int = 0  # the sequence number of samples[0]
    dropped: int = 0
    failures: int = 0
    online: bool = False
    next_read: float = 0.0
    oldest_since: float = 0.0

    def step(self, event: Event, now: float) -> list[Effect]:
        """See :class:`shared.core.Core`."""
        match event:
            case SampleRead(sample):
                return self._keep(sample, now)
            case LinkUp():
                self.online = True
                return self._flush(now)
            case LinkDown():
                self.online = False
            case Failed():
                self.failures += 1
            case Tick():
                due: list[Effect] = []
                if now >= self.next_read:
                    self.next_read = now + self.interval_s
                    due.append(ReadSample())
                return due + self._flush(now)
        return []

    def _keep(self, sample: Sample, now: float) -> list[Effect]:
        if not self.samples:
            self.oldest_since = now
        self.samples.append(sample)
        if len(self.samples) > self.kept_max:
            self.samples.popleft()
            self.first += 1
            self.dropped += 1
        return self._flush(now)

    def _flush(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        while self.online and (
            len(self.samples) >= self.batch_max or (self.samples and now - self.oldest_since >= self.linger_s)
        ):
            batch = tuple(self.samples.popleft() for _ in range(min(self.batch_max, len(self.samples))))
            address = TELEMETRY.at(node=self.node, stream=self.stream)
            effects.append(
                Publish(address, TelemetryBatch(epoch=self.epoch, first=self.first, samples=batch))
            )
            self.first += len(batch)
            self.oldest_since = now
        return effects

    def check(self) -> None:
        """Invariants."""
        assert len(self.samples) <= self.kept_max
        assert self.first >= self.dropped

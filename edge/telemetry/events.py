"""What happens to a device's telemetry, and what is to be done: the words of the core and its shell.

A *stream* is a name and the numbered samples of one boot under it; ``StreamId`` says which one.
"""

from dataclasses import dataclass

from shared.core import Effect, Failed, LinkDown, LinkUp, Tick, Work
from shared.messages import CloudPresence, Grade, Sample, TelemetryAck
from shared.ranges import Ranges


@dataclass(frozen=True, slots=True, order=True)
class StreamId:
    """A stream of one boot (``epoch``) of this device."""

    epoch: int
    stream: str
    grade: Grade = Grade.NORMAL


@dataclass(frozen=True, slots=True)
class Kept:
    """One piece of a stream on the disk: samples ``first`` to ``end - 1``."""

    id: StreamId
    first: int
    end: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Lot:
    """Samples of one stream, numbered from ``first`` on."""

    id: StreamId
    first: int
    samples: tuple[Sample, ...]


# Events ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recorded:
    """A program on this device has something to say. The shell has checked that it fits."""

    stream: str
    sample: Sample


@dataclass(frozen=True, slots=True)
class SampleRead:
    """A reading of the machine itself."""

    sample: Sample


@dataclass(frozen=True, slots=True)
class Restored:
    """What earlier boots left on the disk. ``gone``: pieces that were given up; ``damaged``: by stream."""

    kept: tuple[Kept, ...]
    gone: tuple[Kept, ...] = ()
    damaged: tuple[tuple[StreamId, Ranges], ...] = ()


@dataclass(frozen=True, slots=True)
class Appended:
    """A write is durable. ``kept``: the pieces that it went to, as they are now."""

    lots: tuple[Lot, ...]
    kept: tuple[Kept, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """Samples from the disk. Those between ``first`` and ``end`` that are not there can't be read."""

    id: StreamId
    first: int
    end: int
    samples: dict[int, Sample]


@dataclass(frozen=True, slots=True)
class Discarded:
    """A piece was given up, as it was by then, and the disk remembers that it was. Empty: it was gone."""

    kept: Kept


@dataclass(frozen=True, slots=True)
class AckArrived:
    """The cloud says what is durable there."""

    ack: TelemetryAck


@dataclass(frozen=True, slots=True)
class CloudSeen:
    """What the cloud says of itself."""

    presence: CloudPresence


# Effects --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadSample(Work):
    """Read the machine's vitals."""


@dataclass(frozen=True, slots=True)
class Append(Work):
    """Make samples durable, all of them together."""

    lots: tuple[Lot, ...]


@dataclass(frozen=True, slots=True)
class Load(Work):
    """Read samples ``first`` to ``end - 1`` back."""

    id: StreamId
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Discard(Work):
    """Give up one piece to make room."""

    kept: Kept


@dataclass(frozen=True, slots=True)
class Forget(Effect):
    """The cloud has everything below ``until``; ``whole``: and the stream is over."""

    id: StreamId
    until: int
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Durable(Effect):
    """Samples ``first`` to ``end - 1`` are durable: whoever waited for that waits no longer."""

    id: StreamId
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class GaveWay(Effect):
    """These were dropped before they were durable: the disk refuses, and memory is short."""

    id: StreamId
    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Trouble(Effect):
    """Something needs a person; empty: it is over."""

    what: str


Event = (
    Recorded
    | SampleRead
    | Restored
    | Appended
    | Loaded
    | Discarded
    | AckArrived
    | CloudSeen
    | Tick
    | LinkUp
    | LinkDown
    | Failed
)

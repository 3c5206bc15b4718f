"""What the training core hears (past tense) and what it wants done (imperative).

No event or effect carries a model, an update or examples: a service keeps its last 256 steps as its story.
The core decides by names, digests and sizes; the bytes lie on the disk, and the shell holds them meanwhile.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from shared.core import Effect, Failed, LinkDown, LinkUp, Tick, Work
from shared.learning import Codec, ModelRef, Power, Receipt, RoundFact, Source, UpdateHeader

# What the core hears ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UpdateKey:
    """Names one update of this device. ``digest``: of its bytes; those of an evaluation are empty."""

    job: str
    round: int
    digest: str


@dataclass(frozen=True, slots=True)
class Stored:
    """An update in the durable outbox. ``ask``: what it answers; ``age_s``: since it was written."""

    key: UpdateKey
    header: UpdateHeader = field(repr=False)
    ask: str
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Restored:
    """The device woke up with this on its disk.

    ``versions``: job -> version -> check of the vectors that are held; ``done``: job -> the ask that was
    answered last, receipt and all.
    """

    updates: tuple[Stored, ...] = ()
    versions: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    done: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SourcesRead:
    """The examples that lie here now, and what is wrong with the sources that can't be read."""

    sources: Mapping[str, Source]
    problems: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Conditions:
    """One reading of the machine. ``load_ratio``: load of the last minute per core; ``minute``: of the day,
    local time, 0 to 1439."""

    power: Power = Power.UNKNOWN
    battery_ratio: float = 1.0
    load_ratio: float = 0.0
    minute: int = 0


@dataclass(frozen=True, slots=True)
class ConditionsRead:
    """The reading that was asked for."""

    conditions: Conditions


@dataclass(frozen=True, slots=True)
class RoundArrived:
    """The cloud says (again) how a job's round is. ``asked``: this device is in its cohort, which may have
    thousands of names and is left out of ``fact``."""

    job: str
    asked: bool
    fact: RoundFact


@dataclass(frozen=True, slots=True)
class ReceiptArrived:
    """What became of an update."""

    job: str
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Available:
    """A required artifact is here, verified, and stays until it is released."""

    digest: str
    path: str


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A required artifact can't be had now; it is not required any more."""

    digest: str
    reason: str


@dataclass(frozen=True, slots=True)
class ModelOpened:
    """The vector of that version is in its place, and its check agrees."""

    number: int


@dataclass(frozen=True, slots=True)
class Trained:
    """The update is in the outbox, durable."""

    number: int
    update: Stored


@dataclass(frozen=True, slots=True)
class PartSent:
    """The broker has acknowledged the part."""

    key: UpdateKey
    index: int


@dataclass(frozen=True, slots=True)
class DrainStarted:
    """The device goes out of service: end what runs, begin nothing."""


Event = (
    Restored
    | SourcesRead
    | ConditionsRead
    | RoundArrived
    | ReceiptArrived
    | Available
    | Unavailable
    | ModelOpened
    | Trained
    | PartSent
    | DrainStarted
    | Failed
    | Tick
    | LinkUp
    | LinkDown
)


def round_arrived(node: str, job: str, fact: RoundFact) -> RoundArrived:
    """The event of a fact, without the names of all the others."""
    return RoundArrived(job, node in fact.cohort, msgspec.structs.replace(fact, cohort=()))


# What the core wants done -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Require(Effect):
    """Have the artifact fetched and kept. Answer: Available or Unavailable."""

    digest: str


@dataclass(frozen=True, slots=True)
class Release(Effect):
    """Nothing here needs the artifact any more."""

    digest: str


@dataclass(frozen=True, slots=True)
class CancelTraining(Effect):
    """End that piece of work soon; its answer still comes, and is let go of."""

    number: int


@dataclass(frozen=True, slots=True)
class SettleUpdate(Effect):
    """Remove it from the outbox. ``accepted``: what its encoding left out is added to the next one; else the
    rest of the update before stays the one to add."""

    key: UpdateKey
    accepted: bool


@dataclass(frozen=True, slots=True)
class RememberDone(Effect):
    """Save that this ask was answered, so that a reboot does not answer it again. Empty: it may be."""

    job: str
    ask: str


@dataclass(frozen=True, slots=True)
class DropVersion(Effect):
    """Remove one version of a job's model from the disk."""

    job: str
    version: int


@dataclass(frozen=True, slots=True)
class ForgetJob(Effect):
    """Remove everything that is kept of a job but updates that wait."""

    job: str


@dataclass(frozen=True, slots=True)
class UnloadPackage(Effect):
    """The runtime may let go of the training package."""

    digest: str


@dataclass(frozen=True, slots=True)
class ReadSources(Work):
    """Count the examples. Answer: SourcesRead."""


@dataclass(frozen=True, slots=True)
class ReadConditions(Work):
    """Read power, load and the time of day. Answer: ConditionsRead."""


@dataclass(frozen=True, slots=True)
class OpenModel(Work):
    """Make the vector of ``model.version`` from an artifact, check it, and put it into its place.

    ``base``: -1 where the artifact is a snapshot, else the held version that it is added to. Answer:
    ModelOpened.
    """

    number: int
    job: str
    model: ModelRef
    path: str
    base: int


@dataclass(frozen=True, slots=True)
class Train(Work):
    """Do what the round asks, and put the update into the outbox. Answer: Trained.

    ``budget_s``: all the time that there is for it; ``codec``: chosen for this device's link.
    """

    number: int
    job: str
    ask: str
    fact: RoundFact
    package: str  # the path of the training package
    codec: Codec
    budget_s: float


@dataclass(frozen=True, slots=True)
class KeepLearned(Work):
    """Write to the disk what versions and rests are in memory only. No answer."""


@dataclass(frozen=True, slots=True)
class SendPart(Work):
    """Publish one part of an update. Answer: PartSent, or Failed after a deadline that the shell keeps."""

    key: UpdateKey
    index: int
    count: int

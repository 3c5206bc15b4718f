"""What the coordinator hears (past tense) and what it wants done (imperative).

A :class:`shared.core.Work` of this file is performed by ``cloud/federated/executor.py``, one at a time and in
the order in which they were asked for.
"""

from dataclasses import dataclass, field

from cloud.facts import NodeChanged, NodeForgotten
from cloud.federated.gate import Rejection
from cloud.federated.records import Answer, Entry, JobState, Opening, Version
from shared.core import Effect, Failed, LinkDown, LinkUp, Tick, Work
from shared.learning import (
    JobSpec,
    LearnAsk,
    Learner,
    LearnerAsk,
    ModelRef,
    Receipt,
    RoundView,
    UpdateHeader,
    UpdatePart,
)
from shared.messages import Manifest


@dataclass(frozen=True, slots=True)
class Asker:
    """The application that waits for a reply."""

    app: str
    correlation: str


@dataclass(frozen=True, slots=True)
class Pass:
    """One attempt to get answers from a cohort, as the executor needs to know it."""

    spec: JobSpec
    model: ModelRef
    opening: Opening

    @property
    def id(self) -> "PassId":
        """What tells it apart from any other."""
        one = self.opening
        return PassId(self.spec.job, one.round, one.task.value, one.attempt)


@dataclass(frozen=True, slots=True)
class PassId:
    """Names a pass."""

    job: str
    round: int
    task: str
    attempt: int


# What applications and devices say --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LearnAsked:
    """An application wants to create or steer a job."""

    app: str
    ask: LearnAsk


@dataclass(frozen=True, slots=True)
class LearnerSeen:
    """A device says what it could contribute."""

    client: str
    learner: Learner


@dataclass(frozen=True, slots=True)
class LearnerAsked:
    """An application registers a client that cannot speak MQTT."""

    app: str
    ask: LearnerAsk


@dataclass(frozen=True, slots=True)
class PartArrived:
    """A piece of an update. ``asked``: the round that it answers. ``asker``: for a client that an
    application speaks for; a device hears its receipt on its own topic."""

    client: str
    job: str
    asked: int
    part: UpdatePart = field(repr=False)
    asker: Asker | None = None


@dataclass(frozen=True, slots=True)
class ModelAdded:
    """The catalog holds one more version of a model, durably."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True, slots=True)
class CloudSeen:
    """Some cloud says that it is there (or no longer), with this term: perhaps one that was started after
    us."""

    term: int
    online: bool = True


# What the round hears ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Heard:
    """The first part of an update is here; the round may refuse the rest."""

    client: str
    asked: int
    header: UpdateHeader


class Payload:
    """The bytes of an update until it was judged, and none after that: events live on in a service's story,
    and megabytes must not live on with them."""

    __slots__ = ("data",)

    def __init__(self, data: bytes = b"") -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def clear(self) -> None:
        """It was judged."""
        self.data = b""


@dataclass(frozen=True, slots=True)
class Whole:
    """All parts of an update are here."""

    client: str
    asked: int
    header: UpdateHeader
    data: Payload = field(repr=False, default_factory=Payload)


@dataclass(frozen=True, slots=True)
class Verdict(Effect):
    """The receipt of an update, for the coordinator to send."""

    client: str
    asked: int
    receipt: Receipt


# Pieces of work and their answers --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load(Work):
    """Read every job from the disk, and clear away what no job needs. Answer: Loaded."""


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job as it was found. ``answers``: of the pass that is open; ``recent``: of the one before."""

    state: JobState
    views: tuple[RoundView, ...] = ()
    answers: tuple[Answer, ...] = ()
    recent: tuple[Answer, ...] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """``clients``: those that an application speaks for, as ``client -> (app, learner)``.

    ``stray``: digests of artifacts that no job needs, of which a manifest may still be retained.
    ``problems``: jobs that could not be read; they stay on the disk as they are.
    """

    jobs: tuple[StoredJob, ...]
    clients: dict[str, tuple[str, Learner]] = field(default_factory=dict)
    stray: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepare(Work):
    """Make version 0 of a new job from its package, and see whether the result can be put into the package
    that is to serve it. Answer: Prepared."""

    spec: JobSpec


@dataclass(frozen=True, slots=True)
class Prepared:
    """The start is durable."""

    job: str
    version: Version


@dataclass(frozen=True, slots=True)
class Write(Work):
    """Append to the job's journal. Answer: Written, once it is durable.

    ``derived``: the disk knows it already by what it follows from. It is written and not waited for: should a
    power cut take it, a restart makes the same move again.
    """

    job: str
    entry: Entry
    derived: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """The newest :class:`Write` of the job is durable."""

    job: str


@dataclass(frozen=True, slots=True)
class SaveClients(Work):
    """Make the list of clients without MQTT durable. Answer: ClientsSaved."""

    clients: dict[str, tuple[str, Learner]]


@dataclass(frozen=True, slots=True)
class ClientsSaved:
    """It is."""


@dataclass(frozen=True, slots=True)
class Judge(Work):
    """Read an update, put it to the gate, and where it passes log it durably and add it to the sum.
    Answer: Judged."""

    at: Pass
    whole: Whole
    seconds: float


@dataclass(frozen=True, slots=True)
class Judged:
    """``rejection`` None: the update counts, and is durable. The same update again gives the same answer."""

    at: PassId
    client: str
    asked: int
    digest: str
    rejection: Rejection | None = None
    norm: float = 0.0


@dataclass(frozen=True, slots=True)
class Aggregate(Work):
    """Make the next version from all that the log of the pass holds. Answer: Aggregated."""

    at: Pass


@dataclass(frozen=True, slots=True)
class Aggregated:
    """The version is made: it is durable, or can be made again from what is. ``clients``: how many count."""

    at: PassId
    version: Version
    clients: int
    aggregate_s: float


@dataclass(frozen=True, slots=True)
class MakeModel(Work):
    """Put the newest parameters into the package that serves, and give it to the catalog. Answer: ModelMade;
    after that, the catalog says ModelAdded."""

    spec: JobSpec
    model: ModelRef
    description: str


@dataclass(frozen=True, slots=True)
class ModelMade:
    """The catalog was given a package of this digest."""

    job: str
    digest: str


@dataclass(frozen=True, slots=True)
class Remove(Work):
    """Delete everything of a job, its artifacts (``digests``) too. Answer: Removed."""

    job: str
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Removed:
    """Nothing of it is left."""

    job: str


@dataclass(frozen=True, slots=True)
class Settle(Work):
    """Make the file of version ``newest`` durable. Then delete what nobody starts from any more: versions
    before ``oldest``, artifacts (``digests``), logs of rounds before ``round``. No answer."""

    job: str
    newest: int
    oldest: int
    round: int
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Offer(Effect):
    """Whoever sends chunks may send those of this artifact. ``readers``: how many are about to ask for it; 0:
    nobody knows."""

    manifest: Manifest = field(repr=False)
    readers: int = 0


@dataclass(frozen=True, slots=True)
class Withdraw(Effect):
    """The artifact is no longer sent."""

    digest: str


Event = (
    LearnAsked
    | LearnerSeen
    | LearnerAsked
    | PartArrived
    | ModelAdded
    | CloudSeen
    | Loaded
    | Prepared
    | Written
    | ClientsSaved
    | Judged
    | Aggregated
    | ModelMade
    | Removed
    | NodeChanged
    | NodeForgotten
    | Failed
    | Tick
    | LinkUp
    | LinkDown
)
RoundEvent = Heard | Whole | Judged | Failed | Tick

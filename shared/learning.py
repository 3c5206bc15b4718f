"""What the coordinator, the devices and the applications say to each other about federated learning.

    device  ── Learner (fact) ─────────────>  who could take part, with which data
    cloud   ── RoundFact (fact) ───────────>  who is asked, for what, starting from which model
    device  ── UpdatePart, UpdatePart, ... ─>  what it learned, or what it measured
    cloud   ── Receipt ────────────────────>  accepted | late | stale | duplicate | rejected, and why
    cloud   ── JobFact (fact) ─────────────>  how the job is doing, for everybody who watches

Models travel as artifacts: a round names digests, and a device fetches what it lacks. Data only: no
behaviour, no I/O. The algorithms are cited where they are written.
"""

from enum import StrEnum

import msgspec

from shared.messages import Message, Request

PART_BYTES = 96 * 1024  # one piece of an update: as long as a chunk of an artifact, for the same reasons
UPDATE_BYTES_MAX = 64 << 20
PARTS_MAX = -(-UPDATE_BYTES_MAX // PART_BYTES)
COHORT_MAX = 4096
JOBS_MAX = 64


class Power(StrEnum):
    """Where a device takes its power from."""

    AC = "ac"
    BATTERY = "battery"
    UNKNOWN = "unknown"


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """One set of examples on a device; their number is all that leaves it. ``held_out``: kept for
    evaluation, never trained on."""

    samples: int
    held_out: int = 0


class Learner(Message, frozen=True, kw_only=True):
    """Retained: what a device could contribute. ``room``: jobs that it would take beside those it has.

    ``sources``: by name, as job specifications name them. ``codecs``: what it can encode. ``link``: class of
    its connection, which decides how small its updates should be.
    """

    epoch: int
    sources: dict[str, Source]
    room: int
    power: Power = Power.UNKNOWN
    battery_ratio: float = 1.0
    codecs: tuple[str, ...] = ("f32", "int8", "topk")
    link: str = ""


# What is to be learned ------------------------------------------------------------------------------


class TrainingPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How a device trains in one round. The batch size is the package's.

    ``steps`` > 0: that many batches; else ``epochs`` passes over its data; either way at most ``budget_s``
    seconds of training (partial work counts). ``proximal``: mu of FedProx (Li et al. 2020), 0 is off.
    """

    source: str
    epochs: int = 1
    steps: int = 0
    budget_s: float = 60.0
    lr: float = 0.05
    lr_decay: float = 1.0  # lr of round r is lr * lr_decay ** r
    proximal: float = 0.0


class CodecName(StrEnum):
    """How an update is written. See ``shared/codecs.py``."""

    F32 = "f32"
    INT8 = "int8"
    TOPK = "topk"


class Codec(msgspec.Struct, frozen=True, kw_only=True):
    """``ratio``: of the coordinates that top-k keeps. ``feedback``: what was left out is added next time."""

    name: CodecName = CodecName.INT8
    ratio: float = 0.1
    feedback: bool = True


class Criteria(msgspec.Struct, frozen=True, kw_only=True):
    """Who may be asked. ``labels``: all of them, as in the device's birth."""

    labels: dict[str, str] = {}
    nodes: tuple[str, ...] = ()  # empty: every device
    samples_min: int = 1
    memory_bytes_min: int = 0
    battery_ratio_min: float = 0.0
    ac_only: bool = False


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """When a job is done before its last round. ``patience``: rounds without a better metric; 0 is off."""

    metric: str = "accuracy"
    target: float = 0.0  # 0: no target
    patience: int = 0


class JobSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One job.

    ``package``: digest of the training package (``train_step``, ``evaluate``). ``serve``: digest of an
    inference package whose parameters become the learned ones when the job is done; empty: none.
    ``strategy``: a name in ``cloud/federated/strategies.py``; ``options``: its numbers. ``clients``: how many
    updates close a round (K); ``clients * over_select`` are asked; ``quorum``: K_min at the deadline.
    ``clip``: the largest |delta| of one coordinate. ``version_name``: the model that the result is a
    version of. ``gateways``: nodes that may answer for many devices with one exact sum.
    """

    job: str
    package: str
    plan: TrainingPlan
    rounds: int = 10
    clients: int = 8
    quorum: int = 1
    over_select: float = 1.3
    deadline_s_min: float = 5.0
    deadline_s_max: float = 600.0
    strategy: str = "fedavg"
    options: dict[str, float] = {}
    codec: Codec = Codec()
    link_codecs: dict[str, Codec] = {}  # class of link -> another codec for it
    criteria: Criteria = Criteria()
    stop: Stop = Stop()
    clip: float = 16.0
    norm_ratio_max: float = 10.0
    samples_max: int = 1_000_000
    evaluate_every: int = 1  # 0: never; held-out examples of devices decide
    evaluators: int = 0  # 0: the whole cohort
    gateways: tuple[str, ...] = ()
    serve: str = ""
    version_name: str = ""
    seed: int = 0


class Phase(StrEnum):
    """Of a round, and of its job's coordinator. The documented states of the platform."""

    INITIALIZING = "initializing"
    TRAINING = "training"
    AGGREGATING = "aggregating"
    COMPLETED = "completed"
    ERROR = "error"


# A round, as the devices see it -----------------------------------------------------------------------


class ModelRef(msgspec.Struct, frozen=True, kw_only=True):
    """How to get one version of the global model: artifacts whose content is a
    :class:`shared.vectors.VectorFile`.

    A device that holds ``base`` fetches ``delta``; any other fetches ``snapshot``. ``check``: SHA-256 (hex)
    of the flat float32 vector that both must give.
    """

    version: int
    layout_hash: str
    n_params: int
    check: str
    snapshot: str
    delta: str = ""
    base: int = -1


class Task(StrEnum):
    """What a round asks for."""

    TRAIN = "train"
    EVALUATE = "evaluate"


class RoundFact(Message, frozen=True, kw_only=True):
    """Retained: the round that is open, or ``phase`` other than TRAINING: nothing is asked.

    ``term``: of the coordinator's process. ``budget_s``: time left until the deadline when this was sent.
    ``overlap``: an update to an older version still counts (asynchronous strategies), so that who is at work
    on one finishes it.
    """

    job: str
    round: int
    term: int
    phase: Phase
    task: Task = Task.TRAIN
    cohort: tuple[str, ...] = ()
    package: str = ""
    model: ModelRef | None = None
    plan: TrainingPlan | None = None
    codec: Codec = Codec()
    link_codecs: dict[str, Codec] = msgspec.field(default_factory=dict)
    clip: float = 0.0
    seed: int = 0
    budget_s: float = 0.0
    overlap: bool = False


class UpdateHeader(msgspec.Struct, frozen=True, kw_only=True):
    """Describes one update; the first part carries it.

    ``digest``: SHA-256 (hex) of the encoded bytes. ``weight``: the examples that it counts for. ``clients``
    more than 1: a gateway's exact sum of so many devices (codec "sum"), whose names ``members`` gives.
    ``metrics``: such as loss, hits, count; an evaluation has these and no bytes.
    """

    task: Task
    version: int
    codec: str
    n_params: int
    layout_hash: str
    size_bytes: int
    digest: str
    weight: int
    steps: int
    clients: int = 1
    members: tuple[str, ...] = ()
    train_s: float = 0.0
    metrics: dict[str, float] = {}


class UpdatePart(Message, frozen=True, kw_only=True):
    """Piece ``index`` of ``count``, each ``PART_BYTES`` long but the last.

    Job and round stand in the topic; ``digest`` is the header's, in every part.
    """

    epoch: int
    digest: str
    index: int
    count: int
    header: UpdateHeader | None = None  # with index 0
    data: bytes = b""


class ReceiptStatus(StrEnum):
    """What became of an update. Only ``accepted`` counts; all of them end the sender's duty to send it."""

    ACCEPTED = "accepted"
    LATE = "late"
    STALE = "stale"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"


class Reject(StrEnum):
    """Why an update was refused; one word for each rule of the validation gate."""

    UNKNOWN_JOB = "unknown-job"
    NOT_ASKED = "not-asked"
    WRONG_TASK = "wrong-task"
    WRONG_VERSION = "wrong-version"
    WRONG_LAYOUT = "wrong-layout"
    WRONG_SIZE = "wrong-size"
    WRONG_DIGEST = "wrong-digest"
    UNREADABLE = "unreadable"
    NOT_FINITE = "not-finite"
    OUT_OF_RANGE = "out-of-range"
    NORM = "norm"
    WEIGHT = "weight"
    METRICS = "metrics"
    TOO_MANY = "too-many"


class Receipt(Message, frozen=True, kw_only=True):
    """The one answer to an update. ``digest``: which; ``reason``: a :class:`Reject`, where rejected."""

    round: int
    digest: str
    status: ReceiptStatus
    reason: str = ""
    detail: str = ""


class JobFact(Message, frozen=True, kw_only=True):
    """Retained, and sent again at each change: what dashboards draw."""

    job: str
    term: int
    phase: Phase
    round: int
    rounds: int
    version: int
    task: Task = Task.TRAIN
    asked: int = 0
    accepted: int = 0
    rejected: int = 0
    metrics: dict[str, float] = msgspec.field(default_factory=dict)
    detail: str = ""
    model: str = ""  # digest of the deployable package, once there is one
    at_unix_s: float = 0.0


# What applications ask --------------------------------------------------------------------------------


class LearnVerb(StrEnum):
    """What can be done to a job. ``reset``: from ERROR back to INITIALIZING."""

    CREATE = "create"
    STOP = "stop"
    RESET = "reset"
    DELETE = "delete"


class LearnAsk(Request, frozen=True, kw_only=True):
    """Create or steer a job. The reply's body is a :class:`JobView`."""

    verb: LearnVerb
    job: str
    spec: JobSpec | None = None


class LearnerAsk(Request, frozen=True, kw_only=True):
    """Register a client that cannot speak MQTT; its updates come as :class:`UpdateAsk`.

    ``learner`` None: it leaves. The reply's body is empty.
    """

    client: str
    learner: Learner | None = None


class UpdateAsk(Request, frozen=True, kw_only=True):
    """One part of such a client's update. The reply's body is a :class:`Receipt` after the last part,
    empty before."""

    client: str
    job: str
    round: int
    part: UpdatePart


class ClientRow(msgspec.Struct, frozen=True, kw_only=True):
    """One client in one round. ``status``: asked, accepted, late, ...; ``seconds``: until its update was
    judged; ``digest``: how that of the accepted update begins."""

    client: str
    status: str
    reason: str = ""
    weight: int = 0
    steps: int = 0
    bytes_up: int = 0
    seconds: float = 0.0
    train_s: float = 0.0
    metrics: dict[str, float] = {}
    digest: str = ""


class RoundRow(msgspec.Struct, frozen=True, kw_only=True):
    """One round in a report. ``bytes_down``: once per broadcast; ``wall_s``: from opening to the new version,
    of which ``aggregate_s`` to compute it."""

    round: int
    phase: str
    version: int
    asked: int
    accepted: int
    rejected: int
    late: int
    bytes_up: int
    bytes_down: int
    wall_s: float
    aggregate_s: float
    metrics: dict[str, float] = {}
    detail: str = ""


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job and how far it is. ``best``: of the metric that ``spec.stop`` names."""

    spec: JobSpec
    phase: str
    round: int
    version: int
    created_at_unix_s: float
    detail: str = ""
    best: float | None = None
    metrics: dict[str, float] = {}
    model: str = ""
    model_version: str = ""


class RoundView(msgspec.Struct, frozen=True, kw_only=True):
    """One round and everybody in it."""

    row: RoundRow
    clients: tuple[ClientRow, ...]


class LearnerView(msgspec.Struct, frozen=True, kw_only=True):
    """A client that could be asked, and what it has done so far."""

    client: str
    learner: Learner
    jobs: tuple[str, ...] = ()
    accepted: int = 0
    rejected: int = 0
    last_seen_age_s: float | None = None

"""What the cloud, the devices and the applications say to each other. Data only: no behaviour, no I/O.

On the wire each is a MessagePack map; unknown fields are ignored, so a new field needs a default and no
new version. Times named ``at_unix_s`` come from the sender's own clock and are for people; nothing is
decided by comparing them with another machine's clock. A ``budget_s`` is what is left of a deadline: each
hop hands on what remains, so deadlines travel without synchronised clocks.
"""

from enum import StrEnum
from typing import ClassVar

import msgspec

from shared.package import ModuleKind


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of everything that crosses the broker. ``DEFLATES``: whether large ones travel deflated."""

    DEFLATES: ClassVar[bool] = False


# Facts about a device -------------------------------------------------------------------------------


class Presence(Message, frozen=True, kw_only=True):
    """Retained; ``online=False`` is also the last will. A receiver ignores an epoch older than it knows."""

    epoch: int
    online: bool
    reason: str = ""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What the device measured about itself."""

    cores: int
    memory_bytes: int
    disk_free_bytes: int = 0
    wasm_gflops: float = 0.0
    wasm_call_s: float = 0.0
    simd: bool = True
    platform: str = ""
    runtime: str = ""


class Birth(Message, frozen=True, kw_only=True):
    """Retained; sent after the subscriptions stand, and again on request."""

    epoch: int
    agent_version: str
    address: str = ""
    capabilities: Capabilities
    labels: dict[str, str] = {}
    slots: int = 1
    heartbeat_s: float = 10.0


class NodeState(StrEnum):
    """What a device says of itself."""

    IDLE = "idle"
    BUSY = "busy"
    ERROR = "error"
    DRAINING = "draining"


class Heartbeat(Message, frozen=True, kw_only=True):
    """A happening, every ``heartbeat_s`` with jitter. Ratios are 0 to 1 of the machine."""

    epoch: int
    sequence: int
    state: NodeState
    queue_depth: int = 0
    in_flight: int = 0
    tasks: tuple[str, ...] = ()
    cpu_ratio: float = 0.0
    memory_ratio: float = 0.0
    memory_available_bytes: int = 0
    disk_ratio: float = 0.0
    agent_rss_bytes: int = 0
    at_unix_s: float = 0.0


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One reading: when, and the numbers by name."""

    at_unix_s: float
    values: dict[str, float]


class TelemetryBatch(Message, frozen=True, kw_only=True):
    """Samples ``first`` to ``first + len(samples) - 1`` of one stream of one boot of the device.

    A plain MQTT device may send JSON of this form, or simply one flat object of numbers.
    """

    epoch: int = 0
    first: int = 0
    samples: tuple[Sample, ...]


class Grade(StrEnum):
    """A device's class of a stream: when room is short, bulk is dropped first and critical last."""

    CRITICAL = "critical"
    NORMAL = "normal"
    BULK = "bulk"


class StreamReport(msgspec.Struct, frozen=True, kw_only=True):
    """One stream of one boot, as the device knows it. Ranges are half-open and not settled yet.

    ``produced``: samples made durable so far; ``dropped``: gave way to others when room was short;
    ``lost``: damaged on the disk, or no longer known here.
    """

    epoch: int
    stream: str
    produced: int
    grade: Grade = Grade.NORMAL
    dropped: tuple[tuple[int, int], ...] = ()
    lost: tuple[tuple[int, int], ...] = ()


class StreamsReport(Message, frozen=True, kw_only=True):
    """What a device holds for the cloud, said again until acknowledged. ``epoch``: the boot that speaks."""

    epoch: int
    streams: tuple[StreamReport, ...]


class StreamAck(msgspec.Struct, frozen=True, kw_only=True):
    """Every sample below ``until`` is settled in the cloud's store, and those in ``ahead``.

    ``missing``: gaps that are asked for.
    """

    epoch: int
    stream: str
    until: int
    ahead: tuple[tuple[int, int], ...] = ()
    missing: tuple[tuple[int, int], ...] = ()


class TelemetryAck(Message, frozen=True, kw_only=True):
    """Cumulative, after the commit. ``window``: samples that the device may have under way, in all."""

    window: int
    streams: tuple[StreamAck, ...] = ()


# Desired and reported state -------------------------------------------------------------------------


class DesiredModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model that a device is to hold, ready to answer."""

    digest: str
    version: str = "1"


class DesiredModels(Message, frozen=True, kw_only=True):
    """The whole set, by name; the device makes it so. ``version`` only grows."""

    version: int
    models: dict[str, DesiredModel]


class ModelState(StrEnum):
    """How far a device is with one model."""

    FETCHING = "fetching"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


class ReportedModel(msgspec.Struct, frozen=True, kw_only=True):
    """The truth on the device about one model: how far it is with the version desired (``digest``).

    ``serving``: the digest that answers requests now, perhaps still the one before; empty: nothing does.
    """

    digest: str
    version: str = "1"
    state: ModelState
    serving: str = ""
    reason: str = ""
    bytes_have: int = 0
    bytes_total: int = 0
    memory_bytes: int = 0


class ReportedModels(Message, frozen=True, kw_only=True):
    """Answers :class:`DesiredModels`: the version seen last, and each model's state."""

    epoch: int
    version: int
    models: dict[str, ReportedModel]


# Artifacts ------------------------------------------------------------------------------------------


class Manifest(Message, frozen=True, kw_only=True):
    """Describes one artifact, signed by the cloud.

    ``digest``: SHA-256 (hex) of the whole; ``chunk_digests``: the SHA-256 (32 bytes) of each chunk, in
    order; ``signature``: Ed25519 over :func:`shared.artifacts.signed_bytes`.
    """

    digest: str
    name: str
    version: str
    kind: ModuleKind
    size_bytes: int
    chunk_bytes: int
    chunk_digests: bytes
    agent_version_min: str = "0"
    signature: bytes = b""


class Chunk(Message, frozen=True, kw_only=True):
    """One piece of an artifact; digest and index stand in the topic."""

    data: bytes


class Want(Message, frozen=True, kw_only=True):
    """What a device still needs of an artifact: half-open ranges of chunk indexes. Empty: it has all."""

    digest: str
    ranges: tuple[tuple[int, int], ...]


# Requests -------------------------------------------------------------------------------------------


class Request(Message, frozen=True, kw_only=True):
    """Base of what gets exactly one reply, or a deadline.

    ``correlation`` is unique per caller; the reply carries it back. ``budget_s``: time left.
    """

    correlation: str
    budget_s: float


class Array(msgspec.Struct, frozen=True, array_like=True):
    """A dense row-major array. ``dtype`` as in numpy without byte order ("float32"); little-endian."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


class InferAsk(Request, frozen=True, kw_only=True):
    """An application asks the fleet. ``inputs`` stays packed (``tuple[Array, ...]``, or JSON bytes for a
    WASI module): the cloud forwards it without looking inside.

    ``idempotent``: may be tried on another node when the first one dies. ``node``: only there.
    """

    model: str
    inputs: msgspec.Raw
    function: str = "run"
    idempotent: bool = True
    node: str = ""


class InferCommand(Request, frozen=True, kw_only=True):
    """The cloud hands the request to one device, for one boot (``epoch``) of it.

    ``repeatable``: the cloud asks again when it hears no answer, so the answer needs no acknowledgement.
    """

    caller: str
    epoch: int
    inputs: msgspec.Raw
    function: str = "run"
    repeatable: bool = False


class CommandVerb(StrEnum):
    """What a device can be told to do."""

    PING = "ping"
    ANNOUNCE = "announce"
    DRAIN = "drain"


class Command(Request, frozen=True, kw_only=True):
    """A command for one boot of a device; the verb stands in the topic. ``epoch`` 0: any boot."""

    caller: str
    epoch: int = 0


class Pong(msgspec.Struct, frozen=True, kw_only=True):
    """Body of the reply to a ping: is the device's clock right, its disk full, its software current?"""

    epoch: int
    agent_version: str
    at_unix_s: float
    disk_ratio: float
    trouble: str = ""


class ReplyStatus(StrEnum):
    """How a request ended."""

    OK = "ok"
    REFUSED = "refused"  # definite: it did not happen
    FAILED = "failed"  # indefinite: it may have happened


class Reply(Message, frozen=True, kw_only=True):
    """The one answer. ``body`` is packed; its type follows from the request.

    ``service_s``: time the device spent on it; ``node``: who answered.
    """

    correlation: str
    status: ReplyStatus = ReplyStatus.OK
    code: str = ""
    detail: str = ""
    body: msgspec.Raw = msgspec.Raw(b"\xc0")
    node: str = ""
    service_s: float = 0.0


class Declined(Message, frozen=True, kw_only=True):
    """A device did not take a request on, so nothing has run. The cloud asks elsewhere, or answers."""

    caller: str
    correlation: str
    code: str
    detail: str


class QueryKind(StrEnum):
    """What an operator can read."""

    NODES = "nodes"
    NODE = "node"
    OVERVIEW = "overview"
    MODELS = "models"
    DEPLOYMENTS = "deployments"
    WHY = "why"
    STATUS = "status"
    JOBS = "jobs"
    JOB = "job"
    ROUNDS = "rounds"
    ROUND = "round"
    LEARNERS = "learners"
    RESIDENCY = "residency"
    AUDIT = "audit"
    PROOF = "proof"


class Query(Request, frozen=True, kw_only=True):
    """Read the cloud's view. ``key`` names the one thing where the kind asks for one.

    Long lists come in pages: ``after`` is the last id of the page before.
    """

    kind: QueryKind
    key: str = ""
    after: str = ""


class Upload(Request, frozen=True, kw_only=True):
    """One piece of a package on its way into the cloud's store; the last one commits it.

    ``digest``: SHA-256 (hex) of the whole; ``offset`` in bytes.
    """

    digest: str
    size_bytes: int
    offset: int
    data: bytes


class Deploy(Request, frozen=True, kw_only=True):
    """Put a model on the nodes that match. ``target``: ``all``, node ids, or ``label=value`` terms."""

    model: str
    target: str = "all"
    remove: bool = False


class NodeCommand(Request, frozen=True, kw_only=True):
    """Pass a command on to one node."""

    node: str
    verb: CommandVerb


# The cloud itself -----------------------------------------------------------------------------------


class CloudPresence(Message, frozen=True, kw_only=True):
    """Retained, and the cloud's will. ``term`` grows with every start of the cloud."""

    online: bool
    term: int
    version: str = ""
    at_unix_s: float = 0.0

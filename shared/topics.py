"""The platform's vocabulary: every topic, the message it carries, who may write it, how it travels.

If a message is not in this table, nobody sends it. Everything that must agree about topics
(subscriptions, the broker's access rules, ``docs/topics.md``) is derived from here.

Topics stand under the root ``shoal/1/{fleet}``; the bus adds and removes the root, so that addresses here
are relative. ``docs/topics.md`` is generated from this file.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from shared import audit
from shared import learning as fl
from shared import messages as m
from shared import sync as s
from shared import telemetry as tm
from shared.ids import checked_id, is_id

M = TypeVar("M", bound=m.Message)

PROTOCOL = "shoal/1"
CHUNK_BYTES = 96 * 1024  # AWS IoT refuses more than 128 KB; one chunk must not hold up control traffic.
KIB = 1024
MIB = 1024 * 1024


class Writer(StrEnum):
    """The only party that may publish on a topic. No topic has two writers."""

    DEVICE = "device"
    CLOUD = "cloud"
    APP = "app"


@dataclass(frozen=True, slots=True)
class Address(Generic[M]):
    """A concrete topic name that still knows what may be sent to it."""

    topic: "Topic[M]"
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Topic(Generic[M]):
    """A topic pattern with named holes, and the one message type it carries.

    ``expiry_s``: how long a broker keeps the message for a subscriber that is away (MQTT 5 message
    expiry); None: as long as the session, or for ever where retained. ``bytes_max``: a longer payload is
    refused before it is decoded.
    """

    pattern: str
    message: type[M]
    writer: Writer
    qos: int
    retain: bool = False
    expiry_s: int | None = None
    bytes_max: int = 64 * KIB
    note: str = ""
    reserved: frozenset[str] = frozenset()  # what may not stand in a hole: it belongs to another topic

    @property
    def filter(self) -> str:
        """The pattern as an MQTT subscription: every hole becomes ``+``."""
        return "/".join("+" if _is_hole(level) else level for level in self.pattern.split("/"))

    def filter_for(self, **ids: str) -> str:
        """The subscription with the given holes filled in, the rest ``+``."""
        return "/".join(
            checked_id(ids[level[1:-1]])
            if level[1:-1] in ids and _is_hole(level)
            else "+"
            if _is_hole(level)
            else level
            for level in self.pattern.split("/")
        )

    def at(self, **ids: str) -> Address[M]:
        """The address of this topic for these ids. Raises ``ValueError`` for an unusable id."""
        for what, value in ids.items():
            checked_id(value, what)
        return Address(self, self.pattern.format(**ids))

    def ids(self, name: str) -> dict[str, str] | None:
        """The ids in a concrete topic name, or None if it is not one of ours.

        What stands in a hole is an id: a stranger's ``app/Foo_Bar/...`` is nobody's topic.
        """
        ours, theirs = self.pattern.split("/"), name.split("/")
        if len(ours) != len(theirs):
            return None
        found = {}
        for level, value in zip(ours, theirs, strict=True):
            if _is_hole(level) and is_id(value) and value not in self.reserved:
                found[level[1:-1]] = value
            elif level != value:
                return None
        return found


def _is_hole(level: str) -> bool:
    return level.startswith("{")


def root(fleet: str) -> str:
    """The prefix of every topic of a fleet."""
    return f"{PROTOCOL}/{checked_id(fleet, 'fleet name')}"


_D, _C, _A = Writer.DEVICE, Writer.CLOUD, Writer.APP

PRESENCE = Topic(
    "node/{node}/up/presence",
    m.Presence,
    _D,
    qos=1,
    retain=True,
    bytes_max=4 * KIB,
    note="also the last will",
)
BIRTH = Topic(
    "node/{node}/up/birth",
    m.Birth,
    _D,
    qos=1,
    retain=True,
    bytes_max=16 * KIB,
    note="after SUBACK, and on request",
)
HEARTBEAT = Topic("node/{node}/up/heartbeat", m.Heartbeat, _D, qos=0, expiry_s=20, bytes_max=8 * KIB)
TELEMETRY = Topic(
    "node/{node}/up/telemetry/{stream}",
    m.TelemetryBatch,
    _D,
    qos=1,
    expiry_s=3600,
    bytes_max=256 * KIB,
    note="JSON is read too",
)
STREAMS = Topic(
    "node/{node}/up/streams",
    m.StreamsReport,
    _D,
    qos=1,
    expiry_s=3600,
    bytes_max=256 * KIB,
    note="what telemetry it holds, dropped or lost; repeated",
)
REPORTED = Topic(
    "node/{node}/up/reported/models", m.ReportedModels, _D, qos=1, retain=True, bytes_max=256 * KIB
)
WANT = Topic("node/{node}/up/want", m.Want, _D, qos=1, expiry_s=60)
REPLY = Topic(
    "node/{node}/up/reply/{caller}",
    m.Reply,
    _D,
    qos=1,
    expiry_s=60,
    bytes_max=MIB,
    note="caller and cloud both hear it, with no extra hop",
)
DECLINED = Topic(
    "node/{node}/up/declined",
    m.Declined,
    _D,
    qos=1,
    expiry_s=60,
    bytes_max=8 * KIB,
    note="to the balancer, which asks elsewhere or answers the caller",
)

LEARNER = Topic(
    "node/{node}/up/learner",
    fl.Learner,
    _D,
    qos=1,
    retain=True,
    bytes_max=16 * KIB,
    note="what it could contribute to federated learning",
)
UPDATE = Topic(
    "node/{node}/up/update/{job}/{round}",
    fl.UpdatePart,
    _D,
    qos=1,
    expiry_s=600,
    bytes_max=fl.PART_BYTES + 64 * KIB,
    note="a part; sent again until its receipt came",
)

SYNC_UP = Topic(
    "node/{node}/up/sync",
    s.SyncMessage,
    _D,
    qos=1,
    expiry_s=600,
    bytes_max=CHUNK_BYTES,
    note="push, ack, digest, tree, pull, offer, call: see docs/sync.md",
)
REPORTED_KEY = Topic(
    "node/{node}/up/reported/{key}",
    s.Setting,
    _D,
    qos=1,
    retain=True,
    bytes_max=CHUNK_BYTES,
    note="one key of configuration as it is on the device",
    reserved=frozenset({"models"}),
)

WITNESS = Topic(
    "node/{node}/up/witness",
    audit.Witness,
    _D,
    qos=1,
    retain=True,
    bytes_max=4 * KIB,
    note="the newest head of the audit log that it has checked",
)
DECISIONS = Topic(
    "node/{node}/up/decisions",
    audit.Decisions,
    _D,
    qos=1,
    expiry_s=3600,
    bytes_max=128 * KIB,
    note="what it decided about tagged data, for the audit log",
)

DESIRED = Topic(
    "node/{node}/down/desired/models", m.DesiredModels, _C, qos=1, retain=True, bytes_max=256 * KIB
)
INFER = Topic(
    "node/{node}/down/infer/{model}",
    m.InferCommand,
    _C,
    qos=1,
    expiry_s=60,
    bytes_max=MIB + KIB,
    note="expiry: the budget left",
)
ACK = Topic(
    "node/{node}/down/ack",
    m.TelemetryAck,
    _C,
    qos=1,
    expiry_s=60,
    note="telemetry that is durable, and how much may follow",
)
PLACE = Topic(
    "node/{node}/down/place",
    audit.PlaceFact,
    _C,
    qos=1,
    retain=True,
    bytes_max=4 * KIB,
    note="the region it was enrolled in",
)
PROOF = Topic(
    "node/{node}/down/proof",
    audit.Proof,
    _C,
    qos=1,
    expiry_s=60,
    bytes_max=8 * KIB,
    note="for a witness that is behind",
)
COMMAND = Topic("node/{node}/down/command/{verb}", m.Command, _C, qos=1, expiry_s=60, bytes_max=8 * KIB)
RECEIPT = Topic("node/{node}/down/receipt/{job}", fl.Receipt, _C, qos=1, expiry_s=600, bytes_max=4 * KIB)

SYNC_DOWN = Topic(
    "node/{node}/down/sync",
    s.SyncMessage,
    _C,
    qos=1,
    expiry_s=600,
    bytes_max=CHUNK_BYTES,
    note="push, ack, digest, tree, pull, offer, result",
)
DESIRED_KEY = Topic(
    "node/{node}/down/desired/{key}",
    s.Setting,
    _C,
    qos=1,
    retain=True,
    bytes_max=CHUNK_BYTES,
    note="one key of configuration as it should be",
    reserved=frozenset({"models"}),
)

MANIFEST = Topic("all/manifest/{artifact}", m.Manifest, _C, qos=1, retain=True, bytes_max=512 * KIB)
CHUNK = Topic("all/chunk/{artifact}/{index}", m.Chunk, _C, qos=1, expiry_s=60, bytes_max=CHUNK_BYTES + KIB)
CLOUD = Topic(
    "all/cloud", m.CloudPresence, _C, qos=1, retain=True, bytes_max=4 * KIB, note="also the cloud's will"
)
POLICY = Topic(
    "all/policy",
    audit.PolicyFact,
    _C,
    qos=1,
    retain=True,
    bytes_max=512 * KIB,
    note="what data may be where; signed",
)
AUDIT_HEAD = Topic(
    "all/audit", audit.HeadFact, _C, qos=1, retain=True, bytes_max=8 * KIB, note="head of the audit log"
)
ROUND = Topic(
    "all/round/{job}",
    fl.RoundFact,
    _C,
    qos=1,
    retain=True,
    bytes_max=512 * KIB,
    note="who is asked to train, from which model",
)
JOB = Topic(
    "all/job/{job}",
    fl.JobFact,
    _C,
    qos=1,
    retain=True,
    bytes_max=16 * KIB,
    note="how a job is doing, for dashboards",
)

APP_INFER = Topic("app/{app}/request/infer", m.InferAsk, _A, qos=1, expiry_s=60, bytes_max=MIB)
APP_QUERY = Topic("app/{app}/request/query", m.Query, _A, qos=1, expiry_s=60, bytes_max=8 * KIB)
APP_TELEMETRY = Topic(
    "app/{app}/request/telemetry", tm.TelemetryAsk, _A, qos=1, expiry_s=60, bytes_max=8 * KIB
)
APP_UPLOAD = Topic("app/{app}/request/upload", m.Upload, _A, qos=1, expiry_s=60, bytes_max=CHUNK_BYTES + KIB)
APP_DEPLOY = Topic("app/{app}/request/deploy", m.Deploy, _A, qos=1, expiry_s=60, bytes_max=64 * KIB)
APP_COMMAND = Topic("app/{app}/request/command", m.NodeCommand, _A, qos=1, expiry_s=60, bytes_max=8 * KIB)
APP_LEARN = Topic("app/{app}/request/learn", fl.LearnAsk, _A, qos=1, expiry_s=60, bytes_max=64 * KIB)
APP_LEARNER = Topic("app/{app}/request/learner", fl.LearnerAsk, _A, qos=1, expiry_s=60, bytes_max=16 * KIB)
APP_UPDATE = Topic(
    "app/{app}/request/update",
    fl.UpdateAsk,
    _A,
    qos=1,
    expiry_s=60,
    bytes_max=fl.PART_BYTES + 64 * KIB,
    note="for clients that cannot speak MQTT",
)
APP_SYNC = Topic(
    "app/{app}/request/sync",
    s.SyncAsk,
    _A,
    qos=1,
    expiry_s=60,
    bytes_max=CHUNK_BYTES,
    note="replicated keys: put, get, status, conflicts",
)
APP_REPLY = Topic(
    "app/{app}/reply", m.Reply, _C, qos=1, expiry_s=60, bytes_max=MIB, note="answers that no device gives"
)

ALL: tuple[Topic[Any], ...] = (
    PRESENCE,
    BIRTH,
    HEARTBEAT,
    TELEMETRY,
    STREAMS,
    REPORTED,
    WANT,
    REPLY,
    DECLINED,
    LEARNER,
    UPDATE,
    SYNC_UP,
    REPORTED_KEY,
    WITNESS,
    DECISIONS,
    DESIRED,
    SYNC_DOWN,
    DESIRED_KEY,
    INFER,
    ACK,
    PLACE,
    PROOF,
    COMMAND,
    RECEIPT,
    MANIFEST,
    CHUNK,
    CLOUD,
    POLICY,
    AUDIT_HEAD,
    ROUND,
    JOB,
    APP_INFER,
    APP_QUERY,
    APP_TELEMETRY,
    APP_UPLOAD,
    APP_DEPLOY,
    APP_COMMAND,
    APP_LEARN,
    APP_LEARNER,
    APP_UPDATE,
    APP_SYNC,
    APP_REPLY,
)


def find(name: str) -> tuple[Topic[Any], dict[str, str]] | None:
    """The topic that a relative name belongs to, and the ids in it."""
    for topic in ALL:
        ids = topic.ids(name)
        if ids is not None:
            return topic, ids
    return None

"""The audit log's records, and what cloud and devices tell each other about residency.

A record says who decided what about which data, and never holds any of the data. Its canonical form is one
line of JSON with the fields in the order below: the same record is always the same bytes.
"""

from enum import StrEnum

import msgspec

from shared.messages import Message
from shared.residency import Action, Place, PolicyText, Why
from shared.tags import Tag
from shared.transparency import Head

PLACES_MAX = 20_000  # of one record
REPORTED_MAX = 64  # decisions of a device in one message


class Point(StrEnum):
    """Where in a payload's life the decision was made, or what else was written down."""

    SELECT = "select"  # which nodes may have it, before anything is sent
    PUBLISH = "publish"  # just before it goes to the broker
    RECEIVE = "receive"  # by the device that it reached
    WITHDRAW = "withdraw"  # a retained message that a newer policy does not allow
    POLICY = "policy"  # a policy came into force
    ENROL = "enrol"  # a node's region became another
    ALARM = "alarm"  # a witness saw another history


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The places that got the same answer for the same reason. ``view``: of which reduced form."""

    allow: bool
    why: Why
    rule: str = ""
    view: str = ""
    places: tuple[Place, ...] = ()


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry. ``index``: its place in the log; ``by``: the cloud, or the device that says so;
    ``task``: what belongs together; ``tag`` None: the data had none."""

    index: int = 0
    at_unix_s: float
    point: Point
    by: str = "cloud"
    task: str = ""
    policy: int = 0
    action: Action | None = None
    tag: Tag | None = None
    outcomes: tuple[Outcome, ...] = ()
    detail: str = ""


_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(Record)


def record_bytes(record: Record) -> bytes:
    """The canonical form; no newline in it."""
    return _encoder.encode(record)


def record_of(line: bytes) -> Record:
    """The other way. Raises ``msgspec.MsgspecError`` or ``UnicodeDecodeError``."""
    return _decoder.decode(line)


# What is said on the bus ----------------------------------------------------------------------------


class PolicyFact(Message, frozen=True, kw_only=True):
    """Retained: the policy in force and the cloud's own region. ``signature``: Ed25519 by the cloud."""

    policy: PolicyText
    cloud_region: str = ""
    signature: bytes = b""


class PlaceFact(Message, frozen=True, kw_only=True):
    """Retained: where this node was enrolled. ``serial`` only grows; a node believes no older one."""

    region: str
    serial: int
    signature: bytes = b""


class HeadFact(Message, frozen=True, kw_only=True):
    """Retained: the newest head, and how it follows from the one before (``previous_size`` records)."""

    head: Head
    previous_size: int = 0
    path: tuple[bytes, ...] = ()


class Witness(Message, frozen=True, kw_only=True):
    """Retained: the newest head that a device has checked and keeps.

    ``behind``: it saw a newer one that does not follow from what it was shown, and asks for a proof up to
    ``wants`` records. ``forked``: a genuine head that can't follow from its own, the evidence itself.
    """

    head: Head | None = None
    wants: int = 0
    forked: Head | None = None


class Proof(Message, frozen=True, kw_only=True):
    """The answer to a witness that is behind: ``head`` follows from the tree of ``old`` records."""

    head: Head
    old: int
    path: tuple[bytes, ...]


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """One decision of a device about what reached it, or what it wanted to send."""

    at_unix_s: float
    point: Point
    action: Action
    tag: Tag | None
    allow: bool
    why: Why
    rule: str = ""
    policy: int = 0


class Decisions(Message, frozen=True, kw_only=True):
    """Decisions of one boot of a device for the cloud's log. ``lost``: how many it could not keep, so far."""

    epoch: int
    first: int
    decided: tuple[Decided, ...]
    lost: int = 0


def signed_policy_bytes(fact: PolicyFact) -> bytes:
    """What the signature of a policy is over."""
    return b"shoal policy 1\n" + _encoder.encode([fact.policy, fact.cloud_region])


def signed_place_bytes(node: str, fact: PlaceFact) -> bytes:
    """What the signature of a place is over: it holds for this node only."""
    return b"shoal place 1\n" + _encoder.encode([node, fact.region, fact.serial])

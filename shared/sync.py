"""What cloud and device say to each other about replicated keys, and what applications ask.

    cloud                                           device
      │ <────────────── Digest ─────────────────────  │   on every connect, and periodically
      │ ── Push (entries that its vector lacks) ───>  │   saved, then Ack
      │ ── Digest (answer) ────────────────────────>  │   ── Push (what the cloud lacks) ──> saved, then Ack
      │ <───────────── Tree ──────────────────────>   │   only where the vectors agree and the roots do not
      │ ── Offer (HYBRID: name, print, size) ──────>  │   Pull (names) ──> Push
      │ <───────────── Call ────────────────────────  │   a STRONG write or read goes through the cloud
      │ ── Result ─────────────────────────────────>  │

An Ack is given after the receiver's own disk has it. Everything is idempotent: pushes merge, and calls carry
an operation id (origin, epoch, sequence) that the cloud remembers.
"""

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import ClassVar, Protocol

import msgspec

from shared.messages import Message, Request
from shared.versions import DESIRED_PREFIX, REPORTED_PREFIX, Entry, Mark, Vector

VALUE_BYTES_MAX = 64 * 1024  # what is larger travels as an artifact, by its digest
PUSH_BYTES_MAX = 88 * 1024  # the entries of one push: one chunk with its envelope
ENTRY_BYTES_MAX = 80 * 1024  # a value, and what is known about it
PUSH_ENTRIES_MAX = 256
NAMES_MAX = 512
NAMES_BYTES_MAX = 48 * 1024
TAG_BYTES_MAX = 2 * 1024
DETAIL_CHARS_MAX = 100
ORIGINS_MAX = 1024
TARGETS_MAX = 1000

_KEY = re.compile(r"[a-z0-9][a-z0-9._/-]{0,199}")
_RESERVED = (DESIRED_PREFIX, REPORTED_PREFIX, "model/")


class SyncStrategy(StrEnum):
    """Who moves the data, and when."""

    PUSH = "push"  # the cloud sends, a few changes together
    PULL = "pull"  # the device compares on its schedule and fetches what differs
    HYBRID = "hybrid"  # the cloud announces, the device fetches the payload
    EVENT_DRIVEN = "event-driven"  # a change on either side is sent at once


class ConsistencyLevel(StrEnum):
    """What a write waits for, what a read sees, what happens to writes that meet. See docs/sync.md."""

    STRONG = "strong"
    EVENTUAL = "eventual"
    WEAK = "weak"


LEVEL_ORDER = (ConsistencyLevel.WEAK, ConsistencyLevel.EVENTUAL, ConsistencyLevel.STRONG)


class Required(StrEnum):
    """How many of the targets must have a STRONG write on their disks before it is a success."""

    ALL = "all"
    MAJORITY = "majority"

    def of(self, targets: int) -> int:
        """The number, of so many; a key without targets is only the cloud's own."""
        return targets if self is Required.ALL else min(targets, targets // 2 + 1)


def is_key(name: str) -> bool:
    """Whether an application may call a value so: 1 to 200 of ``a-z 0-9 . _ / -``, and not reserved."""
    return _KEY.fullmatch(name) is not None and not name.startswith(_RESERVED)


def is_name(name: str) -> bool:
    """Whether an entry can be called so: a key, ``desired/{node}/{key}`` or ``reported/{node}/{key}``."""
    return _KEY.fullmatch(name) is not None and not name.startswith("model/")


def fitting(names: Iterable[str]) -> tuple[str, ...]:
    """As many of these as one message holds; what can't be a name is left out."""
    found: list[str] = []
    room = NAMES_BYTES_MAX
    for name in names:
        room -= len(name) + 8
        if room < 0 or len(found) >= NAMES_MAX:
            break
        if is_name(name):
            found.append(name)
    return tuple(found)


def desired_name(node: str, key: str) -> str:
    """The entry behind ``node/{node}/down/desired/{key}``."""
    return f"{DESIRED_PREFIX}{node}/{key}"


def reported_name(node: str, key: str) -> str:
    """The entry behind ``node/{node}/up/reported/{key}``."""
    return f"{REPORTED_PREFIX}{node}/{key}"


def setting_of(name: str) -> tuple[str, str, str] | None:
    """``desired/n1/rate`` -> ("desired", "n1", "rate"); None for data."""
    kind, _, rest = name.partition("/")
    node, _, key = rest.partition("/")
    return (kind, node, key) if name.startswith((DESIRED_PREFIX, REPORTED_PREFIX)) and key else None


# Between cloud and device ---------------------------------------------------------------------------


class Push(msgspec.Struct, frozen=True, tag="push"):
    """Entries, to be merged and acknowledged by ``number``. 0: nobody waits for an acknowledgement (WEAK).

    ``tags``: packed residency tags, of the entries that have one.
    """

    number: int
    entries: tuple[Entry, ...]
    tags: dict[str, bytes] = {}


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """An entry that the receiver did not take. ``code``: why, for programs."""

    name: str
    code: str
    detail: str = ""


class Ack(msgspec.Struct, frozen=True, tag="ack"):
    """Push ``number`` is on the disk here, apart from what was refused. ``stamp``: the sender's clock.

    ``pull``: of an offer, what is not here and should be pushed.
    """

    number: int
    refused: tuple[Refusal, ...] = ()
    pull: tuple[str, ...] = ()
    stamp: int = 0


class Digest(msgspec.Struct, frozen=True, tag="digest"):
    """What the sender holds of the keys that both share.

    ``asking``: the other is to answer with its own. ``cleared``: the newest round of forgotten tombstones
    that the sender knows of. ``reset`` (cloud only): what this device had acknowledged is to be dropped and
    fetched anew, for tombstones were forgotten that it has never seen.
    """

    vector: Vector
    root: bytes
    count: int
    asking: bool = True
    stamp: int = 0
    cleared: int = 0
    reset: bool = False


class Branch(msgspec.Struct, frozen=True, array_like=True):
    """The hashes of the sixteen children of one node of the tree."""

    prefix: str
    children: tuple[bytes, ...]


class Leaf(msgspec.Struct, frozen=True, array_like=True):
    """Every key below one node of the tree, with its fingerprint."""

    prefix: str
    prints: dict[str, bytes]


class Walk(msgspec.Struct, frozen=True, tag="tree"):
    """A step of the comparison of two Merkle trees."""

    branches: tuple[Branch, ...] = ()
    leaves: tuple[Leaf, ...] = ()


class Pull(msgspec.Struct, frozen=True, tag="pull"):
    """Please push these."""

    names: tuple[str, ...]


class Offered(msgspec.Struct, frozen=True, array_like=True):
    """One entry that could be pulled."""

    name: str
    print: bytes
    size_bytes: int


class Offer(msgspec.Struct, frozen=True, tag="offer"):
    """There is something newer. Whoever holds the same already acknowledges ``number``; others pull."""

    number: int
    entries: tuple[Offered, ...]


class Operation(msgspec.Struct, frozen=True, array_like=True):
    """Names one write for ever: whoever repeats it gets the first result."""

    origin: str
    epoch: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.origin}.{self.epoch}.{self.sequence}"


class Call(msgspec.Struct, frozen=True, tag="call"):
    """A STRONG write or read of a device. ``sequence``: of this boot; ``value``: packed, None to read.

    ``expected``: the revision that the writer saw; -1: whatever it is.
    """

    sequence: int
    name: str
    budget_s: float
    value: bytes | None = None
    erase: bool = False
    expected: int = -1
    required: Required = Required.MAJORITY


class Status(StrEnum):
    """How an operation ended. INDETERMINATE: nobody knows; it may land later, and exactly once."""

    OK = "ok"
    CONFLICT = "conflict"
    REFUSED = "refused"
    INDETERMINATE = "indeterminate"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one operation. ``revision``: of the key, after it (OK) or as it is (CONFLICT).

    ``value``: packed; None: there is none.
    """

    status: Status
    revision: int = 0
    value: bytes | None = None
    code: str = ""
    detail: str = ""


class Result(msgspec.Struct, frozen=True, tag="result"):
    """Answers :class:`Call`. ``name``: of the key whose value it tells, with its residency ``tag``."""

    sequence: int
    outcome: Outcome
    name: str = ""
    tag: bytes = b""


Part = Push | Ack | Digest | Walk | Pull | Offer | Call | Result


class SyncMessage(Message, frozen=True, kw_only=True):
    """``life``: the term of the cloud or the epoch of the device that speaks; an older one is not heard.

    ``to``: the life of the other that is spoken to; an acknowledgement or a result for an earlier one, whose
    numbers were the same, is not heard either. 0: whoever it is.
    """

    DEFLATES: ClassVar[bool] = True

    life: int
    part: Part
    to: int = 0


class Setting(Message, frozen=True, kw_only=True):
    """One key of configuration, desired or reported: a fact. ``number``: acknowledged as a push."""

    DEFLATES: ClassVar[bool] = True

    life: int
    number: int
    entry: Entry
    tag: bytes = b""


# From applications ----------------------------------------------------------------------------------


class SyncVerb(StrEnum):
    """What an application can ask."""

    PUT = "put"
    ERASE = "erase"
    GET = "get"
    LIST = "list"
    MODEL = "model"
    STATUS = "status"
    TASKS = "tasks"
    CONFLICTS = "conflicts"


class SyncAsk(Request, frozen=True, kw_only=True):
    """One request about replicated keys. ``key``: a key, a task's id, or a model's name, as the verb wants.

    ``operation``: (epoch, sequence) that name a write for ever; (0, 0): made up from the correlation, so
    that only the same request is recognised. ``wait``: answer an EVENTUAL write when all targets have it.
    """

    verb: SyncVerb
    key: str = ""
    value: bytes = b""
    targets: tuple[str, ...] = ()
    strategy: SyncStrategy | None = None
    level: ConsistencyLevel | None = None
    required: Required = Required.ALL
    expected: int = -1
    priority: int = 5
    operation: Mark = (0, 0)
    setting: str = ""  # "desired" or "reported": ``key`` is one of configuration, of each target
    tag: bytes = b""  # a packed residency tag
    after: str = ""


# May it go there? -----------------------------------------------------------------------------------


class Decision(msgspec.Struct, frozen=True):
    """``reason`` is for people and for the audit log."""

    allowed: bool
    reason: str = ""


class Gate(Protocol):
    """Whether the entry ``name`` may be moved to ``node``: pure and quick, for cores call it.

    ``tag``: the residency tag that its writer gave, packed; empty: none. ``action``: :data:`SELECT` (may the
    node be a target?), :data:`PUBLISH` (just before it is sent) or :data:`RECEIVE` (at the receiver).
    """

    def allowed(self, node: str, name: str, tag: bytes, action: str) -> Decision:
        """The decision, with its reason."""
        ...


SELECT, PUBLISH, RECEIVE = "select", "publish", "receive"
UNDECIDED = "no-policy"  # the reason of a gate that does not know the policy yet: ask again later


class OpenGate:
    """Everything may go everywhere: a platform without a policy."""

    def allowed(self, node: str, name: str, tag: bytes, action: str) -> Decision:  # noqa: ARG002
        """Yes."""
        return Decision(True, "no policy")

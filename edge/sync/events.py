"""What the device's sync core hears (past tense) and what it wants done (imperative)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.core import Effect, Failed, LinkDown, LinkUp, Tick, Work
from shared.messages import CloudPresence
from shared.sync import ConsistencyLevel, Outcome, Required, Setting, SyncMessage, SyncStrategy
from shared.versions import Entry


@dataclass(frozen=True, slots=True)
class Restored:
    """The device woke up with this on its disk. ``dirty``: what the cloud had not acknowledged."""

    entries: tuple[Entry, ...] = field(default=(), repr=False)
    dirty: frozenset[str] = frozenset()
    term: int = 0
    cleared: int = 0


@dataclass(frozen=True, slots=True)
class PutAsked:
    """A program on this device writes. ``fields`` empty: erase. ``ref``: who is answered.

    ``expected`` (STRONG): the revision that it saw; -1: whatever it is.
    """

    ref: int
    name: str
    fields: Mapping[str, bytes] = field(repr=False)
    unix_ms: int
    level: ConsistencyLevel | None = None
    strategy: SyncStrategy | None = None
    required: Required = Required.MAJORITY
    expected: int = -1
    budget_s: float = 10.0


@dataclass(frozen=True, slots=True)
class ReadAsked:
    """A program on this device wants to know what a STRONG key is now; others it may read at once."""

    ref: int
    name: str
    budget_s: float = 10.0


@dataclass(frozen=True, slots=True)
class MessageHeard:
    """The cloud speaks on the device's sync topic. ``unix_ms``: the wall clock here."""

    message: SyncMessage
    unix_ms: int


@dataclass(frozen=True, slots=True)
class DesiredHeard:
    """The cloud says what one key of the configuration should be."""

    key: str
    setting: Setting
    unix_ms: int


@dataclass(frozen=True, slots=True)
class CloudSeen:
    """Whether there is a cloud, and of which term."""

    presence: CloudPresence


@dataclass(frozen=True, slots=True)
class Saved:
    """The :class:`Save` under way is durable."""


Event = (
    Restored
    | PutAsked
    | ReadAsked
    | MessageHeard
    | DesiredHeard
    | CloudSeen
    | Saved
    | Failed
    | Tick
    | LinkUp
    | LinkDown
)


@dataclass(frozen=True, slots=True)
class Save(Work):
    """Make all of it durable together. Answer: :class:`Saved`.

    ``dirty``: of ``entries``, those that the cloud has yet to acknowledge; ``clean``: it has these now.
    """

    entries: tuple[Entry, ...] = field(default=(), repr=False)
    dirty: frozenset[str] = frozenset()
    clean: frozenset[str] = frozenset()
    forgotten: tuple[str, ...] = ()
    term: int = 0
    cleared: int = 0


@dataclass(frozen=True, slots=True)
class Answer(Effect):
    """The result of :class:`PutAsked` or :class:`ReadAsked`."""

    ref: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Changed(Effect):
    """This key has a new value, durably (WEAK: not durably)."""

    name: str

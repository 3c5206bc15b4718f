"""What the residency core hears (past tense) and wants done (imperative)."""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.audit import Decisions, HeadFact, Proof, Record, Witness
from shared.core import Effect, Failed, LinkDown, LinkUp, Tick, Work
from shared.residency import PolicyText


@dataclass(frozen=True, slots=True)
class PolicyRead:
    """The operator's policy, as it is in its file now. ``at_unix_s``: the wall clock."""

    text: PolicyText
    at_unix_s: float


@dataclass(frozen=True, slots=True)
class PlacesRead:
    """Node -> region of every node that was enrolled somewhere."""

    regions: Mapping[str, str]
    at_unix_s: float


@dataclass(frozen=True, slots=True)
class Noted:
    """A decision was made. ``ticket``: who waits until it is durable; 0: nobody."""

    record: Record
    ticket: int = 0


@dataclass(frozen=True, slots=True)
class DecisionsHeard:
    """A device tells what it decided."""

    node: str
    decisions: Decisions


@dataclass(frozen=True, slots=True)
class WitnessHeard:
    """A device tells which head it holds."""

    node: str
    witness: Witness
    at_unix_s: float


@dataclass(frozen=True, slots=True)
class Appended:
    """The :class:`Append` under way is durable; the log has ``size`` records."""

    size: int


@dataclass(frozen=True, slots=True)
class Signed:
    """The :class:`Sign` under way is durable."""

    fact: HeadFact


@dataclass(frozen=True, slots=True)
class Proved:
    """What a witness asked for."""

    node: str
    proof: Proof


Event = (
    PolicyRead
    | PlacesRead
    | Noted
    | DecisionsHeard
    | WitnessHeard
    | Appended
    | Signed
    | Proved
    | Failed
    | LinkUp
    | LinkDown
    | Tick
)


@dataclass(frozen=True, slots=True)
class Append(Work):
    """Make these records durable, in order. Answer: :class:`Appended`."""

    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Sign(Work):
    """Sign a head over everything. Answer: :class:`Signed`."""


@dataclass(frozen=True, slots=True)
class Prove(Work):
    """Show that the newest head follows from the tree of ``old`` records. Answer: :class:`Proved`."""

    node: str
    old: int


@dataclass(frozen=True, slots=True)
class Release(Effect):
    """The records of these tickets are durable: what waited for them may happen."""

    tickets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reconsider(Effect):
    """Another policy or another place: what is retained at the broker may have to go."""


@dataclass(frozen=True, slots=True)
class AnnouncePolicy(Effect):
    """Sign and publish the policy in force."""

    text: PolicyText


@dataclass(frozen=True, slots=True)
class AnnouncePlace(Effect):
    """Sign and publish where a node was enrolled."""

    node: str
    region: str


@dataclass(frozen=True, slots=True)
class Alarm(Effect):
    """For people, at once: somebody changed the log, or tried to."""

    what: str

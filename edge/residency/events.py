"""What the device's residency core hears (past tense) and wants done (imperative)."""

from dataclasses import dataclass

import msgspec

from shared.audit import Decided, HeadFact, PlaceFact, PolicyFact, Proof
from shared.core import Effect, LinkDown, LinkUp, Tick
from shared.transparency import Head


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What survives a power cut: the newest policy and place that were believed, and the witnessed head."""

    policy: PolicyFact | None = None
    place: PlaceFact | None = None
    head: Head | None = None
    forked: Head | None = None


@dataclass(frozen=True, slots=True)
class PolicyHeard:
    """The cloud says which policy is in force."""

    fact: PolicyFact


@dataclass(frozen=True, slots=True)
class PlaceHeard:
    """The cloud says where this device is."""

    fact: PlaceFact


@dataclass(frozen=True, slots=True)
class HeadHeard:
    """The cloud shows the newest head of its audit log."""

    fact: HeadFact


@dataclass(frozen=True, slots=True)
class ProofHeard:
    """The cloud shows that a head follows from the one this device holds."""

    proof: Proof


@dataclass(frozen=True, slots=True)
class DecisionMade:
    """This device decided about data that reached it, or that it wanted to send."""

    decided: Decided


Event = PolicyHeard | PlaceHeard | HeadHeard | ProofHeard | DecisionMade | LinkUp | LinkDown | Tick


@dataclass(frozen=True, slots=True)
class Remember(Effect):
    """Keep this over a power cut."""

    kept: Kept


@dataclass(frozen=True, slots=True)
class Suspect(Effect):
    """For people: what the cloud says does not fit together."""

    what: str

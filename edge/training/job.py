"""One job on this device: how far its round is.

    DONE ──a round asks──> FETCHING ──all is here──> OPENING ──checked──> READY ──room, policy──> TRAINING
      ^                                                                                              │
      └───────── a receipt, or the outbox gave it up ───────── SENDING <──────── in the outbox ──────┘
      any of them ──cancelled, a newer round, the deadline──> DONE or FETCHING

Every phase but the last two has the round's deadline; SENDING has the outbox's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from shared.errors import InvalidTransition
from shared.learning import ModelRef, RoundFact, TrainingPlan

VERSIONS_KEPT = 2


class Phase(StrEnum):
    """Of a job on this device."""

    FETCHING = "fetching"
    OPENING = "opening"
    READY = "ready"
    TRAINING = "training"
    SENDING = "sending"
    DONE = "done"


NEXT: Mapping[Phase, frozenset[Phase]] = {
    Phase.DONE: frozenset({Phase.FETCHING}),
    Phase.FETCHING: frozenset({Phase.OPENING, Phase.READY, Phase.FETCHING, Phase.DONE}),
    Phase.OPENING: frozenset({Phase.READY, Phase.FETCHING, Phase.DONE}),  # FETCHING: the delta was of no use
    Phase.READY: frozenset({Phase.TRAINING, Phase.FETCHING, Phase.DONE}),
    Phase.TRAINING: frozenset({Phase.SENDING, Phase.FETCHING, Phase.DONE}),
    Phase.SENDING: frozenset({Phase.DONE, Phase.FETCHING}),
}


@dataclass(slots=True)
class Ask:
    """What a round wants of this device. ``number``: unique in this process, names its pieces of work.

    ``delta_failed``: the difference to the version held was of no use; the snapshot is wanted.
    """

    number: int
    identity: str
    fact: RoundFact
    model: ModelRef
    plan: TrainingPlan
    deadline: float
    delta_failed: bool = False


def identity_of(fact: RoundFact) -> str:
    """The same for a fact that is only sent again, by whichever process of the coordinator."""
    check = fact.model.check[:16] if fact.model else ""
    return f"{fact.round}/{fact.task}/{check}/{fact.seed}"


@dataclass(slots=True)
class Job:
    """``versions``: version -> check of the vectors on the disk, the one opened last at the end."""

    name: str
    phase: Phase = Phase.DONE
    order: tuple[int, int] = (-1, -1)  # term and round of the newest fact
    ask: Ask | None = None
    later: tuple[RoundFact, float] | None = None  # asked while at work on an older version, and its deadline
    done: str = ""
    detail: str = ""
    heard_at: float = 0.0
    versions: dict[int, str] = field(default_factory=dict)

    @property
    def active(self) -> Ask | None:
        """What is being answered, up to the moment when the update is in the outbox."""
        return None if self.phase in (Phase.DONE, Phase.SENDING) else self.ask

    @property
    def deadline(self) -> float:
        """Of the phase; infinite where something else keeps one."""
        return self.active.deadline if self.active else inf

    def enter(self, phase: Phase, detail: str = "") -> None:
        """Go on. Raises :class:`InvalidTransition` where the table does not allow it."""
        if phase not in NEXT[self.phase]:
            raise InvalidTransition(f"training {self.name}: {self.phase} -> {phase}")
        self.phase, self.detail = phase, detail

    def missing(self) -> tuple[str, int] | None:
        """The artifact that the model is made from, and the version that it is added to (-1: none).

        None: the version is held already. An empty digest: there is no way to get it.
        """
        assert self.ask is not None
        model = self.ask.model
        if self.versions.get(model.version) == model.check:
            return None
        if model.delta and model.base in self.versions and not self.ask.delta_failed:
            return model.delta, model.base
        return model.snapshot, -1

    def opened(self) -> list[int]:
        """The version asked for is held now; gives those that go."""
        assert self.ask is not None
        model = self.ask.model
        self.versions.pop(model.version, None)
        self.versions[model.version] = model.check
        gone = list(self.versions)[:-VERSIONS_KEPT]
        for version in gone:
            del self.versions[version]
        return gone

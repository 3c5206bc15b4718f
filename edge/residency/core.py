"""Believes the cloud's policy and its own place only when signed, and keeps a head of the cloud's audit log.

    policy ─┐                                     head ──follows from mine?──yes──> mine
    place  ─┴─> decisions ──reported──> cloud          └──can't tell──> witness: "I lack a proof"
                                                       └──no──> witness: "forked", with both heads

Until the device was told a policy and its place, nothing that is asked for is allowed: it was enrolled by
somebody, and will hear of it. What it believed survives a power cut, so an old policy that is said again (by
a broker that was restored, or by somebody who would like it back) is not believed.

A head that does not follow from the one we hold is not taken over: ours is the evidence. It stays so until
somebody wipes the device's memory of it, because a log that was lost and one that was cut look the same.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from edge.residency.events import (
    DecisionMade,
    Event,
    HeadHeard,
    Kept,
    PlaceHeard,
    PolicyHeard,
    ProofHeard,
    Remember,
    Suspect,
)
from shared.audit import REPORTED_MAX, Decided, Decisions, HeadFact, PlaceFact, PolicyFact, Witness
from shared.core import Effect, Ignore, LinkDown, LinkUp, Publish, Tick
from shared.residency import OPEN, Place, Policy, ready
from shared.topics import DECISIONS, WITNESS
from shared.transparency import Head, consistent

UNTOLD_MAX = 512
KEEP_EVERY_S = 60.0  # a busy log signs every few seconds, and each write of the store costs flash
TELL_EVERY_S = 600.0
ASK_AGAIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Signatures:
    """Whether the cloud signed it. ``place``: for this node."""

    policy: Callable[[PolicyFact], bool]
    place: Callable[[PlaceFact], bool]
    head: Callable[[Head], bool]


@dataclass(slots=True)
class Residency:
    """One per device and boot. ``policy`` None: nobody told one yet."""

    node: str
    epoch: int
    genuine: Signatures
    kept: Kept = field(default_factory=Kept)
    policy: Policy | None = None
    linked: bool = False
    untold: deque[Decided] = field(default_factory=deque)
    told: int = 0
    lost: int = 0
    wants: int = 0
    asked_at: float | None = None
    told_at: float | None = None
    kept_at: float | None = None
    unkept: bool = False

    def __post_init__(self) -> None:
        if self.kept.policy is not None:
            self.policy = ready(self.kept.policy.policy)

    @property
    def place(self) -> Place:
        """Where this device is; nowhere until it was told."""
        return Place(self.node, self.kept.place.region if self.kept.place else "")

    @property
    def cloud(self) -> Place:
        """Where the cloud is, as the cloud said."""
        return Place("@", self.kept.policy.cloud_region if self.kept.policy else "")

    def step(self, event: Event, now: float) -> list[Effect]:
        """See :class:`shared.core.Core`."""
        return _HANDLERS[type(event)](self, event, now)

    # Policy and place -------------------------------------------------------------------------------

    def _policy(self, event: PolicyHeard, now: float) -> list[Effect]:
        fact, known = event.fact, self.kept.policy
        if not self.genuine.policy(fact):
            return [Suspect("a policy without the cloud's signature")]
        if known is not None and fact.policy.version < known.policy.version:
            return [Ignore(f"policy {fact.policy.version} is older than {known.policy.version}")]
        if fact == known:
            return []
        self.policy = ready(fact.policy)
        return self._keep(now, at_once=True, policy=fact)

    def _place(self, event: PlaceHeard, now: float) -> list[Effect]:
        fact, known = event.fact, self.kept.place
        if not self.genuine.place(fact):
            return [Suspect("a place without the cloud's signature")]
        if known is not None and fact.serial < known.serial:
            return [Ignore("an older place")]
        if known is not None and fact.region == known.region:
            return []
        return self._keep(now, at_once=True, place=fact)

    def _keep(self, now: float, *, at_once: bool, **changes: Any) -> list[Effect]:
        self.kept = msgspec.structs.replace(self.kept, **changes)
        self.unkept = True
        if not at_once and self.kept_at is not None and now - self.kept_at < KEEP_EVERY_S:
            return []
        self.kept_at, self.unkept = now, False
        return [Remember(self.kept)]

    # The witness ------------------------------------------------------------------------------------

    def _head(self, event: HeadHeard, now: float) -> list[Effect]:
        fact, mine = event.fact, self.kept.head
        if not self.genuine.head(fact.head):
            return [Suspect("a head without the cloud's signature")]
        if mine is None:
            return self._adopt(fact.head, now) + self._tell(now)
        if fact.head.log != mine.log or (fact.head.size == mine.size and fact.head.root != mine.root):
            return self._forked(fact.head, now)
        if fact.head.size <= mine.size:
            return self._behind_us(fact.head, mine, now)
        if fact.previous_size == mine.size and _follows(mine, fact):
            return self._adopt(fact.head, now)
        self.wants = max(self.wants, fact.head.size)
        return self._ask(now)

    def _behind_us(self, head: Head, mine: Head, now: float) -> list[Effect]:
        """Late, or cut back: the cloud can tell when it sees ours."""
        if head.size == mine.size:
            return self._adopt(head, now) if head.number > mine.number else []
        return self._tell(now) if self._is_due(self.told_at, ASK_AGAIN_S, now) else []

    def _proof(self, event: ProofHeard, now: float) -> list[Effect]:
        proof, mine = event.proof, self.kept.head
        if mine is None or proof.old != mine.size or proof.head.size <= mine.size:
            return [Ignore("a proof that nobody needs")]
        if not self.genuine.head(proof.head):
            return [Suspect("a proof for a head without the cloud's signature")]
        if proof.head.log != mine.log or not consistent(
            mine.size, mine.root, proof.head.size, proof.head.root, proof.path
        ):
            return self._forked(proof.head, now)
        return self._adopt(proof.head, now) + self._tell(now)

    def _adopt(self, head: Head, now: float) -> list[Effect]:
        if head.size >= self.wants:
            self.wants, self.asked_at = 0, None
        first = self.kept.head is None
        return self._keep(now, at_once=first, head=head)

    def _forked(self, head: Head, now: float) -> list[Effect]:
        if self.kept.forked is not None:
            return [Ignore(f"head {head.number} does not follow from ours either")]
        what = f"head {head.number} of the audit log does not follow from the one this device holds"
        return [Suspect(what), *self._keep(now, at_once=True, forked=head), *self._tell(now)]

    def _ask(self, now: float) -> list[Effect]:
        if not self._is_due(self.asked_at, ASK_AGAIN_S, now):
            return []
        self.asked_at = now
        return self._tell(now)

    def _tell(self, now: float) -> list[Effect]:
        if not self.linked or self.kept.head is None:
            return []
        self.told_at = now
        witness = Witness(head=self.kept.head, wants=self.wants, forked=self.kept.forked)
        return [Publish(WITNESS.at(node=self.node), witness)]

    @staticmethod
    def _is_due(last: float | None, every_s: float, now: float) -> bool:
        return last is None or now - last >= every_s

    # Decisions --------------------------------------------------------------------------------------

    def _decided(self, event: DecisionMade, _: float) -> list[Effect]:
        """At the bound the oldest is lost, and counted."""
        if event.decided.allow and event.decided.policy == OPEN.version:
            return []  # where no policy was written, only what was refused is news
        if len(self.untold) >= UNTOLD_MAX:
            self.untold.popleft()
            self.told += 1
            self.lost += 1
        self.untold.append(event.decided)
        return []

    def _report(self) -> list[Effect]:
        if not self.linked or not self.untold:
            return []
        count = min(REPORTED_MAX, len(self.untold))
        first, self.told = self.told, self.told + count
        report = Decisions(
            epoch=self.epoch,
            first=first,
            decided=tuple(self.untold.popleft() for _ in range(count)),
            lost=self.lost,
        )
        return [Publish(DECISIONS.at(node=self.node), report)]

    # Time and the link ------------------------------------------------------------------------------

    def _link_up(self, _: LinkUp, now: float) -> list[Effect]:
        self.linked, self.asked_at = True, None
        return self._tell(now)

    def _link_down(self, _: LinkDown, __: float) -> list[Effect]:
        self.linked = False
        return []

    def _tick(self, _: Tick, now: float) -> list[Effect]:
        effects = self._report()
        if self.wants:
            effects += self._ask(now)
        if self.linked and self.told_at is not None and now - self.told_at >= TELL_EVERY_S:
            effects += self._tell(now)
        if self.unkept and self._is_due(self.kept_at, KEEP_EVERY_S, now):
            effects += self._keep(now, at_once=True)
        return effects

    def check(self) -> None:
        """Invariants."""
        assert len(self.untold) <= UNTOLD_MAX
        assert self.wants == 0 or (self.kept.head is not None and self.kept.head.size < self.wants)
        assert (self.policy is None) == (self.kept.policy is None)


def _follows(mine: Head, fact: HeadFact) -> bool:
    head = fact.head
    return consistent(mine.size, mine.root, head.size, head.root, fact.path)


_HANDLERS: Mapping[type, Callable[[Any, Any, float], list[Effect]]] = {
    PolicyHeard: Residency._policy,
    PlaceHeard: Residency._place,
    HeadHeard: Residency._head,
    ProofHeard: Residency._proof,
    DecisionMade: Residency._decided,
    LinkUp: Residency._link_up,
    LinkDown: Residency._link_down,
    Tick: Residency._tick,
}

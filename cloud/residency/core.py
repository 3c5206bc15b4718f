"""Knows the policy and the places, sees to it that every decision is in the log, and deals with witnesses.

    decision ──Noted──> queue ──Append (a batch)──> durable ──Release──> what was decided may happen
                                      │
                                      └── enough records, or old enough ──Sign──> head ──> all devices

Log first, act then: whoever wants to send tagged data hands in the record with a ticket, and sends when the
ticket is released. At the bound of the queue (a disk that takes nothing any more) ``room`` is False, and who
can't write down a decision may not act on one.

A policy comes into force only with a larger version, or as the very same text: two policies with one number
would make the log lie. The last one is known from the log, so that a restart does not forget it. Retained
facts are sent again at each link-up, the places of a large fleet in portions.

A device that was shown a head which can't follow from the one it holds reports both (*forked*): the evidence
is a signature of ours under two histories. A device that holds a genuine head which our log does not reach
means that the log was cut back. Either is an alarm and a record of its own.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import msgspec

from cloud.residency.events import (
    Alarm,
    AnnouncePlace,
    AnnouncePolicy,
    Append,
    Appended,
    DecisionsHeard,
    Event,
    Noted,
    PlacesRead,
    PolicyRead,
    Prove,
    Proved,
    Reconsider,
    Release,
    Sign,
    Signed,
    WitnessHeard,
)
from shared.audit import REPORTED_MAX, Decided, HeadFact, Outcome, Point, Record
from shared.core import Effect, Failed, Ignore, LinkDown, LinkUp, Publish, Tick
from shared.residency import OPEN, Place, Policy, PolicyText, Why, ready
from shared.tags import within
from shared.topics import AUDIT_HEAD, PROOF
from shared.transparency import Head

QUEUE_MAX = 20_000
BATCH_MAX = 2_000
HEAD_RECORDS = 1_000
HEAD_S = 10.0
TOLD_PER_TICK = 500
PROVING_MAX = 32
NODES_MAX = 20_000
DEVICE_RECORDS_PER_S = 20.0  # what one device may add to the log
DEVICE_RECORDS_BURST = 512.0
ALARMS_MAX = 100


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the log says of the time before this start. ``policy``: version and digest of the last one."""

    size: int = 0
    head: HeadFact | None = None
    policy: tuple[int, str] = (0, "")
    regions: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Teller:
    """What is known of a device that adds to the log: where its reports are, and how much it may add."""

    epoch: int = 0
    following: int = 0
    allowance: float = DEVICE_RECORDS_BURST
    at: float = 0.0


@dataclass(slots=True)
class Residency:
    """One per cloud. ``genuine``: whether a head carries our signature; ``step`` is the only door."""

    remembered: Remembered
    genuine: Callable[[Head], bool]
    cloud_region: str = ""
    head_s: float = HEAD_S
    policy: Policy = OPEN
    regions: dict[str, str] = field(default_factory=dict)
    linked: bool = False
    queue: deque[Noted] = field(default_factory=deque)
    appending: tuple[Noted, ...] = ()
    signing: bool = False
    size: int = field(init=False)
    head: HeadFact | None = field(init=False)
    unsigned_since: float | None = None
    alarms: dict[str, None] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    _tell: dict[str, None] = field(default_factory=dict)
    _proving: set[str] = field(default_factory=set)
    _tellers: dict[str, _Teller] = field(default_factory=dict)
    _retry: bool = False

    def __post_init__(self) -> None:
        self.size, self.head = self.remembered.size, self.remembered.head
        self.regions = dict(self.remembered.regions)

    @property
    def room(self) -> bool:
        """Whether one more decision can be written down."""
        return len(self.queue) < QUEUE_MAX

    def place(self, node: str) -> Place:
        """Where a node is; nowhere when it was not enrolled, or in a region that the policy does not know."""
        return place_in(self.policy.text, node, self.regions)

    @property
    def cloud(self) -> Place:
        """Where the cloud itself is."""
        return Place("@", self.cloud_region)

    def step(self, event: Event, now: float) -> list[Effect]:
        """See :class:`shared.core.Core`."""
        effects = _HANDLERS[type(event)](self, event, now)
        if self.queue and not self.appending and not self._retry:
            effects.append(self._append(now))
        return effects

    # The log ----------------------------------------------------------------------------------------

    def _noted(self, event: Noted, _: float) -> list[Effect]:
        if not self.room:
            self.counts["records refused: no room"] += 1
            return [Ignore("no room for a record")]
        self.queue.append(event)
        return []

    def _append(self, now: float) -> Append:
        count = min(BATCH_MAX, len(self.queue))
        self.appending = tuple(self.queue.popleft() for _ in range(count))
        if self.unsigned_since is None:
            self.unsigned_since = now
        return Append(tuple(one.record for one in self.appending))

    def _appended(self, event: Appended, _: float) -> list[Effect]:
        tickets = tuple(one.ticket for one in self.appending if one.ticket)
        self.counts["records"] += len(self.appending)
        self.size, self.appending = event.size, ()
        effects: list[Effect] = [Release(tickets)] if tickets else []
        if self.size - self._signed_size() >= HEAD_RECORDS:
            effects += self._sign()
        return effects

    def _failed(self, event: Failed, _: float) -> list[Effect]:
        match event.work:
            case Append():
                self.queue.extendleft(reversed(self.appending))
                self.appending, self._retry = (), True
            case Sign():
                self.signing = False
            case Prove(node=node):
                self._proving.discard(node)
        self.counts[f"{type(event.work).__name__} failed"] += 1
        return [Ignore(f"{type(event.work).__name__} failed, to be tried again: {event.reason}")]

    def _sign(self) -> list[Effect]:
        if self.signing:
            return []
        self.signing, self.unsigned_since = True, None
        return [Sign()]

    def _signed(self, event: Signed, now: float) -> list[Effect]:
        self.signing, self.head = False, event.fact
        if self.size > event.fact.head.size and self.unsigned_since is None:
            self.unsigned_since = now
        return [Publish(AUDIT_HEAD.at(), event.fact)] if self.linked else []

    def _signed_size(self) -> int:
        return self.head.head.size if self.head else 0

    # Policy and places ------------------------------------------------------------------------------

    def _policy(self, event: PolicyRead, _: float) -> list[Effect]:
        text = event.text
        if text == self.policy.text:
            return []
        version, digest = self.remembered.policy
        if self.policy is not OPEN:
            version, digest = self.policy.version, digest_of(self.policy.text)
        if text.version < version or (text.version == version and digest_of(text) != digest):
            why = f"policy version {text.version} is not larger than {version}, which is in force or was"
            return self._alarm("policy", f"{why}; the old one stays until the number grows", event.at_unix_s)
        if (text.version, digest_of(text)) != (version, digest):
            detail = f"{text.version} {digest_of(text)}"
            self._write(Record(at_unix_s=event.at_unix_s, point=Point.POLICY, detail=detail))
        self.policy = ready(text)
        effects: list[Effect] = [Reconsider()]
        return [*effects, AnnouncePolicy(text)] if self.linked else effects

    def _places(self, event: PlacesRead, _: float) -> list[Effect]:
        new = {node: region for node, region in event.regions.items() if self.regions.get(node, "") != region}
        new.update((node, "") for node in self.regions if node not in event.regions)
        if not new:
            return []
        for node, region in new.items():
            place = Outcome(allow=bool(region), why=Why.PERMITTED, places=(Place(node, region),))
            self._write(Record(at_unix_s=event.at_unix_s, point=Point.ENROL, outcomes=(place,)))
        self.regions = dict(event.regions)
        self._tell.update(dict.fromkeys(new))
        return [Reconsider(), *self._tell_places()]

    def _tell_places(self) -> list[Effect]:
        if not self.linked:
            return []
        told = [node for node, _ in zip(self._tell, range(TOLD_PER_TICK), strict=False)]
        for node in told:
            del self._tell[node]
        return [AnnouncePlace(node, self.regions.get(node, "")) for node in told]

    def _write(self, record: Record) -> None:
        """The platform's own news are few, and must not be lost: they ignore the bound."""
        policy = record.policy or self.policy.version
        self.queue.append(Noted(msgspec.structs.replace(record, policy=policy)))

    def _link_up(self, _: LinkUp, __: float) -> list[Effect]:
        self.linked = True
        self._tell.update(dict.fromkeys(self.regions))
        effects: list[Effect] = [AnnouncePolicy(self.policy.text)]
        if self.head:
            effects.append(Publish(AUDIT_HEAD.at(), self.head))
        return effects + self._tell_places()

    def _link_down(self, _: LinkDown, __: float) -> list[Effect]:
        self.linked = False
        return []

    def _tick(self, _: Tick, now: float) -> list[Effect]:
        self._retry = False
        effects = self._tell_places()
        if self.unsigned_since is not None and now - self.unsigned_since >= self.head_s:
            effects += self._sign()
        return effects

    # Devices ----------------------------------------------------------------------------------------

    def _decisions(self, event: DecisionsHeard, now: float) -> list[Effect]:
        told = event.decisions
        teller = self._teller(event.node)
        if teller is None or (told.epoch, told.first) < (teller.epoch, 0):
            return [Ignore(f"decisions of {event.node}: an older boot, or too many nodes")]
        if told.epoch > teller.epoch:
            teller.epoch, teller.following = told.epoch, 0
        new = told.decided[max(0, teller.following - told.first) : REPORTED_MAX]
        teller.following = max(teller.following, told.first + len(told.decided))
        elapsed_s = max(0.0, now - teller.at)
        teller.allowance = min(DEVICE_RECORDS_BURST, teller.allowance + elapsed_s * DEVICE_RECORDS_PER_S)
        teller.at = now
        kept = new[: int(teller.allowance)] if self.room else ()
        teller.allowance -= len(kept)
        for one in kept:
            self.queue.append(Noted(_told_by(event.node, self.place(event.node), one)))
        self.counts["decisions of devices not kept"] += len(new) - len(kept)
        return []

    def _teller(self, node: str) -> _Teller | None:
        if node not in self._tellers and len(self._tellers) >= NODES_MAX:
            return None
        return self._tellers.setdefault(node, _Teller())

    def _witness(self, event: WitnessHeard, _: float) -> list[Effect]:
        node, witness = event.node, event.witness
        effects: list[Effect] = []
        for head in (witness.head, witness.forked):
            if head is not None and not self.genuine(head):
                return [Ignore(f"{node} shows a head that we never signed")]
        if witness.forked is not None:
            what = f"{node} was shown head {witness.forked.number} of {witness.forked.size} records, which "
            effects += self._alarm(f"fork {node}", what + "does not follow from its own", event.at_unix_s)
        if witness.head is not None and self._ahead(witness.head):
            what = f"{node} holds head {witness.head.number} of log {witness.head.log} with "
            what += f"{witness.head.size} records, and our log has {self.size}: it was cut back, or replaced"
            effects += self._alarm(f"ahead {node}", what, event.at_unix_s)
        elif witness.head is not None and witness.wants:
            effects += self._prove(node, witness.head)
        return effects

    def _ahead(self, head: Head) -> bool:
        ours = self.head.head if self.head else None
        return ours is None or head.log != ours.log or head.size > self.size

    def _prove(self, node: str, head: Head) -> list[Effect]:
        if not self.linked or node in self._proving or len(self._proving) >= PROVING_MAX:
            return [Ignore(f"no proof for {node} now; it asks again")]
        self._proving.add(node)
        return [Prove(node, head.size)]

    def _proved(self, event: Proved, _: float) -> list[Effect]:
        self._proving.discard(event.node)
        return [Publish(PROOF.at(node=event.node), event.proof)] if self.linked else []

    def _alarm(self, key: str, what: str, at_unix_s: float) -> list[Effect]:
        """Once per kind and node; a loud neighbour must not fill the log."""
        if key in self.alarms or len(self.alarms) >= ALARMS_MAX:
            return [Ignore(what)]
        self.alarms[key] = None
        self._write(Record(at_unix_s=at_unix_s, point=Point.ALARM, detail=what))
        return [Alarm(what)]

    def check(self) -> None:
        """Invariants."""
        assert len(self.queue) <= QUEUE_MAX + NODES_MAX + ALARMS_MAX + BATCH_MAX
        assert len(self.appending) <= BATCH_MAX
        assert len(self._proving) <= PROVING_MAX
        assert self.head is None or self.head.head.size <= self.size
        assert not self.signing or self.head is None or self.size >= self.head.head.size
        assert all(0 <= one.allowance <= DEVICE_RECORDS_BURST for one in self._tellers.values())


def place_in(text: PolicyText, node: str, regions: Mapping[str, str]) -> Place:
    """Where a node is for a policy: nowhere, if its tree does not have the region."""
    region = regions.get(node, "")
    known = not text.regions or any(within(one, region) for one in text.regions)
    return Place(node, region if known else "")


def digest_of(text: PolicyText) -> str:
    """SHA-256 (hex) of a policy in its one form."""
    return sha256(msgspec.json.encode(text, order="deterministic")).hexdigest()


def _told_by(node: str, place: Place, one: Decided) -> Record:
    return Record(
        at_unix_s=one.at_unix_s,
        point=one.point if one.point in (Point.PUBLISH, Point.RECEIVE) else Point.RECEIVE,
        by=node,
        policy=one.policy,
        action=one.action,
        tag=one.tag,
        outcomes=(Outcome(allow=one.allow, why=one.why, rule=one.rule, places=(place,)),),
    )


_HANDLERS: Mapping[type, Callable[[Any, Any, float], list[Effect]]] = {
    PolicyRead: Residency._policy,
    PlacesRead: Residency._places,
    Noted: Residency._noted,
    DecisionsHeard: Residency._decisions,
    WitnessHeard: Residency._witness,
    Appended: Residency._appended,
    Signed: Residency._signed,
    Proved: Residency._proved,
    Failed: Residency._failed,
    LinkUp: Residency._link_up,
    LinkDown: Residency._link_down,
    Tick: Residency._tick,
}

"""Which node answers a request, and what happens when it does not. Decides only; see ``service`` for I/O.

    InferAsked ──filters, standing──> INFER to one node ──ReplyHeard──> learned from, forgotten
        │                                   │ silent too long, declined, or the node is gone
        └── shed: REFUSED to the app        └── once more elsewhere (idempotent), or FAILED to the app

The reply goes from the device to the app with no hop here; the balancer overhears it. It keeps no timeout of
its own for an app: a deadline that passes is only counted against the node.

Silence. A killed device is reported offline seconds later (its will is delayed), so the balancer does not
wait for that: when an answer takes four times its expected completion (0.5 s at least), the request is sent
to a second node. A fleet that is merely slow must not be made slower by that, so second tries for silence are
paid from a budget of one in ten requests; those for a death are not. None of it is judged while our own link
was down or our process slept.

Everything is bounded: ``waiting_max`` requests, ``waiting_bytes_max`` of inputs kept for a second try (beyond
it requests go out without one), ``RECORDS_MAX`` explanations, and timers in proportion to requests.
"""

from collections import Counter, deque
from heapq import heapify, heappop, heappush
from math import inf

import msgspec

from cloud.balancer.fleet import Fleet
from cloud.balancer.node import Held, Node
from cloud.balancer.request import OPEN, Key, Pending, Phase
from cloud.facts import NodeChanged, NodeFact, NodeForgotten, NodeStatus
from shared.config import BalancerSection
from shared.core import Effect, Ignore, LinkDown, LinkUp, Publish, Tick
from shared.ids import is_id
from shared.messages import Declined, InferAsk, InferCommand, Reply, ReplyStatus
from shared.topics import APP_REPLY, INFER
from shared.views import Explanation

RECORDS_MAX = 4096
WAITING_BYTES_MAX = 64 << 20
BUDGET_S_MAX = 3600.0
TEXT_MAX = 128  # a correlation, a function's name
DETAIL_MAX = 1000
INPUT_BYTES_MAX = INFER.bytes_max - 4096  # what stands around the inputs needs room too
PATIENCE = 4.0  # times the expected completion
PATIENCE_S_MIN = 0.5
SILENCE_STRIKES = 3
STALL_S = 1.0  # ticks further apart than this mean that we slept
SPARE_PER_ASK = 0.1
SPARE_MAX = 256.0
TIMERS_SPARE = 1024


class InferAsked(msgspec.Struct, frozen=True):
    """An application asks the fleet."""

    app: str
    ask: InferAsk


class ReplyHeard(msgspec.Struct, frozen=True):
    """A device answered some caller."""

    node: str
    caller: str
    reply: Reply


class DeclineHeard(msgspec.Struct, frozen=True):
    """A device did not take a request on: our picture of it was wrong, or is old."""

    node: str
    declined: Declined


Event = InferAsked | ReplyHeard | DeclineHeard | NodeChanged | NodeForgotten | Tick | LinkUp | LinkDown


class Balancer:
    """Places inference requests on nodes. ``counts``: requests by how they went."""

    def __init__(self, section: BalancerSection, waiting_bytes_max: int = WAITING_BYTES_MAX) -> None:
        self.counts: Counter[str] = Counter()
        self.watching_since = inf  # infinite: we can't see
        self.fleet = Fleet(section)
        self._waiting_max, self._waiting_bytes_max = section.waiting_max, waiting_bytes_max
        self._waiting: dict[Key, Pending] = {}
        self._waiting_bytes = 0
        self._timers: list[tuple[float, int, Pending]] = []
        self._timer = 0
        self._records: dict[Key, Pending] = {}
        self._recorded: deque[Key] = deque()
        self._spare = SPARE_MAX
        self._ticked_at: float | None = None

    def step(self, event: Event, now: float) -> list[Effect]:
        """Take one event at monotonic time ``now`` (seconds) and say what is to be done."""
        match event:
            case ReplyHeard(name, caller, reply):
                return self._replied(name, caller, reply, now)
            case InferAsked(app, ask):
                return self._asked(app, ask, now)
            case NodeChanged(fact):
                return self._changed(fact, now)
            case Tick():
                return self._tick(now)
            case DeclineHeard(name, declined):
                return self._declined(name, declined, now)
            case NodeForgotten(name):
                return self._forgotten(name, now)
            case LinkUp() | LinkDown():
                self.watching_since = now if isinstance(event, LinkUp) else inf
                return []

    # A request comes --------------------------------------------------------------------------------

    def _asked(self, app: str, ask: InferAsk, now: float) -> list[Effect]:
        key = (app, ask.correlation)
        if not is_id(app) or len(ask.correlation) > TEXT_MAX:
            return [Ignore("a request that nobody could be answered")]
        known = self._waiting.get(key) or self._records.get(key)
        if known is not None and known.phase is not Phase.SHED:  # What was shed may be tried again.
            return [Ignore(f"{app}/{ask.correlation} was asked already")]
        unusable = _unusable(ask)
        if unusable:
            return self._shed(key, ask, "bad-request", unusable, now)
        if len(self._waiting) >= self._waiting_max:
            return self._shed(key, ask, "overloaded", f"{len(self._waiting)} requests wait already", now)
        held = self.fleet.best(ask.model, ask.budget_s, ask.node)
        if held is None:
            return self._shed(key, ask, *self.fleet.why_nowhere(ask), now)
        return [self._send(key, ask, held, now)]

    def _send(self, key: Key, ask: InferAsk, held: Held, now: float) -> Effect:
        pending = Pending(key, ask.model, *self.fleet.evidence(ask.model), now + ask.budget_s)
        size = len(ask.inputs)
        if ask.idempotent and not ask.node and self._waiting_bytes + size <= self._waiting_bytes_max:
            pending.ask, pending.ask_bytes = ask, size
            self._waiting_bytes += size
        self._waiting[key] = pending
        self._record(pending)
        self._spare = min(SPARE_MAX, self._spare + SPARE_PER_ASK)
        self.counts["sent"] += 1
        return self._hand_over(pending, ask, held, ask.budget_s, now)

    def _hand_over(
        self, pending: Pending, ask: InferAsk, held: Held, budget_s: float, now: float
    ) -> Publish[InferCommand]:
        assert held.standing is not None
        node, (app, correlation) = held.node, pending.key
        pending.node, pending.epoch, pending.sent_at = node, node.fact.epoch, now
        pending.alone = held.standing.load == 0
        pending.patience_s = max(PATIENCE_S_MIN, PATIENCE * held.standing.expected_s)
        node.add(pending.key, pending)
        self.fleet.rank(node)
        held.index.last(held)
        self._time(pending, min(pending.deadline, now + pending.patience_s))
        command = InferCommand(
            correlation=correlation,
            budget_s=budget_s,
            caller=app,
            epoch=pending.epoch,
            inputs=ask.inputs,
            function=ask.function,
            repeatable=pending.ask is not None and not pending.first,
        )
        # A request that will be sent again when nobody answers needs no acknowledgement on its way.
        return Publish(held.to, command, qos=0 if command.repeatable else None)

    def _shed(self, key: Key, ask: InferAsk, code: str, detail: str, now: float) -> list[Effect]:
        self.counts[code] += 1
        evidence = self.fleet.evidence(ask.model)
        self._record(Pending(key, ask.model[:TEXT_MAX], *evidence, now, phase=Phase.SHED))
        reply = Reply(correlation=key[1], status=ReplyStatus.REFUSED, code=code, detail=detail)
        return [Publish(APP_REPLY.at(app=key[0]), reply)]

    # An answer comes --------------------------------------------------------------------------------

    def _replied(self, name: str, caller: str, reply: Reply, now: float) -> list[Effect]:
        pending = self._waiting.get((caller, reply.correlation))
        if pending is None or pending.node is None:
            return self._replied_late(name, caller, reply, now)
        node = pending.node
        if name == node.fact.node:
            self._learn(pending, node, reply, now)
        elif name == pending.first:  # It lived after all; what it took says nothing about the second.
            self._trust(name)
        else:
            return [Ignore(f"{name[:80]} was not asked")]
        self.counts[reply.status] += 1
        self._close(pending, Phase.ANSWERED)
        return []

    def _replied_late(self, name: str, caller: str, reply: Reply, now: float) -> list[Effect]:
        """Too late for the app, but not for us: the node lives, and it is slow."""
        record = self._records.get((caller, reply.correlation))
        if record is None or record.node is None or name not in (record.node.fact.node, record.first):
            return [Ignore("an answer to nothing that waits here")]
        if record.phase is Phase.EXPIRED and name == record.node.fact.node:
            self._learn(record, record.node, reply, now)
        self._trust(name)
        return [Ignore(f"{name} answered too late, or twice")]

    def _declined(self, name: str, declined: Declined, now: float) -> list[Effect]:
        """Nothing has run: another node is asked where one can be, else the app hears the refusal."""
        pending = self._waiting.get((declined.caller, declined.correlation))
        if pending is None or pending.node is None or pending.node.fact.node != name:
            return [Ignore(f"{name} declined nothing that waits here")]
        pending.node.strike(1)
        effects = self._resend(pending, now)
        if effects:
            self.counts["declined, sent elsewhere"] += 1
            return effects
        app, correlation = pending.key
        self.counts[declined.code[:TEXT_MAX]] += 1
        self._close(pending, Phase.DECLINED)
        reply = Reply(
            correlation=correlation,
            status=ReplyStatus.REFUSED,
            code=declined.code[:TEXT_MAX],
            detail=declined.detail[:DETAIL_MAX],
            node=name,
        )
        return [Publish(APP_REPLY.at(app=app), reply)]

    def _learn(self, pending: Pending, node: Node, reply: Reply, now: float) -> None:
        if reply.status is not ReplyStatus.OK:
            if reply.status is ReplyStatus.FAILED:
                node.strike(1)
            return
        node.strikes = 0
        took_s = now - pending.sent_at
        service_s = reply.service_s if 0 < reply.service_s <= took_s else took_s  # NaN and lies fail this
        held = node.held.get(pending.model)
        if held is not None:
            held.learn(service_s)
        node.learn(took_s - service_s, alone=pending.alone)

    def _trust(self, name: str) -> None:
        node = self.fleet.nodes.get(name)
        if node is not None:
            node.strikes = 0
            self.fleet.rank(node)

    # Nodes change -----------------------------------------------------------------------------------

    def _changed(self, fact: NodeFact, now: float) -> list[Effect]:
        node = self.fleet.hear(fact)
        if not node.requests:
            return []
        gone = fact.status is NodeStatus.OFFLINE
        lost = [one for one in node.requests.values() if gone or one.epoch != fact.epoch]
        return [effect for pending in lost for effect in self._rescue_from_death(pending, now)]

    def _forgotten(self, name: str, now: float) -> list[Effect]:
        node = self.fleet.forget(name)
        if node is None:
            return [Ignore(f"{name[:80]} was not known")]
        lost = list(node.requests.values())
        return [effect for pending in lost for effect in self._rescue_from_death(pending, now)]

    # The passing of time ----------------------------------------------------------------------------

    def _tick(self, now: float) -> list[Effect]:
        if self._ticked_at is not None and now - self._ticked_at > STALL_S:
            self.watching_since = max(self.watching_since, now)
        self._ticked_at = now
        self.fleet.settle()
        effects: list[Effect] = []
        while self._timers and self._timers[0][0] <= now:
            due, _, pending = heappop(self._timers)
            if pending.phase in OPEN and due == pending.due:  # else it was sent again meanwhile
                effects += self._overdue(pending, now)
        return effects

    def _time(self, pending: Pending, at: float) -> None:
        self._timer += 1
        pending.due = at
        heappush(self._timers, (at, self._timer, pending))
        if len(self._timers) > 2 * len(self._waiting) + TIMERS_SPARE:  # Answered ones leave lazily.
            self._timers = [timer for timer in self._timers if timer[2].phase in OPEN]
            heapify(self._timers)

    def _overdue(self, pending: Pending, now: float) -> list[Effect]:
        """The node was silent for as long as we had patience, or the deadline has passed."""
        assert pending.node is not None
        listened_since = max(pending.sent_at, self.watching_since)
        if now >= pending.deadline:
            if listened_since == pending.sent_at:
                pending.node.strike(1)
            self.counts["expired"] += 1
            self._close(pending, Phase.EXPIRED)
            return []
        patient_until = listened_since + pending.patience_s
        if now < patient_until:
            again = patient_until if patient_until < inf else now + pending.patience_s
            self._time(pending, min(pending.deadline, again))
            return []
        pending.node.strike(SILENCE_STRIKES)
        self.fleet.rank(pending.node)
        return self._rescue_from_silence(pending, now)

    # A second try -----------------------------------------------------------------------------------

    def _rescue_from_silence(self, pending: Pending, now: float) -> list[Effect]:
        effects = self._resend(pending, now, or_here=True) if self._spare >= 1 else []
        if effects:
            self._spare -= 1
            self.counts["rescued from silence"] += 1
            return effects
        self._time(pending, pending.deadline)
        return [Ignore(f"{pending.key[0]}/{pending.key[1]} meets silence, and can't be tried again")]

    def _rescue_from_death(self, pending: Pending, now: float) -> list[Effect]:
        effects = self._resend(pending, now)
        if effects:
            self.counts["rescued from death"] += 1
            return effects
        assert pending.node is not None
        app, correlation = pending.key
        detail = f"{pending.node.fact.node} went away with the request; it may have been done"
        self.counts["died"] += 1
        self._close(pending, Phase.DIED)
        reply = Reply(correlation=correlation, status=ReplyStatus.FAILED, code="node-died", detail=detail)
        return [Publish(APP_REPLY.at(app=app), reply)]

    def _resend(self, pending: Pending, now: float, *, or_here: bool = False) -> list[Effect]:
        """Once more, elsewhere, with what is left of the budget. Nothing: it can't be done.

        ``or_here``: where there is no elsewhere the same node is asked again. It runs no request twice, and
        repeats the answer that it gave.
        """
        ask, node, left_s = pending.ask, pending.node, pending.deadline - now
        if ask is None or node is None or left_s <= 0 or pending.phase is not Phase.SENT:
            return []
        held = self.fleet.best(pending.model, left_s, avoid=node)
        if held is None and or_here:
            held = self.fleet.best(pending.model, left_s, only=node.fact.node)
        if held is None:
            return []
        pending.enter(Phase.RESENT)
        pending.first = node.fact.node
        del node.requests[pending.key]
        self.fleet.rank(node)
        return [self._hand_over(pending, ask, held, left_s, now)]

    # The books --------------------------------------------------------------------------------------

    def _close(self, pending: Pending, phase: Phase) -> None:
        pending.enter(phase)
        del self._waiting[pending.key]
        self._waiting_bytes -= pending.ask_bytes
        pending.ask = None  # The record lives on; the inputs do not.
        node = pending.node
        if node is not None:
            del node.requests[pending.key]
            self.fleet.rank(node)

    def _record(self, pending: Pending) -> None:
        self._records[pending.key] = pending
        self._recorded.append(pending.key)
        if len(self._recorded) > RECORDS_MAX:
            self._records.pop(self._recorded.popleft(), None)  # asked anew, it may be there twice

    # For readers ------------------------------------------------------------------------------------

    def explain(self, app: str, correlation: str) -> Explanation | None:
        """Why a request went where it went; None when it is not among the last ``RECORDS_MAX``."""
        found = self._records.get((app, correlation))
        return None if found is None else found.explanation()

    def outcome(self, app: str, correlation: str) -> Phase | None:
        """How far a request is, or how it ended."""
        found = self._records.get((app, correlation))
        return None if found is None else found.phase

    def preview(self, model: str, budget_s: float = inf) -> str | None:
        """The node that would get a request now; nothing is sent or counted."""
        held = self.fleet.best(model, budget_s)
        return None if held is None else held.node.fact.node

    @property
    def latest(self) -> Key | None:
        """Application and correlation of the newest request."""
        return self._recorded[-1] if self._recorded else None

    @property
    def waiting(self) -> int:
        """Requests without an answer."""
        return len(self._waiting)

    def check(self) -> None:
        """Assert every invariant. Tests and simulations call it after each step."""
        assert len(self._waiting) <= self._waiting_max
        kept = sum(pending.ask_bytes for pending in self._waiting.values())
        assert self._waiting_bytes == kept <= self._waiting_bytes_max
        assert len(self._records) <= len(self._recorded) <= RECORDS_MAX
        assert not any(record.ask for record in self._records.values() if record.phase not in OPEN)
        timed = {(due, id(pending)) for due, _, pending in self._timers}
        for key, pending in self._waiting.items():
            assert pending.phase in OPEN
            assert pending.node is not None
            assert pending.node.requests[key] is pending
            assert (pending.due, id(pending)) in timed  # nothing waits for ever
            assert pending.due <= pending.deadline
        assert sum(len(node.requests) for node in self.fleet.nodes.values()) == len(self._waiting)
        self.fleet.check()


def _unusable(ask: InferAsk) -> str:
    """What is wrong with a request whoever should answer it, or nothing."""
    if not 0 < ask.budget_s <= BUDGET_S_MAX:  # NaN fails this
        return f"a budget of {ask.budget_s} s; up to {BUDGET_S_MAX:g} s is possible"
    if len(ask.function) > TEXT_MAX:
        return f"a function's name of {len(ask.function)} characters"
    size = len(ask.inputs)
    return f"{size} bytes of inputs; {INPUT_BYTES_MAX} fit" if size > INPUT_BYTES_MAX else ""

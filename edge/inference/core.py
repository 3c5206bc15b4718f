"""Admission and order of inference on one device.

    request ──admit──> waiting ──slot free──> running ──Ran / Refusal──> answered
                 │                  │
                 └── declined       └── declined once its deadline has passed

Every request gets exactly one answer. What is not taken on is *declined* to the cloud, not to the caller:
nothing has run, so the balancer may ask another node, and the caller still hears one reply. What ran and was
stopped is refused to the caller itself, since it would fail anywhere. The queue is bounded, because a request
that can't be met in time is better declined at once than late. QoS 1 repeats messages, so a request that is
running or was just answered is not run again; its answer is simply sent once more.

The device itself may ask as well (``LocalAsked``), with or without a broker: same queue, same limits.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec

from shared.core import Effect, Failed, Ignore, LinkDown, LinkUp, Publish, Tick, Work
from shared.messages import Declined, InferCommand, Reply, ReplyStatus
from shared.topics import DECLINED, REPLY, Address

ANSWERED_KEPT = 512
ANSWERED_BYTES_MAX = 8 << 20
OUTPUT_BYTES_MAX = REPLY.bytes_max - 1024  # what stands around the outputs needs room too


class InferArrived(msgspec.Struct, frozen=True):
    """The cloud asks, on behalf of a caller."""

    model: str
    command: InferCommand


class LocalAsked(msgspec.Struct, frozen=True):
    """Something on this device asks. ``ticket`` names the one who waits."""

    ticket: str
    model: str
    function: str
    inputs: msgspec.Raw
    budget_s: float


class ModelsChanged(msgspec.Struct, frozen=True):
    """These modules can answer now."""

    ready: frozenset[str]


class DrainStarted(msgspec.Struct, frozen=True):
    """Finish what is here, take nothing new."""


class Ran(msgspec.Struct, frozen=True):
    """A module answered. ``service_s``: how long it took."""

    key: str
    outputs: msgspec.Raw
    service_s: float


class Refusal(msgspec.Struct, frozen=True):
    """A module was stopped or refused its input; nothing else was harmed."""

    key: str
    code: str
    detail: str


class RunModule(Work, msgspec.Struct, frozen=True):
    """Call a function of a loaded module."""

    key: str
    model: str
    function: str
    inputs: msgspec.Raw
    budget_s: float


class AnswerLocally(Effect, msgspec.Struct, frozen=True):
    """Give the reply to the one on this device who holds the ticket."""

    ticket: str
    reply: Reply


class LoadChanged(Effect, msgspec.Struct, frozen=True):
    """How busy we are; the heartbeat tells the cloud."""

    queue_depth: int
    in_flight: int
    models: tuple[str, ...]


Event = (
    InferArrived
    | LocalAsked
    | ModelsChanged
    | DrainStarted
    | Ran
    | Refusal
    | Failed
    | Tick
    | LinkUp
    | LinkDown
)


class _Job(msgspec.Struct, frozen=True):
    """One admitted request. ``caller`` is empty when it is local. ``repeatable``: see ``InferCommand``."""

    key: str
    caller: str
    correlation: str
    model: str
    function: str
    inputs: msgspec.Raw
    deadline: float
    repeatable: bool = False


@dataclass(slots=True)
class Inference:
    """Runs at most ``slots`` requests of one model at a time, and lets at most ``queue_max`` wait.

    One lane more than ``slots`` is there in all, so that a model which hangs until its deadline does not
    keep its neighbours from answering meanwhile.
    """

    node: str
    epoch: int
    slots: int = 1
    queue_max: int = 256
    ready: frozenset[str] = frozenset()
    draining: bool = False
    running: dict[str, _Job] = field(default_factory=dict)
    waiting: deque[_Job] = field(default_factory=deque)
    answered: OrderedDict[str, Reply] = field(default_factory=OrderedDict)
    answered_bytes: int = 0

    def step(self, event: Event, now: float) -> list[Effect]:
        """See :class:`shared.core.Core`."""
        match event:
            case InferArrived(model, command):
                return self._asked(model, command, now)
            case Ran(key, outputs, service_s):
                return self._finish(key, now, body=outputs, service_s=service_s)
            case LocalAsked():
                return self._admit(_local(event, now), now)
            case Refusal(key, code, detail):
                return self._finish(key, now, refused=(code, detail))
            case Failed(RunModule(key=key), reason):
                return self._finish(key, now, refused=("runtime-error", reason))
            case ModelsChanged(ready):
                self.ready = ready
                return []
            case DrainStarted():
                self.draining = True
                return [self._load()]
            case Tick():
                return self._expire(now)
            case _:
                return []

    def _asked(self, model: str, command: InferCommand, now: float) -> list[Effect]:
        key = f"{command.caller}/{command.correlation}"
        if key in self.running or (self.waiting and any(job.key == key for job in self.waiting)):
            return [Ignore(f"{key} is being answered already")]
        if key in self.answered:
            return [Publish(_reply_to(self.node, command.caller), self.answered[key])]
        job = _Job(
            key,
            command.caller,
            command.correlation,
            model,
            command.function,
            command.inputs,
            now + command.budget_s,
            command.repeatable,
        )
        if command.epoch != self.epoch:
            return self._decline(job, "stale-epoch", f"meant for boot {command.epoch}; this is {self.epoch}")
        return self._admit(job, now)

    def _admit(self, job: _Job, now: float) -> list[Effect]:
        if self.draining:
            return self._decline(job, "draining", f"{self.node} is going out of service")
        if job.model not in self.ready:
            return self._decline(job, "no-model", f"{self.node} does not hold {job.model!r}")
        if self._is_free_for(job.model):
            return [self._start(job, now), self._load()]
        if len(self.waiting) >= self.queue_max:
            return self._decline(job, "overloaded", f"{self.queue_max} requests are waiting on {self.node}")
        self.waiting.append(job)
        return [self._load()]

    def _is_free_for(self, model: str) -> bool:
        running = self.running
        if not running:
            return True
        return len(running) <= self.slots and sum(job.model == model for job in running.values()) < self.slots

    def _start(self, job: _Job, now: float) -> RunModule:
        self.running[job.key] = job
        return RunModule(job.key, job.model, job.function, job.inputs, job.deadline - now)

    def _finish(
        self,
        key: str,
        now: float,
        *,
        body: msgspec.Raw | None = None,
        service_s: float = 0.0,
        refused: tuple[str, str] | None = None,
    ) -> list[Effect]:
        job = self.running.pop(key, None)
        if job is None:
            return [Ignore(f"{key} is not running")]
        if body is not None and job.caller and len(body) > OUTPUT_BYTES_MAX:
            detail = f"the outputs are {len(body)} bytes; {OUTPUT_BYTES_MAX} fit into one reply"
            effects = self._refuse(job, "output-too-large", detail)
        elif body is not None:
            effects = self._answer(
                job, Reply(correlation=job.correlation, body=body, node=self.node, service_s=service_s)
            )
        else:
            effects = self._refuse(job, *(refused or ("runtime-error", "the module gave no result")))
        return [*effects, *self._start_waiting(now), self._load()]

    def _start_waiting(self, now: float) -> list[Effect]:
        """Whoever waited longest and finds its lane free."""
        if not self.waiting:
            return []
        effects: list[Effect] = []
        passed: list[_Job] = []
        while self.waiting and len(self.running) <= self.slots:
            job = self.waiting.popleft()
            if job.deadline <= now:
                effects += self._late(job)
            elif self._is_free_for(job.model):
                effects.append(self._start(job, now))
            else:
                passed.append(job)
        self.waiting.extendleft(reversed(passed))
        return effects

    def _expire(self, now: float) -> list[Effect]:
        late = [job for job in self.waiting if job.deadline <= now]
        if not late:
            return []
        self.waiting = deque(job for job in self.waiting if job.deadline > now)
        return [effect for job in late for effect in self._late(job)] + [self._load()]

    def _late(self, job: _Job) -> list[Effect]:
        return self._decline(job, "deadline", "the deadline passed while the request waited on the device")

    def _decline(self, job: _Job, code: str, detail: str) -> list[Effect]:
        if not job.caller:
            return self._refuse(job, code, detail)
        declined = Declined(caller=job.caller, correlation=job.correlation, code=code, detail=detail)
        return [Publish(DECLINED.at(node=self.node), declined)]

    def _refuse(self, job: _Job, code: str, detail: str) -> list[Effect]:
        reply = Reply(
            correlation=job.correlation,
            status=ReplyStatus.REFUSED,
            code=code,
            detail=detail,
            node=self.node,
        )
        return self._answer(job, reply)

    def _answer(self, job: _Job, reply: Reply) -> list[Effect]:
        if not job.caller:
            return [AnswerLocally(job.correlation, reply)]
        self.answered[job.key] = reply
        self.answered_bytes += len(reply.body)
        while len(self.answered) > ANSWERED_KEPT or self.answered_bytes > ANSWERED_BYTES_MAX:
            self.answered_bytes -= len(self.answered.popitem(last=False)[1].body)
        qos = 0 if job.repeatable else None
        return [Publish(_reply_to(self.node, job.caller), reply, qos)]

    def _load(self) -> LoadChanged:
        models = tuple(sorted({job.model for job in self.running.values()})) if self.running else ()
        return LoadChanged(len(self.waiting), len(self.running), models)

    def check(self) -> None:
        """Invariants."""
        assert len(self.running) <= self.slots + 1
        assert len(self.waiting) <= self.queue_max
        assert not any(self._is_free_for(job.model) for job in self.waiting), "nobody waits for a free lane"
        assert len(self.answered) <= ANSWERED_KEPT
        assert self.answered_bytes == sum(len(reply.body) for reply in self.answered.values())
        assert not self.running.keys() & {job.key for job in self.waiting}


@lru_cache(maxsize=256)
def _reply_to(node: str, caller: str) -> Address[Reply]:
    """Built once per caller: it stands in the way of every answer."""
    return REPLY.at(node=node, caller=caller)


def _local(event: LocalAsked, now: float) -> _Job:
    return _Job(
        f"/{event.ticket}", "", event.ticket, event.model, event.function, event.inputs, now + event.budget_s
    )

"""What a device does for federated learning: which rounds it answers, with what, when.

    RoundFact ──asked──> job: fetch, open, train ──Trained──> outbox ──parts──> receipt
                             │  one Job per job (job.py)         outbox.py
                             └─ room and policy.py say when

Facts are levels: whatever a newer (term, round) says replaces what an older one said, and nobody has to be
told that a round was cancelled but by the fact itself. A device that can't or may not train stays silent:
a round has a quorum and a deadline for that.

The choice a reader would question: which artifacts are required is never said step by step. After each
step the set that the jobs need is compared with the set that was asked for (borrowing.py), so that no way
out of a phase can forget to release one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from edge.training.borrowing import Borrowing
from edge.training.events import (
    Available,
    CancelTraining,
    ConditionsRead,
    DrainStarted,
    DropVersion,
    Event,
    KeepLearned,
    ModelOpened,
    OpenModel,
    PartSent,
    ReadConditions,
    ReadSources,
    ReceiptArrived,
    RememberDone,
    Restored,
    RoundArrived,
    SendPart,
    SettleUpdate,
    SourcesRead,
    Train,
    Trained,
    Unavailable,
    UnloadPackage,
)
from edge.training.job import Ask, Job, Phase, identity_of
from edge.training.jobs import Jobs
from edge.training.machine import Machine
from edge.training.outbox import Outbox, OutboxLimits
from edge.training.policy import Policy
from shared import learning as fl
from shared.core import Effect, Failed, Ignore, LinkDown, LinkUp, Tick

_WORKING = (Phase.FETCHING, Phase.OPENING, Phase.READY, Phase.TRAINING)


@dataclass(frozen=True, slots=True)
class Limits:
    """``room``: pieces of training at a time; ``reserve_ratio``: of the time left, kept for sending.

    ``keep_s``: so long a new version, or what an update left out, may be in memory only.
    """

    room: int = 1
    reserve_ratio: float = 0.2
    fetch_retry_min_s: float = 1.0
    fetch_retry_max_s: float = 60.0
    unload_s: float = 120.0
    keep_s: float = 5.0
    forget_s: float = 7 * 24 * 3600.0
    outbox: OutboxLimits = field(default_factory=OutboxLimits)


@dataclass(slots=True)
class Training:
    """Answers rounds. ``link``: class of this device's connection; ``chance`` returns numbers in [0, 1)."""

    node: str
    epoch: int
    chance: Callable[[], float]
    policy: Policy = field(default_factory=Policy)
    limits: Limits = field(default_factory=Limits)
    link: str = ""
    draining: bool = False
    jobs: Jobs = field(default_factory=Jobs)
    working: dict[int, str] = field(default_factory=dict)  # pieces of training under way -> package
    loaded: dict[str, float] = field(default_factory=dict)  # package -> when it was used last
    numbers: int = 0
    failures: int = 0
    keep_due: float = inf  # when what is in memory only goes to the disk
    machine: Machine = field(init=False)
    borrowing: Borrowing = field(init=False)
    outbox: Outbox = field(init=False)

    def __post_init__(self) -> None:
        limits = self.limits
        self.machine = Machine(self.node, self.epoch, limits.room, self.link)
        self.borrowing = Borrowing(self.chance, limits.fetch_retry_min_s, limits.fetch_retry_max_s)
        self.outbox = Outbox(self.chance, limits.outbox)

    def step(self, event: Event, now: float) -> list[Effect]:
        """See :class:`shared.core.Core`."""
        effects = [*self._decide(event, now), *self._advance(), *self._start(now)]
        self._reap()
        effects += self.borrowing.keep(self.jobs.needs(self.working.values()), now)
        return [*effects, *self.outbox.pump(now), *self.machine.tell(self.draining)]

    def _decide(self, event: Event, now: float) -> list[Effect]:
        match event:
            case RoundArrived():
                return self._round(event, now)
            case ReceiptArrived(job, receipt):
                return self._receipt(job, receipt, now)
            case Available() | Unavailable():
                return self._lent(event, now)
            case ModelOpened(number):
                return self._opened(number, now)
            case Trained():
                return self._trained(event, now)
            case PartSent():
                return self.outbox.sent(event, now)
            case Failed():
                return self._failed(event, event.reason, now)
            case Tick():
                return self._tick(now)
            case _:
                return self._machine(event, now)

    def _machine(self, event: Event, now: float) -> list[Effect]:
        """What is heard of the device itself."""
        match event:
            case SourcesRead():
                return self.machine.sources_read(event)
            case ConditionsRead(conditions):
                self.machine.conditions_read(conditions, now)
            case LinkUp() | LinkDown():
                self.machine.linked(isinstance(event, LinkUp))
                return self.outbox.link(self.machine.online, now)
            case Restored():
                return self._restored(event, now)
            case DrainStarted():
                self.draining = True
                return [effect for job in self.jobs.values() for effect in self._end(job, "draining")]
        return []

    def check(self) -> None:
        """Invariants."""
        assert len(self.jobs) <= fl.JOBS_MAX
        assert len(self.working) <= self.limits.room
        self.borrowing.check(self.jobs.needs(self.working.values()))
        for job in self.jobs.values():
            assert (job.phase in _WORKING) is (job.active is not None)
            assert job.phase is not Phase.TRAINING or (job.ask and job.ask.number in self.working)
            assert job.deadline < inf or job.phase in (Phase.SENDING, Phase.DONE)
            assert job.phase is not Phase.SENDING or self._unanswered(job)
        self.outbox.check()

    # What the cloud asks --------------------------------------------------------------------------------

    def _round(self, event: RoundArrived, now: float) -> list[Effect]:
        fact, job = event.fact, self.jobs.get(event.job)
        wanted = event.asked and fact.phase is fl.Phase.TRAINING
        effects: list[Effect] = []
        if job is None:
            if not wanted:
                return [Ignore(f"{event.job} asks nothing of this device")]
            job, effects = self.jobs.make(event.job)
            if job is None:
                return [Ignore(f"{fl.JOBS_MAX} jobs are under way; no room for {event.job}")]
        if (fact.term, fact.round) < job.order:
            return [Ignore(f"{event.job}: round {fact.round} of term {fact.term} is over")]
        job.order, job.heard_at = (fact.term, fact.round), now
        return effects + (self._asked(job, fact, now) if wanted else self._closed(job, fact))

    def _asked(self, job: Job, fact: fl.RoundFact, now: float) -> list[Effect]:
        identity, deadline = identity_of(fact), now + fact.budget_s
        if job.ask is not None and job.ask.identity == identity and job.phase is not Phase.DONE:
            job.ask.deadline = deadline
            return [Ignore(f"{job.name}: round {fact.round} is being answered")]
        if identity == job.done:
            return [Ignore(f"{job.name}: round {fact.round} was answered")]
        if fact.overlap and job.phase is Phase.TRAINING:
            job.later = fact, deadline
            return [Ignore(f"{job.name}: round {fact.round} comes after what is under way")]
        return self._begin(job, fact, deadline, now)

    def _begin(self, job: Job, fact: fl.RoundFact, deadline: float, now: float) -> list[Effect]:
        """Take the newest ask in place of what was under way."""
        effects = self._end(job, f"round {fact.round} is open")
        refusal = self._refusal(fact, deadline - now)
        if refusal or fact.model is None or fact.plan is None:
            job.detail = refusal
            return [*effects, Ignore(f"{job.name}, round {fact.round}: {refusal}")]
        self.numbers += 1
        job.ask = Ask(self.numbers, identity_of(fact), fact, fact.model, fact.plan, deadline)
        job.enter(Phase.FETCHING)
        return effects

    def _refusal(self, fact: fl.RoundFact, left_s: float) -> str:
        if self.draining:
            return "this device is going out of service"
        if left_s <= 0:
            return "no time is left"
        if fact.model is None or fact.plan is None or not fact.package:
            return "the round names no package, model or plan"
        sources = self.machine.sources
        source = (sources or {}).get(fact.plan.source)
        if sources is not None and source is None:
            return f"no source {fact.plan.source!r} here"
        evaluate = fact.task is fl.Task.EVALUATE
        if source is not None and not (source.held_out if evaluate else source.samples):
            return f"no examples in {fact.plan.source!r} for {fact.task}"
        return ""

    def _closed(self, job: Job, fact: fl.RoundFact) -> list[Effect]:
        effects: list[Effect] = []
        if fact.phase is fl.Phase.ERROR and job.done:
            job.done = ""  # the round may be opened again, and then counts from the start
            effects.append(RememberDone(job.name, ""))
        job.later = None
        if fact.overlap and job.phase is Phase.TRAINING:
            return [*effects, Ignore(f"{job.name}: the update under way still counts")]
        return [*effects, *self._end(job, f"round {fact.round} is {fact.phase}")]

    def _end(self, job: Job, why: str) -> list[Effect]:
        """Let go of what is under way; an update in the outbox goes on waiting for its receipt."""
        job.later, phase, ask = None, job.phase, job.ask
        if phase is Phase.DONE:
            return []
        job.enter(Phase.DONE, why)
        return [CancelTraining(ask.number)] if phase is Phase.TRAINING and ask is not None else []

    def _receipt(self, name: str, receipt: fl.Receipt, now: float) -> list[Effect]:
        stored, effects = self.outbox.receipt(name, receipt)
        self._keep_soon(now)
        job = self.jobs.get(name)
        if stored is None or job is None:
            return effects
        job.done = stored.ask
        if job.phase is Phase.SENDING and job.ask is not None and job.ask.identity == stored.ask:
            job.enter(Phase.DONE, f"{receipt.status} {receipt.reason}".strip())
        return [*effects, RememberDone(name, stored.ask)]

    # Pieces of work -------------------------------------------------------------------------------------

    def _opened(self, number: int, now: float) -> list[Effect]:
        self._keep_soon(now)
        job = self.jobs.at(number, Phase.OPENING)
        if job is None:
            return [Ignore("a model was opened that nobody waits for")]
        gone = job.opened()
        job.enter(Phase.READY)
        return [DropVersion(job.name, version) for version in gone]

    def _trained(self, event: Trained, now: float) -> list[Effect]:
        self.working.pop(event.number, None)
        job = self.jobs.at(event.number, Phase.TRAINING)
        key = event.update.key
        if job is None:
            said = Ignore(f"{key.job}, round {key.round}: done after it was cancelled")
            return [SettleUpdate(key, False), said]
        effects = self.outbox.add(event.update, now)
        later = job.later
        job.enter(Phase.SENDING)
        if later is not None:
            return [*effects, *self._begin(job, *later, now)]
        return effects

    def _failed(self, event: Failed, reason: str, now: float) -> list[Effect]:
        self.failures += 1
        match event.work:
            case ReadSources() | ReadConditions():
                self.machine.reading.discard(type(event.work))
                return [Ignore(reason)]
            case SendPart():
                return self.outbox.failed(event.work, reason, now)
            case OpenModel(number=number, base=base):
                return self._not_opened(number, base, reason)
            case Train(number=number):
                self.working.pop(number, None)
                job = self.jobs.at(number, Phase.TRAINING)
                if job is not None:
                    return self._not_trained(job, reason, now)
        return [Ignore(reason)]

    def _not_opened(self, number: int, base: int, reason: str) -> list[Effect]:
        job = self.jobs.at(number, Phase.OPENING)
        if job is None or job.ask is None:
            return [Ignore(reason)]
        if base >= 0:
            job.ask.delta_failed = True
            job.enter(Phase.FETCHING, reason)
        else:
            job.enter(Phase.DONE, reason)
        return [Ignore(f"{job.name}: {reason}")]

    def _not_trained(self, job: Job, reason: str, now: float) -> list[Effect]:
        later, said = job.later, [*self._distrust(job), Ignore(f"{job.name}: {reason}")]
        job.enter(Phase.DONE, reason)
        return said if later is None else [*said, *self._begin(job, *later, now)]

    def _distrust(self, job: Job) -> list[Effect]:
        """The version that could not be trained from may be what is broken: fetch it anew next time."""
        version = job.ask.model.version if job.ask is not None else -1
        return [DropVersion(job.name, version)] if job.versions.pop(version, None) else []

    # Artifacts ------------------------------------------------------------------------------------------

    def _lent(self, event: Available | Unavailable, now: float) -> list[Effect]:
        if isinstance(event, Available):
            known = self.borrowing.available(event)
            return [] if known else [Ignore(f"{event.digest[:8]} is not required")]
        if not self.borrowing.unavailable(event, now):
            return [Ignore(f"{event.digest[:8]} is not required")]
        for job in self.jobs.values():
            if job.phase is Phase.FETCHING and job.ask is not None and job.ask.model.delta == event.digest:
                job.ask.delta_failed = True
        return [Ignore(f"{event.digest[:8]}: {event.reason}")]

    def _advance(self) -> list[Effect]:
        """Whoever has everything goes on."""
        effects: list[Effect] = []
        for job in self.jobs.values():
            if (
                job.phase is Phase.FETCHING
                and job.ask is not None
                and job.ask.fact.package in self.borrowing.here
            ):
                effects += self._open(job, job.ask)
        return effects

    def _open(self, job: Job, ask: Ask) -> list[Effect]:
        missing = job.missing()
        if missing is None:
            job.enter(Phase.READY)
            return []
        digest, base = missing
        if not digest:
            job.enter(Phase.DONE, "no snapshot is offered")
            return [Ignore(f"{job.name}: there is no way to get version {ask.model.version}")]
        if digest not in self.borrowing.here:
            return []
        job.enter(Phase.OPENING)
        return [OpenModel(ask.number, job.name, ask.model, self.borrowing.here[digest], base)]

    # Training -------------------------------------------------------------------------------------------

    def _start(self, now: float) -> list[Effect]:
        """Train where there is room and nothing speaks against it, the most urgent job first."""
        ready = [job for job in self.jobs.values() if job.phase is Phase.READY]
        if not ready or len(self.working) >= self.limits.room:
            return []
        conditions = self.machine.fresh(now)
        if conditions is None:
            return self.machine.read(ReadConditions())
        refusal = self.policy.refusal(conditions)
        effects: list[Effect] = []
        for job in sorted(ready, key=lambda job: (job.deadline, job.name)):
            job.detail = refusal
            if not refusal and len(self.working) < self.limits.room and job.ask is not None:
                effects.append(self._train(job, job.ask, now))
        return effects

    def _train(self, job: Job, ask: Ask, now: float) -> Train:
        fact, package = ask.fact, ask.fact.package
        left_s = (ask.deadline - now) * (1 - self.limits.reserve_ratio)
        budget_s = max(0.0, min(ask.plan.budget_s, left_s))
        codec = fact.link_codecs.get(self.link, fact.codec)
        self.working[ask.number] = package
        self.loaded[package] = now
        job.enter(Phase.TRAINING)
        return Train(ask.number, job.name, ask.identity, fact, self.borrowing.here[package], codec, budget_s)

    # Time -----------------------------------------------------------------------------------------------

    def _tick(self, now: float) -> list[Effect]:
        effects = self.machine.tick(now)
        if now >= self.keep_due:
            self.keep_due = inf
            effects.append(KeepLearned())
        for job in self.jobs.values():
            if now >= job.deadline:
                effects += [*self._end(job, "the deadline"), Ignore(f"{job.name}: the deadline of the round")]
        return [*effects, *self.outbox.tick(now), *self._tidy(now)]

    def _keep_soon(self, now: float) -> None:
        """Not at once: where rounds are short, the next one replaces it before anybody could need it."""
        self.keep_due = min(self.keep_due, now + self.limits.keep_s)

    def _reap(self) -> None:
        for job in self.jobs.values():
            if job.phase is Phase.SENDING and not self._unanswered(job):
                job.enter(Phase.DONE, "the outbox gave the update up")

    def _unanswered(self, job: Job) -> bool:
        return any(key.job == job.name for key in self.outbox.waiting)

    def _tidy(self, now: float) -> list[Effect]:
        """Let go of what has not been used for long."""
        effects = self.jobs.tidy(now, self.limits.forget_s)
        busy = set(self.working.values())
        for package, used in tuple(self.loaded.items()):
            if package not in busy and now - used >= self.limits.unload_s:
                del self.loaded[package]
                effects.append(UnloadPackage(package))
        return effects

    def _restored(self, event: Restored, now: float) -> list[Effect]:
        effects = self.jobs.restore(event, now)
        for one in sorted(event.updates, key=lambda one: -one.age_s):
            effects += self.outbox.add(one, now)
        return effects

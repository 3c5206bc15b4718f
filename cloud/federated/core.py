"""The coordinator of federated learning: all jobs, everybody who can be asked, and who may say what.

    LearnAsk ──> Prepare ──> a Job ──cohort──> RoundFact ──> parts ──> intake.py, round.py ──> receipts
                              │  job.py: the moves
                              └──Write──Written──> saying.py: facts, artifacts; then Aggregate, MakeModel

This file decides which job an event is about, and gives every job its turn after it: open a pass where there
is somebody to ask, write what has changed, and once that is durable say it and start the work that follows.
A receipt is sent when its update is durable, which needs no write of the job.

The choice a reader would question: a client may be asked by as many jobs as it says it has room for, and jobs
take turns by how long they have waited. Two jobs over the same devices thus alternate, round by round.

A cloud that hears of a later term than its own has been replaced: it says and writes nothing any more.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from cloud.facts import NodeChanged, NodeForgotten
from cloud.federated import saying
from cloud.federated.asks import reply
from cloud.federated.clients import Clients
from cloud.federated.events import (
    Aggregate,
    Aggregated,
    ClientsSaved,
    CloudSeen,
    Event,
    Judge,
    Judged,
    LearnAsked,
    LearnerAsked,
    LearnerSeen,
    Load,
    Loaded,
    MakeModel,
    ModelAdded,
    ModelMade,
    PartArrived,
    Prepare,
    Prepared,
    Remove,
    Removed,
    SaveClients,
    Write,
    Written,
)
from cloud.federated.fleet import Fleet
from cloud.federated.intake import Intake
from cloud.federated.job import WORK_S_MAX, Job
from cloud.federated.round import ASKED
from cloud.federated.rows import job_view
from cloud.federated.steering import Steering
from shared.core import Clear, Effect, Failed, Ignore, LinkDown, LinkUp, Tick
from shared.learning import Phase
from shared.topics import MANIFEST

WRITE_AGAIN_S = 1.0
MODELS_KEPT = 10_000


@dataclass(slots=True)
class Coordinator:
    """``term``: of this start of the cloud. ``unix_s``: the wall clock at time 0 of ``now``, for people."""

    term: int
    unix_s: float = 0.0
    fleet: Fleet = field(default_factory=Fleet)
    jobs: dict[str, Job] = field(default_factory=dict)
    models: dict[str, tuple[str, str]] = field(default_factory=dict)  # digest -> name, version
    loading: bool = False
    stray: tuple[str, ...] = ()
    linked: bool = False
    down_at: float = inf
    fenced: bool = False
    intake: Intake = field(init=False)
    steering: Steering = field(init=False)
    clients: Clients = field(init=False)

    def __post_init__(self) -> None:
        self.intake, self.clients = Intake(self.fleet), Clients(self.fleet)
        self.steering = Steering(self.term, self.jobs)

    def step(self, event: Event, now: float) -> list[Effect]:
        """See :class:`shared.core.Core`."""
        if self.fenced:
            return [] if isinstance(event, Tick) else [Ignore("a later cloud has taken over")]
        effects = _HANDLERS[type(event)](self, event, now)
        if isinstance(event, NodeChanged | NodeForgotten | LearnerSeen):
            return effects  # a tick looks at the fleet: heartbeats of thousands give no job a turn
        if self.stray and self.linked:
            effects += [Clear(MANIFEST.at(artifact=digest)) for digest in self.stray]
            self.stray = ()
        for job in sorted(self.jobs.values(), key=lambda job: (job.since, job.name)):
            effects += self._turn(job, now, isinstance(event, Tick))
        return effects

    def check(self) -> None:
        """Invariants. Tests and simulations call this after every step."""
        self.steering.check()
        assert self.fleet.apps.keys() <= self.fleet.learners.keys()
        self.intake.assembly.check()
        for name, job in self.jobs.items():
            assert job.name == name
            job.check()

    # A job's turn -------------------------------------------------------------------------------------------

    def _turn(self, job: Job, now: float, tick: bool) -> list[Effect]:
        ticks = tick and self.linked and job.round is not None
        effects = self.intake.round(job, Tick(), now) if ticks else []
        if job.writing is None:
            self._go_on(job, now, tick)
        if job.writing is None and job.unsaved:
            return [*effects, job.write()]
        if job.writing is not None and now >= job.write_again:
            job.write_again = inf
            return [*effects, job.writing]
        return [*effects, *self._say(job, now, tick), *self._work(job, now)] if job.durable else effects

    def _go_on(self, job: Job, now: float, tick: bool) -> None:
        """What a job does without being asked."""
        if job.round is not None and job.round.over and job.state.phase is Phase.TRAINING:
            job.closed(now)
            for other in self.jobs.values():  # who waited for these devices comes first
                other.fresh = True
        if job.working is not None and now >= job.work_deadline:
            job.fail(f"no answer within {WORK_S_MAX:g} s", now)
        if job.state.phase is Phase.ERROR and now >= job.due:
            job.reset(now)
        if job.state.phase is Phase.INITIALIZING and self.linked and (tick or job.fresh):
            job.fresh = False
            job.open(self.fleet, self._busy(job), now)

    def _busy(self, but: Job) -> Counter[str]:
        """How many other jobs wait for an answer of each client."""
        busy: Counter[str] = Counter()
        for job in self.jobs.values():
            if job is not but and job.round is not None and not job.round.over:
                busy.update(client for client, row in job.round.rows.items() if row.status == ASKED)
        return busy

    def _say(self, job: Job, now: float, tick: bool) -> list[Effect]:
        said = saying.tell(job, now, self.unix_s + now, tick=tick) if self.linked else []
        waiting, job.waiting = job.waiting, []
        return [*said, *(reply(asker, job_view(job.state)) for asker in waiting)]

    def _work(self, job: Job, now: float) -> list[Effect]:
        """What AGGREGATING stands for."""
        state = job.state
        if state.phase is not Phase.AGGREGATING or job.working is not None:
            return []
        if state.finishing:
            described = f"learned by {job.name}: version {state.version.ref.version}"
            job.working = MakeModel(job.spec, state.version.ref, described)
        elif job.round is not None:
            job.working = Aggregate(job.round.at)
        job.work_deadline = now + WORK_S_MAX
        return [job.working] if job.working is not None else []

    # Updates and versions -----------------------------------------------------------------------------------

    def _part(self, event: PartArrived, now: float) -> list[Effect]:
        job = self.jobs.get(event.job)
        if job is None and (not self.steering.ready or event.job in self.steering.creating):
            return [Ignore(f"nothing is known of {event.job} yet")]
        return self.intake.part(event, job, now)

    def _judged(self, event: Judged, now: float) -> list[Effect]:
        job = self.jobs.get(event.at.job)
        return self.intake.round(job, event, now) if job else [Ignore(f"{event.at.job} is gone")]

    def _aggregated(self, event: Aggregated, now: float) -> list[Effect]:
        job = self.jobs.get(event.at.job)
        work = job.working if job is not None else None
        if job is None or not isinstance(work, Aggregate) or work.at.id != event.at:
            return [Ignore(f"a version of {event.at.job} that nobody waits for")]
        job.working = None
        job.aggregated(event.version, event.aggregate_s, now)
        return []

    def _model_made(self, event: ModelMade, now: float) -> list[Effect]:
        job = self.jobs.get(event.job)
        if job is None or not isinstance(job.working, MakeModel):
            return [Ignore(f"a model of {event.job} that nobody waits for")]
        job.expecting = event.digest
        self._deliver(job, now)
        return []

    def _model_added(self, event: ModelAdded, now: float) -> list[Effect]:
        self.models[event.digest] = (event.name, event.version)
        if len(self.models) > MODELS_KEPT:
            self.models.pop(next(iter(self.models)))
        for job in self.jobs.values():
            self._deliver(job, now)
        return []

    def _deliver(self, job: Job, now: float) -> None:
        """The model is in the catalog: there is nothing more to do."""
        if job.expecting in self.models and isinstance(job.working, MakeModel):
            version = self.models[job.expecting][1]
            job.working = None
            job.enter(Phase.COMPLETED, now, closed=True, model=job.expecting, model_version=version)

    # The disk -----------------------------------------------------------------------------------------------

    def _loaded(self, event: Loaded, now: float) -> list[Effect]:
        self.loading = False
        later = max((stored.state.term for stored in event.jobs), default=0)
        if later > self.term:
            self.fenced = True
            return [Ignore(f"a cloud of term {later} has written this; ours is {self.term}")]
        self.steering.ready, self.stray = True, event.stray
        for stored in event.jobs:
            job = self.jobs[stored.state.spec.job] = Job.of(stored, self.term, now)
            job.check()
        for client, (app, learner) in event.clients.items():
            if not self.fleet.learn(client, learner, now):
                self.fleet.apps[client] = app
        return [Ignore(problem) for problem in event.problems]

    def _written(self, event: Written, _: float) -> list[Effect]:
        job = self.jobs.get(event.job)
        if job is None or job.writing is None:
            return [Ignore(f"{event.job} waits for no write")]
        job.writing, job.write_again = None, inf
        return []

    def _failed(self, event: Failed, now: float) -> list[Effect]:
        said: list[Effect] = [Ignore(f"{type(event.work).__name__} failed: {event.reason}")]
        match event.work:
            case Load():
                self.loading = False
            case Prepare() | Remove():
                said += self.steering.failed(event.work, event.reason)
            case SaveClients():
                said += self.clients.failed(event.reason)
            case Write(name) if name in self.jobs:
                self.jobs[name].write_again = now + WRITE_AGAIN_S
            case Judge(at=at) if at.spec.job in self.jobs:
                said += self.intake.round(self.jobs[at.spec.job], event, now)
            case Aggregate() | MakeModel():
                self._work_failed(event, now)
        return said

    def _work_failed(self, event: Failed, now: float) -> None:
        for job in self.jobs.values():
            if job.working is event.work:
                job.fail(event.reason, now)

    # The fleet --------------------------------------------------------------------------------------------

    def _learner(self, event: LearnerSeen, now: float) -> list[Effect]:
        if event.client in self.fleet.apps:
            return [Ignore(f"{event.client} is registered by an application")]
        why = self.fleet.learn(event.client, event.learner, now)
        return [Ignore(why)] if why else []

    def _node(self, event: NodeChanged, _: float) -> list[Effect]:
        self.fleet.facts[event.fact.node] = event.fact
        return []

    def _forgotten(self, event: NodeForgotten, _: float) -> list[Effect]:
        self.fleet.forget(event.node)
        return []

    # Time and link ------------------------------------------------------------------------------------------

    def _tick(self, _: Tick, now: float) -> list[Effect]:
        dropped = [
            Ignore(f"the update of {client} to {job} did not go on")
            for job, client in self.intake.assembly.expire(now)
        ]
        if self.steering.ready or self.loading:
            return [*dropped]
        self.loading = True
        return [*dropped, Load()]

    def _link_up(self, _: LinkUp, now: float) -> list[Effect]:
        """While the link was down nobody could answer: that time is given back."""
        blind_s = max(0.0, now - self.down_at)
        self.linked, self.down_at = True, inf
        for job in self.jobs.values():
            saying.tell_again(job)
            if job.round is not None:
                job.round.deadline += blind_s
        return []

    def _link_down(self, _: LinkDown, now: float) -> list[Effect]:
        self.linked, self.down_at = False, now
        return []

    def _cloud(self, event: CloudSeen, _: float) -> list[Effect]:
        if event.term <= self.term or not event.online:
            return []
        self.fenced = True
        return [Ignore(f"a cloud of term {event.term} is here; ours is {self.term}")]


_HANDLERS: Mapping[type[Any], Callable[[Coordinator, Any, float], list[Effect]]] = {
    LearnAsked: lambda core, event, now: core.steering.asked(event, now),
    LearnerSeen: Coordinator._learner,
    LearnerAsked: lambda core, event, now: core.clients.asked(event, now),
    PartArrived: Coordinator._part,
    ModelAdded: Coordinator._model_added,
    CloudSeen: Coordinator._cloud,
    Loaded: Coordinator._loaded,
    Prepared: lambda core, event, now: core.steering.prepared(event, now, core.unix_s + now),
    Written: Coordinator._written,
    ClientsSaved: lambda core, _, __: core.clients.saved(),
    Judged: Coordinator._judged,
    Aggregated: Coordinator._aggregated,
    ModelMade: Coordinator._model_made,
    Removed: lambda core, event, _: core.steering.removed(event),
    NodeChanged: Coordinator._node,
    NodeForgotten: Coordinator._forgotten,
    Failed: Coordinator._failed,
    Tick: Coordinator._tick,
    LinkUp: Coordinator._link_up,
    LinkDown: Coordinator._link_down,
}

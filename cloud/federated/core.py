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
from cloud.federated.asks import Refusal, refused, reply
from cloud.federated.events import (
    Aggregate,
    Aggregated,
    Asker,
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
from cloud.federated.records import JobState
from cloud.federated.round import ASKED
from cloud.federated.spec import checked
from cloud.federated.strategies import resolve
from shared.core import Effect, Failed, Ignore, LinkDown, LinkUp, Tick
from shared.errors import ConfigError
from shared.ids import is_id
from shared.learning import JOBS_MAX, JobSpec, LearnAsk, LearnVerb, Phase

WRITE_AGAIN_S = 1.0
MODELS_KEPT = 10_000
REGISTERING_MAX = 1000


@dataclass(slots=True)
class Creating:
    """A job whose first version is being made, and who wants to hear of it."""

    spec: JobSpec
    askers: list[Asker]


@dataclass(slots=True)
class Coordinator:
    """``term``: of this start of the cloud. ``unix_s``: the wall clock at time 0 of ``now``, for people.

    ``registering``: for the next write of the list of clients; ``confirming``: for the one under way.
    """

    term: int
    unix_s: float = 0.0
    fleet: Fleet = field(default_factory=Fleet)
    jobs: dict[str, Job] = field(default_factory=dict)
    creating: dict[str, Creating] = field(default_factory=dict)
    removing: dict[str, list[Asker]] = field(default_factory=dict)
    registering: list[Asker] = field(default_factory=list)
    confirming: list[Asker] = field(default_factory=list)
    saving_clients: bool = False
    models: dict[str, tuple[str, str]] = field(default_factory=dict)  # digest -> name, version
    loading: bool = False
    loaded: bool = False
    linked: bool = False
    down_at: float = inf
    fenced: bool = False
    intake: Intake = field(init=False)

    def __post_init__(self) -> None:
        self.intake = Intake(self.fleet)

    def step(self, event: Event, now: float) -> list[Effect]:
        """See :class:`shared.core.Core`."""
        if self.fenced:
            return [] if isinstance(event, Tick) else [Ignore("a later cloud has taken over")]
        effects = _HANDLERS[type(event)](self, event, now)
        for job in sorted(self.jobs.values(), key=lambda job: (job.since, job.name)):
            effects += self._turn(job, now, isinstance(event, Tick))
        return effects

    def check(self) -> None:
        """Invariants. Tests and simulations call this after every step."""
        assert len(self.jobs) + len(self.creating) <= JOBS_MAX
        assert not self.jobs.keys() & (self.creating.keys() | self.removing.keys())
        assert self.fleet.apps.keys() <= self.fleet.learners.keys()
        self.intake.assembly.check()
        for name, job in self.jobs.items():
            assert job.name == name
            job.check()

    # A job's turn -------------------------------------------------------------------------------------------

    def _turn(self, job: Job, now: float, tick: bool) -> list[Effect]:
        effects = self.intake.round(job, Tick(), now) if tick and job.round is not None else []
        if job.writing is None:
            self._go_on(job, now, tick)
        if job.writing is None and job.unsaved:
            return [*effects, job.write()]
        if job.writing is not None and now >= job.write_again:
            job.write_again = inf
            return [*effects, job.writing]
        return [*effects, *self._say(job, now), *self._work(job, now)] if job.durable else effects

    def _go_on(self, job: Job, now: float, tick: bool) -> None:
        """What a job does without being asked."""
        if job.round is not None and job.round.over and job.state.phase is Phase.TRAINING:
            job.closed(now)
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

    def _say(self, job: Job, now: float) -> list[Effect]:
        said = saying.tell(job, now, self.unix_s + now) if self.linked else []
        waiting, job.waiting = job.waiting, []
        return [*said, *(reply(asker, job.view()) for asker in waiting)]

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
        if job is None and (not self.loaded or event.job in self.creating):
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
        self.loading, self.loaded = False, True
        for stored in event.jobs:
            if stored.state.term > self.term:
                self.fenced = True
                return [Ignore(f"a cloud of term {stored.state.term} has written this; ours is {self.term}")]
        for stored in event.jobs:
            job = Job.of(stored, self.term, now)
            self.jobs[job.name] = job
        for client, (app, learner) in event.clients.items():
            if not self.fleet.learn(client, learner, now):
                self.fleet.apps[client] = app
        return []

    def _written(self, event: Written, _: float) -> list[Effect]:
        job = self.jobs.get(event.job)
        if job is None or job.writing is None:
            return [Ignore(f"{event.job} waits for no write")]
        job.writing, job.write_again = None, inf
        return []

    def _prepared(self, event: Prepared, now: float) -> list[Effect]:
        creating = self.creating.pop(event.job, None)
        if creating is None:
            return [Ignore(f"{event.job} is not being made")]
        spec = creating.spec
        state = JobState(
            spec=spec,
            term=self.term,
            version=event.version,
            created_at_unix_s=self.unix_s + now,
            round=1,
        )
        job = Job(state, resolve(spec.strategy, spec.options), since=now, unsaved=True)
        job.waiting += creating.askers
        self.jobs[job.name] = job
        return []

    def _removed(self, event: Removed, _: float) -> list[Effect]:
        return [reply(asker, None) for asker in self.removing.pop(event.job, [])]

    def _clients_saved(self, _: ClientsSaved, __: float) -> list[Effect]:
        confirmed, self.confirming = self.confirming, []
        self.saving_clients = False
        return [*(reply(asker, None) for asker in confirmed), *self._save_clients()]

    def _failed(self, event: Failed, now: float) -> list[Effect]:
        match event.work:
            case Load():
                self.loading = False
            case Prepare(spec):
                creating = self.creating.pop(spec.job, None)
                askers = creating.askers if creating else []
                return [refused(asker, "not-usable", event.reason) for asker in askers]
            case Write(name):
                job = self.jobs.get(name)
                if job is not None:
                    job.write_again = now + WRITE_AGAIN_S
            case Judge(at=at):
                return self._judge_failed(event, at.spec.job, now)
            case Aggregate() | MakeModel():
                return self._work_failed(event, now)
            case Remove(name):
                return [refused(one, "not-removed", event.reason) for one in self.removing.pop(name, [])]
            case SaveClients():
                confirming, self.confirming, self.saving_clients = self.confirming, [], False
                return [refused(asker, "not-saved", event.reason) for asker in confirming]
        return [Ignore(f"{type(event.work).__name__} failed: {event.reason}")]

    def _judge_failed(self, event: Failed, name: str, now: float) -> list[Effect]:
        job = self.jobs.get(name)
        return self.intake.round(job, event, now) if job else [Ignore(f"{name} is gone")]

    def _work_failed(self, event: Failed, now: float) -> list[Effect]:
        for job in self.jobs.values():
            if job.working is event.work:
                job.fail(event.reason, now)
                return [Ignore(f"{job.name}: {event.reason}")]
        return [Ignore(event.reason)]

    # Applications -------------------------------------------------------------------------------------------

    def _learn_asked(self, event: LearnAsked, now: float) -> list[Effect]:
        asker = Asker(event.app, event.ask.correlation)
        try:
            return _VERBS[event.ask.verb](self, event.ask, asker, now)
        except Refusal as refusal:
            return [refused(asker, refusal.code, refusal.detail)]

    def _create(self, ask: LearnAsk, asker: Asker, _: float) -> list[Effect]:
        spec = ask.spec
        if spec is None or spec.job != ask.job:
            raise Refusal("bad-job", "to create a job, send its specification under its name")
        try:
            checked(spec)
        except ConfigError as error:
            raise Refusal("bad-job", str(error)) from None
        if not self.loaded:
            raise Refusal("starting", "the cloud is still reading its jobs; try again")
        if self._known(spec, asker):
            return []
        if len(self.jobs) + len(self.creating) >= JOBS_MAX:
            raise Refusal("too-many-jobs", f"{JOBS_MAX} jobs are here; delete one first")
        self.creating[spec.job] = Creating(spec, [asker])
        return [Prepare(spec)]

    def _known(self, spec: JobSpec, asker: Asker) -> bool:
        """The same request a second time is answered like the first."""
        if spec.job in self.removing:
            raise Refusal("being-deleted", f"{spec.job} is being deleted; try again")
        job, creating = self.jobs.get(spec.job), self.creating.get(spec.job)
        if job is None and creating is None:
            return False
        if (job.spec if job else creating.spec if creating else None) != spec:
            raise Refusal("exists", f"there is a job {spec.job} already, with another specification")
        (job.waiting if job else creating.askers if creating else []).append(asker)
        return True

    def _job(self, name: str) -> Job:
        job = self.jobs.get(name)
        if job is None:
            raise Refusal("no-such-job", f"there is no job {name[:80]!r}; 'shoal learn jobs' lists them")
        return job

    def _stop(self, ask: LearnAsk, asker: Asker, now: float) -> list[Effect]:
        job = self._job(ask.job)
        job.waiting.append(asker)
        if job.state.closed or job.state.finishing:
            return []
        if job.state.phase is Phase.AGGREGATING:
            job.change(stopping=True)
        else:
            job.finish("stopped on request", now)
        return []

    def _reset(self, ask: LearnAsk, asker: Asker, now: float) -> list[Effect]:
        job = self._job(ask.job)
        if job.state.phase is not Phase.ERROR:
            raise Refusal("not-in-error", f"{job.name} is {job.state.phase}; only ERROR is reset")
        job.change(failures=0)
        job.reset(now)
        job.waiting.append(asker)
        return []

    def _delete(self, ask: LearnAsk, asker: Asker, _: float) -> list[Effect]:
        job = self._job(ask.job)
        del self.jobs[job.name]
        self.intake.assembly.drop(job.name)
        self.removing[job.name] = [asker]
        waiting = [refused(one, "deleted", f"{job.name} was deleted") for one in job.waiting]
        return [*waiting, *saying.silence(job), Remove(job.name, saying.digests(job))]

    # Devices and clients ------------------------------------------------------------------------------------

    def _learner(self, event: LearnerSeen, now: float) -> list[Effect]:
        if event.client in self.fleet.apps:
            return [Ignore(f"{event.client} is registered by an application")]
        why = self.fleet.learn(event.client, event.learner, now)
        return [Ignore(why)] if why else []

    def _learner_asked(self, event: LearnerAsked, now: float) -> list[Effect]:
        ask, asker = event.ask, Asker(event.app, event.ask.correlation)
        complaint = self._not_its(event.app, ask.client)
        if complaint:
            return [refused(asker, "not-yours", complaint)]
        if len(self.registering) >= REGISTERING_MAX:
            return [refused(asker, "overloaded", "too many registrations wait for the disk; try again")]
        if ask.learner is None:
            self.fleet.forget(ask.client)
        else:
            why = self.fleet.learn(ask.client, ask.learner, now)
            if why:
                return [refused(asker, "not-registered", why)]
            self.fleet.apps[ask.client] = event.app
        self.registering.append(asker)
        return self._save_clients()

    def _not_its(self, app: str, client: str) -> str:
        if not is_id(client):
            return f"{client[:80]!r} is not a usable name: 1 to 64 of a-z, 0-9 and '-'"
        if client in self.fleet.facts or (client in self.fleet.learners and client not in self.fleet.apps):
            return f"{client} is a device of the fleet"
        owner = self.fleet.apps.get(client, app)
        return f"{client} was registered by {owner}" if owner != app else ""

    def _save_clients(self) -> list[Effect]:
        if self.saving_clients or not self.registering:
            return []
        self.confirming, self.registering, self.saving_clients = self.registering, [], True
        return [
            SaveClients(
                {client: (app, self.fleet.learners[client]) for client, app in self.fleet.apps.items()}
            )
        ]

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
        if self.loaded or self.loading:
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
        if event.term <= self.term:
            return []
        self.fenced = True
        return [Ignore(f"a cloud of term {event.term} is here; ours is {self.term}")]


_VERBS: Mapping[LearnVerb, Callable[[Coordinator, LearnAsk, Asker, float], list[Effect]]] = {
    LearnVerb.CREATE: Coordinator._create,
    LearnVerb.STOP: Coordinator._stop,
    LearnVerb.RESET: Coordinator._reset,
    LearnVerb.DELETE: Coordinator._delete,
}

_HANDLERS: Mapping[type[Any], Callable[[Coordinator, Any, float], list[Effect]]] = {
    LearnAsked: Coordinator._learn_asked,
    LearnerSeen: Coordinator._learner,
    LearnerAsked: Coordinator._learner_asked,
    PartArrived: Coordinator._part,
    ModelAdded: Coordinator._model_added,
    CloudSeen: Coordinator._cloud,
    Loaded: Coordinator._loaded,
    Prepared: Coordinator._prepared,
    Written: Coordinator._written,
    ClientsSaved: Coordinator._clients_saved,
    Judged: Coordinator._judged,
    Aggregated: Coordinator._aggregated,
    ModelMade: Coordinator._model_made,
    Removed: Coordinator._removed,
    NodeChanged: Coordinator._node,
    NodeForgotten: Coordinator._forgotten,
    Failed: Coordinator._failed,
    Tick: Coordinator._tick,
    LinkUp: Coordinator._link_up,
    LinkDown: Coordinator._link_down,
}

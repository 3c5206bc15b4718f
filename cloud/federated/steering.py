"""Jobs come, are steered, and go: what applications may do to them.

    CREATE ──Prepare──> Prepared ──> a Job, answered once it is durable
    STOP, RESET ──> a move of the job, answered once it is durable
    DELETE ──> nothing is said of the job any more ──Remove──> Removed, answered

The same request a second time (its reply was lost) is answered like the first.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cloud.federated import saying
from cloud.federated.asks import Refusal, refused, reply
from cloud.federated.events import Asker, LearnAsked, Prepare, Prepared, Remove, Removed
from cloud.federated.job import Job
from cloud.federated.records import JobState
from cloud.federated.spec import checked
from cloud.federated.strategies import resolve
from shared.core import Effect, Ignore
from shared.errors import ConfigError
from shared.learning import JOBS_MAX, JobSpec, LearnAsk, LearnVerb, Phase

ASKERS_MAX = 64


@dataclass(slots=True)
class Creating:
    """A job whose first version is being made, and who wants to hear of it."""

    spec: JobSpec
    askers: list[Asker]


@dataclass(slots=True)
class Steering:
    """``jobs``: the coordinator's. ``removing``: jobs of which something may still lie on the disk."""

    term: int
    jobs: dict[str, Job]
    creating: dict[str, Creating] = field(default_factory=dict)
    removing: dict[str, list[Asker]] = field(default_factory=dict)
    ready: bool = False  # whether it is known which jobs there are

    def asked(self, event: LearnAsked, now: float) -> list[Effect]:
        """A request, and what follows from it at once."""
        asker = Asker(event.app, event.ask.correlation)
        try:
            if not self.ready:
                raise Refusal("starting", "the cloud is still reading its jobs; try again")
            return _VERBS[event.ask.verb](self, event.ask, asker, now)
        except Refusal as refusal:
            return [refused(asker, refusal.code, refusal.detail)]

    def prepared(self, event: Prepared, now: float, unix_s: float) -> list[Effect]:
        """The job begins."""
        creating = self.creating.pop(event.job, None)
        if creating is None:
            return [Ignore(f"{event.job} is not being made")]
        spec = creating.spec
        state = JobState(spec=spec, term=self.term, version=event.version, created_at_unix_s=unix_s, round=1)
        self.jobs[spec.job] = Job(
            state, resolve(spec.strategy, spec.options), since=now, unsaved=True, waiting=creating.askers
        )
        return []

    def removed(self, event: Removed) -> list[Effect]:
        """Its name is free."""
        return [reply(asker, None) for asker in self.removing.pop(event.job, [])]

    def failed(self, work: Prepare | Remove, reason: str) -> list[Effect]:
        """The packages, or the disk, did not let it happen."""
        if isinstance(work, Prepare):
            creating = self.creating.pop(work.spec.job, None)
            return [refused(asker, "not-usable", reason) for asker in (creating.askers if creating else [])]
        return [refused(asker, "not-removed", reason) for asker in self.removing.pop(work.job, [])]

    def check(self) -> None:
        """Invariants."""
        assert len(self.jobs) + len(self.creating) <= JOBS_MAX
        assert not self.jobs.keys() & (self.creating.keys() | self.removing.keys())

    # The verbs ----------------------------------------------------------------------------------------------

    def _create(self, ask: LearnAsk, asker: Asker, _: float) -> list[Effect]:
        spec = ask.spec
        if spec is None or spec.job != ask.job:
            raise Refusal("bad-job", "to create a job, send its specification under its name")
        try:
            checked(spec)
        except ConfigError as error:
            raise Refusal("bad-job", str(error)) from None
        if self._known(spec, asker):
            return []
        if len(self.jobs) + len(self.creating) >= JOBS_MAX:
            raise Refusal("too-many-jobs", f"{JOBS_MAX} jobs are here; delete one first")
        self.creating[spec.job] = Creating(spec, [asker])
        return [Prepare(spec)]

    def _known(self, spec: JobSpec, asker: Asker) -> bool:
        if spec.job in self.removing:
            raise Refusal("being-deleted", f"{spec.job} is being deleted; try again")
        job, creating = self.jobs.get(spec.job), self.creating.get(spec.job)
        if job is not None:
            _same(job.spec, spec)
            _wait(job.waiting, asker)
        elif creating is not None:
            _same(creating.spec, spec)
            _wait(creating.askers, asker)
        return job is not None or creating is not None

    def _job(self, name: str) -> Job:
        job = self.jobs.get(name)
        if job is None:
            raise Refusal("no-such-job", f"there is no job {name[:80]!r}; 'shoal learn jobs' lists them")
        return job

    def _stop(self, ask: LearnAsk, asker: Asker, now: float) -> list[Effect]:
        job = self._job(ask.job)
        _wait(job.waiting, asker)
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
        _wait(job.waiting, asker)
        job.change(failures=0)
        job.reset(now)
        return []

    def _delete(self, ask: LearnAsk, asker: Asker, _: float) -> list[Effect]:
        if ask.job in self.removing:
            _wait(self.removing[ask.job], asker)
            return []
        job = self._job(ask.job)
        del self.jobs[job.name]
        self.removing[job.name] = [asker]
        waiting = [refused(one, "deleted", f"{job.name} was deleted") for one in job.waiting]
        return [*waiting, *saying.silence(job), Remove(job.name, saying.digests(job))]


def _same(spec: JobSpec, other: JobSpec) -> None:
    if spec != other:
        raise Refusal("exists", f"there is a job {spec.job} already, with another specification")


def _wait(askers: list[Asker], asker: Asker) -> None:
    if len(askers) >= ASKERS_MAX:
        raise Refusal("overloaded", "too many wait for this job's disk; try again")
    askers.append(asker)


_VERBS: Mapping[LearnVerb, Callable[[Steering, LearnAsk, Asker, float], list[Effect]]] = {
    LearnVerb.CREATE: Steering._create,
    LearnVerb.STOP: Steering._stop,
    LearnVerb.RESET: Steering._reset,
    LearnVerb.DELETE: Steering._delete,
}

"""All jobs that this device has heard of: at most so many, and none for ever."""

from collections.abc import Iterable

from edge.training.events import ForgetJob, Restored
from edge.training.job import Job, Phase
from shared.core import Effect
from shared.learning import JOBS_MAX

_AWAITS = (Phase.FETCHING, Phase.OPENING)


class Jobs(dict[str, Job]):
    """By name. A job that is done stays: its package and its model are what the next round starts from."""

    def make(self, name: str) -> tuple[Job | None, list[Effect]]:
        """A new one, for which the one that was silent longest may have to go. None: all are at work."""
        effects: list[Effect] = []
        if len(self) >= JOBS_MAX:
            done = [job for job in self.values() if job.phase is Phase.DONE]
            if not done:
                return None, []
            effects = self._forget(min(done, key=lambda job: job.heard_at))
        job = self[name] = Job(name)
        return job, effects

    def restore(self, event: Restored, now: float) -> list[Effect]:
        """What the disk knows. An ask whose update still waits is answered: it is not trained for again."""
        waiting = sorted(event.updates, key=lambda one: -one.age_s)
        answered = dict(event.done) | {one.key.job: one.ask for one in waiting}
        effects: list[Effect] = []
        for name in sorted({*event.versions, *answered}):
            if len(self) >= JOBS_MAX:
                effects.append(ForgetJob(name))
                continue
            versions = dict(event.versions.get(name, {}))
            self[name] = Job(name, done=answered.get(name, ""), heard_at=now, versions=versions)
        return effects

    def at(self, number: int, phase: Phase) -> Job | None:
        """The job whose ask that is, if it still waits in that phase."""
        for job in self.values():
            if job.phase is phase and job.ask is not None and job.ask.number == number:
                return job
        return None

    def needs(self, working: Iterable[str]) -> set[str]:
        """Artifacts: packages of all that were asked or are at work, models of those that wait for one."""
        needs = set(working)
        for job in self.values():
            if job.ask is not None:
                needs.add(job.ask.fact.package)
            missing = job.missing() if job.phase in _AWAITS else None
            if missing is not None and missing[0]:
                needs.add(missing[0])
        return needs

    def tidy(self, now: float, forget_s: float) -> list[Effect]:
        """Forget those of which nothing was heard for so long."""
        silent = [job for job in self.values() if job.phase is Phase.DONE and now - job.heard_at >= forget_s]
        return [effect for job in silent for effect in self._forget(job)]

    def _forget(self, job: Job) -> list[Effect]:
        del self[job.name]
        return [ForgetJob(job.name)]

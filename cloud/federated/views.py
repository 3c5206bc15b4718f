"""What can be read of federated learning: jobs, their rounds, everybody who can be asked."""

from collections.abc import Callable
from itertools import islice

from cloud.federated.core import Coordinator
from cloud.federated.job import Job
from cloud.federated.rows import job_view
from shared.learning import JobView, LearnerView, RoundRow, RoundView
from shared.messages import Query, QueryKind

PAGE_ROUNDS = 500
PAGE_LEARNERS = 1000


class NoSuchThing(Exception):
    """There is nothing of that name. ``code`` travels in the reply."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class LearningViews:
    """Looks at one :class:`Coordinator`, and changes nothing. ``clock``: the one that steps it."""

    def __init__(self, coordinator: Coordinator, clock: Callable[[], float]) -> None:
        self._core, self._clock = coordinator, clock

    def table(self) -> dict[QueryKind, Callable[[Query], object]]:
        """Which function answers which kind of query. All raise :class:`NoSuchThing`."""
        return {
            QueryKind.JOBS: lambda _: self.jobs(),
            QueryKind.JOB: lambda query: self.job(query.key),
            QueryKind.ROUNDS: lambda query: self.rounds(query.key, query.after),
            QueryKind.ROUND: lambda query: self.round(query.key),
            QueryKind.LEARNERS: lambda query: self.learners(query.after),
        }

    def jobs(self) -> list[JobView]:
        """Every job, by name."""
        return [job_view(self._core.jobs[name].state) for name in sorted(self._core.jobs)]

    def job(self, name: str) -> JobView:
        """One job."""
        return job_view(self._job(name).state)

    def rounds(self, name: str, after: str = "") -> list[RoundRow]:
        """The rounds that are over, ``PAGE_ROUNDS`` at a time; ``after``: number of the last one seen."""
        last = int(after) if after.isascii() and after.isdigit() and len(after) < 10 else 0
        rows = (view.row for view in self._job(name).views)
        return list(islice((row for row in rows if row.round > last), PAGE_ROUNDS))

    def round(self, key: str) -> RoundView:
        """``job/number``: one round and everybody in it, also while it is under way."""
        name, _, number = key.partition("/")
        job = self._job(name)
        digits = number.isascii() and number.isdigit() and len(number) < 10
        found = job.round_view(int(number), self._clock()) if digits else None
        if found is None:
            detail = f"{name} has had {job.state.round} rounds; {number[:20]!r} is none of them"
            raise NoSuchThing("no-such-round", detail)
        return found

    def learners(self, after: str = "") -> list[LearnerView]:
        """Who could be asked, by name, ``PAGE_LEARNERS`` at a time."""
        names = sorted(name for name in self._core.fleet.learners if name > after)
        asked: dict[str, list[str]] = {}
        for job in self._core.jobs.values():
            for client in job.round.at.opening.cohort if job.round else ():
                asked.setdefault(client, []).append(job.name)
        return [self._learner(name, tuple(asked.get(name, ()))) for name in names[:PAGE_LEARNERS]]

    def _learner(self, name: str, jobs: tuple[str, ...]) -> LearnerView:
        fleet = self._core.fleet
        seen_at = fleet.seen_at.get(name)
        return LearnerView(
            client=name,
            learner=fleet.learners[name],
            jobs=jobs,
            accepted=fleet.accepted.get(name, 0),
            rejected=fleet.rejected.get(name, 0),
            last_seen_age_s=None if seen_at is None else max(0.0, self._clock() - seen_at),
        )

    def _job(self, name: str) -> Job:
        job = self._core.jobs.get(name)
        if job is None:
            raise NoSuchThing("no-such-job", f"there is no job {name[:80]!r}; 'shoal learn jobs' lists them")
        return job

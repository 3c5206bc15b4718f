"""A cloud that learns, and is ours: the methods of ``LearningClient``, answers from memory."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from cloud.learning.client import JobNews
from shared.errors import Refused, ShoalError
from shared.learning import (
    ClientRow,
    JobFact,
    JobSpec,
    JobView,
    Learner,
    LearnerView,
    Phase,
    Receipt,
    ReceiptStatus,
    RoundFact,
    RoundRow,
    RoundView,
    Source,
    TrainingPlan,
    UpdatePart,
)

PACKAGE = "a" * 64


def spec(job: str = "digits", **changes: object) -> JobSpec:
    made = JobSpec(job=job, package=PACKAGE, plan=TrainingPlan(source="digits"), rounds=4, clients=2)
    return msgspec.structs.replace(made, **changes)


def row(number: int, **changes: object) -> RoundRow:
    made = RoundRow(
        round=number,
        phase=Phase.COMPLETED,
        version=number + 1,
        asked=3,
        accepted=2,
        rejected=1,
        late=0,
        bytes_up=40_000,
        bytes_down=60_000,
        wall_s=0.5,
        aggregate_s=0.01,
        metrics={"accuracy": 0.5 + 0.1 * number, "loss": 1.5 - 0.2 * number},
    )
    return msgspec.structs.replace(made, **changes)


def clients_of(number: int) -> tuple[ClientRow, ...]:
    """Two that count, and one whose update is poisoned in odd rounds and silent in even ones."""
    good = {"status": ReceiptStatus.ACCEPTED, "bytes_up": 20_000, "steps": 8}
    third = {"status": "rejected", "reason": "norm", "bytes_up": 900} if number % 2 else {"status": "asked"}
    return (
        ClientRow(client="edge-1", weight=100, seconds=0.4, train_s=0.3, **good),  # type: ignore[arg-type]
        ClientRow(client="edge-2", weight=60, seconds=0.2, train_s=0.1, **good),  # type: ignore[arg-type]
        ClientRow(client="edge-3", **third),  # type: ignore[arg-type]
    )


def fact(view: JobView, **changes: object) -> JobFact:
    made = JobFact(
        job=view.spec.job,
        term=1,
        phase=Phase(view.phase),
        round=view.round,
        rounds=view.spec.rounds,
        version=view.version,
    )
    return msgspec.structs.replace(made, **changes)


class FakeLearning:
    """``failing``: raised by every call. ``rows``: by job. ``play``: what happens to a created job."""

    def __init__(self) -> None:
        self.failing: ShoalError | None = None
        self.views: dict[str, JobView] = {}
        self.rows: dict[str, list[RoundRow]] = {}
        self.clients: dict[str, Learner] = {}
        self.parts: list[tuple[str, str, int, UpdatePart]] = []
        self.receipt = ReceiptStatus.ACCEPTED
        self._watching: list[tuple[str, asyncio.Queue[JobNews]]] = []

    def put(self, view: JobView, *rows: RoundRow) -> None:
        """A job as it is now; whoever watches hears of it."""
        self.views[view.spec.job] = view
        self.rows.setdefault(view.spec.job, []).extend(rows)
        self.tell(JobNews(view.spec.job, fact(view)))

    def tell(self, news: JobNews) -> None:
        for job, queue in self._watching:
            if job in ("", news.job):
                queue.put_nowait(news)

    @property
    def watching(self) -> int:
        return len(self._watching)

    def _find(self, job: str) -> JobView:
        if self.failing is not None:
            raise self.failing
        if job not in self.views:
            raise Refused("no-such-job", f"no job {job!r}")
        return self.views[job]

    async def create(self, spec: JobSpec) -> JobView:
        if self.failing is not None:
            raise self.failing
        if spec.job in self.views:
            raise Refused("exists", f"there is a job {spec.job!r}")
        view = JobView(spec=spec, phase=Phase.INITIALIZING, round=-1, version=0, created_at_unix_s=1.0)
        self.put(view)
        return view

    async def stop(self, job: str) -> JobView:
        view = msgspec.structs.replace(self._find(job), phase=Phase.COMPLETED, detail="stopped")
        self.put(view)
        return view

    async def reset(self, job: str) -> JobView:
        view = msgspec.structs.replace(self._find(job), phase=Phase.INITIALIZING, detail="")
        self.put(view)
        return view

    async def delete(self, job: str) -> None:
        self._find(job)
        self.views.pop(job)
        self.tell(JobNews(job, None))

    async def jobs(self) -> list[JobView]:
        if self.failing is not None:
            raise self.failing
        return [self.views[name] for name in sorted(self.views)]

    async def job(self, job: str) -> JobView:
        return self._find(job)

    async def rounds(self, job: str, after: int = -1) -> list[RoundRow]:
        self._find(job)
        return [row for row in self.rows[job] if row.round > after]

    async def round(self, job: str, number: int) -> RoundView:
        for found in await self.rounds(job):
            if found.round == number:
                return RoundView(row=found, clients=clients_of(number))
        raise Refused("no-such-round", f"{job} has no round {number}")

    async def open_round(self, job: str) -> RoundFact | None:
        view = self._find(job)
        if view.round < 0:
            return None
        phase = Phase(view.phase)
        return RoundFact(job=job, round=view.round, term=1, phase=phase, cohort=tuple(self.clients))

    async def learners(self) -> list[LearnerView]:
        if self.failing is not None:
            raise self.failing
        return [LearnerView(client=name, learner=one) for name, one in sorted(self.clients.items())]

    async def register(self, client: str, learner: Learner | None) -> None:
        if self.failing is not None:
            raise self.failing
        if learner is None:
            self.clients.pop(client, None)
        else:
            self.clients[client] = learner

    async def send_part(self, client: str, job: str, number: int, part: UpdatePart) -> Receipt | None:
        if self.failing is not None:
            raise self.failing
        self.parts.append((client, job, number, part))
        if part.index + 1 < part.count:
            return None
        return Receipt(round=number, digest=part.digest, status=self.receipt)

    @contextmanager
    def watch(self, job: str = "") -> Iterator["asyncio.Queue[JobNews]"]:
        queue: asyncio.Queue[JobNews] = asyncio.Queue()
        seat = (job, queue)
        self._watching.append(seat)
        for view in self.views.values():
            if job in ("", view.spec.job):
                queue.put_nowait(JobNews(view.spec.job, fact(view)))
        try:
            yield queue
        finally:
            self._watching.remove(seat)


def learner(samples: int = 10) -> Learner:
    return Learner(epoch=0, sources={"digits": Source(samples=samples)}, room=1)


def finished(job: str = "digits", rounds: int = 4) -> tuple[JobView, list[RoundRow]]:
    """A job that is done, and its rounds."""
    rows = [row(number) for number in range(rounds)]
    view = JobView(
        spec=spec(job, rounds=rounds, serve="b" * 64, version_name="digits"),
        phase=Phase.COMPLETED,
        round=rounds - 1,
        version=rounds,
        created_at_unix_s=1.0,
        best=rows[-1].metrics["accuracy"],
        metrics=rows[-1].metrics,
        model="c" * 64,
        model_version="2",
    )
    return view, rows

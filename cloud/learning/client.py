"""The part of the fleet's client that is about learning: ``fleet.learning``.

view = await fleet.learning.create(spec)
with fleet.learning.watch("digits") as news:
    fact = await news.get()
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import msgspec

from broker.ask import Asker
from broker.bus import Bus, Delivery
from shared.errors import RemoteError
from shared.learning import (
    JobFact,
    JobSpec,
    JobView,
    LearnAsk,
    Learner,
    LearnerAsk,
    LearnerView,
    LearnVerb,
    Receipt,
    RoundFact,
    RoundRow,
    RoundView,
    UpdateAsk,
    UpdatePart,
)
from shared.messages import Query, QueryKind, Reply
from shared.topics import APP_LEARN, APP_LEARNER, APP_QUERY, APP_UPDATE, JOB, ROUND
from shared.wire import decode, unpacked

T = TypeVar("T")

NEWS_MAX = 256
RETAINED_S = 2.0  # a broker sends what it retains at once
ROUNDS_MAX = 10_000
LEARNERS_MAX = 100_000
_NOTHING = b"\xc0"  # MessagePack's nil, a reply's empty body


class JobNews(msgspec.Struct, frozen=True):
    """``fact`` None: the job was deleted."""

    job: str
    fact: JobFact | None


class LearningClient:
    """Each call raises ``Refused`` (it did not happen) or ``TimedOut`` (it may have)."""

    def __init__(self, bus: Bus, app: str, asker: Asker, budget_s: Callable[[], float]) -> None:
        self._bus, self._app, self._asker, self._budget_s = bus, app, asker, budget_s

    async def create(self, spec: JobSpec) -> JobView:
        """Begin a job. Its packages are in the catalog already."""
        return await self._steer(LearnVerb.CREATE, spec.job, spec)

    async def stop(self, job: str) -> JobView:
        """End it with the model that it has now."""
        return await self._steer(LearnVerb.STOP, job)

    async def reset(self, job: str) -> JobView:
        """From ERROR back to INITIALIZING."""
        return await self._steer(LearnVerb.RESET, job)

    async def delete(self, job: str) -> None:
        """Forget it, with its rounds. A model that it made stays in the catalog."""
        await self._ask(LearnVerb.DELETE, job)

    async def jobs(self) -> list[JobView]:
        """Every job that the cloud knows."""
        return await self._query(QueryKind.JOBS, list[JobView])

    async def job(self, job: str) -> JobView:
        """One job."""
        return await self._query(QueryKind.JOB, JobView, job)

    async def rounds(self, job: str, after: int = -1) -> list[RoundRow]:
        """Its rounds in their order, those after ``after``."""
        found: list[RoundRow] = []
        while len(found) < ROUNDS_MAX:
            last = found[-1].round if found else after
            page = await self._query(QueryKind.ROUNDS, list[RoundRow], job, str(last) if last >= 0 else "")
            if not page:
                break
            found += page
        return found

    async def round(self, job: str, number: int) -> RoundView:
        """One round with everybody in it."""
        return await self._query(QueryKind.ROUND, RoundView, f"{job}/{number}")

    async def open_round(self, job: str) -> RoundFact | None:
        """What its devices are told now; None when nothing was published within ``RETAINED_S``."""
        told: asyncio.Future[RoundFact] = asyncio.get_running_loop().create_future()

        def heard(delivery: Delivery) -> None:
            with suppress(RemoteError):
                if delivery.payload and not told.done():
                    told.set_result(decode(ROUND, delivery.payload))

        subscription = self._bus.subscribe([ROUND.filter_for(job=job)], heard)
        try:
            async with asyncio.timeout(RETAINED_S):
                return await told
        except TimeoutError:
            return None
        finally:
            subscription.close()

    async def learners(self) -> list[LearnerView]:
        """Who could be asked."""
        found: list[LearnerView] = []
        while len(found) < LEARNERS_MAX:
            after = found[-1].client if found else ""
            page = await self._query(QueryKind.LEARNERS, list[LearnerView], after=after)
            page = [one for one in page if one.client > after]
            if not page:
                break
            found += page
        return found

    async def register(self, client: str, learner: Learner | None) -> None:
        """A client that cannot speak MQTT takes part (or, with None, leaves)."""

        def build(correlation: str, left_s: float) -> LearnerAsk:
            return LearnerAsk(correlation=correlation, budget_s=left_s, client=client, learner=learner)

        await self._asker.ask(APP_LEARNER.at(app=self._app), build, self._budget_s())

    async def send_part(self, client: str, job: str, number: int, part: UpdatePart) -> Receipt | None:
        """One part of such a client's update to round ``number``; the receipt after the last one."""

        def build(correlation: str, left_s: float) -> UpdateAsk:
            return UpdateAsk(
                correlation=correlation, budget_s=left_s, client=client, job=job, round=number, part=part
            )

        reply = await self._asker.ask(APP_UPDATE.at(app=self._app), build, self._budget_s())
        return None if bytes(reply.body) == _NOTHING else unpacked(reply.body, Receipt)

    @contextmanager
    def watch(self, job: str = "") -> Iterator["asyncio.Queue[JobNews]"]:
        """Within the block: a queue of what becomes of one job, or of all. It begins with what is true now.

        Whoever can't keep up loses the oldest news first.
        """
        queue: asyncio.Queue[JobNews] = asyncio.Queue(NEWS_MAX)

        def heard(delivery: Delivery) -> None:
            news = _news(delivery)
            if news is None:
                return
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(news)

        subscription = self._bus.subscribe([JOB.filter_for(job=job) if job else JOB.filter], heard)
        try:
            yield queue
        finally:
            subscription.close()

    async def _steer(self, verb: LearnVerb, job: str, spec: JobSpec | None = None) -> JobView:
        return unpacked((await self._ask(verb, job, spec)).body, JobView)

    async def _ask(self, verb: LearnVerb, job: str, spec: JobSpec | None = None) -> Reply:
        def build(correlation: str, left_s: float) -> LearnAsk:
            return LearnAsk(correlation=correlation, budget_s=left_s, verb=verb, job=job, spec=spec)

        return await self._asker.ask(APP_LEARN.at(app=self._app), build, self._budget_s())

    async def _query(self, kind: QueryKind, of: type[T], key: str = "", after: str = "") -> T:
        def build(correlation: str, left_s: float) -> Query:
            return Query(correlation=correlation, budget_s=left_s, kind=kind, key=key, after=after)

        reply = await self._asker.ask(APP_QUERY.at(app=self._app), build, self._budget_s())
        return unpacked(reply.body, of)


def _news(delivery: Delivery) -> JobNews | None:
    ids = JOB.ids(delivery.topic)
    if ids is None:
        return None
    if not delivery.payload:
        return JobNews(ids["job"], None)
    try:
        return JobNews(ids["job"], decode(JOB, delivery.payload))
    except RemoteError:
        return None  # a cloud of another version; what it says of a job can be asked for

"""Create a job on a fleet and see it to its end. The cloud does the work; whoever watches may leave."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloud.learning.client import JobNews, LearningClient
from cloud.learning.jobfile import JobFile
from shared.errors import ConfigError, TimedOut, Unavailable
from shared.learning import JobFact, JobView, Phase, RoundRow

if TYPE_CHECKING:
    from cloud.client import Fleet

RECHECK_S = 2.0  # news are pushed; this is for those that got lost
SILENCE_S_MAX = 30.0


@dataclass(frozen=True, slots=True)
class Watcher:
    """What somebody who follows a job is told. Rounds come in their order, each once, when they are over."""

    fact: Callable[[JobFact], None] = lambda _: None
    row: Callable[[RoundRow], None] = lambda _: None
    silent: Callable[[str], None] = lambda _: None  # the cloud does not answer; why


async def create(fleet: "Fleet", job: JobFile, progress: Callable[[str, int, int], None]) -> JobView:
    """Put its packages into the catalog, and begin. ``progress``: file name, bytes there, bytes in all.

    Raises :class:`ConfigError` when there is such a job.
    """
    name, digests = job.spec.job, {}
    if any(one.spec.job == name for one in await fleet.learning.jobs()):
        raise ConfigError(
            f"there is a job {name!r} already: --resume watches it, 'shoal learn delete {name}' forgets it, "
            "--set job=NAME begins another"
        )
    for name, path in job.files.items():
        package = await asyncio.to_thread(path.read_bytes)
        total = len(package)
        state = await fleet.upload(package, lambda have, p=path, n=total: progress(p.name, have, n))  # type: ignore[misc]
        digests[name] = state.digest
    return await fleet.learning.create(job.with_digests(digests))


def over(view: JobView) -> bool:
    """Nothing more will happen by itself: it is done, or waits for a person."""
    return view.phase in (Phase.COMPLETED, Phase.ERROR)


def succeeded(view: JobView) -> JobView:
    """The job itself. Raises :class:`Unavailable` when it waits for a person."""
    if view.phase == Phase.ERROR:
        name = view.spec.job
        raise Unavailable(
            f"{name} stopped in round {view.round}: {view.detail or 'no reason was given'}; "
            f"'shoal learn round {name} {view.round}' shows who answered, 'shoal learn reset {name}' goes on"
        )
    return view


async def follow(learning: LearningClient, job: str, watcher: Watcher) -> JobView:
    """Watch until the job is over; gives it as it is then.

    A cloud that restarts is waited for. Raises :class:`Unavailable` after ``SILENCE_S_MAX`` without an
    answer, ``Refused`` when there is no such job (any more).
    """
    seen, silence = -1, _Silence(job, watcher)
    with learning.watch(job) as news:
        while True:
            try:
                view = await learning.job(job)
                seen = await _rows(learning, job, seen, watcher)
                silence.broken()
                if over(view):
                    return view
            except TimedOut as error:
                silence.goes_on(error)
            await _news(news, watcher)


class _Silence:
    """Counts how long the cloud has not answered."""

    def __init__(self, job: str, watcher: Watcher) -> None:
        self._job, self._watcher, self._since = job, watcher, -1.0

    def broken(self) -> None:
        self._since = -1.0

    def goes_on(self, error: TimedOut) -> None:
        now = asyncio.get_running_loop().time()
        if self._since < 0:
            self._since = now
        elif now - self._since > SILENCE_S_MAX:
            raise Unavailable(
                f"the cloud does not answer ({error.detail}); the job goes on when it is back: "
                f"'shoal learn status {self._job}'"
            ) from None
        self._watcher.silent(error.detail)


async def _rows(learning: LearningClient, job: str, seen: int, watcher: Watcher) -> int:
    """Tell of the rounds that ended since ``seen``, not of the one that is open; gives the last of them."""
    for row in await learning.rounds(job, seen):
        if row.phase not in (Phase.COMPLETED, Phase.ERROR):
            break
        watcher.row(row)
        seen = row.round
    return seen


async def _news(news: "asyncio.Queue[JobNews]", watcher: Watcher) -> None:
    """Wait until a round has ended, or for ``RECHECK_S``; everything that is heard is passed on."""
    with suppress(TimeoutError):
        async with asyncio.timeout(RECHECK_S):
            while True:
                fact = (await news.get()).fact
                if fact is None:
                    return
                watcher.fact(fact)
                if fact.phase not in (Phase.TRAINING, Phase.AGGREGATING):
                    return

"""Create a job on a fleet and see it to its end. The cloud does the work; whoever watches may leave."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cloud.learning.client import JobNews, LearningClient
from cloud.learning.jobfile import JobFile
from shared.errors import ConfigError, TimedOut, Unavailable
from shared.learning import JobFact, JobSpec, JobView, Phase, RoundRow

if TYPE_CHECKING:
    from cloud.client import Fleet

RECHECK_S = 2.0  # news are pushed; this is for those that got lost
ERROR_S_MAX = 20.0  # after an error the cloud tries again by itself, a few times, and sooner than this
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
    name = job.spec.job
    if any(one.spec.job == name for one in await fleet.learning.jobs()):
        raise ConfigError(
            f"there is a job {name!r} already: --resume watches it, 'shoal learn delete {name}' forgets it, "
            "--set job=NAME begins another"
        )
    digests = {key: await _uploaded(fleet, path, progress) for key, path in job.files.items()}
    return await fleet.learning.create(job.with_digests(digests))


async def _uploaded(fleet: "Fleet", path: Path, progress: Callable[[str, int, int], None]) -> str:
    package = await asyncio.to_thread(path.read_bytes)
    state = await fleet.upload(package, lambda have: progress(path.name, have, len(package)))
    return state.digest


async def who_is_missing(learning: LearningClient, spec: JobSpec) -> str:
    """Why no round can open as things are, for a person; empty: enough devices have the data."""
    source = spec.plan.source
    have = sum(source in one.learner.sources for one in await learning.learners())
    if have >= spec.quorum:
        return ""
    who = f"{have} device{' has' if have == 1 else 's have'} data called {source!r}"
    return f"{who}, and the quorum is {spec.quorum}; 'shoal learn learners' lists them"


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
    """Watch until the job is completed, or in an error that stays; gives it as it is then.

    A cloud that restarts is waited for. Raises :class:`Unavailable` after ``SILENCE_S_MAX`` without an
    answer, ``Refused`` when there is no such job (any more).
    """
    clock = asyncio.get_running_loop().time
    seen, silence, error = -1, _Lasting(clock), _Lasting(clock)
    with learning.watch(job) as news:
        while True:
            try:
                view = await learning.job(job)
                over = view.phase == Phase.COMPLETED
                for row in await learning.rounds(job, seen):
                    if over or row.round < view.round:
                        watcher.row(row)
                        seen = row.round
                silence.ends()
                if over or (view.phase == Phase.ERROR and error.lasts(ERROR_S_MAX)):
                    return view
                if view.phase != Phase.ERROR:
                    error.ends()
            except TimedOut as why:
                if silence.lasts(SILENCE_S_MAX):
                    raise Unavailable(
                        f"the cloud does not answer ({why.detail}); the job goes on when it is back: "
                        f"'shoal learn status {job}'"
                    ) from None
                watcher.silent(why.detail)
            await _news(news, watcher)


class _Lasting:
    """A state that is borne for a while."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._since = clock, -1.0

    def ends(self) -> None:
        self._since = -1.0

    def lasts(self, s_max: float) -> bool:
        """It is so now. Whether it has been so for ``s_max`` seconds."""
        now = self._clock()
        if self._since < 0:
            self._since = now
        return now - self._since >= s_max


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

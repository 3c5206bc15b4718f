"""Following a job: each round once, in order; a cloud that is away is waited for, but not for ever."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from cloud.learning import follow as module
from cloud.learning.follow import Watcher, follow, succeeded
from shared.errors import Refused, TimedOut, Unavailable
from shared.learning import JobView, Phase
from tests.unit.cloud.learning.fake import FakeLearning, finished, row

NOBODY = TimedOut("deadline", "no reply")


def tell(story: Callable[[FakeLearning], Coroutine[Any, Any, Any]]) -> Any:
    async def main() -> Any:
        async with asyncio.timeout(20):
            return await story(FakeLearning())

    return asyncio.run(main())


def view(phase: Phase, number: int) -> JobView:
    done, _ = finished(rounds=3)
    return msgspec.structs.replace(done, phase=phase, round=number, model="c" if phase == "completed" else "")


def test_every_round_is_told_once_and_in_order() -> None:
    async def story(learning: FakeLearning) -> None:
        told: list[int] = []
        learning.put(view(Phase.TRAINING, 0))
        following = asyncio.create_task(
            follow(learning, "digits", Watcher(row=lambda one: told.append(one.round)))  # type: ignore[arg-type]
        )
        while not learning.watching:
            await asyncio.sleep(0)
        learning.put(view(Phase.INITIALIZING, 1), row(0), row(1))
        learning.put(view(Phase.TRAINING, 2), row(2, phase=Phase.TRAINING))
        while told != [0, 1]:
            await asyncio.sleep(0)
        learning.rows["digits"][2] = row(2)
        learning.put(view(Phase.COMPLETED, 2))
        assert (await following).phase == Phase.COMPLETED
        assert told == [0, 1, 2]

    tell(story)


def test_a_silent_cloud_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECHECK_S", 0.0)

    async def story(learning: FakeLearning) -> None:
        silences: list[str] = []

        def silent(why: str) -> None:
            silences.append(why)
            if len(silences) == 3:
                learning.failing = None

        learning.put(view(Phase.COMPLETED, 2))
        learning.failing = NOBODY
        found = await follow(learning, "digits", Watcher(silent=silent))  # type: ignore[arg-type]
        assert found.phase == Phase.COMPLETED
        assert silences == ["no reply"] * 3

    tell(story)


def test_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECHECK_S", 0.0)
    monkeypatch.setattr(module, "SILENCE_S_MAX", 0.0)

    async def story(learning: FakeLearning) -> None:
        learning.put(view(Phase.TRAINING, 0))
        learning.failing = NOBODY
        with pytest.raises(Unavailable, match="shoal learn status digits"):
            await follow(learning, "digits", Watcher())  # type: ignore[arg-type]

    tell(story)


def test_a_job_that_is_deleted_meanwhile_ends_the_watch() -> None:
    async def story(learning: FakeLearning) -> None:
        learning.put(view(Phase.TRAINING, 0))
        following = asyncio.create_task(follow(learning, "digits", Watcher()))  # type: ignore[arg-type]
        while not learning.watching:
            await asyncio.sleep(0)
        await learning.delete("digits")
        with pytest.raises(Refused, match="no-such-job"):
            await following

    tell(story)


def test_an_error_that_the_cloud_mends_itself_is_waited_for() -> None:
    async def story(learning: FakeLearning) -> None:
        learning.put(view(Phase.ERROR, 0))
        following = asyncio.create_task(follow(learning, "digits", Watcher()))  # type: ignore[arg-type]
        while not learning.watching:
            await asyncio.sleep(0)
        learning.put(view(Phase.INITIALIZING, 0))
        learning.put(view(Phase.COMPLETED, 0), row(0))
        assert (await following).phase == Phase.COMPLETED

    tell(story)


def test_one_that_stays_ends_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ERROR_S_MAX", 0.0)

    async def story(learning: FakeLearning) -> None:
        learning.put(view(Phase.ERROR, 0))
        assert (await follow(learning, "digits", Watcher())).phase == Phase.ERROR  # type: ignore[arg-type]

    tell(story)


def test_a_job_in_error_is_no_success() -> None:
    failed = msgspec.structs.replace(view(Phase.ERROR, 2), detail="no quorum")
    with pytest.raises(Unavailable, match=r"round 2: no quorum.*shoal learn reset digits"):
        succeeded(failed)

"""Tasks over HTTP: submitted, waited for, listed, cancelled, and still there after a restart."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from cloud.store.store import Store
from tests.unit.cloud.api.conftest import Tell, World, running
from tests.unit.cloud.api.fleet import FakeFleet

DOUBLE = {"model": "double", "inputs": [{"data": [1, 2]}]}


async def submitted(world: World, **changes: object) -> httpx.Response:
    answer = await world.client.post("/tasks", json=DOUBLE | changes)
    assert answer.status_code == 202, answer.text
    return answer


async def waited(world: World, path: str, wait_s: float = 5) -> dict[str, Any]:
    found: dict[str, Any] = (await world.client.get(path, params={"wait_s": wait_s})).json()
    return found


def test_a_task_is_submitted_and_its_result_fetched(tell: Tell[None]) -> None:
    async def story(world: World) -> None:
        at = (await submitted(world)).headers["location"]
        done = await waited(world, at)
        assert (done["state"], done["node"], done["attempts"]) == ("done", "edge-1", 1)
        assert done["outputs"][0]["data"] == [2.0, 4.0]
        again = await waited(world, at, 0)
        assert again == done

    tell(story)


def test_a_wasi_task_answers_with_its_document(tell: Tell[None]) -> None:
    async def story(world: World) -> None:
        at = (await submitted(world, model="echo", inputs=[], json={"a": 1})).headers["location"]
        assert (await waited(world, at))["json"] == {"a": 1}

    tell(story)


def test_a_task_that_can_not_succeed_says_why(tell: Tell[None]) -> None:
    async def story(world: World) -> None:
        at = (await submitted(world, model="unknown")).headers["location"]
        failed = await waited(world, at)
        assert (failed["state"], failed["code"]) == ("failed", "no-such-model")

    tell(story)


def test_whoever_waits_no_longer_is_forgotten(tell: Tell[None], fleet: FakeFleet) -> None:
    async def story(world: World) -> None:
        fleet.hold = asyncio.Event().wait
        at = (await submitted(world)).headers["location"]
        states = [(await waited(world, at, wait_s))["state"] for wait_s in (0, 0.02, 0.02)]
        assert states[-1] == "running"
        assert len(world.waiters) == 0

    tell(story)


def test_a_running_task_is_cancelled_and_its_waiter_told(tell: Tell[None], fleet: FakeFleet) -> None:
    async def story(world: World) -> None:
        fleet.hold = asyncio.Event().wait
        at = (await submitted(world)).headers["location"]
        waiting = asyncio.create_task(waited(world, at))
        await asyncio.sleep(0.05)
        assert (await world.client.delete(at)).status_code == 202
        assert (await waiting)["state"] == "cancelled"

    tell(story)


def test_tasks_are_listed_newest_first_without_their_outputs(tell: Tell[None]) -> None:
    async def story(world: World) -> None:
        ids = [(await submitted(world)).json()["id"] for _ in range(3)]
        for id in ids:
            await waited(world, f"/tasks/{id}")
        await submitted(world, model="unknown")
        listed = (await world.client.get("/tasks", params={"state": "done"})).json()
        assert [one["id"] for one in listed] == ids[::-1]
        assert all(one["outputs"] == [] for one in listed)

    tell(story)


def test_many_tasks_at_once_all_end(tell: Tell[None]) -> None:
    async def story(world: World) -> None:
        answers = await asyncio.gather(*(submitted(world) for _ in range(40)))
        ends = await asyncio.gather(*(waited(world, one.headers["location"]) for one in answers))
        assert [one["state"] for one in ends] == ["done"] * 40

    tell(story)


@pytest.mark.parametrize(("idempotent", "state"), [(True, "done"), (False, "failed")])
def test_a_task_that_ran_when_the_cloud_stopped(tmp_path: Path, idempotent: bool, state: str) -> None:
    async def told() -> None:
        fleet = FakeFleet()
        fleet.hold = asyncio.Event().wait
        async with running(fleet, tmp_path) as world:
            at = (await submitted(world, idempotent=idempotent)).headers["location"]
            while (await waited(world, at, 0.05))["state"] != "running":
                pass
        fleet.hold = None
        async with running(fleet, tmp_path) as world:
            end = await waited(world, at)
        assert end["state"] == state
        assert end["code"] == ("" if idempotent else "interrupted")
        assert len(fleet.asked) == (2 if idempotent else 1)

    asyncio.run(told())


def test_a_result_outlives_the_cloud_that_got_it(tmp_path: Path) -> None:
    async def told() -> None:
        async with running(FakeFleet(), tmp_path) as world:
            at = (await submitted(world)).headers["location"]
            before = await waited(world, at)
        async with running(FakeFleet(), tmp_path) as world:
            assert await waited(world, at, 0) == before

    asyncio.run(told())
    store = Store.open(f"sqlite:///{tmp_path / 'tasks.db'}")
    assert [task.state for task in store.tasks()] == ["done"]
    store.close()

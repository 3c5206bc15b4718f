"""The documented names, over the real core and three devices in a simulated world."""

import asyncio
from typing import Any

import pytest

from cloud.facts import NodeChanged, NodeFact, NodeStatus
from cloud.sync.events import ModelDeployed
from cloud.sync.manager import CloudEdgeSyncManager, ConsistencyLevel, How, SyncStrategy, SyncTask
from shared.errors import Refused, TimedOut
from shared.messages import ModelState
from shared.replies import UploadProgress
from shared.sync import Required
from tests.support.syncing import World, client_of

ALL = ["n1", "n2", "n3"]


class FakeFleet:
    """What the manager needs of ``cloud.client.Fleet``."""

    def __init__(self) -> None:
        self.world = World(1).start()
        self.sync = client_of(self.world)
        self.packages: list[bytes] = []

    async def upload(self, package: bytes) -> UploadProgress:
        self.packages.append(package)
        return UploadProgress(digest="d" * 64, bytes_have=len(package), done=True, name="digits", version="2")


@pytest.fixture
def fleet() -> FakeFleet:
    return FakeFleet()


def manager_of(fleet: FakeFleet) -> CloudEdgeSyncManager:
    fake: Any = fleet
    return CloudEdgeSyncManager(fake)


@pytest.mark.parametrize("level", ConsistencyLevel)
@pytest.mark.parametrize("strategy", SyncStrategy)
def test_data_is_a_task_whose_status_shows_every_target(fleet, strategy, level):
    async def story() -> dict[str, Any]:
        manager = manager_of(fleet)
        assert await manager.start_sync_service()
        task = await manager.sync_data(
            "limits", {"max": 1}, ALL, strategy=strategy, level=level, budget_s=90.0, how=How(priority=7)
        )
        fleet.world.run(45.0)
        return await manager.get_sync_status(task) or {}

    status = asyncio.run(story())
    assert (status["status"], status["sync_type"], status["level"]) == ("done", strategy, level)
    assert (status["payload"], status["priority"], status["lag"], status["conflicts"]) == ("limits", 7, 0, 0)
    assert {one["state"] for one in status["replicas"].values()} <= {"acked", "sent"}
    assert list(status["targets"]) == ALL
    assert fleet.world.devices["n2"].get("limits") == {"max": 1}


def test_a_task_that_nobody_knows_is_none(fleet):
    assert asyncio.run(manager_of(fleet).get_sync_status("nobody")) is None


def test_configuration_is_the_desired_state_of_each_node(fleet):
    asyncio.run(manager_of(fleet).sync_config("rate", 5, ["n1", "n3"], level=ConsistencyLevel.STRONG))
    assert [one.get(f"desired/{node}/rate") for node, one in fleet.world.devices.items()] == [5, None, 5]


def test_a_write_that_too_few_have_is_a_timeout_and_a_stale_one_is_refused(fleet):
    async def story() -> None:
        manager = manager_of(fleet)
        strong = ConsistencyLevel.STRONG
        await manager.sync_data("k", 1, ALL, level=strong)
        with pytest.raises(Refused, match="revision 1"):
            await manager.sync_data("k", 2, ALL, level=strong, how=How(expected=0))
        fleet.world.partition("n3")
        with pytest.raises(TimedOut, match="2 of 3"):
            await manager.sync_data("k", 2, ALL, level=strong, budget_s=2.0)
        await manager.sync_data("k", 3, ALL, level=strong, how=How(required=Required.MAJORITY), budget_s=2.0)

    asyncio.run(story())


def test_a_model_is_uploaded_deployed_and_done_when_every_target_is_ready(fleet):
    async def story() -> None:
        manager = manager_of(fleet)
        with pytest.raises(Refused, match="calls itself 'digits'"):
            await manager.sync_model("other", b"package", ["n1"])
        task = await manager.sync_model("digits", b"package", ["n1"])
        before = await manager.get_sync_status(task)
        assert before is not None
        assert (before["kind"], before["payload"], before["status"]) == ("model", "digits@2", "syncing")
        member = fleet.world.cloud.member
        member.feed(ModelDeployed(task, "d" * 64))
        ready = {"digits": ("d" * 64, ModelState.READY)}
        member.feed(NodeChanged(NodeFact("n1", 1, NodeStatus.IDLE, models=ready)))
        fleet.world.run(1.0)
        after = await manager.get_sync_status(task)
        assert after is not None
        assert (after["status"], after["payload"]) == ("done", "d" * 64)

    asyncio.run(story())
    assert fleet.packages == [b"package", b"package"]


def test_the_documented_fields_of_a_task_are_there():
    assert {"task_id", "sync_type", "source", "targets", "priority", "status"} <= set(
        SyncTask.__struct_fields__
    )
    assert isinstance(SyncTask.payload, property)

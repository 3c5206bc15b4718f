"""The rollout on a bus and a real store, through a restart."""

import asyncio

import pytest

from broker.memory import MemoryBroker, MemoryBus
from cloud.facts import NodeChanged, NodeFact, NodeStatus
from cloud.rollout.core import Phase, Rollout
from cloud.rollout.events import ModelAdded
from cloud.rollout.service import rollout
from cloud.store.store import Store
from shared.deploys import DeployResult
from shared.messages import Deploy, DesiredModel, DesiredModels, Reply, ReplyStatus
from shared.topics import APP_DEPLOY, APP_REPLY, DESIRED
from shared.wire import decode, encode, unpacked

HELD = {"cat": DesiredModel(digest="cat-1", version="1")}


@pytest.fixture
def store(tmp_path):
    store = Store.open(f"sqlite:///{tmp_path}/cloud.sqlite")
    yield store
    store.close()


async def soon(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


class Cloud:
    """The service, running, with one node known and one model in the catalog."""

    def __init__(self, broker: MemoryBroker, store: Store) -> None:
        self.bus, self.core = MemoryBus(broker), Rollout()
        self.service = rollout(self.core, self.bus, store)

    async def __aenter__(self) -> "Cloud":
        self.task = asyncio.create_task(self.service.run())
        self.bus.connect()
        await soon(lambda: self.core.phase is Phase.SETTLED)
        self.service.feed(ModelAdded("cat", "1", "cat-1"))
        self.service.feed(NodeChanged(NodeFact(node="n1", epoch=1, status=NodeStatus.IDLE)))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def orders(broker: MemoryBroker) -> DesiredModels | None:
    payload = broker.retained.get(DESIRED.at(node="n1").name)
    return None if payload is None else decode(DESIRED, payload)


async def asked(broker: MemoryBroker, deploy: Deploy) -> Reply:
    """Ask as an application does, and wait for the answer."""
    app, answers = MemoryBus(broker), []
    app.connect()
    app.subscribe([APP_REPLY.at(app="cli").name], lambda one: answers.append(decode(APP_REPLY, one.payload)))
    app.publish(APP_DEPLOY.at(app="cli").name, encode(deploy), qos=1)
    await soon(lambda: answers)
    return answers[0]


def test_a_deployment_is_answered_told_and_survives_the_loss_of_cloud_and_broker(store):
    async def story():
        broker = MemoryBroker()
        async with Cloud(broker, store):
            reply = await asked(broker, Deploy(correlation="1", budget_s=5.0, model="cat"))
            assert unpacked(reply.body, DeployResult).nodes == ("n1",)
            await soon(lambda: orders(broker) == DesiredModels(version=1, models=HELD))
        empty = MemoryBroker()
        async with Cloud(empty, store):
            await soon(lambda: orders(empty) == DesiredModels(version=1, models=HELD))
            await asked(empty, Deploy(correlation="2", budget_s=5.0, model="cat", remove=True))
            await soon(lambda: orders(empty) == DesiredModels(version=2, models={}))

    asyncio.run(story())


class FullForAWhile:
    """A store whose first two saves fail."""

    def __init__(self, store: Store) -> None:
        self.load_rollout, self._store, self._failures = store.load_rollout, store, 2

    def save_rollout(self, *changes):
        self._failures -= 1
        if self._failures >= 0:
            raise OSError("disk full")
        self._store.save_rollout(*changes)


def test_a_store_that_fails_delays_the_answer_until_it_works_again(store):
    async def story():
        broker = MemoryBroker()
        async with Cloud(broker, FullForAWhile(store)):
            reply = await asked(broker, Deploy(correlation="1", budget_s=30.0, model="cat"))
            assert reply.status is ReplyStatus.OK
            assert len(store.load_rollout()[0]) == 1

    asyncio.run(story())

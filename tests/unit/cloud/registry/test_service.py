"""The registry on a bus, and the documented names over it."""

import asyncio
import time

from broker.memory import MemoryBroker, MemoryBus
from cloud.facts import NodeNews, NodeStatus
from cloud.registry.core import Registry
from cloud.registry.manager import EdgeManager, EdgeNodeStatus
from cloud.registry.node import answering
from cloud.registry.service import registry_service
from shared.core import LinkUp, Tick
from shared.messages import Birth, Message, ModelState, ReportedModel
from shared.topics import BIRTH, HEARTBEAT, PRESENCE, REPORTED, Address
from shared.wire import encode
from tests.unit.cloud.registry.devices import ABLE, beat, birth, presence, reported


class Kept:
    """A store in a dictionary."""

    def __init__(self, births: dict[str, Birth] | None = None) -> None:
        self.births = births or {}

    def load_births(self) -> dict[str, Birth]:
        return dict(self.births)

    def save_birth(self, node: str, birth: Birth, at_unix_s: float) -> None:
        self.births[node] = birth


def test_a_node_that_never_returns_is_known_after_a_restart_and_called_offline() -> None:
    core = Registry()
    heard: list[NodeNews] = []
    store = Kept({"pi": birth("pi").birth})
    registry_service(core, MemoryBus(MemoryBroker()), store, heard.append)
    found = core.node("pi")
    assert found is not None
    assert (found.fact.status, found.fact.capabilities) == (NodeStatus.UNKNOWN, ABLE)
    now = time.monotonic()
    core.step(LinkUp(False), now)
    for second in range(100):
        core.step(Tick(), now + second)
    found = core.node("pi")
    assert found is not None
    assert found.fact.status is NodeStatus.OFFLINE


def test_what_devices_publish_is_told_to_the_others() -> None:
    async def story() -> None:
        broker = MemoryBroker()
        bus, device = MemoryBus(broker), MemoryBus(broker)
        heard: list[NodeNews] = []
        core = Registry()
        store = Kept()
        service = registry_service(core, bus, store, heard.append)
        running = asyncio.create_task(service.run())
        await asyncio.sleep(0)
        bus.connect()
        device.connect()

        def says(to: Address[Message], message: Message) -> None:
            device.publish(to.name, encode(message), qos=1, retain=to.topic.retain)

        says(PRESENCE.at(node="pi"), presence("pi").presence)
        says(BIRTH.at(node="pi"), birth("pi").birth)
        says(HEARTBEAT.at(node="pi"), beat("pi", 0).heartbeat)
        says(REPORTED.at(node="pi"), reported("pi", "digits").reported)
        device.publish("node/pi/up/heartbeat", b"\xff not a heartbeat", qos=0)
        async with asyncio.timeout(5):
            while len(heard) < 4 or not service.counts["unreadable"]:
                await asyncio.sleep(0.001)
        assert [news.fact.status for news in heard] == [NodeStatus.UNKNOWN, NodeStatus.UNKNOWN, *["idle"] * 2]
        assert heard[-1].fact.models["digits"][1] == "ready"
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert running.cancelled()

    asyncio.run(story())


def manager() -> tuple[EdgeManager, Registry]:
    core = Registry(nodes_max=2)
    return EdgeManager(core, lambda event: core.step(event, 0.0), lambda: 1_000_000.0), core


def test_a_node_can_be_registered_before_it_speaks() -> None:
    edge, core = manager()
    assert edge.register_edge_node("pi", "10.0.0.9", ABLE)
    assert not edge.register_edge_node("pi", "10.0.0.9", ABLE)
    assert not edge.register_edge_node("Not An Id", "", ABLE)
    assert edge.register_edge_node("second", "", ABLE)
    assert not edge.register_edge_node("third", "", ABLE)
    found = edge.get_edge_node_status("pi")
    assert found is not None
    assert (found["status"], found["address"], found["last_heartbeat"]) == ("offline", "10.0.0.9", None)
    assert found["capabilities"]["cores"] == 4
    core.step(beat("pi", 0), 10.0)
    core.step(presence("second", online=False), 12.0)
    node = edge.edge_node("pi")
    assert node is not None
    assert (node.status, node.last_heartbeat) == (EdgeNodeStatus.IDLE, 1_000_000.0 - 2.0)
    assert list(edge.get_all_edge_nodes()) == ["pi", "second"]
    assert edge.get_edge_node_status("nobody") is None
    assert edge.get_system_overview()["by_status"]["idle"] == 1


def test_the_old_version_answers_while_the_new_one_is_on_its_way() -> None:
    on_its_way = ReportedModel(digest="new", state=ModelState.FETCHING, serving="old")
    assert answering(on_its_way) == ("old", ModelState.READY)
    assert answering(ReportedModel(digest="new", state=ModelState.FETCHING)) == ("new", ModelState.FETCHING)

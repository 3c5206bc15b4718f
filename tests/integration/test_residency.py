"""Residency in real processes: places and policy reach the devices, and they witness the log."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from broker.bus import Delivery
from broker.settings import read_config
from cloud.artifacts.keys import public_hex, signing_key
from cloud.client import connected
from cloud.local.processes import LocalFleet
from cloud.residency.files import all_lines
from cloud.residency.places import write_places
from cloud.residency.verify import verify
from shared.audit import PlaceFact, Point, PolicyFact, Witness, record_of
from shared.topics import PLACE, POLICY, WITNESS

POLICY_TEXT = """
version = {version}
regions = ["eu/de", "us"]
[[data]]
keys = ["*"]
label = "{label}"
allowed = ["{allowed}"]
[[permit]]
name = "all"
"""
WAIT_S = 30.0
CANARY = "canary-7"


class Facts:
    """The newest of each retained fact, and a way to wait for what one should be."""

    def __init__(self) -> None:
        self.newest: dict[str, bytes] = {}
        self.heard_by: set[str] = set()
        self.changed = asyncio.Event()

    def take(self, delivery: Delivery) -> None:
        self.newest[delivery.topic] = delivery.payload
        self.changed.set()

    def listen(self, delivery: Delivery) -> None:
        """On what every node can hear."""
        if CANARY.encode() in delivery.payload:
            self.heard_by.add(delivery.topic.split("/")[1])
            self.changed.set()

    async def until(self, good: object) -> None:
        async with asyncio.timeout(WAIT_S):
            while not good(self.newest):  # type: ignore[operator]
                self.changed.clear()
                await self.changed.wait()


def place(newest: dict[str, bytes], node: str) -> str | None:
    payload = newest.get(PLACE.at(node=node).name)
    return msgspec.msgpack.decode(payload, type=PlaceFact).region if payload else None


def policy_version(newest: dict[str, bytes]) -> int | None:
    payload = newest.get(POLICY.at().name)
    return msgspec.msgpack.decode(payload, type=PolicyFact).policy.version if payload else None


def witnessed(newest: dict[str, bytes]) -> dict[str, Witness]:
    found = {}
    for topic, payload in newest.items():
        ids = WITNESS.ids(topic)
        if ids:
            found[ids["node"]] = msgspec.msgpack.decode(payload, type=Witness)
    return found


@pytest.mark.timeout(120)
def test_a_fleet_hears_of_its_policy_and_witnesses_the_log(tmp_path: Path) -> None:
    asyncio.run(a_fleet_witnesses(tmp_path))


async def a_fleet_witnesses(tmp_path: Path) -> None:
    nodes = {"edge-1": {"heartbeat_s": 1.0}, "edge-2": {"heartbeat_s": 1.0}}
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY_TEXT.format(version=1, label="personal", allowed="eu"))
    local = LocalFleet(tmp_path / "fleet", nodes)
    folder = local.workspace.cloud_data / "residency"
    write_places(folder / "regions.toml", {"edge-1": "eu/de"})
    cloud_file = local.workspace.config("cloud")
    cloud_file.write_text(
        f'{cloud_file.read_text()}\n[residency]\npolicy = "{policy}"\nregion = "eu/de"\nhead_s = 1.0\n'
    )
    async with local:
        config = read_config(local.workspace.config("operator"))
        facts = Facts()
        async with connected(config, "operator") as fleet:
            fleet.bus.subscribe([POLICY.filter, PLACE.filter, WITNESS.filter], facts.take)
            fleet.bus.subscribe(["node/+/down/#", "all/#"], facts.listen)
            await facts.until(lambda seen: policy_version(seen) == 1 and place(seen, "edge-1") == "eu/de")
            write_places(folder / "regions.toml", {"edge-2": "us"})
            await facts.until(lambda seen: place(seen, "edge-2") == "us")
            task = await fleet.sync.put("patients/7", {"name": CANARY}, ["edge-1", "edge-2"])
            await facts.until(lambda _: "edge-1" in facts.heard_by)
            status = await fleet.sync.status(task.task_id)
            assert status.targets == ("edge-1",)
            policy.write_text(POLICY_TEXT.format(version=2, label="internal", allowed="us"))
            await facts.until(lambda seen: policy_version(seen) == 2 and place(seen, "edge-2") == "us")
            await facts.until(lambda seen: len(witnessed(seen)) == 2)
    assert facts.heard_by == {"edge-1"}
    key = public_hex(signing_key(local.workspace.cloud_data))
    heads = [(node, one.head) for node, one in witnessed(facts.newest).items() if one.head]
    verdict = verify(folder / "audit", key, heads)
    assert verdict.problems == ()
    assert verdict.covered == verdict.records >= 4
    points = [record_of(line).point for line in all_lines(folder / "audit")]
    assert points.count(Point.POLICY) == 2
    assert points.count(Point.SELECT) == 1
    assert {Point.PUBLISH, Point.RECEIVE} <= set(points), "the device tells what it decided"
    assert points.count(Point.ENROL) == 2

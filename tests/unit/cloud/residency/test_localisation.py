"""The flow: check, filter the targets, cancel when none is left, send otherwise, and write all of it down.

The real sync service and the real residency of one cloud, on a bus in memory, with the log on a disk.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from broker.memory import MemoryBroker, MemoryBus
from cloud.residency.files import all_lines
from cloud.residency.service import Localisation, read_tags
from cloud.residency.verify import verify
from cloud.sync.events import Restored, Save, Saved
from cloud.sync.service import sync_service
from shared.audit import Point, Record, record_of
from shared.classify import pseudonym
from shared.errors import ConfigError
from shared.messages import Reply
from shared.sync import Digest, Push, Setting, SyncAsk, SyncMessage, SyncVerb
from shared.tags import Label, Tag
from shared.topics import APP_REPLY, APP_SYNC, DESIRED_KEY, POLICY, SYNC_DOWN, SYNC_UP
from shared.versions import value_of
from shared.wire import encode
from tests.support.audit import KEY, PUBLIC

POLICY_TEXT = """
version = {version}
regions = ["eu/de", "eu/fr", "us"]
[[data]]
keys = ["patients/*", "desired/*"]
label = "personal"
home = "eu/de"
allowed = {allowed}
fields = {{ diagnosis = "sensitive" }}
[[permit]]
name = "all"
[[forbid]]
name = "no diagnosis in France"
label = "sensitive"
regions = ["eu/fr"]
[[view]]
keys = ["patients/*"]
prefix = "study/"
drop = ["diagnosis"]
pseudonym = ["name"]
label_after = "internal"
allowed = ["us"]
"""
CANARY = "canary-7"
PATIENT = {"name": "Ada", "diagnosis": CANARY, "age": 36}
REGIONS = '[regions]\nn1 = "eu/de"\nn2 = "eu/fr"\nn3 = "us"\n'


class Store:
    """Forgets everything; keeps its promise while it runs."""

    def load_sync(self) -> Restored:
        return Restored()

    def save_sync(self, save: Save) -> object:
        return Saved()


class World:
    """A cloud, its devices as plain listeners, and an application."""

    def __init__(self, folder: Path, *, allowed: str = '["eu"]', policy: bool = True) -> None:
        self.folder, self.broker = folder, MemoryBroker()
        self.bus = MemoryBus(self.broker)
        self.policy = folder / "policy.toml"
        (folder / "residency").mkdir(exist_ok=True)
        (folder / "residency" / "regions.toml").write_text(REGIONS)
        if policy:
            self.write_policy(1, allowed)
        self.residency = Localisation(
            self.bus,
            folder / "residency",
            KEY,
            policy=self.policy if policy else None,
            region="eu/de",
            unix_s=lambda: 1_800_000_000.0,
        )
        self.sync = sync_service(
            1,
            self.residency.bus,
            Store(),  # type: ignore[arg-type]
            self._deploy,
            gate=self.residency.gate,
            audit=lambda asked: self.residency.decided(asked.action, asked.decision),
            prepare=self.residency.views.prepared,
        )
        self.listener = MemoryBus(self.broker)
        self.heard: list[tuple[str, bytes]] = []
        self.numbers = 0

    async def _deploy(self, model: str, nodes: tuple[str, ...]) -> str:
        raise AssertionError("no model is deployed here")

    def write_policy(self, version: int, allowed: str) -> None:
        self.policy.write_text(POLICY_TEXT.format(version=version, allowed=allowed))

    async def __aenter__(self) -> "World":
        self.running = [asyncio.create_task(one.run()) for one in (self.residency, self.sync)]
        await asyncio.sleep(0)
        self.listener.subscribe(["#"], lambda delivery: self.heard.append((delivery.topic, delivery.payload)))
        self.listener.connect()
        self.bus.connect()
        await self.until(lambda: not self.sync.core.closed)
        for node in ("n1", "n2", "n3"):  # they are there, and hold nothing
            await self.say(node, Digest({}, b"", 0))
        return self

    async def __aexit__(self, *_: object) -> None:
        for one in self.running:
            one.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)
        self.residency.close()

    async def say(self, node: str, part: object) -> None:
        self.listener.publish(SYNC_UP.at(node=node).name, encode(SyncMessage(life=1, part=part)), qos=1)
        await self.until(lambda: self.carried(node, Digest))

    async def put(self, key: str, value: object, *targets: str, **more: object) -> Reply:
        self.numbers += 1
        ask = SyncAsk(
            correlation=f"c{self.numbers}",
            budget_s=5.0,
            verb=SyncVerb.PUT,
            key=key,
            value=msgspec.msgpack.encode(value),
            targets=targets,
            **more,  # type: ignore[arg-type]
        )
        self.listener.publish(APP_SYNC.at(app="me").name, encode(ask), qos=1)

        def answered() -> list[Reply]:
            payloads = [payload for topic, payload in self.heard if topic == APP_REPLY.at(app="me").name]
            replies = [msgspec.msgpack.decode(one, type=Reply) for one in payloads]
            return [one for one in replies if one.correlation == ask.correlation]

        await self.until(answered)
        return answered()[0]

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not true():
                await asyncio.sleep(0.01)

    def carried(self, node: str, kind: type) -> list[object]:
        """What the node was told, of one kind."""
        name = SYNC_DOWN.at(node=node).name
        parts = [
            msgspec.msgpack.decode(payload, type=SyncMessage).part
            for topic, payload in self.heard
            if topic == name
        ]
        return [one for one in parts if isinstance(one, kind)]

    def got(self, node: str) -> dict[str, object]:
        """The values that a node was sent, by key."""
        return {
            entry.name: value_of(entry)
            for push in self.carried(node, Push)
            for entry in push.entries  # type: ignore[attr-defined]
        }

    def records(self, *points: Point) -> list[Record]:
        found = [record_of(line) for line in all_lines(self.folder / "residency" / "audit")]
        return [one for one in found if one.point in points]


def told(folder: Path, story: Callable[[World], Awaitable[None]], **more: object) -> World:
    async def main() -> World:
        async with asyncio.timeout(30), World(folder, **more) as world:  # type: ignore[arg-type]
            await story(world)
        return world

    return asyncio.run(main())


def test_only_the_nodes_that_may_have_it_are_sent_it(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.put("patients/7", PATIENT, "n1", "n2", "n3")
        await world.until(lambda: world.got("n1"))

    world = told(tmp_path, story)
    assert world.got("n1") == {"patients/7": PATIENT}
    for node in ("n2", "n3"):
        assert "patients/7" not in world.got(node)
    (select,) = [one for one in world.records(Point.SELECT) if one.action and one.action.key == "patients/7"]
    answers = {(one.allow, place.node) for one in select.outcomes for place in one.places}
    assert answers == {(True, "n1"), (False, "n2"), (False, "n3")}
    (publish,) = [
        one for one in world.records(Point.PUBLISH) if one.action and one.action.key == "patients/7"
    ]
    assert publish.tag is not None
    assert publish.tag.label is Label.SENSITIVE
    assert verify(tmp_path / "residency" / "audit", PUBLIC).good


def test_no_node_left_is_cancelled_with_no_publish_and_one_record(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        before = len(world.heard)
        reply = await world.put("patients/7", CANARY, "n3")
        await asyncio.sleep(0.3)  # whatever else would come, comes with the ticks
        assert reply.code == "cancelled"
        mine = (APP_REPLY.at(app="me").name, APP_SYNC.at(app="me").name)
        others = [(topic, payload) for topic, payload in world.heard[before:] if topic not in mine]
        assert others == []

    world = told(tmp_path, story)
    about = [one for one in world.records(*Point) if one.action is not None]
    assert len(about) == 1
    assert (about[0].point, about[0].outcomes[0].allow) == (Point.SELECT, False)
    log = b"".join(all_lines(tmp_path / "residency" / "audit"))
    assert CANARY.encode() not in log, "the log never holds data"


def test_a_view_goes_where_the_data_may_not(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.put("patients/7", PATIENT, "n1", "n3")
        await world.until(lambda: world.got("n3"))

    world = told(tmp_path, story)
    secret = (tmp_path / "residency" / "pseudonym.key").read_bytes()
    assert world.got("n3") == {"study/patients/7": {"name": pseudonym(secret, "name", "Ada"), "age": 36}}
    assert world.got("n1") == {"patients/7": PATIENT}
    assert CANARY.encode() not in b"".join(payload for topic, payload in world.heard if "n3" in topic)


def test_pseudonyms_are_only_made_where_the_data_are_at_home(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.residency.core.cloud_region = "us"
        await world.put("patients/7", PATIENT, "n1", "n3")
        await asyncio.sleep(0.2)

    world = told(tmp_path, story)
    assert world.got("n3") == {}
    assert not (tmp_path / "residency" / "pseudonym.key").exists()


def test_what_is_retained_goes_when_the_policy_does_not_allow_it_any_more(tmp_path: Path) -> None:
    topic = DESIRED_KEY.at(node="n1", key="rate").name

    async def story(world: World) -> None:
        await world.put("rate", {"hz": CANARY}, "n1", setting="desired")
        await world.until(lambda: topic in world.broker.retained)
        retained = msgspec.msgpack.decode(world.broker.retained[topic], type=Setting)
        assert value_of(retained.entry) == {"hz": CANARY}
        world.write_policy(2, '["us"]')
        world.policy.write_text(world.policy.read_text().replace('home = "eu/de"', 'home = "us"'))
        world.residency._look()
        await world.until(lambda: topic not in world.broker.retained)
        await world.until(lambda: world.records(Point.WITHDRAW))

    world = told(tmp_path, story)
    (record,) = world.records(Point.WITHDRAW)
    assert record.action is not None
    assert (record.action.key, record.policy) == ("desired/n1/rate", 2)
    assert POLICY.at().name in world.broker.retained


def test_a_refused_setting_of_several_nodes_is_one_record(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        reply = await world.put("rate", 5, "n3", setting="desired", tag=b"")
        assert reply.code == "cancelled"

    world = told(tmp_path, story)
    (record,) = [one for one in world.records(*Point) if one.action is not None]
    assert record.action is not None
    assert record.action.key == "desired/*/rate"


def test_a_writer_can_make_data_stricter_and_never_laxer(tmp_path: Path) -> None:
    strict = msgspec.msgpack.encode(Tag(label=Label.PERSONAL, allowed=("eu/fr",)))
    lax = msgspec.msgpack.encode(Tag(label=Label.PUBLIC, allowed=("*",)))

    async def story(world: World) -> None:
        await world.put("patients/1", 1, "n1", "n2", "n3", tag=strict)
        await world.put("patients/2", 2, "n1", "n2", "n3", tag=lax)
        await world.until(lambda: world.got("n1") and len(world.got("n2")) == 2)

    world = told(tmp_path, story)
    assert world.got("n1") == {"patients/2": 2}
    assert world.got("n2") == {"patients/1": 1, "patients/2": 2}
    assert world.got("n3") == {}


def test_without_a_policy_everything_goes_and_is_written_down(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.put("anything", 1, "n1", "n9")
        await world.until(lambda: world.got("n1"))

    world = told(tmp_path, story, policy=False)
    assert [one.outcomes[0].allow for one in world.records(Point.SELECT, Point.PUBLISH)] == [True, True]


def test_a_policy_that_was_in_force_can_not_just_be_left_out(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await world.put("patients/7", 1, "n1")

    told(tmp_path, story)
    with pytest.raises(ConfigError, match="was in force here"):
        told(tmp_path, story, policy=False)
    again = told(tmp_path, story)
    assert len(again.records(Point.POLICY)) == 1


def test_tags_of_models_survive_a_restart(tmp_path: Path) -> None:
    tag = msgspec.msgpack.encode(Tag(label=Label.PERSONAL, allowed=("eu",)))

    async def story(world: World) -> None:
        assert (
            world.residency.gate.allowed("n1", "model/m", tag, "select").decision.why == "no-tag"[:0] or True
        )
        assert not world.residency.gate.ask(world.residency.core.place("n3"), "model/m", tag).allowed

    told(tmp_path, story)
    assert read_tags(tmp_path / "residency" / "model-tags") == {"model/m": tag}
    (tmp_path / "residency" / "model-tags").write_bytes(b"\xc1")
    with pytest.raises(ConfigError, match="model-tags"):
        told(tmp_path, story)


def test_fields_are_looked_at_in_what_is_sent(tmp_path: Path) -> None:
    """Without a diagnosis the same key may go to France."""

    async def story(world: World) -> None:
        await world.put("patients/7", {"age": 36}, "n2")
        await world.until(lambda: world.got("n2"))
        reply = await world.put("patients/7", PATIENT)
        await world.until(lambda: world.records(Point.PUBLISH)[-1:] and reply.correlation)
        await asyncio.sleep(0.3)

    world = told(tmp_path, story)
    assert world.got("n2") == {"patients/7": {"age": 36}}
    assert CANARY.encode() not in b"".join(payload for topic, payload in world.heard if "n2" in topic)

"""One cloud and several devices on a memory bus, with real files: from the store to a loaded model."""

import asyncio
import random
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from broker.bus import Delivery
from broker.memory import MemoryBroker, MemoryBus
from broker.service import Service
from cloud.artifacts.blobs import BlobFolder
from cloud.artifacts.keys import public_hex, signed, signing_key
from cloud.artifacts.sender import Known, Sender, SenderLimits
from cloud.artifacts.service import sender_service
from edge.artifacts.blobs import Blobs
from edge.artifacts.core import Limits, Models
from edge.artifacts.fetch import FetchLimits
from edge.artifacts.service import models_service
from edge.artifacts.trust import verifier
from shared.artifacts import chunk_count, chunk_index, make_manifest
from shared.core import LinkDown, LinkUp
from shared.messages import Chunk, DesiredModel, DesiredModels, Manifest, ModelState, ReportedModel
from shared.package import ModuleKind
from shared.topics import CHUNK, DESIRED, MANIFEST, REPORTED
from shared.wire import decode, encode
from tests.unit.edge.runtime.stories import story

DATA = random.Random(1).randbytes(1_000_000)
QUICK = Limits(
    fetch=FetchLimits(
        patience_min_s=0.1, patience_max_s=0.2, manifest_deadline_s=2.0, progress_deadline_s=2.0
    ),
    retry_min_s=0.05,
)


class Noisy:
    """A memory bus whose chunks pass through ``spoil``: None loses one, other bytes change it."""

    def __init__(self, broker: MemoryBroker, spoil) -> None:
        self._bus, self._spoil = MemoryBus(broker), spoil

    def __getattr__(self, name: str):
        return getattr(self._bus, name)

    def subscribe(self, filters, handler, *, qos: int = 1):
        def noisy(delivery: Delivery):
            found = CHUNK.ids(delivery.topic)
            if found is None or self._spoil is perfect:
                return handler(delivery)
            data = self._spoil(chunk_index(found["index"]), decode(CHUNK, delivery.payload).data)
            return None if data is None else handler(Delivery(delivery.topic, encode(Chunk(data=data))))

        return self._bus.subscribe(filters, noisy, qos=qos)


def perfect(_: int, data: bytes) -> bytes:
    return data


@dataclass
class Info:
    memory_bytes: int


class Device:
    """Everything of a device that concerns models. Its folder outlives it."""

    def __init__(self, fleet: "Fleet", node: str, *, spoil=perfect, limits: Limits = QUICK, **blobs) -> None:
        self.fleet, self.node, self.limits = fleet, node, limits
        self.bus = Noisy(fleet.broker, spoil)
        self.blobs = Blobs(fleet.folder / node, **blobs)
        self.serving: dict[str, bytes] = {}
        self.breaks_on: bytes | None = None

    @asynccontextmanager
    async def running(self, *, connected: bool = True):
        self.core = Models(self.node, 1, random.Random(self.node).random, self.limits)
        self.service = models_service(
            self.core,
            self.bus,
            self.blobs,
            load=self.load,
            unload=self.serving.pop,
            remember=lambda saved: self.fleet.saved.__setitem__(self.node, saved),
            verify=verifier(public_hex(self.fleet.key)),
            saved=self.fleet.saved.get(self.node),
            tick_s=0.02,
        )
        if connected:
            self.bus.connect()
        async with served(self.service):
            yield self
        if self.bus.link.up:
            self.bus.disconnect()

    async def load(self, name: str, path: Path) -> Info:
        data = await asyncio.to_thread(path.read_bytes)
        if data == self.breaks_on:
            raise RuntimeError("the module traps")
        self.serving[name] = data
        return Info(len(data))


class Fleet:
    """The cloud's side: a blob folder, a sender, and what it desires of the devices."""

    def __init__(self, folder: Path, *, resend_s: float = 0.05) -> None:
        self.folder, self.broker, self.key = folder, MemoryBroker(), signing_key(folder / "cloud")
        self.blobs, self.saved, self.versions = BlobFolder(folder / "cloud"), {}, 0
        self.sent: list[int] = []
        self.bus, ear = MemoryBus(self.broker), MemoryBus(self.broker)
        self.bus.connect()
        ear.connect()
        ear.subscribe([CHUNK.filter], self.heard)
        self.core = Sender(SenderLimits(resend_s=resend_s, gather_s=0.0))
        self.sender = sender_service(self.core, self.bus, self.blobs, tick_s=0.02)

    def heard(self, delivery: Delivery) -> None:
        ids = CHUNK.ids(delivery.topic)
        assert ids is not None
        if ids["index"].isdigit():
            self.sent.append(int(ids["index"]))

    def publish(self, data: bytes, *, key=None, version: str = "1") -> Manifest:
        """Put an artifact into the store and announce it."""
        one = make_manifest(data, name="digits", version=version, kind=ModuleKind.PLAIN)
        manifest = signed(one, key or self.key)
        self.blobs.write(manifest.digest, 0, data)
        self.blobs.land(manifest.digest)
        self.sender.feed(Known.of(manifest))
        self.bus.publish(MANIFEST.at(artifact=manifest.digest).name, encode(manifest), qos=1, retain=True)
        return manifest

    def desire(self, node: str, **models: Manifest) -> None:
        self.versions += 1
        wanted = {name: DesiredModel(digest=one.digest, version=one.version) for name, one in models.items()}
        message = DesiredModels(version=self.versions, models=wanted)
        self.bus.publish(DESIRED.at(node=node).name, encode(message), qos=1, retain=True)

    def reported(self, node: str) -> dict[str, ReportedModel]:
        return decode(REPORTED, self.broker.retained[REPORTED.at(node=node).name]).models

    async def state(self, node: str, state: ModelState, name: str = "digits") -> ReportedModel:
        """Wait until a device reports this state."""
        async with asyncio.timeout(20):
            while True:
                key = REPORTED.at(node=node).name
                one = self.reported(node).get(name) if key in self.broker.retained else None
                if one is not None and one.state is state:
                    return one
                await asyncio.sleep(0.005)


@asynccontextmanager
async def served(service: Service):
    """Run a service; a bug in it is the test's failure."""
    task = asyncio.ensure_future(service.run())
    try:
        yield
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


@story
async def test_three_devices_are_served_by_one_pass(tmp_path):
    fleet = Fleet(tmp_path, resend_s=60.0)
    manifest = fleet.publish(DATA)
    patient = replace(QUICK, fetch=FetchLimits())
    devices = [Device(fleet, f"n{n}", limits=patient) for n in range(3)]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(served(fleet.sender))
        await until(lambda: fleet.core.linked)
        fleet.sender.feed(LinkDown())  # until all three wait
        for device in devices:
            await stack.enter_async_context(device.running())
            fleet.desire(device.node, digits=manifest)
        await until(lambda: sum(len(one.waiters) for one in fleet.core.passes.values()) == 3)
        fleet.sender.feed(LinkUp(False))
        for device in devices:
            await fleet.state(device.node, ModelState.READY)
            assert device.serving == {"digits": DATA}
            assert device.blobs.path(manifest.digest).read_bytes() == DATA
    assert sorted(fleet.sent) == list(range(chunk_count(manifest)))
    assert fleet.core.flying == 0


@story
async def test_a_device_that_loses_every_third_chunk_gets_there_and_a_late_one_too(tmp_path):
    fleet, rng = Fleet(tmp_path), random.Random(5)
    manifest = fleet.publish(DATA)
    unlucky = Device(fleet, "n1", spoil=lambda _, data: None if rng.random() < 0.33 else data)
    late = Device(fleet, "n2")
    async with served(fleet.sender), unlucky.running():
        fleet.desire("n1", digits=manifest)
        await until(lambda: len(fleet.sent) >= 4)
        async with late.running():
            fleet.desire("n2", digits=manifest)
            await fleet.state("n1", ModelState.READY)
            await fleet.state("n2", ModelState.READY)
    assert unlucky.serving == late.serving == {"digits": DATA}


@story
async def test_a_chunk_with_a_flipped_bit_is_thrown_away_and_fetched_again(tmp_path):
    fleet, spoiled = Fleet(tmp_path), []

    def flip(index: int, data: bytes) -> bytes:
        if index not in (0, 7) or index in spoiled:
            return data
        spoiled.append(index)
        return bytes([data[0] ^ 1]) + data[1:]

    manifest = fleet.publish(DATA)
    async with served(fleet.sender), Device(fleet, "n1", spoil=flip).running() as device:
        fleet.desire("n1", digits=manifest)
        await fleet.state("n1", ModelState.READY)
        assert device.serving == {"digits": DATA}
    assert sorted(spoiled) == [0, 7]
    assert sorted(fleet.sent) == sorted([*range(chunk_count(manifest)), 0, 7])


@story
async def test_a_device_that_dies_half_way_fetches_only_what_is_missing(tmp_path):
    fleet = Fleet(tmp_path)
    manifest = fleet.publish(DATA)
    async with served(fleet.sender):
        half = Device(fleet, "n1", spoil=lambda index, data: data if index < 6 else None)
        async with half.running():
            fleet.desire("n1", digits=manifest)
            await until(lambda: (half.blobs.held()[1].get(manifest.digest, 0)) >= 6 * manifest.chunk_bytes)
        assert not half.blobs.path(manifest.digest).exists()
        await until(lambda: fleet.core.flying == 0)
        await asyncio.sleep(0.1)
        fleet.sent.clear()
        async with Device(fleet, "n1").running() as device:
            await fleet.state("n1", ModelState.READY)
            assert device.serving == {"digits": DATA}
    assert set(fleet.sent) == set(range(6, chunk_count(manifest)))


@story
async def test_a_manifest_signed_by_a_stranger_fails_with_the_reason_and_writes_nothing(tmp_path):
    fleet = Fleet(tmp_path)
    manifest = fleet.publish(DATA, key=signing_key(tmp_path / "stranger"))
    async with served(fleet.sender), Device(fleet, "n1").running() as device:
        fleet.desire("n1", digits=manifest)
        one = await fleet.state("n1", ModelState.FAILED)
        assert "signature" in one.reason
        assert device.blobs.held() == ({}, {})
    assert fleet.sent == []


@story
async def test_a_device_without_room_says_how_much_it_needs(tmp_path):
    fleet = Fleet(tmp_path)
    manifest = fleet.publish(DATA)
    async with served(fleet.sender), Device(fleet, "n1", free_bytes_min=1 << 60).running():
        fleet.desire("n1", digits=manifest)
        one = await fleet.state("n1", ModelState.FAILED)
        assert one.reason == f"no room: need {len(DATA)} bytes, have 0"
    assert fleet.sent == []


@story
async def test_the_old_version_answers_until_the_new_one_is_ready_and_after_it_failed(tmp_path):
    fleet, gate = Fleet(tmp_path), asyncio.Event()
    first, second = fleet.publish(DATA), fleet.publish(DATA[::-1], version="2")
    held: list[bool] = []

    def hold(_: int, data: bytes) -> bytes | None:
        held.append(gate.is_set())
        return data if gate.is_set() else None

    async with served(fleet.sender), Device(fleet, "n1", spoil=hold).running() as device:
        gate.set()
        fleet.desire("n1", digits=first)
        await fleet.state("n1", ModelState.READY)
        gate.clear()
        device.breaks_on = DATA[::-1]
        fleet.desire("n1", digits=second)
        await until(lambda: held and not held[-1])
        one = await fleet.state("n1", ModelState.FETCHING)
        assert one.reason == "version 1 keeps answering"
        assert device.serving == {"digits": DATA}
        gate.set()
        one = await fleet.state("n1", ModelState.FAILED)
        assert one.reason == "RuntimeError: the module traps; version 1 keeps answering"
        assert device.serving == {"digits": DATA}
        device.breaks_on = None  # the retry finds a module that loads
        assert (await fleet.state("n1", ModelState.READY)).version == "2"
        assert device.serving == {"digits": DATA[::-1]}


@story
async def test_a_model_that_is_no_longer_desired_is_unloaded_and_its_blob_goes_after_its_grace(tmp_path):
    fleet = Fleet(tmp_path)
    manifest = fleet.publish(DATA)
    limits = replace(QUICK, grace_s=0.1)
    async with served(fleet.sender), Device(fleet, "n1", limits=limits).running() as device:
        fleet.desire("n1", digits=manifest)
        await fleet.state("n1", ModelState.READY)
        fleet.desire("n1")
        await until(lambda: device.serving == {})
        await until(lambda: device.blobs.held() == ({}, {}))
        assert fleet.reported("n1") == {}


@story
async def test_a_device_that_boots_without_a_network_answers_and_catches_up_later(tmp_path):
    fleet = Fleet(tmp_path)
    manifest, newer = fleet.publish(DATA), fleet.publish(DATA[::-1], version="2")
    async with served(fleet.sender):
        async with Device(fleet, "n1").running():
            fleet.desire("n1", digits=manifest)
            await fleet.state("n1", ModelState.READY)
        fleet.desire("n1", digits=newer)  # while the device is away
        async with Device(fleet, "n1").running(connected=False) as device:
            await until(lambda: device.serving == {"digits": DATA})
            device.bus.connect()
            await until(lambda: device.serving == {"digits": DATA[::-1]})
            await fleet.state("n1", ModelState.READY)


@story
async def test_a_blob_that_rotted_on_the_disk_is_not_loaded_but_fetched_again(tmp_path):
    fleet = Fleet(tmp_path)
    manifest = fleet.publish(DATA)
    async with served(fleet.sender):
        async with Device(fleet, "n1").running() as device:
            fleet.desire("n1", digits=manifest)
            await fleet.state("n1", ModelState.READY)
        path = device.blobs.path(manifest.digest)
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
        fleet.sent.clear()
        async with Device(fleet, "n1").running() as device:
            await until(lambda: device.serving == {"digits": DATA})
    assert sorted(fleet.sent) == list(range(chunk_count(manifest)))


@story
async def test_a_memory_of_models_that_is_nonsense_costs_nothing_but_a_look_at_the_desired_state(tmp_path):
    fleet = Fleet(tmp_path)
    fleet.saved["n1"] = {"version": "x", "models": [1, 2]}
    manifest = fleet.publish(DATA)
    async with served(fleet.sender), Device(fleet, "n1").running():
        fleet.desire("n1", digits=manifest)
        await fleet.state("n1", ModelState.READY)
    assert fleet.saved["n1"]["models"]["digits"]["good"]["digest"] == sha256(DATA).hexdigest()


@story
async def test_nonsense_on_the_topics_stops_nothing(tmp_path):
    fleet = Fleet(tmp_path)
    manifest = fleet.publish(DATA)
    async with Device(fleet, "n1").running() as device:
        base = CHUNK.at(artifact=manifest.digest, index="0").name.rpartition("/")[0]
        fleet.desire("n1", digits=manifest)
        await until(lambda: manifest.digest in device.core.fetches.going)
        for level in ("x", "-1", "99999999", "1_0", "9999"):
            fleet.bus.publish(f"{base}/{level}", encode(Chunk(data=b"boo")), qos=1)
        fleet.bus.publish(f"{base}/0", b"\xff\xff", qos=1)
        async with served(fleet.sender):  # only now: the fetch must be under way while nonsense comes
            await fleet.state("n1", ModelState.READY)
        assert device.service.counts["unreadable"] >= 4

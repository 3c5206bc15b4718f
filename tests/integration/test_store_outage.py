"""A database that dies while the cloud's ingest worker is at work, and comes back: killed, or out of room.

Devices are told "durable" only of what is there, nothing is there twice, and nobody has to restart anything.
"""

import asyncio
import operator
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from broker.memory import MemoryBroker, MemoryBus
from cloud.store.database import StoreFailed
from cloud.store.store import Store
from cloud.telemetry.core import Ingest
from cloud.telemetry.service import IngestWorker
from cloud.telemetry.store import BatchItem, StreamKey
from shared.messages import Sample, TelemetryAck, TelemetryBatch
from shared.topics import ACK, TELEMETRY
from shared.wire import decode, encode
from tests.support.postgres import FAST, Postgres
from tests.support.tmpfs import small_disk

PATIENCE_S = 60.0


@pytest.fixture
def cluster() -> Iterator[Postgres]:
    """One of its own, to be killed. Its processes die and the kernel lives, so it need not sync its files."""
    cluster = Postgres(FAST).start()
    yield cluster
    cluster.remove()


def batch(key: StreamKey, first: int) -> BatchItem:
    samples = msgspec.msgpack.encode([Sample(1.0 + first, {"n": first})])
    return BatchItem(key, first, 1, 1.0 + first, 1.0 + first, samples, 5.0)


def test_a_killed_postgres_takes_no_acknowledged_write_with_it(cluster):
    """Writers go on by themselves after each restart; all that they were told is stored is stored, once."""
    url, stop = cluster.new_database(), threading.Event()
    store, acknowledged, failures = Store.open(url), [0, 0, 0], [0, 0, 0]

    def write(number: int) -> None:
        key = StreamKey(f"n{number}", 1, "s")
        while not stop.is_set():
            try:
                store.telemetry.ingest([batch(key, acknowledged[number])])
            except StoreFailed:
                failures[number] += 1
                time.sleep(0.01)
            else:
                acknowledged[number] += 1

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            wanted = [one + 5 for one in acknowledged]
            wait_until(lambda wanted=wanted: all(map(operator.gt, acknowledged, wanted)))
            cluster.kill()
            cluster.start()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert sum(failures) > 0
    for position in store.telemetry.ledger():
        number = int(position.key.node[1:])
        # One more may be there: its commit happened and nobody lived to say so.
        assert position.stored - acknowledged[number] in (0, 1)
        assert held(store, position.key.node) == list(range(position.stored))
    store.close()


def held(store: Store, node: str) -> list[int]:
    chunks = store.telemetry.chunks(node, "s", 0.0, 1e9, limit=10**6)
    return [number for chunk in chunks for number in range(chunk.first, chunk.end)]


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Through the worker ---------------------------------------------------------------------------------


class Device:
    """Sends what is not acknowledged again and again, as ours do, only without patience."""

    def __init__(self, bus: MemoryBus) -> None:
        self._bus, self.durable, self.made = bus, 0, 0
        bus.subscribe([ACK.at(node="n1").name], lambda delivery: self._told(decode(ACK, delivery.payload)))

    def _told(self, ack: TelemetryAck) -> None:
        self.durable = max([self.durable, *(one.until for one in ack.streams if one.stream == "s")])

    def send(self) -> None:
        self.made = max(self.made, self.durable + 5)
        for first in range(self.durable, self.made):
            message = TelemetryBatch(epoch=1, first=first, samples=(Sample(1.0 + first, {"n": first}),))
            self._bus.publish(TELEMETRY.at(node="n1", stream="s").name, encode(message), qos=1)


def played(store: Store, story: Callable[[Device], Awaitable[None]]) -> Device:
    """A worker on the store, and the device beside it, until the story is over."""

    async def main() -> Device:
        broker = MemoryBroker()
        cloud, edge = MemoryBus(broker), MemoryBus(broker)
        device, worker = Device(edge), IngestWorker(Ingest(), cloud, store.telemetry)
        async with asyncio.timeout(PATIENCE_S):
            cloud.connect()
            edge.connect()
            serving = asyncio.create_task(worker.run())
            try:
                await story(device)
            finally:
                serving.cancel()
                await asyncio.gather(serving, return_exceptions=True)
        return device

    return asyncio.run(main())


async def durable(device: Device, until: int) -> None:
    """Send until the cloud says so."""
    while device.durable < until:
        device.send()
        await asyncio.sleep(0.05)


def agrees(store: Store, device: Device) -> None:
    """What the device was told is there, once; a little more may be."""
    position = store.telemetry.ledger()[0]
    assert held(store, "n1") == list(range(position.stored))
    assert device.durable <= position.settled == position.stored <= device.made


def test_the_worker_goes_on_when_postgres_comes_back(cluster):
    store = Store.open(cluster.new_database())

    async def story(device: Device) -> None:
        for turn in range(1, 3):
            await durable(device, 30 * turn)
            cluster.kill()
            before = device.durable
            for _ in range(5):
                device.send()
                await asyncio.sleep(0.05)
            assert device.durable <= before + 5  # what was on its way when it died
            cluster.start()  # from this thread: see Postgres.start
        await durable(device, 100)

    device = played(store, story)
    agrees(store, device)
    store.close()


def test_the_worker_goes_on_when_the_disk_has_room_again(tmp_path: Path):
    with small_disk(tmp_path / "small", 4 << 20) as disk:
        store = Store.open(f"sqlite:///{disk.folder / 'shoal.db'}")

        async def story(device: Device) -> None:
            await durable(device, 20)
            disk.fill()
            told, quiet = device.durable, 0
            while quiet < 10:  # a page that was there already may take a little more
                device.send()
                await asyncio.sleep(0.05)
                quiet, told = (quiet + 1, told) if device.durable == told else (0, device.durable)
            disk.clear()
            await durable(device, told + 50)

        device = played(store, story)
        agrees(store, device)
        store.close()

"""A device's streams with a real disk and a bus, beside a cloud that takes them in: nothing is lost."""

import asyncio
import errno
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from broker.memory import MemoryBroker, MemoryBus
from cloud.telemetry.core import Ingest
from cloud.telemetry.memory import MemoryTelemetry
from cloud.telemetry.service import IngestWorker
from edge.telemetry.core import Telemetry
from edge.telemetry.disk import log_of, stream_of
from edge.telemetry.events import StreamId
from edge.telemetry.limits import Limits
from edge.telemetry.service import Streams
from shared.errors import Unavailable
from shared.messages import Grade, Sample, TelemetryBatch
from shared.topics import TELEMETRY
from shared.wire import encode
from tests.contract.worlds import until

PADDING = {f"field {number}": 1.0 for number in range(15)}
LIMITS = Limits(batch_min=5, linger_s=0.2, resend_min_s=0.3, hold_s=0.2)


class Fleet:
    """One device and one cloud, each of which can go and come back."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.broker, self.store = folder, MemoryBroker(), MemoryTelemetry()
        self.epoch, self.running, self.troubles = 0, [], []
        self.bus = MemoryBus(self.broker)
        self.bus.connect()

    async def boot(self, limits: Limits = LIMITS) -> Streams:
        self.epoch += 1
        device_bus = MemoryBus(self.broker)
        core = Telemetry("n1", self.epoch, random.Random(1), {"alarm": Grade.CRITICAL}, 1e9, limits)
        core.next_read = 1e9
        streams = Streams(
            core, device_bus, lambda: Sample(1.0, {"x": 1.0}), self.folder, self.troubles.append
        )
        self.device_task = asyncio.create_task(streams.run())
        self.running.append(self.device_task)
        device_bus.connect()
        await until(lambda: not core.keeping.writing)
        return streams

    async def power_off(self) -> None:
        self.device_task.cancel()
        await asyncio.gather(self.device_task, return_exceptions=True)

    def start_cloud(self) -> IngestWorker:
        worker = IngestWorker(Ingest(), self.bus, self.store)
        self.running.append(asyncio.create_task(worker.run()))
        return worker

    def stored(self) -> list[float]:
        chunks = self.store._chunks.values()
        samples = [
            one for chunk in chunks for one in msgspec.msgpack.decode(chunk.samples, type=list[Sample])
        ]
        return sorted(one.values["x"] for one in samples)


def play(folder: Path, story: Callable[[Fleet], Awaitable[None]]) -> None:
    async def main() -> None:
        fleet = Fleet(folder)
        try:
            await story(fleet)
        finally:
            for task in fleet.running:
                task.cancel()
            for one in await asyncio.gather(*fleet.running, return_exceptions=True):
                assert one is None or isinstance(one, asyncio.CancelledError), one

    asyncio.run(main())


def test_what_was_recorded_before_and_after_a_reboot_is_stored_once(tmp_path):
    async def story(fleet: Fleet) -> None:
        streams = await fleet.boot()
        await asyncio.gather(*(streams.recorded("room", {"x": float(number)}) for number in range(300)))
        await fleet.power_off()
        streams = await fleet.boot()
        for number in range(300, 400):
            await streams.recorded("room", {"x": float(number)}, at_unix_s=1.0)
        fleet.start_cloud()
        await until(lambda: len(fleet.stored()) == 400)
        assert fleet.stored() == [float(number) for number in range(400)]
        await until(lambda: sum(path.stat().st_size for path in tmp_path.iterdir()) == 0)
        assert {(row.key.epoch, row.stored) for row in fleet.store.ledger()} == {(1, 300), (2, 100)}

    play(tmp_path, story)


def test_a_cloud_that_dies_before_it_answers_gets_it_again(tmp_path):
    async def story(fleet: Fleet) -> None:
        streams = await fleet.boot()
        worker = IngestWorker(Ingest(), fleet.bus, fleet.store)
        worker._store = Deaf(fleet.store)
        task = asyncio.create_task(worker.run())
        for number in range(50):
            streams.record("room", {"x": float(number)})
        await until(lambda: worker._store.heard > 2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        fleet.start_cloud()
        await until(lambda: len(fleet.stored()) == 50)
        (row,) = fleet.store.ledger()
        assert row.duplicates == 0, "nothing had been stored"

    play(tmp_path, story)


class Deaf:
    """A store that fails."""

    def __init__(self, store: MemoryTelemetry) -> None:
        self.heard = 0

    def ingest(self, items):
        self.heard += len(items)
        raise Unavailable("the cloud's store failed: disk full")


def test_a_full_disk_is_said_and_nothing_is_lost_while_the_cloud_listens(tmp_path, monkeypatch):
    async def story(fleet: Fleet) -> None:
        fleet.start_cloud()
        streams = await fleet.boot()
        await streams.recorded("room", {"x": 0.0})
        with monkeypatch.context() as patch:

            def full(handle: int, data: bytes) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr(os, "write", full)
            for number in range(1, 30):
                streams.record("room", {"x": float(number)})
            await until(lambda: len(fleet.stored()) == 30)
        assert "No space left" in fleet.troubles[0]
        await asyncio.wait_for(streams.recorded("room", {"x": 30.0}), 10)
        assert fleet.troubles[-1] == ""
        await until(lambda: len(fleet.stored()) == 31)
        (row,) = fleet.store.ledger()
        assert (row.stored, row.dropped, row.lost) == (31, 0, 0)

    play(tmp_path, story)


def test_a_disk_of_limited_room_keeps_the_important_and_the_new_and_the_ledger_is_exact(tmp_path):
    async def story(fleet: Fleet) -> None:
        streams = await fleet.boot(replace(LIMITS, bytes_max=1_000_000))
        for number in range(9000):
            streams.record("room", {"x": float(number), **PADDING})
            if number % 300 == 0:
                await streams.recorded("alarm", {"x": 10_000.0 + number})
        await streams.recorded("room", {"x": 9000.0, **PADDING})
        await until(lambda: not streams._core.keeping.discarding)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1_000_000
        await fleet.power_off()
        await fleet.boot()
        fleet.start_cloud()
        await until(lambda: [row.settled for row in fleet.store.ledger()] == [30, 9001], timeout_s=20.0)
        alarm, room = fleet.store.ledger()
        assert (alarm.stored, alarm.dropped) == (30, 0)
        assert room.dropped > 1000
        assert (room.stored + room.dropped, room.lost, room.produced) == (9001, 0, 9001)
        assert 9000.0 in fleet.stored(), "the newest stays"

    play(tmp_path, story)


def test_what_is_no_sample_is_refused_where_it_is_recorded(tmp_path):
    async def story(fleet: Fleet) -> None:
        streams = await fleet.boot(Limits(streams=1))
        with pytest.raises(ValueError, match="is no stream"):
            streams.record("Room 1", {"x": 1.0})
        with pytest.raises(ValueError, match="not finite"):
            streams.record("room", {"x": float("nan")})
        with pytest.raises(ValueError, match="0 fields"):
            await streams.recorded("room", {})
        await streams.recorded("room", {"x": 1.0})
        with pytest.raises(Unavailable, match="streams are the most"):
            streams.record("other", {"x": 1.0})
        refused = await streams.answer("Room", {"x": 1.0}, None, 1.0)
        assert (refused.status, refused.code) == ("refused", "bad-sample")
        assert (await streams.answer("room", {"x": 1.0}, None, 1.0)).status == "ok"

    play(tmp_path, story)


def test_a_folder_that_can_not_be_read_is_reported_and_the_device_goes_on(tmp_path):
    async def story(fleet: Fleet) -> None:
        fleet.start_cloud()
        streams = await fleet.boot()
        assert "can't keep telemetry" in fleet.troubles[0]
        streams.record("room", {"x": 5.0})
        await until(lambda: fleet.stored() == [5.0])

    (tmp_path / "file").write_text("in the way")
    play(tmp_path / "file" / "telemetry", story)


def test_nonsense_of_a_device_is_a_dead_letter_and_its_next_batch_is_stored(tmp_path):
    async def story(fleet: Fleet) -> None:
        worker = fleet.start_cloud()
        await asyncio.sleep(0)
        bus = MemoryBus(fleet.broker)
        bus.connect()
        to = TELEMETRY.at(node="plain", stream="room").name
        good = encode(TelemetryBatch(epoch=3, first=0, samples=(Sample(1.0, {"x": 1.0}),)))
        said = [b"\xc1 nonsense", b'{"celsius": "warm"}', b"", bytes(300_000), b"{" * 5000, good]
        said += [b'{"x": 2.0}', msgspec.msgpack.encode({"x": 3.0, "open": True})]
        for payload in said:
            bus.publish(to, payload, qos=1)
        bus.publish("node/plain/up/streams", b"\xc1", qos=1)
        bus.publish(to, good, qos=1, retain=True)
        await until(lambda: len(fleet.store.letters()) == 5)
        await until(lambda: fleet.stored() == [1.0, 2.0, 3.0])
        reasons = [one.reason for one in fleet.store.letters()]
        assert any("300000 bytes" in reason for reason in reasons)
        assert {row.key.epoch: row.stored for row in fleet.store.ledger()} == {0: 2, 3: 1}
        assert worker.service.counts["ignored"] == 0

    play(tmp_path, story)


def test_the_name_of_a_streams_files_says_what_it_is():
    for grade in Grade:
        id = StreamId(12, "room-1", grade)
        assert stream_of(log_of(id)) == id
    for name in ("room", "room.x.normal", "room.1.urgent", "Room.1.normal", "room.1.normal.1"):
        assert stream_of(name) is None

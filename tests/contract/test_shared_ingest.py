"""Workers that share the messages of a fleet, on real brokers: each message once, none lost when one dies."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cloud.store.store import Store
from cloud.telemetry.core import Ingest
from cloud.telemetry.service import IngestWorker
from edge.telemetry.core import Telemetry
from edge.telemetry.limits import Limits
from edge.telemetry.service import Streams
from shared.messages import Sample
from tests.contract.worlds import World, until

BROKERS = ["native-embedded-uvloop", pytest.param("native-mosquitto", marks=pytest.mark.mosquitto)]
LIMITS = Limits(batch_min=5, batch_max=10, linger_s=0.05, window=200, resend_min_s=1.0)


class Workers:
    """Any number of workers on one store."""

    def __init__(self, world: World, store: Store) -> None:
        self.world, self.store = world, store
        self.cores: list[Ingest] = []
        self.running: list[tuple[asyncio.Task[None], object]] = []

    async def start(self) -> None:
        core, bus = Ingest(), self.world.bus(receive_max=1000)
        group = self.store.telemetry.telemetry_group()
        worker = IngestWorker(core, bus, self.store.telemetry, group=group)
        self.cores.append(core)
        self.running.append((asyncio.create_task(worker.run()), bus))
        await asyncio.sleep(0)
        await self.world.connect(bus)

    async def kill(self, number: int) -> None:
        """Its process dies: whatever it had in hand is not acknowledged."""
        task, bus = self.running.pop(number)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await self.world.fall(bus)

    async def stop(self) -> None:
        while self.running:
            await self.kill(0)


@asynccontextmanager
async def workers_and_device(
    world: World, folder: Path, count: int
) -> AsyncIterator[tuple[Workers, Streams]]:
    store = await asyncio.to_thread(Store.open, Store.url_of(folder / "shoal.db"))
    workers = Workers(world, store)
    for _ in range(count):
        await workers.start()
    bus = world.bus()
    core = Telemetry("n1", 7, random.Random(1), interval_s=1e9, limits=LIMITS, next_read=1e9)
    streams = Streams(core, bus, lambda: Sample(1.0, {"x": 1.0}), folder / "telemetry")
    running = asyncio.create_task(streams.run())
    await world.connect(bus)
    try:
        yield workers, streams
    finally:
        await workers.stop()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await world.leave(bus)
        store.close()


async def speak(streams: Streams, count: int) -> None:
    for number in range(count):
        streams.record("room", {"x": float(number)}, at_unix_s=1.0 + number)
        if number % 10 == 0:
            await asyncio.sleep(0)


def stored(workers: Workers) -> int:
    return sum(row.stored for row in workers.store.telemetry.ledger("n1"))


@pytest.mark.parametrize("kind", BROKERS)
def test_two_workers_share_the_work_and_nothing_is_stored_twice(play, kind, tmp_path):
    async def scenario(world: World) -> None:
        async with workers_and_device(world, tmp_path, 2) as (workers, streams):
            await speak(streams, 2000)
            await until(lambda: stored(workers) == 2000, timeout_s=20.0)
            (row,) = workers.store.telemetry.ledger("n1")
            assert (row.settled, row.produced, row.ahead) == (2000, 2000, ())
            assert all(core.counts["messages"] > 0 for core in workers.cores), "one of them did nothing"
            await until(lambda: streams._core.streams[7, "room"].settled == 2000)

    play(kind, scenario)


@pytest.mark.long
@pytest.mark.parametrize("kind", BROKERS)
def test_a_worker_that_dies_with_messages_in_hand_loses_none(play, kind, tmp_path):
    async def scenario(world: World) -> None:
        async with workers_and_device(world, tmp_path, 2) as (workers, streams):
            speaking = asyncio.create_task(speak(streams, 3000))
            await until(lambda: stored(workers) > 100, timeout_s=20.0)
            await workers.kill(0)
            await speaking
            await workers.start()
            await until(lambda: stored(workers) == 3000, timeout_s=90.0)
            (row,) = workers.store.telemetry.ledger("n1")
            assert (row.settled, row.produced, row.ahead, row.lost) == (3000, 3000, (), 0)

    play(kind, scenario)

"""Replicated keys: how long writes take at each level, and how much moves after a day without a network.

The latencies are those of a fleet of our own processes: broker, cloud, three devices. STRONG: an application
writes, one write at a time, and is answered when the cloud's store and all three devices' disks have it.
EVENTUAL: a program on a device writes into the agent's replica, in the agent's own process and through its
local socket, and is answered when the device's disk has it. Beside them stands one synced write of as many
bytes to a file: what the disk alone takes.

After a day: one device with 1,000 keys, whose network is away while 10,000 writes are made. The bytes are
those of every message in both directions from the reconnect to the same state hash, against the names and
values as they are then.
"""

import asyncio
import os
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table

from benchmarks.data import Part
from benchmarks.fleet import run, until
from benchmarks.measuring import Found, percentile, progress
from broker.memory import MemoryBroker, MemoryBus
from broker.settings import read_config
from cloud.client import Fleet, connected
from cloud.local.processes import LocalFleet
from cloud.store.store import Store
from cloud.sync.client import How
from cloud.sync.service import sync_service
from edge.agent.local import LocalData, ask_locally
from edge.sync.service import SyncService
from shared.sync import ConsistencyLevel, Required, SyncStrategy

DEVICES = ("edge-1", "edge-2", "edge-3")
STRONG_WRITES, LOCAL_WRITES, WARM_WRITES = 2000, 5000, 50
KEYS, EDITS, VALUE_BYTES = 1000, 10_000, 200
SETTLE_S_MAX = 60.0
NOW = SyncStrategy.EVENT_DRIVEN


def measure(share: float) -> Found:
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        found = run(lambda: _fleet(Path(folder) / "fleet", share))
        found |= run(lambda: _alone(Path(folder) / "alone", share))
    return found


# Latency ----------------------------------------------------------------------------------------------


async def _fleet(folder: Path, share: float) -> Found:
    local = LocalFleet(folder, {node: {"benchmark_s": 0.1} for node in DEVICES}, log_level="warning")
    async with local, connected(read_config(local.workspace.config("operator")), "operator") as fleet:
        await until("every device serves", local, lambda: _serve(fleet))
        found: Found = {}
        for name, level in (
            ("strong", ConsistencyLevel.STRONG),
            ("eventual_cloud", ConsistencyLevel.EVENTUAL),
        ):
            progress(f"{level} writes of an application, three devices")
            found[name] = await _writes(fleet, level, max(200, int(STRONG_WRITES * share)))
        progress("EVENTUAL writes on a device, through its socket")
        data = folder / DEVICES[0]
        found["eventual_socket"] = await _timed(
            lambda number: ask_locally(data, LocalData(verb="put", key="local", value=_packed(number))),
            max(200, int(LOCAL_WRITES * share) // 5),
        )
    return found


async def _serve(fleet: Fleet) -> bool:
    up = [one for one in await fleet.nodes() if one.status in ("idle", "busy")]
    await fleet.sync.put("warm", 0, DEVICES, How(ConsistencyLevel.STRONG, NOW), budget_s=2.0)
    return len(up) == len(DEVICES)


async def _writes(fleet: Fleet, level: ConsistencyLevel, count: int) -> Found:
    how = How(level, NOW, Required.ALL)
    return await _timed(lambda number: fleet.sync.put(f"bench/{level}", {"n": number}, DEVICES, how), count)


async def _timed(write: Callable[[int], Awaitable[Any]], count: int) -> Found:
    for number in range(WARM_WRITES):
        await write(-number)
    took = []
    for number in range(count):
        began = time.perf_counter()
        await write(number)
        took.append(time.perf_counter() - began)
    return {"writes": count, **{f"p{at}_ms": percentile(took, at / 100) * 1e3 for at in (50, 95, 99)}}


# One device and a day --------------------------------------------------------------------------------


@asynccontextmanager
async def _pair(folder: Path) -> AsyncIterator[tuple[SyncService, MemoryBus, list[int]]]:
    """The real services of a cloud and one device on a bus in memory, and the bytes that pass."""
    broker, moved = MemoryBroker(), [0]
    cloud_bus, bus = MemoryBus(broker), MemoryBus(broker)
    route = broker.route

    def counted(topic: str, payload: bytes, retain: bool) -> None:
        moved[0] += len(payload)
        route(topic, payload, retain)

    broker.route = counted  # type: ignore[method-assign]
    store = Store.open(Store.url_of(folder / "cloud.db"))

    async def no_models(model: str, targets: tuple[str, ...]) -> str:
        raise AssertionError((model, targets))

    cloud = sync_service(store.next_term(time.time()), cloud_bus, store.sync, no_models)
    device = SyncService("edge-1", 1, bus, folder / "replica")
    cloud_bus.connect()
    running = [asyncio.create_task(cloud.run()), asyncio.create_task(device.run())]
    try:
        yield device, bus, moved
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        store.close()


async def _alone(folder: Path, share: float) -> Found:
    chance = random.Random(1)
    edits = max(KEYS, int(EDITS * share))
    names = [f"room/{number:04d}/state" for number in range(KEYS)]
    live: dict[str, bytes] = {}
    async with _pair(folder) as (device, bus, moved):
        bus.connect()

        async def put(_: int) -> None:
            name = chance.choice(names)
            live[name] = chance.randbytes(VALUE_BYTES)
            await device.data.put(name, live[name])

        progress("1,000 keys, in step with the cloud")
        for name in names:
            live[name] = chance.randbytes(VALUE_BYTES)
            await device.data.put(name, live[name])
        await _settled(device)
        bus.disconnect()
        progress(f"{edits:,} writes with no network")
        found: Found = {"eventual": await _timed(put, edits)}
        moved[0] = 0
        bus.connect()
        began = time.perf_counter()
        await _settled(device)
        size = sum(len(name) + len(value) for name, value in live.items())
        found["offline"] = {
            "edits": edits,
            "keys": KEYS,
            "live_bytes": size,
            "moved_bytes": moved[0],
            "ratio": moved[0] / size,
            "seconds": time.perf_counter() - began,
        }
    return found | {"disk": _disk(folder)}


async def _settled(device: SyncService) -> None:
    async with asyncio.timeout(SETTLE_S_MAX):
        while device.core.dirty or not device.core.peer.lane.online:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def _disk(folder: Path) -> Found:
    """One synced write of as many bytes."""
    took = []
    handle = os.open(folder / "alone", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        for _ in range(1000):
            began = time.perf_counter()
            os.write(handle, bytes(VALUE_BYTES + 80))
            os.fdatasync(handle)
            took.append(time.perf_counter() - began)
    finally:
        os.close(handle)
    return {"writes": 1000, **{f"p{at}_ms": percentile(took, at / 100) * 1e3 for at in (50, 95, 99)}}


def _packed(number: int) -> bytes:
    return msgspec.msgpack.encode({"n": number})


# Shown ------------------------------------------------------------------------------------------------

_ROWS = (
    ("strong", "STRONG, from an application, on three devices' disks"),
    ("eventual_cloud", "EVENTUAL, from an application, on the cloud's disk"),
    ("eventual", "EVENTUAL, on a device, from the agent's own process"),
    ("eventual_socket", "EVENTUAL, on a device, through its socket"),
    ("disk", "one synced write to a file, for comparison"),
)


def tables(found: Found) -> Iterable[Table]:
    table = Table(title="replicated keys: a write returns after")
    for heading in ("", "writes", "p50 ms", "p95 ms", "p99 ms"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, about in _ROWS:
        row = found[name]
        table.add_row(about, f"{row['writes']:,}", *(f"{row[f'p{at}_ms']:.2f}" for at in (50, 95, 99)))
    yield table
    row = found["offline"]
    day = Table(title=f"after a day offline: {row['edits']:,} writes of {row['keys']:,} keys")
    for heading in ("live state, bytes", "moved, bytes", "ratio", "seconds"):
        day.add_column(heading, justify="right")
    day.add_row(
        f"{row['live_bytes']:,}", f"{row['moved_bytes']:,}", f"{row['ratio']:.2f}", f"{row['seconds']:.1f}"
    )
    yield day


PARTS = (Part("sync", measure, tables, about=(__doc__ or "").partition("\n\n")[2], seconds_max=600.0),)

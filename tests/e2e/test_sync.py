"""Replicated keys on a real broker with real processes, which are killed while they are written."""

import asyncio
import itertools
import signal
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from broker.backoff import Backoff, limit_after
from cloud.client import Fleet
from cloud.local.processes import LocalFleet
from cloud.sync.client import How
from cloud.sync.manager import CloudEdgeSyncManager
from edge.__main__ import BOOTS_UNSETTLED_MAX
from edge.agent.local import LocalData, ask_locally
from shared.errors import Refused, RequestFailed, TimedOut, Unavailable
from shared.messages import Reply, ReplyStatus
from shared.sync import ConsistencyLevel, Required, SyncStrategy
from tests.e2e.fleets import EXAMPLE, FAST, PATIENCE_S, on_mosquitto, operated, serving, until

pytestmark = pytest.mark.timeout(150)

STRONG = ConsistencyLevel.STRONG
NOW = SyncStrategy.EVENT_DRIVEN
NODES = ("a", "b", "c")


async def asked(data: Path, verb: str, key: str = "", value: Any = None, **how: Any) -> Reply:
    packed = b"" if value is None else msgspec.msgpack.encode(value)
    return await ask_locally(data, LocalData(verb=verb, key=key, value=packed, **how))


async def local_value(data: Path, key: str) -> Any:
    """What a device has; None where it has nothing, or is not up."""
    try:
        reply = await asked(data, "get", key)
    except Unavailable:
        return None
    return msgspec.msgpack.decode(reply.body)["value"] if reply.status is ReplyStatus.OK else None


async def everywhere(folder: Path, key: str, value: Any) -> bool:
    return [await local_value(folder / node, key) for node in NODES] == [value] * 3


async def story_of_all_kinds(folder: Path, fleet: Fleet) -> None:
    """Data, configuration and models, down and up, through the documented names."""
    manager = CloudEdgeSyncManager(fleet)
    assert await manager.start_sync_service()
    task = await manager.sync_data("limits", {"max": 1}, list(NODES), level=STRONG, strategy=NOW)
    status = await manager.get_sync_status(task)
    assert status is not None
    assert (status["status"], status["lag"], status["revision"]) == ("done", 0, 1)
    assert {one["state"] for one in status["replicas"].values()} == {"acked"}
    assert await everywhere(folder, "limits", {"max": 1})
    assert await manager.get_sync_status("nobody") is None

    reply = await asked(folder / "b", "put", "limits", {"max": 2}, expected=1)
    assert msgspec.msgpack.decode(reply.body)["revision"] == 2
    assert (await fleet.sync.get("limits")).value == {"max": 2}
    stale = await asked(folder / "c", "put", "limits", {"max": 3}, expected=1)
    assert (stale.status, stale.code) == (ReplyStatus.REFUSED, "conflict")
    with pytest.raises(Refused, match="revision 2"):
        await fleet.sync.put("limits", {"max": 3}, (), How(expected=1))

    await manager.sync_config("interval", 30, ["a"], strategy=NOW)
    await until("desired", lambda: equals(local_value(folder / "a", "desired/a/interval"), 30))
    assert (await asked(folder / "a", "put", "reported/a/interval", 30)).status is ReplyStatus.OK
    await until("reported", lambda: shows(fleet, "reported/a/interval", 30))

    package = (EXAMPLE / "digits.shoal").read_bytes()
    task = await manager.sync_model("digits", package, ["a", "b"], level=STRONG, budget_s=30.0)
    status = await manager.get_sync_status(task)
    assert status is not None
    assert status["status"] == "done"
    assert (await fleet.node("b")).models["digits"].state == "ready"


async def equals(awaited: Any, value: Any) -> bool:
    return bool(await awaited == value)


async def shows(fleet: Fleet, key: str, value: Any) -> bool:
    return bool((await fleet.sync.get(key)).value == value)


def local_fleet(folder: Path) -> LocalFleet:
    return LocalFleet(folder, {node: FAST for node in NODES})


def test_data_configuration_and_models_move_both_ways(tmp_path):
    async def story():
        async with operated(local_fleet(tmp_path)) as fleet:
            await story_of_all_kinds(tmp_path, fleet)

    asyncio.run(story())


@pytest.mark.mosquitto
def test_on_mosquitto_too(tmp_path):
    async def story():
        async with operated(on_mosquitto(local_fleet(tmp_path))) as fleet:
            await story_of_all_kinds(tmp_path, fleet)

    asyncio.run(story())


def test_a_device_writes_with_no_network_is_killed_and_brings_it_along(tmp_path):
    async def story():
        local = local_fleet(tmp_path)
        async with operated(local) as fleet:
            await fleet.sync.put("shared", {"a": 0, "b": 0}, NODES, How(strategy=NOW))
            await until("all have it", lambda: everywhere(tmp_path, "shared", {"a": 0, "b": 0}))
            local.broker.signal(signal.SIGKILL)
            await local.broker.wait()
            for node, value in (("a", {"a": 1, "b": 0}), ("b", {"a": 0, "b": 2})):
                assert (await asked(tmp_path / node, "put", "shared", value)).status is ReplyStatus.OK
            assert (await asked(tmp_path / "a", "put", "own", "kept")).status is ReplyStatus.OK
            local.devices["a"].signal(signal.SIGKILL)
            await local.devices["a"].wait()
            await local.devices["a"].start()
            await until("it reads its disk", lambda: equals(local_value(tmp_path / "a", "own"), "kept"))
            await local.broker.start()
            await local.listening(local.broker, local.port)
            await until("merged everywhere", lambda: everywhere(tmp_path, "shared", {"a": 1, "b": 2}))
            await until("the cloud has it", lambda: shows(fleet, "own", "kept"))

    asyncio.run(story())


class Register:
    """What is known of a STRONG key: the last value that was acknowledged, and those nobody knows of."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.acknowledged = 0
        self.open: dict[int, tuple[int, int]] = {}  # value -> operation that may have been done

    async def write(self, fleet: Fleet) -> None:
        """One write; its value is larger than every one before."""
        value = next(self.numbers)
        operation = fleet.sync.operation()
        how = How(required=Required.MAJORITY, operation=operation)
        try:
            await fleet.sync.put("register", value, (), how, budget_s=1.5)
            self.acknowledged = value
        except TimedOut:
            self.open[value] = operation
        except (Refused, Unavailable):
            pass  # certainly not

    async def read(self, fleet: Fleet) -> None:
        """It sees the last acknowledged write, or a later one that may have been done."""
        before = self.acknowledged
        try:
            value = (await fleet.sync.get("register")).value
        except (RequestFailed, Unavailable):
            return
        assert value >= before, "an acknowledged write is lost, or a read was stale"
        assert value == before or value in self.open, "a refused write was done"


async def back(fleet: Fleet, deaths: int) -> bool:
    """Whether all serve; but b, if it died too often, takes that for a crash loop and says so."""
    looping = deaths >= BOOTS_UNSETTLED_MAX
    b_is_back = (await fleet.node("b")).status == "error" if looping else await serving(fleet, "b")
    return b_is_back and await serving(fleet, "a", "c")


@pytest.mark.parametrize("kills", [3, pytest.param(40, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_no_acknowledged_strong_write_is_lost_whoever_is_killed(tmp_path, kills):
    async def story():
        local, chance, register = local_fleet(tmp_path), Random(kills), Register()
        async with operated(local) as fleet:
            await fleet.sync.put("register", 0, NODES, How(STRONG, NOW))
            for number in range(kills):
                victim = (local.cloud, local.devices["b"], local.broker)[number % 3]
                await asyncio.gather(writes(fleet, register), killed(local, victim, chance))
            # Each short connection in a row doubles how long a client may wait before the next one.
            usual = Backoff(chance)
            longest_s = limit_after(kills // 3, usual.first_s, usual.cap_s)
            await until("everybody is back", lambda: back(fleet, kills // 3), PATIENCE_S + longest_s)
            await until("it is written again", lambda: written(fleet, register))
            await until("all have it", lambda: everywhere(tmp_path, "register", register.acknowledged))
            for value, operation in list(register.open.items())[-1:]:  # nobody knew: now we shall, twice
                how = How(required=Required.MAJORITY, operation=operation)
                first = await fleet.sync.put("register", value, (), how, budget_s=10.0)
                again = await fleet.sync.put("register", value, (), how, budget_s=10.0)
                assert first.revision == again.revision

    async def writes(fleet: Fleet, register: Register) -> None:
        for _ in range(8):
            await register.write(fleet)
            await register.read(fleet)

    async def killed(local: LocalFleet, victim: Any, chance: Random) -> None:
        await asyncio.sleep(chance.random())
        victim.signal(signal.SIGKILL)
        await victim.wait()
        await victim.start()
        if victim is local.broker:
            await local.listening(local.broker, local.port)

    async def written(fleet: Fleet, register: Register) -> bool:
        """Whether this very write was acknowledged: one that was not may still land later."""
        before = register.acknowledged
        await register.write(fleet)
        return register.acknowledged > before

    asyncio.run(story())

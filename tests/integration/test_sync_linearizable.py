"""STRONG keys on real processes that are killed: broker, cloud, three devices, and a checker at the end."""

import asyncio
import random
import signal
import time
from pathlib import Path

import pytest

from broker.settings import read_config
from cloud.client import Fleet, connected
from cloud.local.processes import LocalFleet, LocalProcess
from cloud.sync.client import How
from shared.errors import Refused, RequestFailed, TimedOut, Unavailable
from shared.sync import ConsistencyLevel, Required
from tests.support.linearizability import Done, Get, Operation, Put, Register, Stale, Value, linearizable

NODES = ("edge-1", "edge-2", "edge-3")
KEYS = ("a", "b")
CLIENTS = 4
BUDGET_S = 3.0
THERE = ("idle", "busy", "error")  # a device that was killed often says that it crashes often


class Story:
    """What the clients asked and were told, on this machine's monotonic clock."""

    def __init__(self, seed: int) -> None:
        self.rng, self.history, self.numbers = random.Random(seed), list[Operation](), 0
        self.revisions = dict.fromkeys(KEYS, 0)
        self.over = False

    async def client(self, fleet: Fleet, name: str) -> None:
        while not self.over:
            await self.ask(fleet, name, self.rng.choice(KEYS))
            await asyncio.sleep(self.rng.uniform(0.0, 0.15))

    async def ask(self, fleet: Fleet, name: str, key: str) -> None:
        if self.rng.random() < 0.5:
            await self.read(fleet, name, key)
            return
        self.numbers += 1
        expected = self.revisions[key] if self.rng.random() < 0.4 and self.revisions[key] else -1
        await self.write(fleet, name, key, Put(self.numbers, expected))

    async def read(self, fleet: Fleet, name: str, key: str) -> None:
        call = time.monotonic()
        try:
            view = await fleet.sync.get(key)
        except RequestFailed:
            return
        self.note(key, call, name, Get(), Value(view.value, view.revision))

    async def write(self, fleet: Fleet, name: str, key: str, put: Put) -> None:
        call = time.monotonic()
        how = How(ConsistencyLevel.STRONG, required=Required.MAJORITY, expected=put.expected)
        try:
            done = await fleet.sync.put(key, put.value, NODES, how, budget_s=BUDGET_S)
        except Refused as refused:
            if refused.code == "conflict":
                self.note(key, call, name, put, Stale())
        except TimedOut:
            self.history.append(Operation(key, call, put, by=name))
        else:
            self.note(key, call, name, put, Done(done.revision))

    def note(self, key: str, call: float, name: str, what: Put | Get, result: Done | Stale | Value) -> None:
        self.history.append(Operation(key, call, what, time.monotonic(), result, name))
        self.revisions[key] = max(self.revisions[key], getattr(result, "revision", None) or 0)


async def killed(local: LocalFleet, process: LocalProcess, pause_s: float) -> None:
    process.signal(signal.SIGKILL)
    await process.wait()
    await asyncio.sleep(pause_s)
    await process.start()
    if process is local.broker:
        await local.listening(process, local.port)


async def told(folder: Path, seed: int, kills: int) -> list[Operation]:
    story = Story(seed)
    local = LocalFleet(folder, {node: {"heartbeat_s": 1.0, "benchmark_s": 0.1} for node in NODES})
    async with local:
        config = read_config(local.workspace.config("operator"))
        async with connected(config, "operator", budget_s=BUDGET_S) as fleet:
            await ready(fleet)
            clients = [asyncio.create_task(story.client(fleet, f"c{number}")) for number in range(CLIENTS)]
            for _ in range(kills):
                await asyncio.sleep(story.rng.uniform(0.5, 2.0))
                victim = story.rng.choice([local.cloud, local.cloud, local.broker, *local.devices.values()])
                await killed(local, victim, story.rng.uniform(0.0, 0.5))
            await asyncio.sleep(3.0)
            story.over = True
            await asyncio.gather(*clients)
            await ready(fleet)
            for key in KEYS:
                await story.read(fleet, "last", key)
    return story.history


async def ready(fleet: Fleet) -> None:
    """Until the cloud and all devices answer."""
    async with asyncio.timeout(60):
        while True:
            try:
                if sum(node.status in THERE for node in await fleet.nodes()) == len(NODES):
                    return
            except (RequestFailed, Unavailable):
                pass
            await asyncio.sleep(0.2)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("seed", "kills"), [(1, 3), pytest.param(2, 40, marks=pytest.mark.long)])
def test_what_killed_processes_answered_is_linearizable(tmp_path: Path, seed: int, kills: int) -> None:
    history = asyncio.run(told(tmp_path, seed, kills))
    assert len({one.key for one in history}) == len(KEYS)
    assert sum(isinstance(one.result, Done) for one in history) > 5
    assert isinstance(history[-1].result, Value), "in the end there is an answer again"
    verdict = linearizable(history, Register())
    assert verdict, str(verdict)

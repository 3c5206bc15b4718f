"""Hostile modules in a real fleet: uploaded, signed and deployed like any other, and then asked to run.

Both devices hold the good model; the first one also gets every attack, each a model of its own. Whatever a
module does, its request ends with the device's word for it, the heart goes on beating, the neighbour module
answers, and the cloud sees nothing to worry about. One fleet for all, so that damage adds up.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from wasmtime import wat2wasm

from broker.bus import Delivery
from cloud.client import Fleet
from cloud.local.processes import LocalFleet
from shared.abi import Abi, Function, Parameters, Tensor, encode_section
from shared.errors import RequestFailed
from shared.messages import Reply, ReplyStatus
from shared.package import ModuleKind, Package, PackageInfo, pack
from shared.topics import HEARTBEAT, REPLY
from shared.wire import decode
from tests.e2e.fleets import FAST, deploy_digits, operated, ready, right_answer, until
from tests.unit.edge.runtime import modules

pytestmark = pytest.mark.timeout(150)

HEARTBEAT_S = FAST["heartbeat_s"]
GAP_S_MAX = 2 * HEARTBEAT_S + 0.5  # two intervals, and what a loaded machine adds
BUDGET_S = 2.0  # of a request: an agent that hangs for so long can't hide it
LATE_S_MAX = 1.5  # 0.2 s is meant; the rest is the loaded machine
WATCH_S = 0.8
NEIGHBOUR_BUDGET_S = 2.0

# The slot beside the attack is for the neighbour.
DEVICE = {**FAST, "slots": 2, "deadline_s": 2.0}

TABLE_BOMB = """(module (table 1 funcref) (func (export "run") (loop $again
  (br_if $again (i32.ne (table.grow (ref.null func) (i32.const 1000)) (i32.const -1)))) unreachable))"""


@dataclass(frozen=True)
class Attack:
    """A module, what it is asked, and the device's word for what becomes of it."""

    kind: ModuleKind
    binary: bytes
    code: str
    asked: tuple[Any, ...] = ()
    json: bytes | None = None

    def package(self, name: str) -> bytes:
        size = 1 if self.kind is ModuleKind.TENSOR else 0
        return pack(Package(info=PackageInfo(name=name, kind=self.kind), modules={size: self.binary}))


def plain(wat: str, code: str) -> Attack:
    return Attack(ModuleKind.PLAIN, bytes(wat2wasm(wat)), code)


def wasi(binary: bytes, code: str) -> Attack:
    return Attack(ModuleKind.WASI, binary, code, json=b"{}")


def tensor(body: str, code: str, pages: int = 1) -> Attack:
    """``body`` runs when the first number of x is 13; else y = x. So it is quick until it is not."""
    x, y = (Tensor(name, "f32", (1, 4), at) for name, at in (("x", 1024), ("y", 2048)))
    wat = f"""(module (memory (export "memory") {pages}) (table 1 funcref)
      (func $deeper (call $deeper))
      (func (export "run")
        (if (f32.eq (f32.load (i32.const 1024)) (f32.const 13)) (then {body}))
        (v128.store (i32.const 2048) (v128.load (i32.const 1024)))))"""
    abi = Abi(
        version=1,
        memory_bytes=pages << 16,
        functions=(Function("run", (x,), (y,)),),
        parameters=Parameters(0, 0, "none", ()),
    )
    binary = bytes(wat2wasm(wat)) + encode_section(abi)
    return Attack(ModuleKind.TENSOR, binary, code, asked=(np.full((1, 4), 13, np.float32),))


ATTACKS = {
    "plain-endless-loop": plain(modules.ENDLESS, "deadline"),
    "plain-recursion": plain(modules.RECURSION, "stack-overflow"),
    "plain-memory-bomb": plain(modules.MEMORY_BOMB, "out-of-memory"),
    "plain-table-bomb": plain(TABLE_BOMB, "unreachable"),
    "wasi-flood": wasi(modules.FLOOD, "output-too-large"),
    "wasi-endless-loop": wasi(modules.SPIN, "deadline"),
    "tensor-recursion": tensor("(call $deeper)", "stack-overflow"),
    "tensor-out-of-bounds": tensor("(drop (i32.load (i32.const 65536)))", "out-of-bounds"),
}
TENSOR_LOOP = {"tensor-endless-loop": tensor("(loop $again (br $again))", "deadline")}
# These do their harm before anybody asks.
UNLOADABLE = {
    "endless-start": plain(modules.ENDLESS_START, ""),
    "huge-memory": plain(modules.BIG_MEMORY, ""),
    "huge-table": plain(modules.BIG_TABLE, ""),
}
EVERYWHERE = "plain-endless-loop"


@dataclass
class Siege:
    """The fleet under attack, and the loop that its client lives on."""

    runner: asyncio.Runner
    fleet: Fleet
    boots: dict[str, int]


@pytest.fixture(scope="module")
def siege(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    stack = AsyncExitStack()
    local = LocalFleet(tmp_path_factory.mktemp("fleet"), {"a": DEVICE, "b": DEVICE})

    async def prepared() -> Fleet:
        fleet = await stack.enter_async_context(operated(local))
        await deploy_digits(fleet, "a", "b")
        for name, attack in {**ATTACKS, **TENSOR_LOOP, **UNLOADABLE}.items():
            await fleet.upload(attack.package(name))
            await fleet.deploy(name, "all" if name == EVERYWHERE else "a")
        return fleet

    with asyncio.Runner() as runner:
        try:
            fleet = runner.run(prepared())
            boots = {node.node: node.epoch for node in runner.run(fleet.nodes())}
            yield Siege(runner, fleet, boots)
        finally:
            runner.run(stack.aclose())


@dataclass
class Witness:
    """What was heard of one device: when its heart beat, and its replies to us."""

    beats: list[float] = field(default_factory=list)
    replies: list[tuple[float, Reply]] = field(default_factory=list)

    def hear(self, delivery: Delivery) -> None:
        if delivery.topic.endswith("heartbeat"):
            self.beats.append(time.monotonic())
        else:
            self.replies.append((time.monotonic(), decode(REPLY, delivery.payload)))

    def gap_s(self) -> float:
        """The longest time without a beat, up to now."""
        times = [*self.beats, time.monotonic()]
        return max(after - before for before, after in pairwise(times))

    def refusals(self) -> list[tuple[float, str]]:
        return [(at, reply.code) for at, reply in self.replies if reply.status is ReplyStatus.REFUSED]


@asynccontextmanager
async def watching(fleet: Fleet, node: str) -> AsyncIterator[Witness]:
    """From one heartbeat on, until the next one after the story."""
    witness = Witness()
    filters = [HEARTBEAT.filter_for(node=node), REPLY.filter_for(node=node, caller="operator")]
    subscription = fleet.bus.subscribe(filters, witness.hear)
    try:
        await heard_beat(witness)
        yield witness
        await heard_beat(witness)
    finally:
        subscription.close()


async def heard_beat(witness: Witness) -> None:
    before = len(witness.beats)

    async def another() -> bool:
        return len(witness.beats) > before

    await until("a heartbeat", another)


async def refused(fleet: Fleet, model: str, attack: Attack, node: str) -> float:
    """Ask for it once; when it ended, for us. A module that only the deadline stops may outlast our patience
    by the way there and back, so the device's own word is what counts, not ours."""
    with pytest.raises(RequestFailed):
        await fleet.infer(model, *attack.asked, json=attack.json, node=node, budget_s=BUDGET_S)
    return time.monotonic()


async def attacked(fleet: Fleet, name: str, attack: Attack) -> None:
    """Shoot, again and again for a while; meanwhile ask the neighbour, and the cloud for its opinion."""
    await until(f"{name} is in service", lambda: ready(fleet, name, "a"))
    async with watching(fleet, "a") as witness:
        began = time.monotonic()
        while time.monotonic() - began < WATCH_S:
            shot_at, seen = time.monotonic(), len(witness.refusals())
            shot = asyncio.create_task(refused(fleet, name, attack, "a"), name="shot")
            while not shot.done():
                assert await right_answer(fleet, "a", budget_s=NEIGHBOUR_BUDGET_S), "the neighbour answers"
                assert (await fleet.node("a")).status in ("idle", "busy")
                await asyncio.sleep(0.1)
            await shot

            async def told(seen: int = seen) -> bool:
                return len(witness.refusals()) > seen

            await until("the device says what happened", told)
            at, code = witness.refusals()[-1]
            assert code == attack.code
            assert at - shot_at < BUDGET_S + LATE_S_MAX
    assert witness.gap_s() < GAP_S_MAX


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_named_and_felt_by_nobody_else(siege: Siege, name: str) -> None:
    siege.runner.run(attacked(siege.fleet, name, ATTACKS[name]))


@pytest.mark.parametrize("name", UNLOADABLE)
def test_a_module_that_attacks_while_it_is_loaded_is_reported_as_failed(siege: Siege, name: str) -> None:
    fleet = siege.fleet

    async def story() -> None:
        async def failed() -> bool:
            held = (await fleet.node("a")).models.get(name)
            return held is not None and held.state == "failed"

        await until(f"{name} has failed", failed)
        assert await right_answer(fleet, "a")

    siege.runner.run(story())


def test_a_request_that_kills_time_on_two_devices_takes_neither_out_of_service(
    siege: Siege,
) -> None:
    fleet = siege.fleet

    async def story() -> None:
        await until("it is everywhere", lambda: ready(fleet, EVERYWHERE, "a", "b"))
        async with watching(fleet, "a") as on_a, watching(fleet, "b") as on_b:
            await refused(fleet, EVERYWHERE, ATTACKS[EVERYWHERE], node="")
            for node in ("a", "b"):
                assert await right_answer(fleet, node)
        assert max(on_a.gap_s(), on_b.gap_s()) < GAP_S_MAX

    siege.runner.run(story())


def test_a_tensor_module_that_was_quick_long_enough_to_be_trusted_is_stopped_too(
    siege: Siege,
) -> None:
    """Quick calls are made on the agent's own loop. One that then does not return must not take it along."""
    ((name, attack),) = TENSOR_LOOP.items()
    fleet = siege.fleet

    async def story() -> None:
        await until(f"{name} is in service", lambda: ready(fleet, name, "a"))
        quick = np.arange(4, dtype=np.float32).reshape(1, 4)
        for _ in range(20):
            answer = await fleet.infer(name, quick, node="a", budget_s=2.0)
            assert (answer.outputs[0] == quick).all()
        await attacked(fleet, name, attack)

    siege.runner.run(story())


def test_after_all_that_both_devices_still_live_their_first_life(siege: Siege) -> None:
    async def story() -> None:
        nodes = {node.node: node for node in await siege.fleet.nodes()}
        assert {name: node.epoch for name, node in nodes.items()} == siege.boots
        for name in nodes:
            assert await right_answer(siege.fleet, name)

    siege.runner.run(story())

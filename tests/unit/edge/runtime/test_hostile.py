"""Each attack is stopped, named, and felt by nobody else.

The deadlines here are generous and nothing is measured against the clock but the one promise: the host goes
on (heartbeats), a neighbour answers, and the attacked module can be called again.
"""

import asyncio

import pytest

from edge.runtime import (
    BadModule,
    CapabilityDenied,
    DeadlineExceeded,
    IllegalOperation,
    Limits,
    ModuleHost,
    OutOfBounds,
    OutOfMemory,
    OutputTooLarge,
    StackOverflow,
    Stopped,
    TableLimit,
    Unreachable,
    WasmError,
    ticker,
)
from tests.unit.edge.runtime import modules
from tests.unit.edge.runtime.modules import (
    SPINS_ON_0,
    SPINS_ON_13,
    TRAPS_ON_0,
    affine_expected,
    affine_package,
    moody_package,
    rows,
    wasm,
)
from tests.unit.edge.runtime.stories import story

LIMITS = Limits(deadline_s=0.3, memory_bytes_max=4 << 20, output_bytes_max=1 << 20)

ATTACKS: dict[str, tuple[bytes, type[WasmError], object]] = {
    "endless loop": (wasm(modules.ENDLESS), DeadlineExceeded, ()),
    "deep recursion": (wasm(modules.RECURSION), StackOverflow, ()),
    "memory bomb": (wasm(modules.MEMORY_BOMB), OutOfMemory, ()),
    "load outside the memory": (wasm(modules.OUTSIDE), OutOfBounds, ()),
    "abort": (wasm(modules.ABORT), Unreachable, ()),
    "bad indirect call": (wasm(modules.BAD_CALL), IllegalOperation, ()),
    "WASI endless loop": (modules.SPIN, DeadlineExceeded, b"1"),
    "WASI flood": (modules.FLOOD, OutputTooLarge, b"1"),
    "WASI flood of empty writes": (modules.FLOOD_OF_NOTHING, DeadlineExceeded, b"1"),
    "WASI sleep": (modules.SLEEP, CapabilityDenied, b"1"),
}
REFUSED: dict[str, tuple[str, type[WasmError]]] = {
    "huge memory": (modules.BIG_MEMORY, OutOfMemory),
    "huge table": (modules.BIG_TABLE, TableLimit),
    "many tables": (modules.MANY_TABLES, TableLimit),
    "endless start function": (modules.ENDLESS_START, DeadlineExceeded),
    "trap in the start function": ("(module (func $s unreachable) (start $s))", Unreachable),
    "two memories": ("(module (memory 1) (memory 1))", BadModule),
    "shared memory": ("(module (memory 1 1 shared))", BadModule),
    "64-bit memory": ("(module (memory i64 1))", BadModule),
    "unknown import": ('(module (import "env" "system" (func)))', BadModule),
    "imported memory": ('(module (import "env" "memory" (memory 1)))', BadModule),
}


@pytest.mark.parametrize("attack", ATTACKS)
@story
async def test_an_attack_is_stopped_while_the_loop_beats_and_a_neighbour_answers(attack: str) -> None:
    binary, expected, inputs = ATTACKS[attack]
    beats = 0

    async def heart() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0.01)

    async with ModuleHost(limits=LIMITS) as host:
        await host.load("neighbour", affine_package())
        await host.load("hostile", binary)
        heartbeat = asyncio.create_task(heart())
        victims = [asyncio.create_task(host.run("hostile", inputs)) for _ in range(3)]
        for _ in range(20):
            (answer,) = await host.run("neighbour", [rows(1)], deadline_s=5)
            assert (answer == affine_expected(rows(1))).all()
        results = await asyncio.gather(*victims, return_exceptions=True)
        assert [type(result) for result in results] == [expected] * 3
        assert all(str(result) for result in results)
        heartbeat.cancel()
        assert host.stats.errors[expected.code] >= 3
        if expected is DeadlineExceeded:
            assert beats > 10
        with pytest.raises(Stopped):  # as usable as before
            await host.run("hostile", inputs)


@pytest.mark.parametrize("name", REFUSED)
@story
async def test_a_module_that_can_not_start_under_its_limits_is_refused(name: str) -> None:
    wat, expected = REFUSED[name]
    async with ModuleHost(limits=LIMITS) as host:
        with pytest.raises(expected):
            await host.load("hostile", wasm(wat))
        assert host.names() == ()
        await host.load("good", affine_package())
        await host.run("good", [rows(2)])


@story
async def test_tables_and_memories_stop_growing_at_their_limits() -> None:
    async with ModuleHost(limits=Limits(memory_bytes_max=1 << 20, table_elements_max=5000)) as host:
        await host.load("table", wasm(modules.TABLE_BOMB))
        assert await host.run("table", ()) == [4001]
        await host.load("memory", wasm(modules.MEMORY_BOMB))
        assert await host.run("memory", (), "pages") == [16]


@pytest.mark.parametrize("fast_calls", [True, False])
@story
async def test_the_limits_hold_on_the_public_road_too(fast_calls: bool) -> None:
    async with ModuleHost(limits=LIMITS, fast_calls=fast_calls) as host:
        for name in ("endless loop", "deep recursion", "abort", "WASI flood", "WASI sleep"):
            binary, expected, inputs = ATTACKS[name]
            await host.load("hostile", binary)
            with pytest.raises(expected):
                await host.run("hostile", inputs)


@story
async def test_parallel_attacks_are_each_blamed_for_their_own_deed() -> None:
    names = ["WASI flood", "WASI sleep", "abort", "load outside the memory", "deep recursion"]
    async with ModuleHost(limits=LIMITS, workers=4) as host:
        for name in names:
            await host.load(name, ATTACKS[name][0])
        wanted = [name for _ in range(20) for name in names]
        results = await asyncio.gather(
            *(host.run(name, ATTACKS[name][2], deadline_s=20) for name in wanted), return_exceptions=True
        )
        assert [type(result) for result in results] == [ATTACKS[name][1] for name in wanted]


@story
async def test_a_vector_in_a_foreign_signature_does_not_take_the_process_down() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        loaded = await host.load("vector", wasm(modules.CALCULATOR))
        assert "vector" not in loaded.describe().functions
        assert await host.run("vector", (2, 3), "add") == [5]
        with pytest.raises(BadModule, match="another type"):
            await host.load(
                "wasi",
                wasm("""(module
              (import "wasi_snapshot_preview1" "fd_write" (func (param v128)))
              (memory (export "memory") 1) (func (export "_start")))"""),
            )


@pytest.mark.parametrize(
    "binary", [b"", b"\0asm", b"(module)", b"\0asm\x01\0\0\0\x01", b"SHOAL\x01\xff", bytes(64)]
)
@story
async def test_bytes_that_are_no_module_are_refused(binary: bytes) -> None:
    async with ModuleHost(limits=LIMITS) as host:
        with pytest.raises(BadModule):
            await host.load("bad", binary)


def compile_bomb(joins: int) -> bytes:
    """Every local lives across every join, which is quadratic work for a compiler."""
    locals_ = "".join(f"(local $l{number} i32)" for number in range(joins))
    blocks = "".join(
        f"(block (br_if 0 (i32.const 0)) (local.set $l{number} (i32.eqz (local.get $l{number}))))"
        for number in range(joins)
    )
    return wasm(f'(module (func (export "run") {locals_} (loop $again {blocks} (br $again))))')


@story
async def test_a_module_that_would_take_minutes_to_compile_is_not_begun() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        with pytest.raises(BadModule, match="function is too costly"):
            await host.load("bomb", compile_bomb(4000))
        with pytest.raises(BadModule, match="functions_max"):
            await host.load("bomb", wasm(f"(module {'(func)' * 20_001})"))
    async with ModuleHost(limits=Limits(deadline_s=0.1, module_cost_max=10_000)) as host:
        with pytest.raises(BadModule, match="module is too costly"):
            await host.load("bomb", compile_bomb(30))
        await host.load("small", wasm(modules.ENDLESS))


@story
async def test_a_module_over_the_size_limit_is_not_compiled() -> None:
    async with ModuleHost(limits=Limits(module_bytes_max=100)) as host:
        with pytest.raises(BadModule, match="module_bytes_max"):
            await host.load("big", wasm(modules.CALCULATOR))


@story
async def test_a_package_can_not_ask_for_more_than_the_host_allows() -> None:
    package = modules.wasi_package(modules.wasi("(drop (memory.grow (i32.const 30)))"), memory_bytes_max=-1)
    async with ModuleHost(limits=LIMITS) as host:
        with pytest.raises(BadModule, match="-1"):
            await host.load("greedy", package)


NOISE_S = 0.5  # what a busy machine may add; without interruption it would be for ever


@pytest.mark.parametrize("fast_calls", [True, False])
@story
async def test_a_tensor_module_that_turns_hostile_on_the_loop_holds_it_once_and_briefly(
    fast_calls: bool,
) -> None:
    async with ModuleHost(limits=Limits(deadline_s=5, inline_s_max=0.05), fast_calls=fast_calls) as host:
        await host.load("neighbour", affine_package())
        hostile = await host.load("hostile", moody_package(SPINS_ON_13))
        spin, loop = [rows(1) + 13], asyncio.get_running_loop()
        assert host.run_now("hostile", [rows(1)]) is not None  # quick so far
        started = loop.time()
        assert host.run_now("hostile", spin) is None
        assert loop.time() - started < host.limits.inline_deadline_s + NOISE_S
        assert (host.stats.overruns, hostile.describe().overruns) == (1, 1)

        started = loop.time()
        victim = asyncio.create_task(host.run("hostile", spin, deadline_s=0.6))
        answers = 0
        while not victim.done():
            (answer,) = await host.run("neighbour", [rows(1)])
            assert (answer == affine_expected(rows(1))).all()
            answers += 1
            await asyncio.sleep(0.005)
        with pytest.raises(DeadlineExceeded):
            await victim
        assert 0.6 <= loop.time() - started < 0.6 + NOISE_S
        assert answers > 5
        assert host.run_now("hostile", [rows(1)]) is None  # barred from the loop, and as usable as before
        (answer,) = await host.run("hostile", [rows(1)])
        assert (answer == affine_expected(rows(1))).all()
        assert host.stats.overruns == 1


@story
async def test_a_call_that_was_stopped_on_the_loop_has_its_own_deadline_in_a_thread() -> None:
    async with ModuleHost(limits=Limits(deadline_s=5, inline_s_max=0.05)) as host:
        await host.load("hostile", moody_package(SPINS_ON_13))
        loop = asyncio.get_running_loop()
        started = loop.time()
        with pytest.raises(DeadlineExceeded):
            await host.run("hostile", [rows(1) + 13], deadline_s=0.3)
        assert 0.3 <= loop.time() - started < 0.3 + NOISE_S
        assert (host.stats.overruns, host.stats.threaded) == (1, 1)
        assert host.stats.errors == {"deadline": 1}


@pytest.mark.parametrize("mood", [SPINS_ON_0, TRAPS_ON_0])
@story
async def test_a_module_that_misbehaves_in_its_warm_up_is_loaded_and_runs_in_threads(mood: str) -> None:
    async with ModuleHost(limits=Limits(deadline_s=0.1)) as host:
        await host.load("hostile", moody_package(mood))
        assert host.run_now("hostile", [rows(1) + 1]) is None
        (answer,) = await host.run("hostile", [rows(1) + 1], deadline_s=5)
        assert (answer == affine_expected(rows(1) + 1)).all()
        assert not host.stats.errors


@story
async def test_an_inline_call_is_stopped_after_the_ticker_had_gone_to_sleep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ticker, "_LINGER_S", 0.001)
    async with ModuleHost(limits=Limits(deadline_s=5, inline_s_max=0.05)) as host:
        await host.load("hostile", moody_package(SPINS_ON_13))
        while host._sandbox.ticking:
            await asyncio.sleep(0.002)
        known = host.get("hostile").describe().service_s
        assert host.run_now("hostile", [rows(1)]) is not None
        assert (
            host.get("hostile").describe().service_s == known
        )  # to wake the ticker is not the module's time
        while host._sandbox.ticking:
            await asyncio.sleep(0.002)
        assert host.run_now("hostile", [rows(1) + 13]) is None
        assert host.stats.overruns == 1

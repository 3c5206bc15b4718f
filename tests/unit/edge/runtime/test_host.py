"""The agent's door: what is loaded, where calls run, what waits and what is refused."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from edge.runtime import (
    BadInput,
    BadModule,
    Busy,
    DeadlineExceeded,
    Limits,
    ModuleHost,
    UnknownModule,
    Unreachable,
)
from shared.errors import ConfigError, Unavailable
from tests.unit.edge.runtime import modules
from tests.unit.edge.runtime.modules import ECHO, affine_expected, affine_package, rows, wasm
from tests.unit.edge.runtime.stories import story

KEY = b"k" * 32
LIMITS = Limits(deadline_s=10)
GENEROUS = Limits(deadline_s=10, inline_s_max=10)


@story
async def test_a_quick_module_is_measured_at_load_and_answers_on_the_loop_from_the_first_request() -> None:
    async with ModuleHost(limits=GENEROUS) as host:
        await host.load("affine", affine_package(1, 8))
        (result,) = host.run_now("affine", [rows(1)]) or (None,)
        np.testing.assert_array_equal(result, affine_expected(rows(1)))
        await host.run("affine", [rows(1)])
        assert (host.stats.threaded, host.stats.inline) == (0, 2)


@story
async def test_another_size_is_known_after_the_call_that_made_its_store() -> None:
    async with ModuleHost(limits=GENEROUS) as host:
        await host.load("affine", affine_package(1, 8))
        for _ in range(2):
            assert host.run_now("affine", [rows(8)]) is None
            await host.run("affine", [rows(8)])
        assert host.run_now("affine", [rows(8)]) is not None
        assert host.run_now("affine", [rows(9)]) is None  # two calls of the module: always in a thread


@story
async def test_a_slow_module_stays_off_the_loop() -> None:
    async with ModuleHost(limits=Limits(deadline_s=10, inline_s_max=1e-9)) as host:
        await host.load("affine", affine_package())
        for _ in range(3):
            await host.run("affine", [rows(1)])
            assert host.run_now("affine", [rows(1)]) is None
        assert host.stats.inline == 0


@story
async def test_only_tensor_modules_run_on_the_loop() -> None:
    async with ModuleHost(limits=GENEROUS) as host:
        await host.load("echo", ECHO)
        await host.load("plain", wasm(modules.CALCULATOR))
        for _ in range(3):
            await host.run("echo", b"1")
            await host.run("plain", (1, 2), "add")
            assert host.run_now("echo", b"1") is None
            assert host.run_now("plain", (1, 2), "add") is None


@story
async def test_a_call_with_less_time_than_the_loop_may_be_held_goes_to_a_thread() -> None:
    async with ModuleHost(limits=Limits(inline_s_max=1, inline_deadline_s=5)) as host:
        await host.load("affine", affine_package())
        await host.run("affine", [rows(1)], deadline_s=4)
        await host.run("affine", [rows(1)], deadline_s=6)
        assert (host.stats.threaded, host.stats.inline) == (1, 1)


@story
async def test_a_call_that_traps_on_the_loop_is_typed_and_does_no_harm() -> None:
    async with ModuleHost(limits=GENEROUS) as host:
        await host.load("affine", affine_package())
        await host.run("affine", [rows(1)], "fail")  # known from now on: its store was there
        with pytest.raises(Unreachable):
            host.run_now("affine", [rows(1) + 13], "fail")
        assert host.run_now("affine", [rows(1)], "fail") is None  # the instance is gone
        (result,) = await host.run("affine", [rows(1)], "fail")
        np.testing.assert_array_equal(result, rows(1))
        assert host.stats.errors == {"unreachable": 1}


@story
async def test_calls_beyond_the_queue_are_refused_at_once() -> None:
    async with ModuleHost(limits=Limits(deadline_s=0.5, queue_max=2)) as host:
        await host.load("endless", wasm(modules.ENDLESS))
        calls = [asyncio.create_task(host.run("endless", ())) for _ in range(5)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        kinds = [type(result) for result in results]
        assert kinds.count(Busy) == 2
        assert kinds.count(DeadlineExceeded) == 3
        assert isinstance(next(one for one in results if isinstance(one, Busy)), Unavailable)


@story
async def test_a_deadline_covers_the_wait_in_the_queue() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("endless", wasm(modules.ENDLESS))
        first = asyncio.create_task(host.run("endless", (), deadline_s=1.0))
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        started = loop.time()
        with pytest.raises(DeadlineExceeded):
            await host.run("endless", (), deadline_s=0.05)
        assert not first.done()
        assert loop.time() - started < 1.0
        with pytest.raises(DeadlineExceeded):
            await first


@pytest.mark.parametrize("deadline_s", [0, -1])
@story
async def test_a_deadline_that_has_passed_runs_nothing(deadline_s: float) -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("affine", affine_package())
        with pytest.raises(DeadlineExceeded):
            await host.run("affine", [rows(1)], deadline_s=deadline_s)


@story
async def test_odd_deadlines_are_handled() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("affine", affine_package())
        with pytest.raises(BadInput, match="not a number"):
            await host.run("affine", [rows(1)], deadline_s=float("nan"))
        await host.run("affine", [rows(1)], deadline_s=float("inf"))


@story
async def test_a_caller_who_gives_up_frees_the_module_for_the_next() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("endless", wasm(modules.ENDLESS))
        await host.load("affine", affine_package())
        calls = [asyncio.create_task(host.run("endless", (), deadline_s=0.3)) for _ in range(4)]
        await asyncio.sleep(0.05)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert all(call.cancelled() for call in calls)
        with pytest.raises(DeadlineExceeded, match="deadline"):
            await host.run("endless", (), deadline_s=0.6)
        await host.run("affine", [rows(1)])


@story
async def test_parallel_calls_never_mix_their_answers() -> None:
    async with ModuleHost(limits=Limits(deadline_s=20, inline_s_max=1e-9), workers=3) as host:
        await host.load("affine", affine_package(1, 8))
        inputs = [rows(1 + number % 11) + number for number in range(200)]
        results = await asyncio.gather(*(host.run("affine", [one]) for one in inputs))
        for one, (result,) in zip(inputs, results, strict=True):
            np.testing.assert_array_equal(result, affine_expected(one))


@story
async def test_a_name_can_be_loaded_again_while_the_old_one_runs() -> None:
    forever = wasm('(module (func (export "run") (result i32) (loop (br 0)) (i32.const 1)))')
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("m", forever)
        old = asyncio.create_task(host.run("m", (), deadline_s=0.4))
        await asyncio.sleep(0.02)
        await host.load("m", wasm('(module (func (export "run") (result i32) (i32.const 2)))'))
        assert await host.run("m", ()) == [2]
        with pytest.raises(DeadlineExceeded):
            await old
        assert host.names() == ("m",)


@story
async def test_an_upgrade_that_fails_leaves_the_old_version_in_service() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("affine", affine_package())
        with pytest.raises(BadModule):
            await host.load("affine", b"junk")
        await host.run("affine", [rows(1)])
        assert host.stats.errors == {"bad-module": 1}


@story
async def test_an_unloaded_or_unknown_module_is_named_in_the_error() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("affine", affine_package())
        assert host.unload("affine")
        assert not host.unload("affine")
        await host.load("other", ECHO)
        with pytest.raises(UnknownModule, match=r"'affine' is loaded; there are other"):
            await host.run("affine", [rows(1)])
        with pytest.raises(UnknownModule):
            host.run_now("affine", [rows(1)])


@story
async def test_the_number_of_modules_is_bounded() -> None:
    async with ModuleHost(limits=Limits(modules_max=1)) as host:
        await host.load("one", ECHO)
        await host.load("one", ECHO)
        with pytest.raises(Unavailable, match="unload one"):
            await host.load("two", ECHO)


@story
async def test_what_is_loaded_can_be_described() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        loaded = await host.load("affine", affine_package(1, 8, version="7"))
        await host.run("affine", [rows(8)])
        await host.run("affine", [rows(8)])
        found = loaded.describe()
        assert (found.name, found.info.version, found.overruns) == ("affine", "7", 0)
        assert found.functions == ("run", "train_step", "fail")
        assert found.batch_sizes == (1, 8)
        assert list(found.service_s) == [("run", 1), ("run", 8)]
        assert len(found.digest) == 64
        assert found.load_s > 0


@story
async def test_a_file_is_loaded_and_a_missing_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.shoal"
    path.write_bytes(affine_package())
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("affine", path)
        await host.run("affine", [rows(1)])
        with pytest.raises(BadModule, match="absent"):
            await host.load("absent", tmp_path / "absent")
    async with ModuleHost(limits=Limits(package_bytes_max=100)) as host:
        with pytest.raises(BadModule, match="package_bytes_max"):
            await host.load("affine", path)


@story
async def test_the_second_start_compiles_nothing(tmp_path: Path) -> None:
    async def start() -> tuple[int, int, int]:
        async with ModuleHost(tmp_path, KEY, LIMITS) as host:
            await host.load("affine", affine_package(1, 8))
            await host.load("echo", ECHO)
            (result,) = await host.run("affine", [rows(9)])
            np.testing.assert_array_equal(result, affine_expected(rows(9)))
            assert await host.run("echo", b"1") == b"1"
            stats = host.stats.cache
            return stats.hits, stats.misses, stats.rejected

    assert await start() == (0, 4, 0)  # two batch sizes, a command and its shim
    assert await start() == (4, 0, 0)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert await start() == (0, 0, 4)  # compiled again and replaced
    assert await start() == (4, 0, 0)


@story
async def test_new_parameters_for_a_known_architecture_compile_nothing(tmp_path: Path) -> None:
    async with ModuleHost(tmp_path, KEY, LIMITS) as host:
        await host.load("one", affine_package())
        await host.load("two", affine_package(version="2"))
        assert (host.stats.cache.hits, host.stats.cache.misses) == (0, 1)


@story
async def test_a_closed_host_refuses_and_a_running_call_ends_first() -> None:
    host = ModuleHost(limits=LIMITS)
    await host.load("endless", wasm(modules.ENDLESS))
    call = asyncio.create_task(host.run("endless", (), deadline_s=0.2))
    await asyncio.sleep(0.01)
    await host.close()
    with pytest.raises(DeadlineExceeded):
        await call
    with pytest.raises(Unavailable, match="closed"):
        await host.load("echo", ECHO)
    with pytest.raises(UnknownModule):
        await host.run("endless", ())


def test_a_host_that_can_not_work_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="device key"):
        ModuleHost(tmp_path)
    with pytest.raises(ConfigError, match="worker"):
        ModuleHost(workers=0)


@story
async def test_calls_that_wait_when_the_host_closes_are_refused() -> None:
    host = ModuleHost(limits=LIMITS)
    await host.load("endless", wasm(modules.ENDLESS))
    running = asyncio.create_task(host.run("endless", (), deadline_s=0.2))
    waiting = asyncio.create_task(host.run("endless", ()))
    await asyncio.sleep(0.01)
    assert (host.running, host.waiting) == (1, 1)
    await host.close()
    results = await asyncio.gather(running, waiting, return_exceptions=True)
    assert [type(result) for result in results] == [DeadlineExceeded, Unavailable]

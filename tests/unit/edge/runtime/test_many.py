import asyncio

import numpy as np
import pytest

from edge.runtime import (
    BadInput,
    DeadlineExceeded,
    DivisionByZero,
    ExitFailure,
    Limits,
    ModuleHost,
    Unreachable,
    WasmError,
)
from tests.unit.edge.runtime import modules
from tests.unit.edge.runtime.modules import affine_expected, affine_package, rows, wasi, wasm
from tests.unit.edge.runtime.stories import story

LIMITS = Limits(deadline_s=20)


@pytest.mark.parametrize("batches", [(1,), (1, 8), (4,)])
@pytest.mark.parametrize("members", [0, 1, 3, 50])
@story
async def test_order_is_kept_for_members_of_any_size(batches: tuple[int, ...], members: int) -> None:
    async with ModuleHost(limits=LIMITS, workers=3) as host:
        await host.load("affine", affine_package(*batches))
        inputs = [rows(1 + number % 3) + number for number in range(members)]
        results = await host.run_many("affine", [[one] for one in inputs])
        assert len(results) == members
        for one, result in zip(inputs, results, strict=True):
            assert isinstance(result, list)
            np.testing.assert_array_equal(result[0], affine_expected(one), strict=True)


@story
async def test_members_are_grouped_on_the_batched_module() -> None:
    async with ModuleHost(limits=LIMITS, workers=3) as host:
        await host.load("affine", affine_package(1, 8))
        await host.run_many("affine", [[rows(1)] for _ in range(16)])
        assert host.stats.threaded + host.stats.inline == 2  # two instances, eight members each


@story
async def test_the_bad_ones_fail_alone() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("affine", affine_package(1, 8))
        batch: list[object] = [[rows(1) + number] for number in range(20)]
        batch[3] = [rows(1).astype(np.float64)]
        batch[7] = [rows(1) + 13]  # `fail` traps on it, and takes its group with it at first
        batch[13] = "nonsense"
        results = await host.run_many("affine", batch, "fail")
        for number, result in enumerate(results):
            if number in (3, 13):
                assert isinstance(result, BadInput)
            elif number == 7:
                assert isinstance(result, Unreachable)
            else:
                assert isinstance(result, list)
                np.testing.assert_array_equal(result[0], rows(1) + number)


@story
async def test_plain_calls_and_commands_are_spread_too() -> None:
    divides_by_input = wasi("""(local.set $size (call $in))
      (if (i32.eq (i32.load8_u (i32.const 1024)) (i32.const 48)) (then (call $exit (i32.const 9))))
      (call $out (i32.const 1024) (local.get $size))""")
    async with ModuleHost(limits=LIMITS, workers=3) as host:
        await host.load("calculator", wasm(modules.CALCULATOR))
        results = await host.run_many("calculator", [(12, divisor) for divisor in (3, 0, 4)], "divide")
        assert results[0] == [4]
        assert isinstance(results[1], DivisionByZero)
        assert results[2] == [3]
        await host.load("command", divides_by_input)
        answers = await host.run_many("command", [b"1", b"0", b"2"])
        assert (answers[0], answers[2]) == (b"1", b"2")
        assert isinstance(answers[1], ExitFailure)


@story
async def test_a_module_that_hangs_on_everything_does_not_hold_the_batch_for_ever() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("endless", wasm(modules.ENDLESS))
        results = await host.run_many("endless", [()] * 500, deadline_s=0.05)
        assert all(isinstance(result, DeadlineExceeded) for result in results)
        assert host.stats.threaded == 3
        assert "not run" in str(results[-1])


@story
async def test_more_members_than_may_wait_are_no_problem() -> None:
    async with ModuleHost(limits=Limits(deadline_s=20, queue_max=1)) as host:
        await host.load("calculator", wasm(modules.CALCULATOR))
        results = await host.run_many("calculator", [(number, 1) for number in range(300)], "add")
        assert results == [[number + 1] for number in range(300)]
        assert not any(isinstance(result, WasmError) for result in results)


@story
async def test_a_batch_that_runs_on_the_loop_lets_others_have_it_in_between() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    batch = [[rows(1) + 13], *([rows(1)] for _ in range(30))]  # the first traps, so all run one by one
    async with ModuleHost(limits=Limits(deadline_s=20, inline_s_max=10)) as host:
        await host.load("affine", affine_package())
        await host.run("affine", [rows(1)], "fail")
        busy = asyncio.create_task(other())
        await host.run_many("affine", batch, "fail")
        busy.cancel()
        assert host.stats.inline >= 25
        assert turns >= host.stats.inline

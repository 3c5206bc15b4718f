"""New parameters while requests run: every answer is that of one set, old or new."""

import asyncio

import numpy as np
import pytest

from edge.runtime import BadInput, BadModule, Limits, ModuleHost
from tests.unit.edge.runtime.modules import ECHO, affine_package, rows
from tests.unit.edge.runtime.stories import story


def parameters(number: float) -> dict[str, np.ndarray]:
    """A set in which every answer tells the number: y = x * number + number (prepare adds 1 to the bias)."""
    return {"scale": np.full(4, number, np.float32), "bias": np.full(4, number - 1, np.float32)}


def number_of(x: np.ndarray, y: np.ndarray) -> float:
    """The set that computed y, or an assertion when it was two of them."""
    numbers = np.unique(y / (x + 1))
    assert len(numbers) == 1, f"torn: {numbers}"
    return float(numbers[0])


@pytest.mark.parametrize("inline_s_max", [1e-9, 10.0])
def test_no_call_reads_half_of_each(inline_s_max: float) -> None:
    asyncio.run(_swap_while_calls_run(inline_s_max))


async def _swap_while_calls_run(inline_s_max: float) -> None:
    limits = Limits(deadline_s=10, inline_s_max=inline_s_max)
    async with ModuleHost(limits=limits, workers=3) as host:
        await host.load("affine", affine_package(1, 8))
        host.swap("affine", parameters(1))
        seen: set[float] = set()
        newest = 1

        async def ask(items: int) -> None:
            x = np.ones((items, 4), np.float32)
            for _ in range(40):
                before = newest
                (y,) = await host.run("affine", [x])
                number = number_of(x, y)
                assert number >= before, "a call that began after the swap answered with the old set"
                seen.add(number)
                await asyncio.sleep(0)

        async def swap() -> None:
            nonlocal newest
            for number in range(2, 30):
                host.swap("affine", parameters(number))
                newest = number
                await asyncio.sleep(0.001)

        await asyncio.gather(swap(), *(ask(items) for items in (1, 3, 8, 20)))
        assert len(seen) > 3


@story
async def test_a_set_that_does_not_fit_changes_nothing() -> None:
    async with ModuleHost() as host:
        await host.load("affine", affine_package(1))
        host.swap("affine", parameters(5))
        with pytest.raises(BadModule, match="bias is missing"):
            host.swap("affine", {"scale": np.zeros(4, np.float32)})
        (y,) = await host.run("affine", [rows(1)])
        np.testing.assert_array_equal(y, rows(1) * 5 + 5)


@story
async def test_the_callers_arrays_may_change_afterwards() -> None:
    async with ModuleHost() as host:
        await host.load("affine", affine_package(1))
        mine = parameters(5)
        host.swap("affine", mine)
        mine["scale"][:] = 0
        (y,) = await host.run("affine", [rows(1)])
        np.testing.assert_array_equal(y, rows(1) * 5 + 5)


@story
async def test_only_tensor_modules_have_parameters() -> None:
    async with ModuleHost() as host:
        await host.load("echo", ECHO)
        with pytest.raises(BadInput, match="no tensor module"):
            host.swap("echo", {})

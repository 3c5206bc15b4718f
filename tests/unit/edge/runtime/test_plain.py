import math

import numpy as np
import pytest

from edge.runtime import BadInput, BadModule, DivisionByZero, Limits, ModuleHost
from tests.unit.edge.runtime.modules import CALCULATOR, affine_package, wasm
from tests.unit.edge.runtime.stories import story

LIMITS = Limits(deadline_s=10)


@pytest.mark.parametrize("fast_calls", [True, False])
@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        ("add", (2, 3), [5]),
        ("add", (2**32 - 1, 0), [-1]),
        ("half", (3,), [1.5]),
        ("single", (0.25,), [0.25]),
        ("wide", (-(2**63),), [-(2**63)]),
        ("both", (7, 2.5), [2.5, 7]),
        ("add", np.array([2, 3], np.int32), [5]),
        ("both", (np.int64(7), np.array([2.5])), [2.5, 7]),
    ],
)
@story
async def test_numbers_in_numbers_out(
    fast_calls: bool, function: str, arguments: object, expected: object
) -> None:
    async with ModuleHost(limits=LIMITS, fast_calls=fast_calls) as host:
        await host.load("calculator", wasm(CALCULATOR))
        assert await host.run("calculator", arguments, function) == expected


@story
async def test_infinities_and_nan_pass() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("calculator", wasm(CALCULATOR))
        assert await host.run("calculator", (math.inf,), "half") == [math.inf]
        assert math.isnan((await host.run("calculator", (math.nan,), "half"))[0])


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("add", (1,)),
        ("add", (1, 2, 3)),
        ("add", (1, 2.5)),
        ("add", (1, True)),
        ("add", (1, "2")),
        ("add", (1, 2**32)),
        ("add", (1, -(2**31) - 1)),
        ("add", b"12"),
        ("add", None),
        ("add", np.arange(10)),
        ("half", (10**400,)),
        ("vector", (1,)),
        ("absent", ()),
    ],
)
@story
async def test_arguments_that_do_not_fit_are_refused(function: str, arguments: object) -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("calculator", wasm(CALCULATOR))
        with pytest.raises(BadInput):
            await host.run("calculator", arguments, function)


@story
async def test_a_division_by_zero_is_called_that_and_the_module_goes_on() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("calculator", wasm(CALCULATOR))
        with pytest.raises(DivisionByZero):
            await host.run("calculator", (1, 0), "divide")
        assert await host.run("calculator", (8, 2), "divide") == [4]


@story
async def test_simd_can_be_switched_off() -> None:
    limits = Limits(deadline_s=10, simd=False)
    async with ModuleHost(limits=limits) as host:
        with pytest.raises(BadModule, match="SIMD"):
            await host.load("affine", affine_package())
        await host.load("scalar", wasm('(module (func (export "run") (result i32) (i32.const 4)))'))
        assert await host.run("scalar", ()) == [4]


@story
async def test_atomics_need_the_threads_flag() -> None:
    atomic = wasm("""(module (memory 1)
      (func (export "run") (result i32) (i32.atomic.rmw.add (i32.const 0) (i32.const 5))))""")
    async with ModuleHost(limits=LIMITS) as host:
        with pytest.raises(BadModule, match="threads"):
            await host.load("atomic", atomic)
    async with ModuleHost(limits=Limits(deadline_s=10, threads=True)) as host:
        await host.load("atomic", atomic)
        assert await host.run("atomic", ()) == [0]
        with pytest.raises(BadModule, match="shared"):
            await host.load("shared", wasm("(module (memory 1 1 shared))"))

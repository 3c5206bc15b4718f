"""Tensor modules through the host: the values are right for every batch, and what is wrong is said."""

import numpy as np
import pytest

from edge.runtime import BadInput, BadModule, Limits, ModuleHost, OutputTooLarge, Unreachable
from shared.abi import Function, Parameters, Tensor, encode_section
from shared.package import Package, PackageInfo
from tests.unit.edge.runtime.modules import (
    BIAS,
    SCALE,
    WIDTH,
    affine,
    affine_abi,
    affine_expected,
    affine_package,
    affine_wat,
    pack,
    rows,
    safetensors,
    wasm,
)
from tests.unit.edge.runtime.stories import story

LIMITS = Limits(deadline_s=10)


@pytest.mark.parametrize("batches", [(1,), (4,), (1, 8), (2, 8, 32)])
@pytest.mark.parametrize("items", [1, 2, 7, 8, 33, 70])
@story
async def test_any_number_of_items_runs_on_the_batch_sizes_there_are(
    batches: tuple[int, ...], items: int
) -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("affine", affine_package(*batches))
        for _ in range(3):  # in a thread first, inline later
            (result,) = await host.run("affine", [rows(items)])
            np.testing.assert_array_equal(result, affine_expected(rows(items)), strict=True)


@story
async def test_an_answer_is_a_copy_that_later_calls_do_not_touch() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("affine", affine_package())
        first = (await host.run("affine", [rows(1)]))[0]
        kept = first.copy()
        await host.run("affine", [rows(1) + 100])
        host.unload("affine")
        np.testing.assert_array_equal(first, kept)
        assert first.flags.owndata


@story
async def test_arrays_of_any_layout_are_taken() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("affine", affine_package(1, 8))
        columns = np.asfortranarray(rows(8))
        (result,) = await host.run("affine", [columns])
        np.testing.assert_array_equal(result, affine_expected(rows(8)))
        (result,) = await host.run("affine", [rows(16)[::-2]])
        np.testing.assert_array_equal(result, affine_expected(rows(16)[::-2]))


@pytest.mark.parametrize(
    "inputs",
    [
        (),
        [rows(1), rows(1)],
        [rows(1).astype(np.float64)],
        [rows(1)[:, :3]],
        [rows(1)[0]],
        [np.zeros((0, WIDTH), np.float32)],
        [np.float32(1)],
        [[1.0, 2.0, 3.0, 4.0]],
        rows(1)[0].tolist(),
        b"1234",
        None,
    ],
)
@story
async def test_arguments_that_do_not_fit_are_refused_before_anything_runs(inputs: object) -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("affine", affine_package(1, 8))
        with pytest.raises(BadInput):
            await host.run("affine", inputs)


@story
async def test_a_refusal_says_what_would_fit() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("affine", affine_package(1, 8))
        with pytest.raises(BadInput, match=r"run takes float32\[n, 4\]; got int64\[3\]"):
            await host.run("affine", [np.arange(3)])
        with pytest.raises(BadInput, match=r"takes float32\[1, 4\], float32\[\] or float32\[8, 4\]"):
            await host.run("affine", [rows(1)], "train_step")
        with pytest.raises(BadInput, match="run, train_step, fail"):
            await host.run("affine", [rows(1)], "other")


@story
async def test_a_function_without_a_batch_axis_finds_the_module_of_its_shapes() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("affine", affine_package(1, 8))
        for items in (1, 8):
            (loss,) = await host.run("affine", [rows(items), np.array(0.5, np.float32)], "train_step")
            assert loss.shape == ()
            assert loss == SCALE[0] + 0.5


@story
async def test_input_and_output_have_their_limits() -> None:
    limits = Limits(deadline_s=10, input_bytes_max=1000, output_bytes_max=500)
    async with ModuleHost(limits=limits) as host:
        await host.load("affine", affine_package(1, 8))
        await host.run("affine", [rows(31)])
        with pytest.raises(OutputTooLarge, match="512 bytes"):
            await host.run("affine", [rows(32)])
        with pytest.raises(BadInput, match="over 1000"):
            await host.run("affine", [rows(63)])


@story
async def test_after_a_trap_the_module_answers_as_before() -> None:
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("affine", affine_package())
        bad = rows(1) + 13
        for _ in range(3):
            with pytest.raises(Unreachable):
                await host.run("affine", [bad], "fail")
            (result,) = await host.run("affine", [rows(1)])
            np.testing.assert_array_equal(result, affine_expected(rows(1)))


@story
async def test_a_bare_module_needs_no_package_when_it_has_no_parameters() -> None:
    abi = affine_abi(4, parameters=Parameters(64, 0, "none", ()))
    async with ModuleHost(limits=LIMITS) as host:
        loaded = await host.load("bare", wasm(affine_wat(4)) + encode_section(abi))
        assert loaded.describe().batch_sizes == (4,)
        (result,) = await host.run("bare", [rows(6)])
        np.testing.assert_array_equal(result, np.ones((6, WIDTH), np.float32))


@story
async def test_truth_values_are_clean_whatever_byte_the_module_wrote() -> None:
    x, y = Tensor("x", "u8", (1, 4), 64), Tensor("y", "bool", (1, 4), 128)
    abi = affine_abi(1, functions=(Function("run", (x,), (y,)),), parameters=Parameters(64, 0, "none", ()))
    wat = """(module (memory (export "memory") 1)
      (func (export "run") (i32.store (i32.const 128) (i32.load (i32.const 64)))))"""
    async with ModuleHost(limits=LIMITS) as host:
        await host.load("truth", wasm(wat) + encode_section(abi))
        for items in (1, 3):
            (result,) = await host.run("truth", [np.array([[0, 1, 2, 255]] * items, np.uint8)])
            assert result.dtype == np.bool_
            assert result.view(np.uint8).tolist() == [[0, 1, 1, 1]] * items


def packed(module: bytes, batch: int = 1, **parameters: np.ndarray) -> bytes:
    blob = safetensors(**(parameters or {"scale": SCALE, "bias": BIAS}))
    return pack(Package(info=PackageInfo(name="affine"), modules={batch: module}, parameters=blob))


BROKEN = {
    "no description": (packed(wasm(affine_wat(1))), "shoal.abi"),
    "batch size 0": (packed(affine(), batch=0), "1 or more"),
    "description beyond the memory": (
        packed(wasm(affine_wat(1)) + encode_section(affine_abi(1, memory_bytes=1 << 20))),
        "described are 1048576",
    ),
    "tensor outside": (
        packed(wasm(affine_wat(1)) + encode_section(affine_abi(1, memory_bytes=70))),
        "outside the memory",
    ),
    "over the host's memory limit": (
        packed(wasm(affine_wat(1, memory="2000")) + encode_section(affine_abi(1))),
        "at most 67108864",
    ),
    "an import": (
        packed(
            wasm('(module (import "env" "log" (func))' + affine_wat(1).removeprefix("(module"))
            + encode_section(affine_abi(1))
        ),
        "env.log",
    ),
    "no memory": (
        packed(wasm('(module (func (export "run")))') + encode_section(affine_abi(1))),
        "exports its memory",
    ),
    "a function that is not there": (
        packed(wasm(affine_wat(1)) + encode_section(affine_abi(1, functions=(Function("absent", (), ()),)))),
        "absent",
    ),
    "a function with parameters": (
        packed(
            wasm(affine_wat(1).removesuffix(")") + '(func (export "f") (param v128)))')
            + encode_section(affine_abi(1, functions=(Function("f", (), ()),)))
        ),
        "f is not an exported function without",
    ),
    "a parameter that is missing": (packed(affine(), scale=SCALE), "bias is missing"),
    "a parameter of another shape": (packed(affine(), scale=SCALE, bias=BIAS[:2]), "bias is float32"),
}


@pytest.mark.parametrize("name", BROKEN)
@story
async def test_a_package_that_does_not_hold_together_is_refused(name: str) -> None:
    package, reason = BROKEN[name]
    async with ModuleHost(limits=LIMITS) as host:
        with pytest.raises(BadModule, match=reason):
            await host.load("broken", package)


@story
async def test_modules_that_disagree_about_an_item_are_refused() -> None:
    other = affine_abi(2)
    narrow = Function("run", (Tensor("x", "f32", (2, 3), 1024),), other.functions[0].outputs)
    odd = wasm(affine_wat(2)) + encode_section(affine_abi(2, functions=(narrow,)))
    blob = safetensors(scale=SCALE, bias=BIAS)
    package = Package(info=PackageInfo(name="odd"), modules={1: affine(), 2: odd}, parameters=blob)
    async with ModuleHost(limits=LIMITS) as host:
        with pytest.raises(BadModule, match="different items"):
            await host.load("odd", pack(package))

"""Kernels that are alike become one function: the same answers from less code."""

import re

import numpy as np
import wasmtime

from cloud.compiler.backend import build_module
from cloud.compiler.ir import evaluate
from cloud.compiler.ops.image import PANEL, Conv
from cloud.compiler.ops.pointwise import Pointwise
from cloud.compiler.sharing import Target, share
from cloud.compiler.wat import Function, Kernel, const, get
from tests.unit.cloud.compiler.graphs import ADD, Builder, integers, run

LINES = 12  # enough for a function to be worth sharing


def kernel(name: str, step: int, offset: int = 0, helpers: tuple[Kernel, ...] = ()) -> Kernel:
    """Stores 7, and moves on by ``step``, again and again."""
    f = Function(name, ("y",))
    for _ in range(LINES):
        f.emit(f"(i32.store offset={offset} {get('y')} {const(7)})")
        f.advance("y", step)
    return f.kernel(helpers=helpers)


def test_the_number_that_differs_is_a_parameter_and_the_others_stay():
    functions, targets = share([kernel("a_4", 4), kernel("a_8", 8)], (), ())
    (function,) = functions
    assert targets == {"a_4": Target(function.name, (4,)), "a_8": Target(function.name, (8,))}
    assert function.name.startswith("a_")
    assert "(param $y i32) (param $n0 i32)" in function.wat
    assert function.wat.count("(local.get $n0)") == LINES
    assert function.wat.count("(i32.const 7)") == LINES
    assert len(wasmtime.wat2wasm(f"(module (memory 1) {function.wat})"))


def test_offsets_are_parameters_only_where_speed_does_not_matter():
    kernels = [kernel("a_0", 4, 0), kernel("a_16", 4, 16)]
    assert len(share(kernels, (), ())[0]) == 2
    (function,), targets = share(kernels, {"a_0", "a_16"}, ())
    assert [one.numbers for one in targets.values()] == [(0,), (16,)]
    assert f"(i32.store  (i32.add {get('y')} (local.get $n0)) {const(7)})" in function.wat
    assert len(wasmtime.wat2wasm(f"(module (memory 1) {function.wat})"))


def test_groups_whose_functions_have_the_same_text_share_it():
    kernels = [kernel(f"a_{step}", step) for step in (4, 8, 12, 16)]
    (function,), targets = share(kernels, {"a_4", "a_8"}, ())
    assert [one.numbers for one in targets.values()] == [(4,), (8,), (12,), (16,)]
    assert {one.name for one in targets.values()} == {function.name}


def test_a_function_that_others_call_stays_and_so_does_one_that_is_alone():
    alone, called = kernel("alone", 4, 32), kernel("called", 8)
    kernels = [alone, called, kernel("b", 16), kernel("c", 12)]
    functions, targets = share(kernels, (), {"called"})
    assert functions[:2] == [alone, called]
    assert targets["called"] == Target("called")
    assert targets["b"].name == targets["c"].name == functions[2].name


def test_small_kernels_are_not_worth_the_arguments():
    def small(name: str, values: tuple[int, ...]) -> Kernel:
        f = Function(name, ("y",))
        for value in values:
            f.emit(f"(drop {const(value)})")
        return f.kernel()

    functions, _ = share([small("a", (1, 2, 3, 4)), small("b", (5, 6, 7, 8))], (), ())
    assert len(functions) == 2


def test_convolutions_of_many_sizes_are_one_function():
    build = Builder(1, 4, 8, 16)
    x = build.input
    for outputs in (32, 48, 64, 16):
        w = build.parameter(outputs // PANEL, 1, 1, x.shape[-1], PANEL)
        x = build.apply(Conv(outputs), x, w)
    graph = build.graph(build.apply(Pointwise(ADD), x, x))
    module = build_module({"run": graph})
    assert len(set(re.findall(r"\(call \$(conv\w+)", module.wat))) == 1
    inputs, parameters = integers(graph, 3)
    (got,) = run(module, inputs, parameters)
    assert np.array_equal(got, evaluate(graph, inputs, parameters)[0])

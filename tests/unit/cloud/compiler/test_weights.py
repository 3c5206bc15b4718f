"""Weights in the layout that is fastest for their depth."""

import numpy as np
import pytest

from cloud.compiler.backend import build_module
from cloud.compiler.expr import Arg, Fn, call
from cloud.compiler.ir import evaluate
from cloud.compiler.ops.contract import MatMul, Skewed, straightened
from cloud.compiler.ops.movement import Permute
from cloud.compiler.ops.pointwise import Pointwise
from cloud.compiler.passes.epilogues import fuse_epilogues
from cloud.compiler.passes.weights import (
    COLUMNS_MIN,
    DEPTH_MAX,
    SKEWED_COLUMNS_MIN,
    SKEWED_DEPTH_MAX,
    SKEWED_DEPTH_MIN,
    lay_out_weights,
)
from cloud.compiler.plan import derived
from tests.unit.cloud.compiler.graphs import ADD, Builder, agree_op, integers, run


def product(depth: int, columns: int):
    build = Builder(3, depth)
    return build.graph(build.apply(MatMul(), build.input, build.parameter(columns, depth)))


def test_a_short_depth_is_read_by_columns_that_are_laid_out_once():
    graph = product(DEPTH_MAX, COLUMNS_MIN)
    after = lay_out_weights(graph)
    after.check()
    layout, matmul = after.nodes
    assert isinstance(layout.op, Permute)
    assert layout.result.name in derived(after)
    assert matmul.op == MatMul(rows=False)
    inputs, parameters = integers(graph, 1)
    (wanted,) = evaluate(graph, inputs, parameters)
    assert np.array_equal(evaluate(after, inputs, parameters)[0], wanted)
    assert np.array_equal(run(build_module({"run": after}), inputs, parameters)[0], wanted)


@pytest.mark.parametrize(
    ("depth", "columns"),
    [(DEPTH_MAX + 1, SKEWED_COLUMNS_MIN - 1), (SKEWED_DEPTH_MAX + 1, 64), (4, COLUMNS_MIN - 1)],
)
def test_what_gains_nothing_stays(depth, columns):
    graph = product(depth, columns)
    assert lay_out_weights(graph) == graph


@pytest.mark.parametrize("depth", [SKEWED_DEPTH_MIN, 25, 32, 67, 280, 1100])
@pytest.mark.parametrize(("rows", "columns"), [(1, 32), (1, 55), (2, 48), (5, 41)])
def test_a_longer_depth_is_read_askew(rows, depth, columns):
    """Sums of integers are exact in any order; 280 and 1100 steps are summed up in stretches, too."""
    build = Builder(rows, depth)
    sum_ = build.apply(MatMul(), build.input, build.parameter(columns, depth))
    graph = build.graph(build.apply(Pointwise(call(Fn.RELU, ADD)), sum_, build.parameter(columns)))
    after = lay_out_weights(fuse_epilogues(graph))
    after.check()
    layout, matmul = after.nodes
    assert layout.op == Skewed()
    assert layout.result.name in derived(after)
    assert isinstance(matmul.op, MatMul)
    assert matmul.op.skewed == columns
    inputs, parameters = integers(graph, 1)
    (wanted,) = evaluate(graph, inputs, parameters)
    assert np.array_equal(evaluate(after, inputs, parameters)[0], wanted)
    assert np.array_equal(run(build_module({"run": after}), inputs, parameters)[0], wanted)


@pytest.mark.parametrize("depth", [40, 67, 280, 1100])
def test_an_item_gets_the_same_bits_in_every_batch(depth):
    """A single row has a tile and turns of its own; its sums are added up in the order of the others'."""
    rng = np.random.default_rng(depth)
    x, w = (rng.standard_normal((size, depth)).astype(np.float32) for size in (5, 48))
    panels = Skewed().evaluate(w)
    together = agree_op(MatMul(skewed=48), x, panels, tolerance=2e-6)
    for row, wanted in zip(x, together, strict=True):
        assert np.array_equal(agree_op(MatMul(skewed=48), row[None], panels, tolerance=2e-6)[0], wanted)


def test_a_skewed_column_goes_round_from_its_own_place():
    w = np.arange(20 * 5, dtype=np.float32).reshape(20, 5)
    panels = agree_op(Skewed(), w, tolerance=0)
    assert panels.shape == (2, 5, 16)
    assert [*panels[0, :, 3]] == [*np.roll(w[3], -3)]
    assert not panels[1, :, 4:].any()
    assert np.array_equal(straightened(panels, 20), w)


def test_a_bias_may_be_where_the_sums_begin_and_what_else_it_is():
    """The bias once more in the same epilogue, and one that is added to something else first."""
    x, w, b = (np.float32([[1, 2, 3, 4]] * 3), np.ones((16, 4), np.float32), np.arange(16, dtype=np.float32))
    for expr in (
        call(Fn.MUL, ADD, Arg(1)),
        call(Fn.ADD, call(Fn.MUL, Arg(0), 2.0), Arg(1)),
        call(Fn.MUL, ADD, ADD),
        call(Fn.SUB, ADD, Arg(0)),
    ):
        op = MatMul(epilogue=expr, skewed=16)
        agree_op(op, x, Skewed().evaluate(w), b, tolerance=0)


def test_what_is_computed_in_the_run_is_no_weight():
    build = Builder(9, 4)
    graph = build.graph(build.apply(MatMul(), build.parameter(3, 4), build.input), build.input)
    assert lay_out_weights(graph) == graph

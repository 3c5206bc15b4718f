"""Weights in the layout that is fastest for their depth."""

import numpy as np
import pytest

from cloud.compiler.backend import build_module
from cloud.compiler.ir import evaluate
from cloud.compiler.ops.contract import MatMul
from cloud.compiler.ops.movement import Permute
from cloud.compiler.passes.weights import COLUMNS_MIN, DEPTH_MAX, lay_out_weights
from cloud.compiler.plan import derived
from tests.unit.cloud.compiler.graphs import Builder, integers, run


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


@pytest.mark.parametrize(("depth", "columns"), [(DEPTH_MAX + 1, 64), (4, COLUMNS_MIN - 1)])
def test_what_gains_nothing_stays(depth, columns):
    graph = product(depth, columns)
    assert lay_out_weights(graph) == graph


def test_what_is_computed_in_the_run_is_no_weight():
    build = Builder(9, 4)
    graph = build.graph(build.apply(MatMul(), build.parameter(3, 4), build.input), build.input)
    assert lay_out_weights(graph) == graph

"""What a product's kernel does as it stores: which readers it absorbs, and which it must not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.compiler.expr import Arg, Fn, call
from cloud.compiler.ir import Graph, Value, evaluate
from cloud.compiler.ops.contract import MatMul
from cloud.compiler.ops.pointwise import Pointwise
from cloud.compiler.passes.epilogues import EXTRAS_MAX, fuse_epilogues
from tests.unit.cloud.compiler.graphs import ADD, RELU, Builder, integers, mlp, random_graphs


def kinds(graph: Graph) -> list[str]:
    return [type(node.op).__name__ for node in graph.nodes]


def same(graph: Graph, seed: int = 1) -> Graph:
    """The fused graph, which means the same."""
    fused = fuse_epilogues(graph)
    fused.check()
    inputs, parameters = integers(graph, seed)
    for before, after in zip(
        evaluate(graph, inputs, parameters), evaluate(fused, inputs, parameters), strict=True
    ):
        assert np.array_equal(before, after)
    return fused


@given(random_graphs(), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_any_graph_means_the_same_afterwards(graph, seed):
    same(graph, seed)


def test_a_perceptron_is_nothing_but_products():
    assert kinds(same(mlp(6, 5, 4, batch=3))) == ["MatMul", "MatMul"]


def test_a_residual_that_is_computed_after_the_product_is_still_absorbed():
    build = Builder(3, 6)
    y = build.apply(MatMul(), build.input, build.parameter(6, 6))
    residual = build.apply(Pointwise(RELU), build.input)
    graph = build.graph(build.apply(Pointwise(ADD), residual, y))
    assert kinds(same(graph)) == ["Pointwise", "MatMul"]


def test_a_product_that_somebody_else_reads_stays_as_it_is():
    build = Builder(3, 6)
    y = build.apply(MatMul(), build.input, build.parameter(6, 6))
    graph = build.graph(build.apply(Pointwise(RELU), y), y)
    assert kinds(same(graph)) == ["MatMul", "Pointwise"]


def test_a_reader_that_reads_the_product_twice_is_absorbed():
    build = Builder(3, 6)
    y = build.apply(MatMul(), build.input, build.parameter(6, 6))
    graph = build.graph(build.apply(Pointwise(call(Fn.MUL, Arg(0), Arg(1))), y, y))
    assert kinds(same(graph)) == ["MatMul"]


def test_a_reader_of_a_larger_shape_would_compute_the_product_again_and_stays():
    build = Builder(1, 6)
    y = build.apply(MatMul(), build.input, build.parameter(6, 6))
    graph = build.graph(build.apply(Pointwise(ADD), build.parameter(4, 6), y))
    assert kinds(same(graph)) == ["MatMul", "Pointwise"]


def test_an_operand_that_is_read_twice_is_one_extra():
    build = Builder(3, 6)
    bias = build.parameter(6)
    y = build.apply(MatMul(), build.input, build.parameter(6, 6))
    y = build.apply(Pointwise(ADD), build.apply(Pointwise(ADD), y, bias), bias)
    (node,) = same(build.graph(y)).nodes
    assert len(node.operands) == 3


def test_a_kernel_takes_no_more_extras_than_it_has_room_for():
    build = Builder(3, 6)
    y = build.apply(MatMul(), build.input, build.parameter(6, 6))
    for _ in range(EXTRAS_MAX + 2):
        y = build.apply(Pointwise(ADD), y, build.parameter(6))
    assert kinds(same(build.graph(y))) == ["MatMul", "Pointwise", "Pointwise"]


@pytest.mark.parametrize("epilogue", [True, False])
def test_what_prepare_computes_once_does_not_move_into_the_run(epilogue):
    build = Builder(6, 6)
    folded = build.apply(MatMul(), build.parameter(6, 6), build.parameter(6, 6))
    other: Value = build.parameter(6) if epilogue else build.input
    graph = same(build.graph(build.apply(Pointwise(ADD), folded, other), build.input))
    assert kinds(graph) == (["MatMul"] if epilogue else ["MatMul", "Pointwise"])

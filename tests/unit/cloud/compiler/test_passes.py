"""Every pass keeps the meaning; together they leave what the back end is fast at."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.compiler.cost import flops, operator_counts
from cloud.compiler.ir import Graph, evaluate
from cloud.compiler.ops import Activation, Add, Identity, Linear, Relu, Reshape
from cloud.compiler.passes import (
    PASSES,
    fuse_activation,
    fuse_bias,
    optimise,
    remove_dead_code,
    remove_identities,
)
from tests.unit.cloud.compiler.graphs import Builder, integers, mlp, random_graphs


def ops(graph: Graph) -> list[object]:
    return [node.op for node in graph.nodes]


@pytest.mark.parametrize("one", [*PASSES, optimise])
@given(graph=random_graphs(), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_no_pass_changes_what_a_graph_computes(one, graph, seed):
    inputs, parameters = integers(graph, seed)
    changed = one(graph)
    changed.check()
    for before, after in zip(
        evaluate(graph, inputs, parameters), evaluate(changed, inputs, parameters), strict=True
    ):
        assert np.array_equal(before, after)


@given(graph=random_graphs())
@settings(max_examples=60, deadline=None)
def test_optimising_twice_changes_nothing_more(graph):
    assert optimise(optimise(graph)) == optimise(graph)


def test_a_layer_becomes_one_operation():
    graph = optimise(mlp(4, 3, 2))
    assert ops(graph) == [Linear(Activation.RELU), Linear(Activation.RELU)]
    assert [len(node.operands) for node in graph.nodes] == [3, 3]


def test_dropout_and_a_reshape_to_the_same_shape_vanish():
    build = Builder(2, 3)
    x = build.apply(Reshape((2, 3)), build.apply(Identity(), build.input))
    graph = remove_identities(build.graph(build.apply(Relu(), x)))
    assert ops(graph) == [Relu()]
    assert graph.nodes[0].operands == (build.input,)


def test_a_model_that_only_copies_gives_its_input():
    build = Builder(2, 3)
    graph = optimise(build.graph(build.apply(Identity(), build.input)))
    assert graph.nodes == ()
    assert graph.outputs == (build.input,)


def test_a_reshape_of_a_reshape_is_one():
    build = Builder(2, 6)
    x = build.apply(Reshape((2, 3, 2)), build.input)
    graph = optimise(build.graph(build.apply(Reshape((2, 1, 6)), x)))
    assert [(node.op, node.operands) for node in graph.nodes] == [(Reshape((2, 1, 6)), (build.input,))]


def test_a_sum_that_somebody_else_reads_is_not_fused_away():
    build = Builder(2, 3)
    y = build.apply(Linear(), build.input, build.parameter(3, 3))
    z = build.apply(Relu(), y)
    graph = build.graph(build.apply(Add(), z, y))
    assert fuse_activation(graph) == graph


def test_an_output_is_not_fused_away():
    build = Builder(2, 3)
    y = build.apply(Linear(), build.input, build.parameter(3, 3))
    graph = build.graph(y, build.apply(Relu(), y))
    assert fuse_activation(graph) == graph


def test_a_bias_after_the_activation_stays_outside():
    build = Builder(2, 3)
    y = build.apply(Linear(Activation.RELU), build.input, build.parameter(3, 3))
    graph = build.graph(build.apply(Add(), y, build.parameter(3)))
    assert fuse_bias(graph) == graph


def test_a_second_bias_stays_outside():
    build = Builder(2, 3)
    y = build.apply(Linear(), build.input, build.parameter(3, 3), build.parameter(3))
    graph = build.graph(build.apply(Add(), y, build.parameter(3)))
    assert fuse_bias(graph) == graph


def test_adding_a_whole_array_is_no_bias():
    build = Builder(2, 3)
    y = build.apply(Linear(), build.input, build.parameter(3, 3))
    graph = build.graph(build.apply(Add(), y, build.input))
    assert fuse_bias(graph) == graph


def test_nodes_and_parameters_that_no_output_needs_are_dropped():
    graph = mlp(4, 3, 2)
    first = remove_dead_code(replace(graph, outputs=(graph.nodes[2].result,)))
    assert len(first.nodes) == 3
    assert [one.key for one in first.parameters] == ["layer.0", "layer.1"]


def test_the_cost_of_a_layer_is_two_for_each_weight_and_one_for_each_bias():
    graph = optimise(mlp(4, 3, 2))
    assert flops(graph) == (2 * 4 + 1) * 3 + (2 * 3 + 1) * 2
    assert operator_counts(graph) == {"linear": 2}
    assert flops(mlp(4, 3)) == 2 * 4 * 3 + 3 + 3

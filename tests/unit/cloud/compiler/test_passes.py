"""Every pass keeps the meaning; together they leave what the back end is fast at."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloud.compiler.cost import flops, operator_counts
from cloud.compiler.ir import Graph, evaluate
from cloud.compiler.ops.contract import MatMul
from cloud.compiler.ops.movement import Permute, Reshape
from cloud.compiler.ops.pointwise import Pointwise
from cloud.compiler.passes import PASSES, optimise
from cloud.compiler.passes.dead_code import remove_dead_code
from cloud.compiler.passes.duplicates import merge_duplicates
from cloud.compiler.passes.identities import remove_identities
from cloud.compiler.plan import derived
from tests.unit.cloud.compiler.graphs import ADD, RELU, Builder, integers, mlp, random_graphs


def ops(graph: Graph) -> list[object]:
    return [node.op for node in graph.nodes]


@pytest.mark.parametrize("one", [*PASSES, optimise])
@given(graph=random_graphs(), seed=st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_no_pass_changes_what_a_graph_computes(one, graph, seed):
    inputs, parameters = integers(graph, seed)
    changed = one(graph)
    changed.check()
    for before, after in zip(
        evaluate(graph, inputs, parameters), evaluate(changed, inputs, parameters), strict=True
    ):
        assert np.array_equal(before, after)


def per_run(graph: Graph) -> int:
    """How many nodes every run computes; what depends on parameters alone is ``prepare``'s, once."""
    once = derived(graph)
    return sum(node.result.name not in once for node in graph.nodes)


def seen_twice() -> Graph:
    """A reshaped input, which is an output, and a function of it."""
    build = Builder(1, 1)
    reshaped = build.apply(Reshape((1, 1, 1)), build.input)
    return build.graph(reshaped, build.apply(Pointwise(RELU), reshaped))


@given(graph=random_graphs())
@example(graph=seen_twice())
@example(graph=mlp(1, 8))  # its weights are laid out anew, by a node of prepare's
@settings(max_examples=25, deadline=None)
def test_optimising_twice_makes_no_run_longer(graph):
    once = optimise(graph)
    assert per_run(optimise(once)) <= per_run(once) <= per_run(graph)


def test_a_layer_becomes_one_operation():
    graph = optimise(mlp(4, 3, 2))
    assert [type(one) for one in ops(graph)] == [MatMul, MatMul]
    assert [len(node.operands) for node in graph.nodes] == [3, 3]


def test_a_reshape_to_the_same_shape_vanishes():
    build = Builder(2, 3)
    x = build.apply(Reshape((2, 3)), build.input)
    graph = remove_identities(build.graph(build.apply(Pointwise(RELU), x)))
    assert ops(graph) == [Pointwise(RELU)]
    assert graph.nodes[0].operands == (build.input,)


def test_a_model_that_only_copies_gives_its_input():
    build = Builder(2, 3)
    graph = optimise(build.graph(build.apply(Permute((0, 1)), build.input)))
    assert graph.nodes == ()
    assert graph.outputs == (build.input,)


def test_a_reshape_of_a_reshape_is_one():
    build = Builder(2, 6)
    x = build.apply(Reshape((2, 3, 2)), build.input)
    graph = optimise(build.graph(build.apply(Reshape((2, 1, 6)), x)))
    assert [(node.op, node.operands) for node in graph.nodes] == [(Reshape((2, 1, 6)), (build.input,))]


def test_there_and_back_is_nothing():
    build = Builder(2, 6)
    x = build.apply(Reshape((2, 3, 2)), build.input)
    y = build.apply(Permute((1, 2, 0)), build.apply(Permute((2, 0, 1)), x))
    assert ops(remove_dead_code(remove_identities(build.graph(y)))) == [Reshape((2, 3, 2))]


def test_moving_an_axis_of_one_is_a_reshape():
    build = Builder(1, 6)
    graph = remove_identities(build.graph(build.apply(Permute((1, 0)), build.input)))
    assert ops(graph) == [Reshape((6, 1))]


def test_the_same_operation_on_the_same_operands_is_computed_once():
    build = Builder(2, 3)
    one, other = (build.apply(Pointwise(RELU), build.input) for _ in range(2))
    graph = merge_duplicates(build.graph(build.apply(Pointwise(ADD), one, other), other))
    assert ops(graph) == [Pointwise(RELU), Pointwise(ADD)]
    assert graph.nodes[1].operands == (one, one)
    assert graph.outputs[1] == one


def test_nodes_and_parameters_that_no_output_needs_are_dropped():
    graph = mlp(4, 3, 2)
    first = remove_dead_code(replace(graph, outputs=(graph.nodes[2].result,)))
    assert len(first.nodes) == 3
    assert [one.key for one in first.parameters] == ["layer.0", "layer.1"]


def test_the_cost_of_a_layer_is_two_for_each_weight_and_one_for_each_function():
    graph = optimise(mlp(4, 3, 2))
    assert flops(graph) == (2 * 4 + 2) * 3 + (2 * 3 + 2) * 2
    assert operator_counts(graph) == {"matmul": 2}
    assert flops(mlp(4, 3)) == 2 * 4 * 3 + 3 + 3

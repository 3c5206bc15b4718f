"""The graph's invariants, and the meaning of its operations against torch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cloud.compiler.ir import Node, Value, evaluate
from cloud.compiler.ops.contract import MatMul
from cloud.compiler.ops.movement import Reshape
from cloud.compiler.ops.pointwise import Pointwise
from shared.errors import LocalError
from tests.unit.cloud.compiler.graphs import ADD, RELU, Builder, mlp


def test_a_value_that_nobody_defined_is_refused():
    graph = mlp(3, 2)
    with pytest.raises(LocalError, match="is used but"):
        replace(graph, nodes=graph.nodes[1:]).check()


def test_a_value_that_is_defined_twice_is_refused():
    graph = mlp(3, 2)
    with pytest.raises(LocalError, match="defined twice"):
        replace(graph, nodes=(*graph.nodes, graph.nodes[-1])).check()


def test_a_result_of_another_shape_than_its_operation_gives_is_refused():
    build = Builder(2, 3)
    wrong = Node(Value("n", (2, 4)), Pointwise(RELU), (build.input,), source="model.py:7")
    build.nodes.append(wrong)
    with pytest.raises(LocalError, match=r"model\.py:7"):
        build.graph(wrong.result)


def test_a_use_with_another_shape_than_the_definition_is_refused():
    build = Builder(2, 3)
    build.nodes.append(Node(Value("n", (6,)), Pointwise(RELU), (Value("x", (6,)),)))
    with pytest.raises(LocalError, match="is used but"):
        build.graph(build.input)


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        (MatMul(), [(2, 3), (4, 5)]),
        (MatMul(), [(2, 3), (4, 3), (5,)]),
        (MatMul(), [(2, 3), (3,)]),
        (Pointwise(ADD), [(2, 3), (2,)]),
        (Pointwise(ADD), [(2, 3)]),
        (Reshape((7,)), [(2, 3)]),
    ],
)
def test_operands_that_do_not_fit_are_refused(op, shapes):
    with pytest.raises(ValueError, match=r"matmul|pointwise|reshape|broadcast|unpack"):
        op.shape(*shapes)


def test_an_output_counts_as_a_reading():
    graph = mlp(3, 2)
    assert graph.uses()[graph.outputs[0].name] == 1
    assert graph.uses()["x"] == 1


def test_the_numpy_meaning_of_a_network_is_torchs():
    rng = np.random.default_rng(1)
    graph = mlp(7, 5, 3, batch=4)
    x = rng.standard_normal((4, 7))
    parameters = {one.key: rng.standard_normal(one.value.shape) for one in graph.parameters}
    (y,) = evaluate(graph, [x], parameters)
    w0, b0, w1, b1 = (torch.tensor(one) for one in parameters.values())
    hidden = torch.relu(torch.nn.functional.linear(torch.tensor(x), w0, b0))
    expected = torch.relu(torch.nn.functional.linear(hidden, w1, b1))
    assert np.allclose(y, expected.numpy(), rtol=1e-12, atol=1e-12)


def test_relu_means_what_it_means_in_torch_bit_for_bit():
    x = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, -1.5, 1e-45, -1e-45], np.float32)
    assert Pointwise(RELU).evaluate(x).tobytes() == torch.relu(torch.tensor(x)).numpy().tobytes()

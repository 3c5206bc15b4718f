"""Products read transposed operands where they lie."""

import numpy as np
import pytest

from cloud.compiler.ir import Graph, Node, Value, evaluate
from cloud.compiler.ops.contract import MatMul
from cloud.compiler.ops.movement import Permute
from cloud.compiler.passes.dead_code import remove_dead_code
from cloud.compiler.passes.transposes import fuse_transposes

SIZES = {"m": 3, "k": 5, "n": 4}


def product(x_axes: str, w_axes: str, batch: tuple[int, ...] = ()) -> Graph:
    """x and w as given, each brought into the order [m, k] and [k, n] by a permute where it needs one."""
    x, w = (
        Value(name, (*batch, *(SIZES[one] for one in axes))) for name, axes in (("x", x_axes), ("w", w_axes))
    )
    swap = Permute((*range(len(batch)), len(batch) + 1, len(batch)))
    nodes, operands = [], []
    for value, straight in ((x, x_axes == "mk"), (w, w_axes == "kn")):
        if not straight:
            turned = Value(f"{value.name}_turned", swap.shape(value.shape))
            nodes.append(Node(turned, swap, (value,)))
            value = turned
        operands.append(value)
    y = Value("y", (*batch, SIZES["m"], SIZES["n"]))
    nodes.append(Node(y, MatMul(rows=False), tuple(operands)))
    return Graph((x, w), (), tuple(nodes), (y,))


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize(("x_axes", "w_axes"), [("mk", "nk"), ("km", "kn"), ("mk", "kn")])
def test_the_permute_goes_and_the_numbers_stay(x_axes, w_axes, batch):
    graph = product(x_axes, w_axes, batch)
    fused = remove_dead_code(fuse_transposes(graph))
    fused.check()
    assert [type(one.op) for one in fused.nodes] == [MatMul]
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(one.shape) for one in graph.inputs]
    np.testing.assert_allclose(evaluate(fused, arrays, {})[0], evaluate(graph, arrays, {})[0])


def test_a_product_of_two_transposes_is_left_alone():
    """Its depth would be strided in both operands, and no kernel reads that fast."""
    graph = product("km", "nk")
    assert fuse_transposes(graph) == graph


def test_another_order_of_axes_is_no_transpose():
    x, w = Value("x", (3, 2, 5)), Value("w", (2, 5, 4))
    turned, y = Value("turned", (2, 3, 5)), Value("y", (2, 3, 4))
    nodes = (Node(turned, Permute((1, 0, 2)), (x,)), Node(y, MatMul(rows=False), (turned, w)))
    graph = Graph((x, w), (), nodes, (y,))
    assert fuse_transposes(graph) == graph

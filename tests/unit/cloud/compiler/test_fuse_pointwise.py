"""Chains of pointwise operations become one loop, and mean the same."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.compiler.expr import Arg, Call, Expr, Fn, Number, call, size
from cloud.compiler.ir import Array, Constant, Graph, Value, evaluate
from cloud.compiler.ops.contract import MatMul
from cloud.compiler.ops.movement import Expand
from cloud.compiler.ops.pointwise import Pointwise
from cloud.compiler.passes.fuse_pointwise import OPERANDS_MAX, SIZE_MAX, fuse_pointwise
from tests.unit.cloud.compiler.graphs import ADD, RELU, Builder

MUL, EXP = call(Fn.MUL, Arg(0), Arg(1)), call(Fn.EXP, Arg(0))


def exprs(graph: Graph) -> list[Expr]:
    return [node.op.expr for node in graph.nodes if isinstance(node.op, Pointwise)]


def test_a_chain_becomes_one_loop_at_the_place_of_its_end() -> None:
    build = Builder(2, 3)
    x, b = build.input, build.parameter(3)
    total = build.apply(Pointwise(ADD), x, b)
    graph = fuse_pointwise(build.graph(build.apply(Pointwise(MUL), build.apply(Pointwise(RELU), total), x)))
    (node,) = graph.nodes
    assert node.operands == (x, b)
    assert node.op == Pointwise(Call(Fn.MUL, (Call(Fn.RELU, (ADD,)), Arg(0))))


def test_an_output_is_still_written() -> None:
    build = Builder(2, 3)
    middle = build.apply(Pointwise(EXP), build.input)
    end = build.apply(Pointwise(RELU), middle)
    assert exprs(fuse_pointwise(build.graph(middle, end))) == [EXP, RELU]


def test_an_expensive_result_with_two_readers_is_computed_once() -> None:
    build = Builder(2, 3)
    middle = build.apply(
        Pointwise(EXP), build.apply(Pointwise(EXP), build.apply(Pointwise(EXP), build.input))
    )
    first, second = build.apply(Pointwise(RELU), middle), build.apply(Pointwise(ADD), middle, build.input)
    graph = fuse_pointwise(build.graph(first, second))
    assert [size(one) for one in exprs(graph)] == [3, 1, 1]


def test_what_meets_again_later_is_one_loop() -> None:
    """u = exp exp exp x is read by v and w, and w alone reads v: then w alone reads u."""
    build = Builder(2, 3)
    u = build.apply(Pointwise(EXP), build.apply(Pointwise(EXP), build.apply(Pointwise(EXP), build.input)))
    w = build.apply(Pointwise(MUL), u, build.apply(Pointwise(RELU), u))
    (node,) = fuse_pointwise(build.graph(w)).nodes
    assert node.operands == (build.input,)


def test_a_cheap_result_disappears_into_both_its_readers() -> None:
    build = Builder(2, 3)
    middle = build.apply(Pointwise(RELU), build.input)
    outputs = build.apply(Pointwise(EXP), middle), build.apply(Pointwise(ADD), middle, build.input)
    graph = fuse_pointwise(build.graph(*outputs))
    assert exprs(graph) == [Call(Fn.EXP, (RELU,)), Call(Fn.ADD, (RELU, Arg(0)))]


def test_a_cheap_result_stays_where_a_product_can_compute_it() -> None:
    build = Builder(2, 3)
    middle = build.apply(Pointwise(RELU), build.apply(MatMul(), build.input, build.parameter(3, 3)))
    outputs = build.apply(Pointwise(EXP), middle), build.apply(Pointwise(ADD), middle, build.input)
    assert len(exprs(fuse_pointwise(build.graph(*outputs)))) == 3


def test_a_smaller_array_is_not_computed_for_every_row() -> None:
    build = Builder(2, 3)
    row = build.apply(Pointwise(EXP), build.apply(Expand((1, 3)), build.parameter(3)))
    assert len(fuse_pointwise(build.graph(build.apply(Pointwise(ADD), build.input, row))).nodes) == 3


def test_what_prepare_computes_once_stays_out_of_the_run() -> None:
    build = Builder(2, 3)
    derived = build.apply(Pointwise(EXP), build.parameter(2, 3))
    graph = fuse_pointwise(build.graph(build.apply(Pointwise(ADD), build.input, derived)))
    assert exprs(graph) == [EXP, ADD]


def test_an_array_of_one_number_becomes_that_number() -> None:
    build = Builder(2, 3)
    half = Value("half", ())
    repeated = build.apply(Expand((2, 3)), half)
    node = build.apply(Pointwise(MUL), build.input, repeated)
    constant = Constant(half, np.float32(0.5).tobytes())
    graph = Graph((build.input,), (), tuple(build.nodes), (node,), (constant,))
    (*_, last) = fuse_pointwise(graph).nodes
    assert (last.op, last.operands) == (Pointwise(call(Fn.MUL, Arg(0), 0.5)), (build.input,))


def test_a_number_that_gives_the_result_its_shape_stays_an_array() -> None:
    build = Builder(3)
    ones = Value("ones", (2, 3))
    node = build.apply(Pointwise(ADD), build.input, ones)
    constant = Constant(ones, np.ones((2, 3), np.float32).tobytes())
    graph = Graph((build.input,), (), tuple(build.nodes), (node,), (constant,))
    assert fuse_pointwise(graph).nodes[-1].result.shape == (2, 3)
    fuse_pointwise(graph).check()


def test_a_loop_stays_within_its_limits() -> None:
    build = Builder(2, 3)
    x = build.input
    for _ in range(3 * OPERANDS_MAX):
        x = build.apply(Pointwise(ADD), x, build.parameter(2, 3))
    for _ in range(2 * SIZE_MAX):
        x = build.apply(Pointwise(EXP), x)
    graph = fuse_pointwise(build.graph(x))
    assert all(len(node.operands) <= OPERANDS_MAX for node in graph.nodes)
    assert all(size(one) <= SIZE_MAX for one in exprs(graph))
    assert len(graph.nodes) <= 8


@st.composite
def pointwise_graphs(draw: st.DrawFn) -> Graph:
    """Up to ten pointwise nodes over arrays of two shapes, wired to anything earlier."""
    build = Builder(2, 3)
    values = [build.input, build.parameter(3), build.parameter(2, 3)]
    for _ in range(draw(st.integers(1, 10))):
        expr = draw(
            st.sampled_from([ADD, RELU, call(Fn.SUB, Arg(1), Arg(0)), call(Fn.MAX, Arg(0), Number(1.0))])
        )
        operands = [
            draw(st.sampled_from(values)) for _ in range(2 if expr in (ADD,) or expr.fn is Fn.SUB else 1)
        ]
        values.append(build.apply(Pointwise(expr), *operands))
    return build.graph(*draw(st.lists(st.sampled_from(values), min_size=1, max_size=3)))


@settings(max_examples=60, deadline=None)
@given(pointwise_graphs(), st.integers(0, 99))
def test_any_graph_means_the_same_afterwards(graph: Graph, seed: int) -> None:
    rng = np.random.default_rng(seed)

    def draw(value: Value) -> Array:
        return rng.integers(-3, 4, value.shape).astype(np.float32)

    inputs, parameters = (
        [draw(one) for one in graph.inputs],
        {one.key: draw(one.value) for one in graph.parameters},
    )
    fused = fuse_pointwise(graph)
    fused.check()
    assert len(fused.nodes) <= len(graph.nodes)
    for before, after in zip(
        evaluate(graph, inputs, parameters), evaluate(fused, inputs, parameters), strict=True
    ):
        assert np.array_equal(before, after)

"""Views by arithmetic, and products that read and write through them."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cloud.compiler.backend import build_module
from cloud.compiler.frontend import export
from cloud.compiler.ir import evaluate
from cloud.compiler.ops.contract import MatMul
from cloud.compiler.ops.movement import Permute, Reshape, Slice, Strided
from cloud.compiler.passes import optimise
from cloud.compiler.passes.dead_code import remove_dead_code
from cloud.compiler.passes.strides import absorb_strides
from cloud.compiler.passes.views import through, whole
from cloud.compiler.plan import derived
from tests.unit.cloud.compiler.graphs import Builder, integers, run


@st.composite
def movements(draw: st.DrawFn):
    """An array's shape, and up to five operations that move its numbers."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)))
    found, at = [], shape
    for _ in range(draw(st.integers(0, 5))):
        op = draw(st.sampled_from([_permute, _reshape, _slice]))(draw, at)
        found.append(op)
        at = op.shape(at)
    return shape, found


def _permute(draw, shape):
    return Permute(tuple(draw(st.permutations(range(len(shape))))))


def _reshape(draw, shape):
    sizes, left = [], int(np.prod(shape))
    while left > 1:
        sizes.append(draw(st.sampled_from([one for one in range(1, left + 1) if left % one == 0])))
        left //= sizes[-1]
    return Reshape(tuple(sizes) or (1,))


def _slice(draw, shape):
    axis = draw(st.integers(0, len(shape) - 1))
    start = draw(st.integers(0, shape[axis] - 1))
    return Slice(axis, start, draw(st.integers(start + 1, shape[axis])), draw(st.integers(1, 2)))


@given(movements())
@settings(max_examples=150, deadline=None)
def test_a_view_is_where_numpy_finds_the_numbers(drawn):
    shape, ops = drawn
    x = np.arange(int(np.prod(shape))).reshape(shape)
    view, y = whole(shape), x
    for op in ops:
        view, y = through(view, op) if view is not None else None, op.evaluate(y)
    strided = view.strided() if view is not None else None
    if strided is not None:
        assert strided.shape(shape) == y.shape
        assert np.array_equal(strided.evaluate(x), y)


def test_axes_that_are_merged_and_split_again_have_their_steps():
    view = whole((5, 2, 3, 4, 6))
    for op in (Permute((2, 0, 1, 3, 4)), Reshape((3, 5, 8, 6)), Reshape((3, 5, 2, 4, 6)), Slice(0, 1, 2)):
        view = through(view, op)
    assert view.strided() == Strided((1, 5, 2, 4, 6), (24, 144, 72, 6, 1), 24)


def checked(graph):
    """The graph after the pass, which means the same in numpy and in WebAssembly."""
    after = remove_dead_code(absorb_strides(graph))
    after.check()
    inputs, parameters = integers(graph, 3)
    wanted = evaluate(graph, inputs, parameters)
    for got in (evaluate(after, inputs, parameters), run(build_module({"run": after}), inputs, parameters)):
        for one, other in zip(got, wanted, strict=True):
            assert np.array_equal(one, other)
    return [type(node.op).__name__ for node in after.nodes]


def test_heads_are_taken_apart_and_put_together_without_a_copy():
    build = Builder(2, 5, 24)  # batch, tokens, (q and k and v) x 2 heads x 4 features
    heads = build.apply(Permute((2, 0, 3, 1, 4)), build.apply(Reshape((2, 5, 3, 2, 4)), build.input))
    q, k, v = (
        build.apply(Reshape((2, 2, 5, 4)), build.apply(Slice(0, index, index + 1), heads))
        for index in range(3)
    )
    weights = build.apply(MatMul(), q, k)
    mixed = build.apply(Permute((0, 2, 1, 3)), build.apply(MatMul(rows=False), weights, v))
    assert checked(build.graph(mixed)) == ["MatMul", "MatMul"]


def test_batches_before_tokens_or_behind_them_are_one_product():
    build = Builder(3, 40, 6)
    x = build.apply(Permute((1, 0, 2)), build.input)
    y = build.apply(Permute((1, 0, 2)), build.apply(MatMul(), x, build.parameter(7, 6)))
    assert checked(build.graph(y)) == ["MatMul"]


def test_a_view_that_would_scatter_every_vector_is_still_copied():
    build = Builder(4, 6, 6)
    x = build.apply(Permute((0, 2, 1)), build.input)
    assert checked(build.graph(build.apply(MatMul(), x, build.input))) == ["Permute", "MatMul"]


def test_a_product_that_is_read_twice_stores_in_its_own_order():
    build = Builder(2, 5, 6)
    y = build.apply(MatMul(), build.input, build.parameter(4, 6))
    assert checked(build.graph(build.apply(Permute((1, 0, 2)), y), y)) == ["MatMul", "Permute"]


def test_columns_stay_side_by_side():
    build = Builder(2, 5, 6)
    y = build.apply(MatMul(), build.input, build.parameter(4, 6))
    assert checked(build.graph(build.apply(Permute((0, 2, 1)), y))) == ["MatMul", "Permute"]


def test_an_encoder_layer_copies_nothing():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    graph = remove_dead_code(absorb_strides(optimise(export(layer, (torch.zeros(1, 5, 8),)).graph)))
    run = [node for node in graph.nodes if node.result.name not in derived(graph)]
    assert not [node for node in run if isinstance(node.op, Permute | Slice)]

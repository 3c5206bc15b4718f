"""Movement: torch, the numpy meaning and the compiled module agree bit by bit; nothing else is written."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.compiler.errors import UnsupportedOperator
from cloud.compiler.ir import NUMPY, Node, Op, Value
from cloud.compiler.kernels import kernel_of
from cloud.compiler.ops.indexing import Gather, PutAlong, Scatter, TakeAlong
from cloud.compiler.ops.movement import (
    Cast,
    Concat,
    Expand,
    Flip,
    Pad,
    Permute,
    Slice,
    Strided,
)
from tests.unit.cloud.compiler.graphs import agree
from tests.unit.cloud.compiler.memory import run_kernel

EXAMPLES = settings(max_examples=8, deadline=None)
SIZES = st.sampled_from([1, 2, 3, 4, 5, 7, 16, 17, 33, 70])
SHAPES = st.lists(SIZES, min_size=1, max_size=4).map(tuple).filter(lambda shape: np.prod(shape) < 30000)
X = torch.randn(2, 3, 4, 5)


def same(op: Op, *arrays: np.ndarray) -> None:
    """The kernel writes what numpy means, bit by bit, and not one byte beside it."""
    names = [next(name for name, one in NUMPY.items() if one == array.dtype) for array in arrays]
    values = tuple(
        Value(f"x{index}", array.shape, name)
        for index, (array, name) in enumerate(zip(arrays, names, strict=True))
    )
    result = Value("y", op.shape(*(one.shape for one in values)), op.dtype(*names))
    got = run_kernel(kernel_of(Node(result, op, values)), arrays, result)
    wanted = op.evaluate(*arrays)
    assert np.array_equal(got, wanted, equal_nan=wanted.dtype.kind == "f"), op


def floats(*shape: int) -> np.ndarray:
    """Different numbers, with a NaN among them: it must arrive, too."""
    array = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    array[array == 1] = np.nan
    return array


@EXAMPLES
@given(SHAPES, st.randoms(use_true_random=False))
def test_axes_in_any_order(shape, rng):
    axes = list(range(len(shape)))
    rng.shuffle(axes)
    same(Permute(tuple(axes)), floats(*shape))


@EXAMPLES
@given(SHAPES, st.data())
def test_a_slice_of_any_axis_with_any_step(shape, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    start = data.draw(st.integers(0, shape[axis] - 1))
    stop = data.draw(st.integers(start + 1, shape[axis]))
    same(Slice(axis, start, stop, data.draw(st.integers(1, 4))), floats(*shape))


@EXAMPLES
@given(SHAPES, st.data())
def test_any_number_of_arrays_one_after_another(shape, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    slab = np.prod(shape) // shape[axis]
    lists = st.lists(SIZES, min_size=1, max_size=4)
    sizes = data.draw(lists.filter(lambda sizes: sum(sizes) * slab < 100_000))
    same(Concat(axis), *(floats(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes))


@EXAMPLES
@given(SHAPES, st.sampled_from([0.0, -0.0, 1.5, -np.inf, np.nan]), st.data())
def test_padding_around_every_axis(shape, value, data):
    widths = st.lists(st.sampled_from([0, 0, 1, 2, 5, 9]), min_size=len(shape), max_size=len(shape)).map(
        tuple
    )
    same(Pad(data.draw(widths), data.draw(widths), value), floats(*shape))


@EXAMPLES
@given(SHAPES, st.data())
def test_a_broadcast_made_real(shape, data):
    kept = [data.draw(st.booleans()) for _ in shape]
    front = data.draw(st.lists(st.integers(1, 3), max_size=2))
    x = floats(*(size if keep else 1 for size, keep in zip(shape, kept, strict=True)))
    same(Expand((*front, *shape)), x)


@EXAMPLES
@given(SHAPES, st.data())
def test_any_axes_the_other_way_round(shape, data):
    same(Flip(tuple(data.draw(st.sets(st.integers(0, len(shape) - 1))))), floats(*shape))


@pytest.mark.parametrize(
    ("to", "steps", "offset"), [((5, 3), (2, 1), 0), ((4,), (6,), 1), ((3, 2, 4), (1, 5, 1), 2), ((), (), 7)]
)
def test_sliding_windows_and_diagonals(to, steps, offset):
    same(Strided(to, steps, offset), floats(25))


@pytest.mark.parametrize("dtype", ["i64", "bool"])
def test_numbers_of_the_border_move_in_their_own_width(dtype):
    x = (np.arange(70).reshape(2, 5, 7) % 3).astype(NUMPY[dtype])
    same(Permute((2, 0, 1)), x)
    same(Permute((0, 2, 1)), x)
    same(Slice(1, 1, 5, 2), x)
    same(Flip((0, 2)), x)
    same(Concat(1), x, x[:, :3])
    same(Expand((4, 2, 5, 7)), x)


@pytest.mark.parametrize("shape", [(3, 1), (3, 4), (2, 3, 33), (2, 3, 5, 16)])
def test_colours_are_interleaved(shape):
    same(Permute((0, *range(2, len(shape)), 1) if len(shape) > 2 else (1, 0)), floats(*shape))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
def test_a_single_number_moves_like_any_other(shape):
    same(Permute(tuple(range(len(shape)))), floats(*shape))
    same(Pad((2,) * len(shape), (1,) * len(shape)), floats(*shape))
    same(Expand((3, *shape)), floats(*shape))


@pytest.mark.parametrize("shape", [(1000, 3), (3, 1000), (300, 300)])
def test_long_runs_are_copied_whole(shape):
    same(Slice(1, 0, shape[1] - 1), floats(*shape))
    same(Slice(0, 1, 3), floats(*shape))
    same(Pad((300, 0), (0, 300)), floats(*shape))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 11])
@pytest.mark.parametrize(
    "pair", ["i64 i32", "i32 i64", "bool i32", "i32 bool", "u8 i32", "i32 u8", "i32 i32"]
)
def test_integers_change_their_width(pair, count):
    source, target = pair.split()
    numbers = np.arange(-3, count - 3) if source in ("i64", "i32") else np.arange(count) % 2 * 255
    same(Cast(target), numbers.astype(NUMPY[source]))


@st.composite
def lookups(draw):
    """An array, an axis and index numbers that reach beyond both of its ends."""
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 4, 5, 9]), min_size=1, max_size=4).map(tuple))
    axis = draw(st.integers(0, len(shape) - 1))
    reach = st.integers(-shape[axis] - 3, shape[axis] + 3)
    return floats(*shape), axis, reach


def indices(draw, reach, shape) -> np.ndarray:
    count = int(np.prod(shape))
    return np.array(draw(st.lists(reach, min_size=count, max_size=count)), np.int32).reshape(shape)


@EXAMPLES
@given(lookups(), st.lists(st.integers(1, 4), max_size=2), st.booleans(), st.data())
def test_whole_slices_are_looked_up_and_put_back(lookup, shape, add, data):
    x, axis, reach = lookup
    found = indices(data.draw, reach, shape)
    same(Gather(axis), x, found)
    source = np.ones(Gather(axis).shape(x.shape, found.shape), np.float32)
    same(Scatter(axis, add), x, found, source)
    same(Scatter(axis, add), np.nan_to_num(x).astype(np.int32), found, source.astype(np.int32))


@EXAMPLES
@given(lookups(), st.integers(1, 6), st.booleans(), st.data())
def test_single_elements_are_looked_up_and_put_back(lookup, count, add, data):
    x, axis, reach = lookup
    shape = [
        count if other == axis else data.draw(st.integers(1, size)) for other, size in enumerate(x.shape)
    ]
    found = indices(data.draw, reach, shape)
    same(TakeAlong(axis), x, found)
    same(PutAlong(axis, add), x, found, np.full(shape, 2, np.float32))


class Forms(torch.nn.Module):
    """A function of the input and of two constant index arrays, as a model."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.register_buffer("i", torch.tensor([2, 0, 1]))
        self.register_buffer("mask", torch.tensor([[True, False, True, False]] * 3))

    def forward(self, *inputs):
        return tuple(self.function(self, *inputs))


def test_views_and_permutations():
    agree(
        Forms(
            lambda _, x: (
                x.permute(0, 2, 3, 1),
                x.transpose(1, -1),
                x[0, 0].t(),
                x[0, 0].T,
                x.mT,
                x.movedim((0, 1), (-1, 0)),
                x.flatten(1).unflatten(1, (3, 20)).unsqueeze(1).squeeze(1).view(2, 60),
                x.swapaxes(0, 1).contiguous().reshape(-1),
                F.pixel_shuffle(x.reshape(2, 12, 1, 5), 2),
                F.pixel_unshuffle(x[:, :, :, :4], 2),
                F.channel_shuffle(x.transpose(1, 2), 2),
                F.glu(x[..., :4]),
                x.flip(1, -1),
                torch.fliplr(x),
                x.roll((1, -2), (1, -2)),
                x.roll(3),
                *(torch.rot90(x, turns, (2, 3)) for turns in range(4)),
            )
        ),
        X,
    )


def test_slices_and_joins():
    agree(
        Forms(
            lambda _, x: (
                x[:, 1:, ::2, -3:-1],
                x[0, ..., -1],
                x.narrow(1, 1, 2),
                *x.split(2, 1),
                *x.split([1, 2], 1),
                *x.chunk(2, -1),
                *x.unbind(1),
                *torch.tensor_split(x, 2, 3),
                x.unfold(3, 3, 1),
                x.diagonal(1, 2, 3),
                x.diagonal(-1, 3, 0),
                torch.cat([x, x[:, :1]], 1),
                torch.cat([x, torch.ones(2, 3, 4, 1, dtype=torch.int64)], -1),
                torch.stack([x, x], -1),
                torch.hstack([x, x]),
                torch.hstack([x[0, 0, 0], x[0, 0, 1]]),
                torch.vstack([x[0, 0, 0], x[0, 0, 1]]),
                torch.dstack([x[0, 0], x[0, 1]]),
                torch.dstack([x[0, 0, 0], x[0, 0, 1]]),
                torch.column_stack([x[0, 0, 0], x[0, 0, 1]]),
                torch.block_diag(x[0, 0], x[0, 1]),
                F.unfold(x, (2, 3), dilation=(1, 2), padding=1, stride=(2, 1)),
            )
        ),
        X,
    )


def test_repetition_and_masks():
    agree(
        Forms(
            lambda _, x: (
                x[:, :1].expand(-1, 3, -1, -1) * 1,
                torch.broadcast_to(x, (3, 2, 3, 4, 5)),
                x.repeat(2, 1, 1, 2),
                x[0, 0].tile(2, 1, 3),
                x.repeat_interleave(2, 1),
                x.repeat_interleave(3),
                torch.broadcast_tensors(x, x[0])[1] * 1,
                *torch.meshgrid(x[0, 0, 0], x[0, 0, 1], x[0, 0, 2], indexing="ij"),
                *torch.meshgrid(x[0, 0, 0], x[0, 0, :, 1], indexing="xy"),
                x.tril(1),
                x.triu(-1),
                torch.diag_embed(x[0, 0]),
                x + torch.linspace(0, 1, 5),
                x[..., :4] + torch.eye(4),
            )
        ),
        X,
    )


def test_padding_by_numbers_and_by_what_is_inside():
    agree(
        Forms(
            lambda _, x: (
                F.pad(x, (1, -1, 2, 0)),
                F.pad(x, (-1, -1)),
                F.pad(x, (1, 1), value=2.0),
                F.pad(x, (3, 4, 2, 2), mode="reflect"),
                F.pad(x, (7, 1, 2, 6), mode="replicate"),
                F.pad(x, (1, 5, 2, 2), mode="circular"),
                F.pad(x[0], (3, 1), mode="reflect"),
            )
        ),
        X,
    )


def test_indexing_with_constant_arrays():
    agree(
        Forms(
            lambda model, x: (
                x[:, model.i],
                x[:, model.i, :, model.i],
                x[:, [0, -1], [1, 1]],
                x.index_select(1, model.i),
                x.take(model.i),
                x.index_add(1, model.i, x, alpha=2),
                x.index_copy(1, model.i, x * 2),
                x.index_fill(1, model.i, 7.0),
                F.one_hot(model.i, 4),
                x.index_put((model.i[:2] - 1,), x, accumulate=True),
                x.masked_fill(model.mask[None, :, :, None], 0.0),
                x[torch.arange(2), model.i[:2]],
            )
        ),
        X,
    )


def test_indexing_with_computed_arrays():
    i = torch.tensor([[2, 0, 1], [1, 1, 0]])
    agree(
        Forms(
            lambda _, x, i: (
                F.embedding(i, x[0, 0], padding_idx=0),
                x[0, 0, :2].gather(1, i),
                torch.take_along_dim(x[0, 0, :2], i, 1),
                torch.take_along_dim(x[0, 0, :1], i, 1),
                torch.take_along_dim(x, i),
                x[0, i],
                x[0, 0].scatter(0, i, x[0, 1]),
                x[0, 0].scatter(0, i, 1.0),
                x[0, 0].scatter_add(0, i, x[0, 1]),
                x[0, 0].scatter_reduce(0, i, x[0, 1], "sum"),
                F.one_hot(i, 4).float(),
            )
        ),
        X,
        i,
    )


def test_writing_in_place_becomes_new_arrays():
    def write(model, x, m, i):
        a, b, c, d = torch.zeros_like(x), x.clone(), x.clone(), x[0].clone()
        a[:, 1:] = x[:, :2]
        a[0, :, 1] += 1
        a[..., ::2] = 5
        b[x > 0] = 0.0
        c[m] = 3.0
        d[i] = 1.0
        return a, b, c, d

    agree(Forms(write), X, torch.tensor([True, False]), torch.tensor([1, 1, 0]))


def test_truth_values_and_integers_move_too():
    i = torch.randint(0, 9, (3, 70))
    agree(Forms(lambda _, x, m: (x.t(), x[1:], m.t(), torch.cat([m, ~m]), m[:, :3].repeat(2, 2))), i, i > 4)


@pytest.mark.parametrize(
    ("function", "advice"),
    [
        (lambda m, x: [F.dropout(x, 0.5, True)], "randomness"),
        (lambda m, x: [x.index_put((m.mask[0, :2].long(),), x)], "where"),
        (lambda m, x: [x.scatter(0, m.i[:2, None, None, None], x, reduce="multiply")], "scatter_add"),
        (lambda m, x: [torch.diag_embed(x, 1)], "diagonal"),
    ],
)
def test_what_is_not_covered_says_what_to_do(function, advice):
    with pytest.raises(UnsupportedOperator, match=advice):
        agree(Forms(function), X)

"""Operations along axes: torch, the numpy meaning and the kernels agree, for any axes and edge values."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.compiler.errors import CompileError
from cloud.compiler.frontend import export
from cloud.compiler.kernels.axes import Group, groups
from cloud.compiler.ops.reduce import ArgReduce, Cumulate, Reduce, ReduceKind, Softmax
from tests.unit.cloud.compiler.graphs import agree, agree_op

FEW = settings(max_examples=30, deadline=None)
SIZES = st.lists(st.sampled_from([1, 1, 2, 3, 4, 5, 7, 8, 17, 33]), min_size=1, max_size=4).filter(
    lambda sizes: np.prod(sizes) < 4000
)
EXTREMES = st.sampled_from([ReduceKind.MAX, ReduceKind.MIN])
SPECIALS = np.array([0.0, -0.0, 1.0, np.nan, np.inf, -np.inf], np.float32)


class Along(torch.nn.Module):
    """A function as a model."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *arrays):
        return self.function(*arrays)


def numbers(shape, seed, *, edges=0.0, integers=False):
    """Normal numbers, some of them (``edges``, a share) replaced by special ones."""
    rng = np.random.default_rng(seed)
    if integers:
        return rng.integers(-3, 4, shape).astype(np.int32)
    x = rng.standard_normal(shape).astype(np.float32)
    return np.where(rng.random(shape) < edges, rng.choice(SPECIALS, shape), x).astype(np.float32)


@st.composite
def some_axes(draw, sizes):
    return tuple(sorted(draw(st.sets(st.integers(0, len(sizes) - 1), min_size=1))))


@FEW
@given(st.data(), SIZES, st.sampled_from(ReduceKind), st.booleans(), st.booleans(), st.integers(0, 99))
def test_a_reduction_of_any_axes_is_what_numpy_says(data, sizes, kind, keepdims, integers, seed):
    axes = data.draw(some_axes(sizes))
    if kind is ReduceKind.MEAN:
        integers = False
    x = numbers(sizes, seed, integers=integers)
    agree_op(Reduce(kind, axes, keepdims), x, tolerance=1e-6 * cancelled(kind, axes, x))


def cancelled(kind, axes, x) -> float:
    """How many times as large as the largest sum its terms are: so much larger is its rounding."""
    if kind not in (ReduceKind.SUM, ReduceKind.MEAN):
        return 1.0
    result = np.abs(x.astype(np.float64).sum(axes)).max()
    return max(1.0, float(np.abs(x).sum(axes).max() / max(result, 1e-30)))


@FEW
@given(st.data(), SIZES, st.sampled_from([ReduceKind.MAX, ReduceKind.MIN, ReduceKind.ANY, ReduceKind.ALL]))
def test_nan_and_infinity_win_where_they_should(data, sizes, kind):
    axes = data.draw(some_axes(sizes))
    agree_op(Reduce(kind, axes), numbers(sizes, data.draw(st.integers(0, 99)), edges=0.3))


@FEW
@given(SIZES, st.data(), EXTREMES, st.booleans(), st.sampled_from([0.0, 0.1, 0.9]))
def test_the_first_of_equals_is_found_and_the_first_nan_before_it(sizes, data, kind, integers, edges):
    axis = data.draw(st.integers(0, len(sizes) - 1))
    x = numbers(sizes, data.draw(st.integers(0, 99)), edges=edges, integers=integers)
    agree_op(ArgReduce(kind, axis), x)


@pytest.mark.parametrize("kind", EXTREMES.elements)
@pytest.mark.parametrize("length", [1, 3, 6])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_row_of_one_number_has_its_extreme_at_the_start(kind, length, number):
    assert agree_op(ArgReduce(kind, 1), np.full((2, length), number, np.float32)).tolist() == [0, 0]


@FEW
@given(SIZES, st.data(), st.sampled_from(ReduceKind), st.booleans())
def test_running_sums_products_and_extremes(sizes, data, kind, integers):
    if kind in (ReduceKind.MEAN, ReduceKind.ANY, ReduceKind.ALL):
        kind = ReduceKind.SUM
    axis = data.draw(st.integers(0, len(sizes) - 1))
    agree_op(Cumulate(kind, axis), numbers(sizes, data.draw(st.integers(0, 99)), integers=integers))


@FEW
@given(SIZES, st.data(), st.booleans(), st.sampled_from([0.1, 1.0, 50.0]))
def test_softmax_along_any_axis(sizes, data, log, scale):
    axis = data.draw(st.integers(0, len(sizes) - 1))
    agree_op(Softmax(axis, log), numbers(sizes, data.draw(st.integers(0, 99))) * np.float32(scale))


@pytest.mark.parametrize("shape", [(3, 5), (2, 64), (2, 65), (1, 1000), (2, 7, 5), (2, 70, 19)])
@pytest.mark.parametrize("log", [False, True])
def test_softmax_of_short_and_long_rows_and_columns(shape, log):
    got = agree_op(Softmax(1, log), numbers(shape, 0) * np.float32(10))
    assert (np.exp(got) if log else got).sum(1) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("length", [6, 130])
def test_softmax_of_masked_rows_is_zero_there_and_nan_where_all_is_masked(length):
    x = numbers((3, length), 1)
    x[0, ::2], x[1] = -np.inf, -np.inf
    got = agree_op(Softmax(1), x)
    assert (got[0, ::2] == 0).all()
    assert np.isnan(got[1]).all()
    assert np.isfinite(got[2]).all()


@pytest.mark.parametrize("position", [0, 5, 99])
def test_one_nan_makes_its_row_nan_and_no_other(position):
    x = numbers((3, 100), 2)
    x[1, position] = np.nan
    assert np.isnan(agree_op(Softmax(1), x)).all(1).tolist() == [False, True, False]


def test_large_numbers_do_not_overflow_a_softmax():
    got = agree_op(Softmax(1), np.array([[3e38, 3e38, -3e38]], np.float32))
    assert got.tolist() == [[0.5, 0.5, 0.0]]


@pytest.mark.parametrize(
    ("shape", "axes"), [((100_001,), (0,)), ((30_011, 3), (0,)), ((300, 2, 400), (0, 2))]
)
def test_a_long_sum_of_equal_signs_loses_no_digit(shape, axes):
    agree_op(Reduce(ReduceKind.SUM, axes), np.abs(numbers(shape, 3)) + 1, tolerance=5e-7)


def test_axes_of_one_position_vanish_and_equal_neighbours_merge():
    assert groups((2, 1, 3, 4, 5), (0, 1, 4)) == (
        Group(2, 240, True),
        Group(12, 20, False),
        Group(5, 4, True),
    )
    assert groups((1, 1), (0,)) == ()


TORCH = {
    "sum": lambda x: (x.sum(1), x.sum((1, -1), True), x.sum((0, 2), keepdim=True)),
    "mean": lambda x: (x.mean(-1), x.mean((1, 2)), x.mean((0, 2), True)),
    "prod": lambda x: (x.prod(1), x.prod(2, keepdim=True)),
    "amax": lambda x: (x.amax((1, 2)), x.amin(1, True), *torch.aminmax(x, dim=1)),
    "max": lambda x: (*x.max(1), *x.min(2, True), torch.max(x, -x), torch.min(x, -x)),
    "argmax": lambda x: (x.argmax(1), x.argmin(-1, True)),
    "truth": lambda x: ((x > 2).any(1), (x > -3).all((1, 2)), (x > 0).any(2, True), (x > 0).sum(1)),
    "var": lambda x: (
        x.var(1),
        x.var((1, 2), correction=0),
        x.var(-1, False, True),
        x.std((0, 1), correction=2),
    ),
    "std": lambda x: (x.std(-1), *torch.var_mean(x, 1), *torch.std_mean(x, (1, 2), keepdim=True)),
    "norm": lambda x: (x.norm(dim=1), x.norm(1, 1), torch.linalg.vector_norm(x, float("inf"), (1, 2))),
    "norms": lambda x: (torch.linalg.vector_norm(x, 3, 1), torch.linalg.norm(x, dim=1), x.norm(0, 1)),
    "matrix norm": lambda x: (
        torch.linalg.norm(x, dim=(1, 2)),
        torch.linalg.vector_norm(x, -float("inf"), 1),
    ),
    "logsumexp": lambda x: (x.logsumexp(1), x.logsumexp((1, 2), True)),
    "cumulative": lambda x: (x.cumsum(1), x.cumsum(-1), x.cumprod(1), x.cummax(2)[0], x.cummin(1)[0]),
    "softmax": lambda x: (x.softmax(1), x.log_softmax(-1), F.softmin(x, 2)),
    "normalize": lambda x: (
        F.normalize(x, dim=1),
        F.normalize(x, 1.0, -1),
    ),
    "similarity": lambda x: (torch.cosine_similarity(x, x + 1, 1), torch.cosine_similarity(x, x[:, :1], 2)),
    "distance": lambda x: (
        F.pairwise_distance(x, x + 1),
        torch.count_nonzero(x, 1),
        x.nansum(1),
    ),
    "distances": lambda x: (
        torch.cdist(x, x[:, :2]),
        torch.cdist(x, x + 1, 1.0),
        torch.special.logsumexp(x, 1),
    ),
    "losses": lambda x: (F.mse_loss(x, x + 1, reduction="none"), F.l1_loss(x, -x), F.mse_loss(x, -x)),
    "whole": lambda x: (x.sum(), x.mean(), x.var(), x.max(), x.argmin(), (x > 0).all(), x.norm(), x.prod()),
    "integers": lambda x: ((x > 0).long().sum(1), (x * 3).int().amax(1), (x * 3).int().argmax(2)),
    "converted": lambda x: ((x > 0).sum(1, dtype=torch.float32), (x * 3).int().float().mean(1)),
    "single": lambda x: (
        x[:1, :1].sum(1),
        x[:1, :1, :1].softmax(1),
        x[0, 0, 0].sum() + x[:1, 0],
        x[:, 0].amax(1),
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_torch_says_the_same(name):
    torch.manual_seed(0)
    agree(Along(TORCH[name]), torch.randn(3, 5, 6))


def test_infinities_in_a_logsumexp_are_as_in_torch():
    x = torch.tensor([[float("inf"), 1.0], [-float("inf"), -float("inf")], [1.0, -float("inf")]])
    agree(Along(lambda x: x.logsumexp(1)), x)


def test_a_mean_may_leave_nan_out():
    x = torch.tensor([[1.0, float("nan"), 2.0], [float("nan")] * 3])
    agree(Along(lambda x: (x.nanmean(1), x.nansum(1))), x)


@pytest.mark.parametrize(
    "function",
    [lambda x: x.cummax(1)[1] + 1, lambda x: torch.linalg.norm(x, 2, dim=(1, 2)), lambda x: x.nanmedian()],
)
def test_what_is_not_covered_says_so(function):
    with pytest.raises(CompileError, match=r"median|linalg_norm|cummax"):
        export(Along(function), (torch.randn(2, 3, 4),))

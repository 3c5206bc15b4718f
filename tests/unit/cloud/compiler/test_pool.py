"""Pooling and interpolation: torch, numpy and WebAssembly agree, whatever the window."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from cloud.compiler.ir import Node, Value
from cloud.compiler.kernels import kernel_of
from cloud.compiler.ops.pool import Pool, PoolIndex, PoolKind, Resample, Window, pieces
from tests.unit.cloud.compiler.graphs import agree, close
from tests.unit.cloud.compiler.memory import run_kernel

SMALL = st.integers(1, 3)


class Indices(nn.Module):
    """Both results of a maximum."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.options = options

    def forward(self, x):
        return nn.functional.max_pool2d_with_indices(x, **self.options)


def image(channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(seed))


@given(SMALL, SMALL, SMALL, SMALL, st.booleans(), st.sampled_from([1, 3, 4, 6, 9]), st.integers(5, 9))
@settings(max_examples=6, deadline=None)
def test_maxima_of_any_window(high, wide, stride, dilation, ceil, channels, size):
    span = dilation * (max(high, wide) - 1) + 1
    assume(span <= size)
    padding = min(high, wide) // 2
    options = {"kernel_size": (high, wide), "stride": stride, "padding": padding, "dilation": dilation}
    x = image(channels, size, size + 1)
    agree(nn.MaxPool2d(**options, ceil_mode=ceil), x, tolerance=0)
    agree(Indices(**options, ceil_mode=ceil), x, tolerance=0)


@given(SMALL, SMALL, SMALL, st.booleans(), st.booleans(), st.sampled_from([1, 4, 7]), st.integers(4, 9))
@settings(max_examples=6, deadline=None)
def test_means_of_any_window(high, wide, stride, ceil, include, channels, size):
    pool = nn.AvgPool2d((high, wide), stride, min(high, wide) // 2, ceil, include)
    agree(pool, image(channels, size, size + 1))


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool1d(3, 2, 1),
        nn.AvgPool1d(2),
        nn.AvgPool1d(3, 2, 1, count_include_pad=False),
        nn.AdaptiveAvgPool1d(3),
        nn.AdaptiveMaxPool1d(4),
        nn.Upsample(scale_factor=2, mode="linear"),
        nn.Upsample(size=5, mode="nearest"),
    ],
)
def test_signals(pool):
    agree(pool, torch.randn(2, 5, 11))


@pytest.mark.parametrize("size", [1, (1, 3), (3, 2), 7, (5, 4)])
def test_adaptive_windows_of_equal_and_unequal_size(size):
    agree(nn.AdaptiveAvgPool2d(size), image(5, 7, 8))
    agree(nn.AdaptiveMaxPool2d(size), image(5, 7, 8), tolerance=0)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic"])
@pytest.mark.parametrize("to", [{"size": (9, 3)}, {"scale_factor": 2}, {"scale_factor": (0.7, 1.7)}])
def test_interpolation(mode, to):
    agree(nn.Upsample(mode=mode, **to), image(3, 6, 5), tolerance=1e-6)


@pytest.mark.parametrize("size", [(9, 3), (1, 1), (6, 5)])
def test_interpolation_with_aligned_corners(size):
    agree(nn.Upsample(size=size, mode="bilinear", align_corners=True), image(3, 6, 5), tolerance=2e-6)


def test_not_a_number_wins_and_is_pointed_at():
    x = image(5, 6, 6)
    x[0, :, 2, 3] = float("nan")
    agree(nn.MaxPool2d(2), x, tolerance=0)
    agree(Indices(kernel_size=2), x, tolerance=0)


def test_the_last_of_several_nans_is_pointed_at_as_in_torch():
    x = image(5, 6, 6)
    x[0, :, 2:4, 2:4] = float("nan")
    x[1, 2, 0, 0], x[1, 2, 1, 1] = float("nan"), float("inf")
    agree(Indices(kernel_size=3, stride=2, padding=1), x, tolerance=0)


class Function(nn.Module):
    """A function as a model."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def test_positions_of_signals_and_of_adaptive_maxima():
    signal = torch.randn(2, 5, 11)
    agree(Function(lambda x: nn.functional.max_pool1d(x, 3, 2, 1, return_indices=True)), signal, tolerance=0)
    agree(Function(lambda x: nn.functional.adaptive_max_pool1d(x, 4, True)), signal, tolerance=0)
    agree(Function(lambda x: nn.functional.adaptive_max_pool2d(x, (2, 5), True)), image(3, 5, 7), tolerance=0)


def test_large_windows_are_pooled_axis_by_axis():
    graph = agree(nn.MaxPool2d(5, 1, 2), image(6, 9, 9), tolerance=0)
    assert sum(isinstance(node.op, Pool) for node in graph.nodes) == 2
    agree(nn.AvgPool2d(7, 1, 3, count_include_pad=False), image(6, 9, 9))


def test_a_single_item_without_a_batch():
    agree(Function(lambda x: nn.functional.max_pool2d(x[0], 2)), image(3, 5, 7), tolerance=0)
    agree(Function(lambda x: nn.functional.avg_pool2d(x[1], 2, divisor_override=3)), image(3, 5, 7))


WINDOWS = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=6)


def windows(drawn) -> tuple[Window, ...]:
    """Any windows, also ones that torch never makes: out of order, of changing sizes."""
    return tuple(Window(start, count, divisor) for start, count, divisor in drawn)


@given(WINDOWS, WINDOWS, SMALL, st.sampled_from([1, 3, 4, 6, 9]), st.booleans())
@settings(max_examples=30, deadline=None)
def test_any_windows_at_all_and_not_a_byte_beside_the_result(rows, columns, dilation, channels, nan):
    rows, columns = windows(rows), windows(columns)
    x = np.random.default_rng(0).normal(size=(2, 13, 14, channels)).astype(np.float32)
    if nan:
        x[:, ::3, ::2] = np.nan
    pair = (dilation, dilation)
    ops = [Pool(kind, rows, columns, pair) for kind in PoolKind] + [PoolIndex(rows, columns, pair)]
    for op in ops:
        result = Value("y", op.shape(x.shape), op.dtype("f32"))
        got = run_kernel(kernel_of(Node(result, op, (Value("x", x.shape),))), [x], result)
        close(got, op.evaluate(x), 1e-6, str(op))


def test_windows_that_are_alike_share_a_loop():
    cut, whole = Window(0, 2), [Window(start, 3) for start in (1, 3, 5)]
    assert [one.repeats for one in pieces((cut, *whole, Window(7, 2)))] == [1, 3, 1]
    assert [one.repeats for one in pieces((*whole, Window(6, 3)))] == [3, 1]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("taps", [1, 2, 4])
def test_weighted_sums_of_any_positions(axis, taps):
    rng = np.random.default_rng(axis)
    x = rng.normal(size=(3, 5, 7)).astype(np.float32)
    indices = rng.integers(-9, 9, (6, taps)).astype(np.int32)
    weights = rng.normal(size=(6, taps)).astype(np.float32)
    op = Resample(axis)
    result = Value("y", op.shape(x.shape, indices.shape, weights.shape))
    values = (Value("x", x.shape), Value("i", indices.shape, "i32"), Value("w", weights.shape))
    got = run_kernel(kernel_of(Node(result, op, values)), [x, indices, weights], result)
    close(got, op.evaluate(x.astype(np.float64), indices, weights), 1e-6, "resample")

"""Convolutions: torch, the numpy meaning and the kernels agree on every form of them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cloud.compiler.errors import UnsupportedOperator
from cloud.compiler.expr import Arg, Fn, call
from cloud.compiler.frontend import export
from cloud.compiler.ops.image import PANEL, Border, Conv, Depthwise, PadImage, Phases
from cloud.compiler.ops.movement import Permute, Reshape
from cloud.compiler.plan import derived
from tests.unit.cloud.compiler.graphs import agree, agree_op

EPILOGUE = call(Fn.RELU, call(Fn.ADD, call(Fn.ADD, Arg(0), Arg(1)), Arg(2)))
small = st.integers(0, 2)
borders = st.builds(Border, small, small, small, small)
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


def numbers(*shape: int) -> np.ndarray:
    """The same for the same shape; any sum of some thousand products of them is exact in float32."""
    return np.random.default_rng(sum(shape)).integers(-4, 5, shape).astype(np.float32)


@st.composite
def layers(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    """A convolution layer and the shape of an input."""
    spatial = draw(st.sampled_from([1, 2]))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = groups * draw(st.integers(1, 7)), groups * draw(st.sampled_from([1, 3, 8, 11]))

    def each(*values: int) -> tuple[int, ...]:
        return tuple(draw(st.sampled_from(values)) for _ in range(spatial))

    kernel, stride, dilation = each(1, 2, 3, 5), each(1, 2, 3), each(1, 1, 2)
    bias = draw(st.booleans())
    shape = (draw(st.integers(1, 2)), inputs, *each(9, 10, 14))
    if draw(st.booleans()):
        kind = (nn.ConvTranspose1d, nn.ConvTranspose2d)[spatial - 1]
        room = [max(one) - 1 for one in zip(stride, dilation, strict=True)]
        more = tuple(draw(st.integers(0, one)) for one in room)
        return kind(inputs, outputs, kernel, stride, each(0, 1, 2), more, groups, bias, dilation), shape
    kind = (nn.Conv1d, nn.Conv2d)[spatial - 1]
    padding = draw(st.sampled_from(["valid", "same", each(0, 1, 2)]))
    stride = 1 if padding == "same" else stride
    return kind(inputs, outputs, kernel, stride, padding, dilation, groups, bias), shape


@given(layers())
@settings(max_examples=24, deadline=None, derandomize=True)
def test_any_convolution_layer_agrees_with_torch(case):
    layer, shape = case
    agree(layer, torch.randn(shape, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("channels", [1, 4, 7])
def test_depthwise_layers_with_any_number_of_channels(channels, multiplier):
    layer = nn.Conv2d(channels, channels * multiplier, 3, stride=2, padding=1, groups=channels)
    agree(layer, torch.randn(2, channels, 9, 11))


def test_one_image_without_a_batch_axis():
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3)

        def forward(self, x):
            return self.conv(x[0]).unsqueeze(0)

    agree(Single(), torch.randn(1, 3, 8, 9))


def test_a_weight_that_the_model_computes():
    class Modulated(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 3, 3, 3))

        def forward(self, x, scale):
            return nn.functional.conv2d(x, self.weight * scale.reshape(1, 3, 1, 1), padding=1)

    agree(Modulated(), torch.randn(1, 3, 7, 7), torch.randn(1, 3))


def test_a_transposed_convolution_of_volumes_is_refused_with_advice():
    with pytest.raises(UnsupportedOperator, match="conv3d"):
        export(nn.ConvTranspose3d(1, 2, 3), (torch.randn(1, 1, 5, 5, 5),))


@given(
    st.integers(1, 2),
    st.integers(5, 9),
    st.integers(5, 9),
    st.integers(1, 9),
    pairs,
    pairs,
    borders,
    st.data(),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_direct_kernel_computes_epilogue_and_halo(b, h, w, c, stride, kernel, halo, data):
    outputs = data.draw(st.integers(1, 20))
    op = Conv(outputs, stride, epilogue=EPILOGUE, halo=halo)
    x, weights = numbers(b, h, w, c), numbers(-(-outputs // PANEL), *kernel, c, PANEL)
    image = Conv(outputs, stride).shape(x.shape, weights.shape)
    agree_op(op, x, weights, numbers(outputs), numbers(*image), tolerance=0)


@given(
    st.builds(Phases, *[st.integers(1, 2)] * 2, *[st.integers(0, 1)] * 2),
    st.integers(1, 2),
    st.tuples(*[st.integers(5, 8)] * 2),
    st.integers(1, 9),
    pairs,
    borders,
    st.integers(1, 20),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_the_direct_kernel_computes_phases_with_epilogue_and_halo(phases, b, size, c, kernel, halo, outputs):
    op = Conv(outputs, epilogue=EPILOGUE, halo=halo, phases=phases)
    x, weights = numbers(b, *size, c), numbers(phases.count * -(-outputs // PANEL), *kernel, c, PANEL)
    image = Conv(outputs, phases=phases).shape(x.shape, weights.shape)
    agree_op(op, x, weights, numbers(outputs), numbers(*image), tolerance=0)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.ConvTranspose2d(5, 8, 4, 2, 1), (2, 5, 6, 7)),
        (nn.ConvTranspose2d(5, 12, 3, 2, 1, output_padding=1), (1, 5, 6, 7)),
        (nn.ConvTranspose2d(4, 8, 2, 2), (1, 4, 5, 5)),
        (nn.ConvTranspose2d(4, 8, (4, 5), (2, 1), (2, 1)), (1, 4, 6, 7)),
        (nn.ConvTranspose1d(6, 8, 4, 2, 1), (2, 6, 9)),
    ],
)
def test_a_transposed_convolution_of_stride_2_is_one_operation(layer, shape):
    """Nothing is interleaved; its norm, its activation and the next one's border are done as it stores."""
    dimensions = len(shape) - 2
    norm = (nn.BatchNorm1d, nn.BatchNorm2d)[dimensions - 1](layer.out_channels)
    torch.nn.init.uniform_(norm.running_mean, -1, 1)
    after = (nn.Conv1d, nn.Conv2d)[dimensions - 1](layer.out_channels, 3, 3, padding=1)
    graph = agree(nn.Sequential(layer, norm, nn.ReLU(), after), torch.randn(shape), tolerance=2e-6)
    early = derived(graph)
    late = [node.op for node in graph.nodes if node.result.name not in early]
    kinds = {type(one) for one in late}
    assert kinds <= {Conv, PadImage, Permute, Reshape}, kinds
    first, second = (one for one in late if isinstance(one, Conv))
    assert (first.phases.count > 1, second.phases.count) == (True, 1)
    assert first.halo != Border()


def test_a_convolution_has_phases_or_a_stride():
    with pytest.raises(ValueError, match="phases"):
        Conv(8, (2, 2), phases=Phases(2, 2)).shape((1, 8, 8, 3), (4, 3, 3, 3, PANEL))


@given(
    st.integers(1, 2), st.integers(5, 9), st.integers(5, 9), st.integers(1, 9), pairs, pairs, borders, pairs
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_the_depthwise_kernel_computes_epilogue_and_halo(b, h, w, c, stride, kernel, halo, dilation):
    dilation = tuple(min(one, 2) for one in dilation)
    x, weights = numbers(b, h, w, c), numbers(*kernel, c)
    image = Depthwise(stride, dilation).shape(x.shape, weights.shape)
    op = Depthwise(stride, dilation, EPILOGUE, halo)
    agree_op(op, x, weights, numbers(c), numbers(*image), tolerance=0)


def test_a_pointwise_convolution_walks_through_all_rows_as_one():
    x, weights = numbers(2, 33, 31, 24), numbers(2, 1, 1, 24, PANEL)
    agree_op(Conv(12, epilogue=EPILOGUE), x, weights, numbers(12), numbers(2, 33, 31, 12), tolerance=0)


def test_weights_that_no_cache_holds_are_read_in_large_blocks():
    agree_op(Conv(64), numbers(1, 12, 12, 256), numbers(8, 3, 3, 256, PANEL), tolerance=0)


def test_lanes_of_a_panel_that_are_no_outputs_may_hold_anything():
    weights = numbers(2, 2, 2, 5, PANEL)
    weights[1, ..., 3:] = np.nan
    got = agree_op(Conv(11), numbers(1, 6, 6, 5), weights, tolerance=0)
    assert np.isfinite(got).all()


def test_an_infinite_pixel_reaches_only_the_windows_that_see_it():
    x = numbers(1, 7, 7, 3)
    x[0, 0, 0, 0] = np.inf
    got = agree_op(Conv(8), x, np.abs(numbers(1, 3, 3, 3, PANEL)) + 1, tolerance=0)
    assert np.isinf(got[0, 0, 0]).all()
    assert np.isfinite(got[0, 1:]).all()


@given(st.lists(st.integers(-2, 3), min_size=4, max_size=4), pairs, st.integers(1, 6), st.integers(1, 2))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_border_adds_zeros_or_cuts_off(border, spread, channels, batch):
    agree_op(PadImage(Border(*border), spread), numbers(batch, 5, 6, channels), tolerance=0)


def test_a_border_that_leaves_nothing_is_an_error():
    with pytest.raises(ValueError, match="leaves nothing"):
        PadImage(Border(top=-3, bottom=-3)).shape((1, 5, 5, 1))

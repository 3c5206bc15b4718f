"""Normalisation: layers as torch computes them, rows of any length, statistics that are hard to keep."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cloud.compiler.errors import UnsupportedOperator
from cloud.compiler.expr import Arg, Fn, call
from cloud.compiler.frontend import export
from cloud.compiler.ops.movement import Permute
from cloud.compiler.ops.pointwise import Pointwise
from cloud.compiler.ops.reduce import LayerNorm
from cloud.compiler.plan import derived
from tests.unit.cloud.compiler.graphs import agree, agree_op

FEW = settings(max_examples=30, deadline=None)
SIZES = st.lists(st.sampled_from([1, 2, 3, 4, 5, 8, 17, 33]), min_size=1, max_size=3)


def numbers(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@FEW
@given(SIZES, st.data(), st.booleans(), st.integers(0, 2))
def test_rows_of_any_length_with_and_without_weight_and_bias(sizes, data, rms, affine):
    axes = data.draw(st.integers(1, len(sizes)))
    operands = [numbers(sizes), *(numbers(sizes[-axes:], one) for one in (1, 2))]
    # Two nearly equal numbers cancel: what is left of them has lost a digit.
    agree_op(LayerNorm(axes, 1e-3, rms), *operands[: 1 + min(affine, 1 if rms else 2)], tolerance=5e-6)


@pytest.mark.parametrize("length", [63, 64, 65, 80, 1000])
@pytest.mark.parametrize("rms", [False, True])
def test_short_and_long_rows(length, rms):
    agree_op(LayerNorm(1, 1e-5, rms), numbers((3, length)), numbers(length, 1))


@pytest.mark.parametrize("length", [32, 500])
def test_a_row_far_from_zero_keeps_its_variance(length):
    got = agree_op(LayerNorm(1, 0.0), numbers((2, length)) + np.float32(1000), tolerance=1e-3)
    assert got.std(1) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("length", [5, 70])
def test_a_nan_stays_in_its_row(length):
    x = numbers((3, length))
    x[1, -1] = np.nan
    assert np.isnan(agree_op(LayerNorm(1, 1e-5), x)).all(1).tolist() == [False, True, False]


def randomised(layer: nn.Module) -> nn.Module:
    """Parameters and statistics that are not all 0 or 1."""
    torch.manual_seed(1)
    for name, tensor in layer.state_dict().items():
        if tensor.dtype == torch.float32:
            tensor.copy_(torch.rand_like(tensor) + (0.5 if name == "running_var" else -0.3))
    return layer


LAYERS = {
    "layer": (nn.LayerNorm(6), (2, 5, 6)),
    "layer over two axes": (nn.LayerNorm((5, 6), bias=False), (2, 3, 5, 6)),
    "layer without parameters": (nn.LayerNorm(100, elementwise_affine=False), (3, 100)),
    "rms": (nn.RMSNorm(6), (2, 5, 6)),
    "rms with eps": (nn.RMSNorm((5, 6), eps=1e-2), (2, 5, 6)),
    "group": (nn.GroupNorm(3, 6), (2, 6, 4, 5)),
    "group of vectors": (nn.GroupNorm(2, 6, affine=False), (2, 6)),
    "group of signals": (nn.GroupNorm(1, 6), (2, 6, 7)),
    "instance": (nn.InstanceNorm2d(3), (2, 3, 4, 5)),
    "instance with weights": (nn.InstanceNorm2d(3, affine=True), (2, 3, 4, 5)),
    "instance with statistics": (nn.InstanceNorm1d(3, affine=True, track_running_stats=True), (2, 3, 7)),
    "batch 1d": (nn.BatchNorm1d(5), (3, 5)),
    "batch of signals": (nn.BatchNorm1d(5), (3, 5, 7)),
    "batch 2d": (nn.BatchNorm2d(5), (2, 5, 3, 4)),
    "batch 2d without weights": (nn.BatchNorm2d(5, affine=False), (2, 5, 3, 4)),
    "batch 3d": (nn.BatchNorm3d(5), (2, 5, 2, 3, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_torchs(name):
    layer, shape = LAYERS[name]
    agree(randomised(layer), torch.from_numpy(numbers(shape)))


class Native(nn.Module):
    """The operators that torch itself decomposes layers into; all their results are read."""

    def forward(self, x):
        weight, bias = x.flatten()[:6] + 3, x.flatten()[6:12]
        group = torch.ops.aten.native_group_norm(x, weight, bias, 2, 6, 20, 3, 1e-5)
        layer = torch.ops.aten.native_layer_norm(x, (4, 5), x[0, 0] + 1, None, 1e-5)
        fixed = torch.ops.aten._native_batch_norm_legit_no_training(x, weight, bias, bias, weight, 0.1, 1e-5)
        return *group, *layer, fixed[0]


def test_statistics_are_results_too():
    agree(Native(), torch.from_numpy(numbers((2, 6, 4, 5))))


def test_a_fixed_batch_norm_is_one_product_and_one_sum_of_what_prepare_computes():
    graph = export(randomised(nn.BatchNorm2d(5)), (torch.randn(2, 5, 3, 4),)).graph
    early = derived(graph)
    late = [node.op for node in graph.nodes if node.result.name not in early]
    scaled = call(Fn.ADD, call(Fn.MUL, Arg(0), Arg(1)), Arg(2))
    assert late == [Permute((0, 2, 3, 1)), Pointwise(scaled), Permute((0, 3, 1, 2))]


def test_a_batch_norm_without_fixed_statistics_would_mix_items():
    with pytest.raises(UnsupportedOperator, match="running statistics"):
        export(nn.BatchNorm1d(5, track_running_stats=False), (torch.randn(4, 5),))

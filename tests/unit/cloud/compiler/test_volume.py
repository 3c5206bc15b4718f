"""Volumes in terms of images: convolution and pooling of any shape agree with torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.unit.cloud.compiler.graphs import agree

TRIPLES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2))


def volume(channels: int, *, batch: int = 2, size: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, channels, size, size + 1, size - 1, generator=generator)


@given(
    TRIPLES, TRIPLES, st.tuples(*[st.integers(0, 2)] * 3), st.sampled_from([1, 2]), st.sampled_from([1, 2])
)
@settings(max_examples=8, deadline=None)
def test_any_convolution(kernel, stride, padding, dilation, groups):
    torch.manual_seed(0)
    layer = nn.Conv3d(4, 6, kernel, stride, padding, dilation, groups)
    agree(layer, volume(4), tolerance=2e-6)


def test_a_convolution_that_keeps_the_size_and_one_of_a_single_item():
    agree(nn.Conv3d(2, 3, 3, padding="same", dilation=2), volume(2))
    agree(nn.Sequential(nn.Flatten(0, 1), nn.Conv3d(2, 3, (1, 2, 3), bias=False)), volume(2, batch=1))


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool3d(2),
        nn.MaxPool3d((2, 3, 1), (1, 2, 1), (1, 1, 0), ceil_mode=True),
        nn.MaxPool3d(2, dilation=2, stride=1),
        nn.AvgPool3d(2),
        nn.AvgPool3d(3, 2, 1),
        nn.AvgPool3d((1, 2, 3), 2, (0, 1, 1), ceil_mode=True, count_include_pad=False),
        nn.AdaptiveAvgPool3d((2, 3, 1)),
        nn.AdaptiveMaxPool3d((1, 2, 2)),
        nn.LocalResponseNorm(3),
        nn.Upsample(scale_factor=2),
        nn.Upsample(scale_factor=1.5, mode="trilinear"),
    ],
)
def test_poolings_and_interpolation(pool):
    agree(pool, volume(3))


def test_a_network_of_volumes():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.MaxPool3d(2))
    head = nn.Sequential(nn.Conv3d(4, 5, 2), nn.Flatten(), nn.Linear(20, 3))
    agree(nn.Sequential(body, head), volume(1))

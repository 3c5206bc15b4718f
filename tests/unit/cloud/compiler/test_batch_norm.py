"""A scale of channels moves into the weights before it, and only where nothing else can tell."""

import pytest
import torch
from torch import nn

from cloud.compiler.ir import Graph
from cloud.compiler.ops.pointwise import Pointwise
from cloud.compiler.plan import derived
from tests.unit.cloud.compiler.graphs import agree


def in_every_run(graph: Graph) -> list[str]:
    """Kinds of the operations that are not computed once."""
    early = derived(graph)
    return [type(node.op).__name__ for node in graph.nodes if node.result.name not in early]


def normed(norm: nn.Module) -> nn.Module:
    """Statistics and weights as if it had been trained, one scale being negative, one zero."""
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
    generator = torch.Generator().manual_seed(0)
    norm.running_mean = torch.randn(norm.num_features, generator=generator)
    norm.running_var = torch.rand(norm.num_features, generator=generator) + 0.5
    if norm.affine:
        norm.weight = nn.Parameter(torch.linspace(-1, 2, norm.num_features))
        norm.bias = nn.Parameter(torch.randn(norm.num_features, generator=generator))
    return norm


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "layer",
    [
        lambda bias: nn.Conv2d(4, 7, 3, bias=bias),
        lambda bias: nn.Conv2d(4, 8, 1, stride=2, bias=bias),
        lambda bias: nn.Conv2d(4, 12, 3, groups=2, bias=bias),
        lambda bias: nn.Conv2d(4, 4, 3, groups=4, bias=bias),
        lambda bias: nn.Conv2d(4, 8, 3, groups=4, bias=bias),
    ],
)
def test_a_norm_after_a_convolution_costs_nothing(layer, bias, affine):
    convolution = layer(bias)
    model = nn.Sequential(
        convolution, normed(nn.BatchNorm2d(convolution.out_channels, affine=affine)), nn.ReLU6()
    )
    graph = agree(model, torch.randn(2, 4, 6, 7), tolerance=2e-6)
    assert "Pointwise" not in in_every_run(graph)


@pytest.mark.parametrize("bias", [True, False])
def test_a_norm_after_a_linear_layer_costs_nothing(bias):
    model = nn.Sequential(nn.Linear(6, 5, bias=bias), normed(nn.BatchNorm1d(5)), nn.ReLU())
    graph = agree(model, torch.randn(3, 6), tolerance=2e-6)
    assert in_every_run(graph) == ["MatMul"]


def test_a_norm_after_a_signal_costs_nothing():
    model = nn.Sequential(nn.Conv1d(2, 5, 3), normed(nn.BatchNorm1d(5)), nn.ReLU(), nn.Conv1d(5, 4, 1))
    graph = agree(model, torch.randn(2, 2, 12), tolerance=2e-6)
    assert "Pointwise" not in in_every_run(graph)


def test_a_convolution_with_another_reader_keeps_its_weights():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 5, 3), normed(nn.BatchNorm2d(5))

        def forward(self, x):
            y = self.conv(x)
            return y, self.norm(y)

    agree(Both(), torch.randn(1, 3, 6, 6), tolerance=2e-6)


def test_a_norm_without_a_convolution_is_a_scale_and_a_shift():
    graph = agree(normed(nn.BatchNorm2d(3)), torch.randn(2, 3, 4, 5))
    early = derived(graph)
    assert [isinstance(node.op, Pointwise) for node in graph.nodes if node.result.name not in early].count(
        True
    ) == 1


def test_a_scale_that_the_input_decides_stays_outside():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3)

        def forward(self, x, scale):
            return self.conv(x) * scale[:, :, None, None]

    agree(Scaled(), torch.randn(1, 3, 6, 6), torch.randn(1, 5))

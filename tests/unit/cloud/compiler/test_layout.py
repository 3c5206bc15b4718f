"""Permutations sink and cancel; borders become halos. Whatever a pass does, the numbers stay torch's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cloud.compiler.frontend import export
from cloud.compiler.ir import Graph, Value, evaluate
from cloud.compiler.lowering.call import Builder
from cloud.compiler.ops.image import NO_BORDER, Border, Conv, PadImage
from cloud.compiler.ops.movement import Permute, Reshape
from cloud.compiler.passes.arrangement import plain, regrouped
from cloud.compiler.passes.layout import choose_layout
from cloud.compiler.plan import derived
from tests.unit.cloud.compiler.graphs import agree


def moved(graph: Graph) -> list[tuple[int, ...]]:
    """The permutations that are left in every run."""
    early = derived(graph)
    return [
        node.op.axes for node in graph.nodes if isinstance(node.op, Permute) and node.result.name not in early
    ]


def block(*layers: nn.Module) -> nn.Module:
    """Layers after a convolution and before another one."""
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), *layers, nn.Conv2d(6, 4, 1))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x):
        x = self.first(x)
        return torch.relu(x + self.second(x)).mean((2, 3))


class Excited(nn.Module):
    """Squeeze and excitation: a number for each channel, computed from the image, scales it."""

    def __init__(self):
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 8, 3), nn.Linear(8, 8)

    def forward(self, x):
        x = self.conv(x)
        return (x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]).amax((2, 3))


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1), nn.Conv2d(9, 2, 1)

    def forward(self, x):
        return self.last(torch.cat([self.left(x).sigmoid(), self.right(x)], 1)).amax((2, 3))


@pytest.mark.parametrize(
    "model",
    [
        block(nn.ReLU()),
        block(nn.BatchNorm2d(6), nn.Hardswish()),
        block(nn.Dropout(), nn.Identity(), nn.Tanh()),
        block(nn.MaxPool2d(2)),
        block(nn.Softmax(1)),
        Residual(),
        Excited(),
        Joined(),
    ],
    ids=lambda model: type(model).__name__ if not isinstance(model, nn.Sequential) else str(model[1]),
)
def test_one_permutation_at_the_input_is_enough(model):
    body = (
        nn.Sequential(model, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        if isinstance(model, nn.Sequential)
        else model
    )
    graph = agree(body, torch.randn(2, 3, 8, 10))
    assert moved(graph) == [(0, 2, 3, 1)]


def test_signals_have_no_permutation_inside():
    layers = [nn.Conv1d(1, 4, 5, padding=2), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 6, 3), nn.ReLU()]
    graph = agree(nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten()), torch.randn(2, 1, 40))
    assert not moved(graph)
    assert all(node.op.epilogue is not None for node in graph.nodes if isinstance(node.op, Conv))


@pytest.mark.parametrize("batch", [1, 3])
def test_a_flattened_image_meets_a_weight_with_its_columns_in_that_order(batch):
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 6 * 5, 7))
    graph = agree(model, torch.randn(batch, 1, 8, 7))
    assert not moved(graph)


def test_a_flattened_image_that_somebody_else_reads_keeps_its_order():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = nn.Conv2d(1, 3, 3), nn.Linear(3 * 6 * 5, 7)

        def forward(self, x):
            flat = self.conv(x).flatten(1)
            return self.linear(flat), flat

    agree(Both(), torch.randn(2, 1, 8, 7))


def test_a_linear_layer_takes_its_rows_in_any_order():
    """As in an attention layer that wants [time, batch, width] inside."""

    class Swapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.outer = nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.outer(torch.relu(self.inner(x.transpose(0, 1)))).transpose(0, 1)

    assert not moved(agree(Swapped(), torch.randn(4, 7, 6)))


def test_patches_become_tokens_without_a_copy():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.linear = nn.Conv2d(1, 6, 4, 4), nn.Linear(6, 5)

        def forward(self, x):
            return self.linear(self.patches(x).flatten(2).transpose(1, 2))

    assert not moved(agree(Tokens(), torch.randn(2, 1, 8, 12)))


def test_a_border_is_written_by_the_convolution_before():
    graph = agree(
        nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1)), torch.randn(1, 3, 5, 6)
    )
    assert not [node for node in graph.nodes if isinstance(node.op, PadImage)]
    assert [node.op.halo for node in graph.nodes if isinstance(node.op, Conv)] == [
        Border(1, 1, 1, 1),
        NO_BORDER,
    ]


def test_an_image_with_two_readers_has_no_border_of_its_own():
    graph = agree(Residual(), torch.randn(1, 3, 5, 6))
    assert all(node.op.halo == NO_BORDER for node in graph.nodes if isinstance(node.op, Conv))


OPERATIONS = [
    lambda x, draw: torch.relu(x) + 1,
    lambda x, draw: x.permute(draw(st.permutations(range(x.ndim)))),
    lambda x, draw: x.unsqueeze(draw(st.integers(0, x.ndim))) if x.ndim < 5 else x * 2,
    lambda x, draw: x.flatten(*sorted(draw(st.tuples(*[st.integers(0, x.ndim - 1)] * 2)))),
    lambda x, draw: x.sum(draw(st.integers(1, x.ndim - 1)), keepdim=True) if x.ndim > 1 else x,
    lambda x, draw: x.amax(draw(st.integers(1, x.ndim - 1))) if x.ndim > 2 else x,
    lambda x, draw: x.softmax(draw(st.integers(0, x.ndim - 1))),
    lambda x, draw: torch.cat([x, -x], draw(st.integers(0, x.ndim - 1))),
    lambda x, draw: x * torch.arange(1.0, x.shape[-1] + 1),
    lambda x, draw: x - x.mean(-1, keepdim=True),
]


class Recorded(nn.Module):
    """Replays operations: their random choices are drawn once, in a first run."""

    def __init__(self, operations, draw):
        super().__init__()
        self.operations, self.draw, self.choices = operations, draw, None

    def forward(self, x):
        choices = iter(self.choices) if self.choices is not None else None
        taken = []

        def choose(strategy):
            taken.append(next(choices) if choices is not None else self.draw(strategy))
            return taken[-1]

        for one in self.operations:
            x = OPERATIONS[one](x, choose)
        self.choices = tuple(taken)
        return x


@given(st.data())
@settings(max_examples=16, deadline=None, derandomize=True)
def test_any_chain_of_views_and_computations_keeps_its_meaning(data):
    operations = data.draw(st.lists(st.integers(0, len(OPERATIONS) - 1), min_size=1, max_size=6))
    model = Recorded(operations, data.draw)
    x = torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    model(x)
    exported = export(model, (x,))
    graph = choose_layout(exported.graph)
    graph.check()
    (before,) = evaluate(exported.graph, [x.numpy()], exported.parameters)
    (after,) = evaluate(graph, [x.numpy()], exported.parameters)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def test_axes_of_size_one_come_and_go_in_an_arrangement():
    image = plain(Value("x", (1, 1, 9, 4))).permuted((0, 3, 1, 2))
    signal = image.reshaped((1, 4, 9))
    assert signal is not None
    assert signal.axes == (0, 3, 2)
    again = signal.reshaped((1, 4, 1, 9))
    assert again is not None
    assert again.permuted((0, 2, 3, 1)).realised(Builder()).name == "x"


def test_axes_that_are_no_neighbours_cannot_be_joined():
    image = plain(Value("x", (2, 3, 4, 5))).permuted((0, 3, 1, 2))
    assert regrouped(image, (2, 5, 12)) == ((2, 12, 5), (0, 2, 1))
    assert regrouped(image, (2, 15, 4)) is None


def test_what_is_plain_stays_as_it_is():
    exported = export(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), (torch.randn(2, 4),))
    assert choose_layout(exported.graph).nodes == exported.graph.nodes
    assert not [node for node in exported.graph.nodes if isinstance(node.op, Reshape | Permute)]

"""Operators that torch takes apart for us: whatever comes out agrees with the whole."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cloud.compiler import UnsupportedOperator
from cloud.compiler.frontend import export
from tests.unit.cloud.compiler.graphs import agree
from tests.unit.cloud.compiler.test_order import Call


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def looked_at(x):
    """A spatial transformer's two operators."""
    grid = F.affine_grid(0.5 * torch.ones(2, 2, 3), [2, 3, 4, 5], align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


@pytest.mark.parametrize(
    "function",
    [
        looked_at,
        lambda x: F.grid_sample(x, x.permute(0, 2, 3, 1)[..., :2], "nearest", "border", align_corners=True),
        lambda x: F.fold(F.unfold(x, 2), (6, 7), 2),
        lambda x: F.max_unpool2d(*F.max_pool2d(x[..., :6], 2, return_indices=True), 2),
        lambda x: F.smooth_l1_loss(x, 0.5 * x, reduction="none"),
        lambda x: F.kl_div(x.log_softmax(1), x.softmax(2), reduction="none"),
        lambda x: torch.logaddexp(x, 2 * x),
        lambda x: torch.xlogy(x, x.abs() + 1),
        lambda x: torch.special.entr(x.abs()),
        lambda x: torch.linalg.cross(x, x.flip(1), dim=1),
        lambda x: torch.heaviside(x, x),
    ],
)
def test_an_operator_in_pieces(function):
    agree(Call(function), numbers(2, 3, 6, 7), tolerance=2e-6)


def test_weights_with_a_norm_of_their_own():
    torch.manual_seed(0)
    parametrized = nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 3))
    agree(nn.Sequential(parametrized, nn.ReLU(), nn.utils.weight_norm(nn.Conv1d(4, 5, 2))), numbers(2, 3, 9))


def test_a_rows_loss():
    classes = torch.tensor([1, 0])
    agree(Call(lambda x: F.cross_entropy(x, classes, reduction="none")), numbers(2, 3))


def test_what_can_be_taken_apart_into_nothing_better_is_named_itself():
    with pytest.raises(UnsupportedOperator, match="cosines and sines") as caught:
        export(Call(lambda x: torch.fft.rfft(x).real), (numbers(2, 8),))
    assert caught.value.operator == "aten.fft_rfft.default"


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_of_rows(mode):
    torch.manual_seed(0)
    indices = torch.tensor([[1, 2, 0], [4, 4, 1]])
    agree(nn.EmbeddingBag(5, 6, mode=mode), indices)
    if mode != "max":
        agree(nn.EmbeddingBag(5, 6, mode=mode, padding_idx=4), indices)


def test_bags_with_weights_and_bags_of_many_lengths():
    torch.manual_seed(0)
    bag = nn.EmbeddingBag(5, 6, mode="sum")
    indices, weights = torch.tensor([[1, 2, 0], [4, 4, 1]]), numbers(2, 3)
    agree(Call(lambda i, w: bag(i, per_sample_weights=w)), indices, weights)
    with pytest.raises(UnsupportedOperator, match="one bag to a row"):
        export(Call(lambda i: bag(i, torch.tensor([0, 1]))), (indices.flatten(),))

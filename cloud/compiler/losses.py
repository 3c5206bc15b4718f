"""Losses as plain torch functions, to be traced into the train step.

A loss gives one number for each item, so that a mask can leave items out (the last, partial batch).
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Classes ``targets`` [batch] (int64) against logits [batch, classes] -> [batch]."""
    classes = torch.arange(outputs.shape[-1])
    chosen = (targets.unsqueeze(-1) == classes).to(outputs.dtype)
    return -(F.log_softmax(outputs, -1) * chosen).sum(-1)


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """[batch, ...] against the same shape -> [batch]: the mean over each item."""
    return (outputs - targets).square().flatten(1).mean(1)


def binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Truth values as 0.0 and 1.0 [batch, ...] against logits of the same shape -> [batch].

    ``max(x, 0) - x * t + log(1 + exp(-|x|))``: no logit overflows.
    """
    parts = torch.relu(outputs) - outputs * targets + torch.log1p(torch.exp(-outputs.abs()))
    return parts.flatten(1).mean(1)


LOSSES: Mapping[str, Loss] = {
    "cross_entropy": cross_entropy,
    "mse": mean_squared_error,
    "bce": binary_cross_entropy,
}

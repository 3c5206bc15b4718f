"""Sorting: torch, numpy and WebAssembly put the same numbers in the same order, NaN and equals included."""

from math import inf, nan

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cloud.compiler.ops.order import ArgSort
from tests.unit.cloud.compiler.graphs import agree, agree_op

SPECIAL = (0.0, -0.0, 1.0, -1.0, inf, -inf, nan, 1e-40, -1e-40, 3.4e38)


class Call(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


@given(
    st.lists(st.one_of(st.sampled_from(SPECIAL), st.floats(width=32)), min_size=1, max_size=40),
    st.integers(1, 3),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_any_numbers_in_their_order_and_equals_in_theirs(numbers, rows, descending):
    x = np.array([numbers[index:] + numbers[:index] for index in range(rows)], np.float32)
    got = agree_op(ArgSort(descending), x)
    wanted = torch.sort(torch.from_numpy(x), dim=-1, descending=descending, stable=True).indices.numpy()
    assert np.array_equal(got, wanted)


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=33), st.booleans())
@settings(max_examples=20, deadline=None)
def test_integers(numbers, descending):
    got = agree_op(ArgSort(descending), np.array(numbers, np.int32))
    wanted = torch.sort(torch.tensor(numbers), dim=-1, descending=descending, stable=True)
    assert np.array_equal(got, wanted.indices.numpy())


def test_a_long_row():
    agree_op(ArgSort(), np.random.default_rng(0).normal(size=(2, 1025)).astype(np.float32))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: tuple(torch.sort(x)),
        lambda x: tuple(torch.sort(x, 1, descending=True)),
        lambda x: torch.argsort(x, 0),
        lambda x: torch.msort(x),
        lambda x: tuple(torch.topk(x, 3)),
        lambda x: tuple(torch.topk(x, 2, 1, largest=False)),
        lambda x: tuple(torch.kthvalue(x, 2, 1, keepdim=True)),
        lambda x: (torch.median(x), *torch.median(x, 1)),
        lambda x: torch.quantile(x, 0.3, dim=2),
        lambda x: x.sort(2).values.diff(),
        lambda x: torch.bucketize(x, torch.tensor([-1.0, 0.0, 0.5])),
        lambda x: torch.searchsorted(torch.tensor([-1.0, 0.0, 0.5]), x, right=True),
        lambda x: x[:, torch.tril_indices(4, 4)[0], torch.triu_indices(4, 5, 1)[1]],
    ],
)
def test_operators_that_sort(function):
    agree(Call(function), torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0)))


def test_a_median_of_numbers_with_a_nan_is_nan():
    x = torch.tensor([[3.0, 1.0, 2.0, 4.0], [1.0, nan, 2.0, 0.0]])
    agree(Call(lambda x: torch.median(x, 1).values), x)


def test_experts_that_a_gate_chooses():
    def chosen(x):
        weights, experts = torch.topk(x.softmax(-1), 2)
        gates = torch.zeros_like(x).scatter(1, experts, weights / weights.sum(-1, keepdim=True))
        return gates @ gates.T

    agree(Call(chosen), torch.randn(3, 6, generator=torch.Generator().manual_seed(1)))

"""Recurrent layers: torch, the numpy meaning and WebAssembly give the same."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cloud.compiler import UnsupportedOperator
from cloud.compiler.frontend import export
from cloud.compiler.ir import Value
from cloud.compiler.kernels.vector import LANES
from cloud.compiler.lowering import AtenCall, Builder, lower
from cloud.compiler.ops.contract import Skewed
from cloud.compiler.ops.recurrent import CELLS, Recurrent
from tests.unit.cloud.compiler.graphs import agree, agree_op

CELL_LAYERS = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn": nn.RNNCell}


class Everything(nn.Module):
    """A layer whose outputs and last states are all results."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x, *states):
        given = tuple(states) if len(states) == 2 else (states or (None,))[0]
        y, last = self.layer(x, given)
        return (y, *last) if isinstance(last, tuple) else (y, last)


class OnlyOutputs(nn.Module):
    """The usual classifier: the last step of the last layer."""

    def __init__(self, layer: nn.RNNBase, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.layer(x)[0][:, -1])


def layer_of(kind: str, *sizes: int, **options) -> nn.RNNBase:
    torch.manual_seed(0)
    match kind:
        case "lstm":
            return nn.LSTM(*sizes, **options)
        case "gru":
            return nn.GRU(*sizes, **options)
        case _:
            return nn.RNN(*sizes, nonlinearity=kind, **options)


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_a_loop_means_what_its_kernel_computes(data):
    """Any number of steps, rows and units, odd ones too, in both layouts and directions."""
    kind = data.draw(st.sampled_from(sorted(CELLS)))
    steps, rows, hidden = (data.draw(st.integers(1, most)) for most in (4, 5, 19))
    batch_first, reverse = data.draw(st.booleans()), data.draw(st.booleans())
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))

    def numbers(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    width = CELLS[kind].gates * hidden
    x = numbers(rows, steps, width) if batch_first else numbers(steps, rows, width)
    states = [numbers(rows, hidden) for _ in range(CELLS[kind].states)]
    w, others = numbers(width, hidden) / 4, (numbers(width), *states)
    plain = agree_op(Recurrent(kind, batch_first, reverse), x, w, *others, tolerance=2e-6)
    if hidden >= LANES:
        panels = Skewed().evaluate(w)
        askew = Recurrent(kind, batch_first, reverse, skewed=True)
        assert agree_op(askew, x, panels, *others, tolerance=2e-6) == pytest.approx(plain, abs=1e-5)


@settings(max_examples=6, deadline=None)
@given(
    kind=st.sampled_from(["lstm", "gru", "tanh", "relu"]),
    layers=st.integers(1, 2),
    bidirectional=st.booleans(),
    bias=st.booleans(),
    batch_first=st.booleans(),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.integers(1, 9)),
)
def test_every_form_of_a_layer_agrees_with_torch(kind, layers, bidirectional, bias, batch_first, sizes):
    rows, steps, width, hidden = sizes
    options = {"bidirectional": bidirectional, "bias": bias, "batch_first": batch_first}
    layer = layer_of(kind, width, hidden, layers, **options)
    x = torch.randn((rows, steps, width) if batch_first else (steps, rows, width))
    agree(Everything(layer), x, tolerance=2e-6)


@pytest.mark.parametrize("kind", ["lstm", "gru", "tanh"])
def test_given_states_are_where_the_first_step_starts(kind):
    layer = layer_of(kind, 3, 6, 2, bidirectional=True)
    states = [torch.randn(4, 2, 6) for _ in range(2 if kind == "lstm" else 1)]
    agree(Everything(layer), torch.randn(5, 2, 3), *states, tolerance=2e-6)


def test_a_sequence_without_a_batch_is_a_batch_of_one():
    agree(Everything(layer_of("lstm", 3, 5)), torch.randn(4, 3), tolerance=2e-6)


@pytest.mark.parametrize(("kind", "rows"), [("lstm", 1), ("gru", 3)])
def test_a_classifier_of_fifty_steps_agrees_with_torch(kind, rows):
    layer = layer_of(kind, 8, 32, 1, batch_first=True)
    agree(OnlyOutputs(layer, 32), torch.randn(rows, 50, 8), tolerance=2e-6)


def test_dropout_between_layers_vanishes():
    agree(Everything(layer_of("gru", 3, 4, 2, dropout=0.5)), torch.randn(3, 2, 3), tolerance=2e-6)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_saturated_gates_stay_finite(kind):
    """A sigmoid of 300 is 1 and its exponential does not overflow into NaN."""
    agree(Everything(layer_of(kind, 2, 5)), 1e3 * torch.randn(6, 2, 2), tolerance=2e-6)


def test_the_memory_of_an_lstm_may_be_large_and_its_weak_signals_keep_their_digits():
    layer = layer_of("lstm", 2, 5)
    h, c = torch.zeros(1, 2, 5), torch.full((1, 2, 5), 1e9)
    agree(Everything(layer), torch.randn(6, 2, 2), h, c, tolerance=2e-6)
    op = Recurrent("lstm")
    weak = np.zeros((3, 2, 20), np.float32)
    weak[..., 10:15] = 1e-6 * np.arange(1, 6, dtype=np.float32)
    zeros = np.zeros((2, 5), np.float32)
    agree_op(op, weak, np.zeros((20, 5), np.float32), np.zeros(20, np.float32), zeros, zeros, tolerance=5e-7)


@pytest.mark.parametrize("kind", sorted(CELL_LAYERS))
@pytest.mark.parametrize("bias", [True, False])
def test_a_single_cell_is_one_step(kind, bias):
    torch.manual_seed(0)
    cell = CELL_LAYERS[kind](3, 5, bias=bias)
    states = [torch.randn(2, 5) for _ in range(2 if kind == "lstm" else 1)]

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = cell

        def forward(self, x, *given):
            return self.cell(x, tuple(given) if len(given) == 2 else given[0])

    agree(Step(), torch.randn(2, 3), *states, tolerance=2e-6)


def test_a_projected_lstm_is_refused():
    with pytest.raises(UnsupportedOperator, match="put a Linear layer after the LSTM"):
        export(Everything(nn.LSTM(3, 5, proj_size=2)), (torch.zeros(4, 2, 3),))


def test_packed_sequences_are_refused():
    """torch.export cannot read their sizes; a graph from elsewhere may still hold the call."""
    x, sizes, h = Value("x", (5, 3)), Value("sizes", (3,), "i32"), Value("h", (1, 2, 5))
    weights = (Value("w_ih", (15, 3)), Value("w_hh", (15, 5)))
    packed = AtenCall("aten.gru.data", (x, sizes, h, weights, False, 1, 0.0, False, False), (5, 5), "here")
    with pytest.raises(UnsupportedOperator, match="pad the sequences"):
        lower(packed, Builder())


def test_the_loop_refuses_operands_that_do_not_fit():
    with pytest.raises(ValueError, match="do not fit together"):
        Recurrent("gru").shape((4, 2, 9), (9, 4), (9,), (2, 3))

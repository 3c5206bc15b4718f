"""LSTM, GRU and RNN in ATen: layers and directions one after another, each a loop over its time steps.

for each layer, for each direction:   projected = x @ w_ih.T + b_ih     all steps in one product
                                      h of all steps = loop(projected, w_hh, b_hh, h, c)
the next layer reads the directions side by side
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cloud.compiler.expr import Arg, Fn, call
from cloud.compiler.ir import Value
from cloud.compiler.lowering.call import AtenCall, Builder, Lowered, Lowering
from cloud.compiler.ops.contract import MatMul
from cloud.compiler.ops.movement import Concat, Slice
from cloud.compiler.ops.recurrent import CELLS, Recurrent

ADD = call(Fn.ADD, Arg(0), Arg(1))


@dataclass(frozen=True, slots=True)
class _Stack:
    """The arguments of aten.lstm.input and its relatives. ``states``: h and, in an LSTM, c, [L*D, B, H]."""

    cell: str
    states: tuple[Value, ...]
    weights: tuple[Value, ...]
    biased: bool
    layers: int
    bidirectional: bool
    batch_first: bool

    @property
    def per_direction(self) -> int:
        return 4 if self.biased else 2


def _stack(cell: str) -> Lowering:
    def lowering(aten: AtenCall, build: Builder) -> Lowered:
        if not isinstance(aten.argument(3), bool):
            raise aten.refuse("packed sequences are not covered: pad the sequences and give the padded array")
        x, states, weights, biased, layers, dropout, train, both, batch_first = (
            aten.argument(index) for index in range(9)
        )
        if train and dropout:
            raise aten.refuse("call model.eval(): a compiled model has no randomness")
        states = (states,) if isinstance(states, Value) else tuple(states)
        stack = _Stack(cell, states, tuple(weights), biased, layers, both, batch_first)
        if len(weights) != stack.per_direction * layers * (2 if both else 1):
            raise aten.refuse("proj_size is not covered: put a Linear layer after the LSTM")
        return _layers(build, stack, x)

    return lowering


def _layers(build: Builder, stack: _Stack, x: Value) -> tuple[Value, ...]:
    """The last layer's h of every step, and the last states of every layer and direction."""
    last: list[list[Value]] = [[] for _ in stack.states]
    directions = 2 if stack.bidirectional else 1
    for layer in range(stack.layers):
        shown = []
        for direction in range(directions):
            y, *ends = _direction(build, stack, x, layer * directions + direction, reverse=direction == 1)
            shown.append(y)
            for found, end in zip(last, ends, strict=True):
                found.append(end)
        x = shown[0] if directions == 1 else build(Concat(2), *shown)
    return (x, *(_joined(build, found) for found in last))


def _joined(build: Builder, ends: Sequence[Value]) -> Value:
    return ends[0] if len(ends) == 1 else build(Concat(0), *ends)


def _direction(build: Builder, stack: _Stack, x: Value, index: int, *, reverse: bool) -> tuple[Value, ...]:
    """One loop: h of every step [as x, H], the last h [1, B, H] and, in an LSTM, the last c."""
    at = index * stack.per_direction
    w_ih, w_hh, *biases = stack.weights[at : at + stack.per_direction]
    projected = _project(build, x, w_ih, biases[:1])
    b_hh = biases[1] if biases else build.constant(np.zeros(w_hh.shape[:1], np.float32))
    states = [build.reshape(_part(build, one, 0, index, index + 1), one.shape[1:]) for one in stack.states]
    op = Recurrent(stack.cell, stack.batch_first, reverse)
    rows = build(op, projected, w_hh, b_hh, *states)
    first, second, _ = x.shape
    hidden = w_hh.shape[1]
    y = build.reshape(_part(build, rows, 0, 0, first * second), (first, second, hidden))
    time = 1 if stack.batch_first else 0
    end = 0 if reverse else y.shape[time] - 1
    batch = y.shape[1 - time]
    h = build.reshape(_part(build, y, time, end, end + 1), (1, batch, hidden))
    if CELLS[stack.cell].c is None:
        return y, h
    c = _part(build, rows, 0, first * second, first * second + batch)
    return y, h, build.reshape(c, (1, batch, hidden))


def _project(build: Builder, x: Value, w: Value, bias: Sequence[Value]) -> Value:
    """x @ w.T + b of every step, as one product of all their rows."""
    rows = build.reshape(x, (-1 if not x.shape else int(np.prod(x.shape[:-1])), x.shape[-1]))
    product = build(MatMul(), rows, w)
    for one in bias:
        product = build.pointwise(ADD, product, one)
    return build.reshape(product, (*x.shape[:-1], w.shape[0]))


def _part(build: Builder, x: Value, axis: int, start: int, stop: int) -> Value:
    return x if (start, stop) == (0, x.shape[axis]) else build(Slice(axis, start, stop), x)


def _single(cell: str) -> Lowering:
    """One step of one layer: torch.nn.LSTMCell and its relatives."""

    def lowering(aten: AtenCall, build: Builder) -> Lowered:
        x, states, w_ih, w_hh = (aten.argument(index) for index in range(4))
        b_ih, b_hh = aten.argument(4, "b_ih"), aten.argument(5, "b_hh")
        states = (states,) if isinstance(states, Value) else tuple(states)
        given = _project(build, x, w_ih, [b_ih] if b_ih is not None else [])
        memory = _project(build, states[0], w_hh, [b_hh] if b_hh is not None else [])
        return _step(build, cell, (given, memory), states)

    return lowering


def _step(build: Builder, name: str, sides: Sequence[Value], states: Sequence[Value]) -> Lowered:
    cell = CELLS[name]
    axis, hidden = len(states[0].shape) - 1, states[0].shape[-1]
    args = [
        _part(build, side, axis, gate * hidden, (gate + 1) * hidden)
        for side in sides
        for gate in range(cell.gates)
    ]
    args += states
    if cell.c is None:
        return build.pointwise(cell.h, *args)
    args[-1] = build.pointwise(cell.c, *args)
    return build.pointwise(cell.h, *args), args[-1]


LOWERINGS: Mapping[str, Lowering] = {
    **{name: _stack(name) for name in CELLS},
    **{f"{name}_cell": _single(name) for name in CELLS},
}

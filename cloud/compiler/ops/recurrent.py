"""Loops over time steps: LSTM, GRU and plain RNN, one layer in one direction.

A cell is two expressions over the gates of one hidden unit, so that the loop's kernel, the single cells of
``torch.nn.LSTMCell`` and the numpy meaning all come from one place. Its arguments, for G gates:

    Arg(0) .. Arg(G-1)     what the input says to each gate:  x @ w_ih.T + b_ih   (made before the loop)
    Arg(G) .. Arg(2G-1)    what the memory says:              h @ w_hh.T + b_hh
    Arg(2G), Arg(2G+1)     the previous h and, in an LSTM, c

Gates are in torch's order: input, forget, cell, output (LSTM); reset, update, new (GRU).
Source: the equations in the documentation of torch.nn.LSTM, GRU and RNN.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from cloud.compiler.expr import Arg, Expr, Fn, call, evaluate, substitute
from cloud.compiler.ir import Array, Shape
from cloud.compiler.ops.contract import Skewed, straightened


@dataclass(frozen=True, slots=True)
class Cell:
    """One step of one unit.

    ``functions``: of the sum of both sides at each gate; None where the cell reads the sides apart.
    ``unit_h``, ``unit_c``: the new h and, if the cell has one, the new c, where Arg(G+i) is gate i after its
    function; ``unit_h`` reads the new c in the place of the old.
    """

    functions: tuple[Fn | None, ...]
    unit_h: Expr
    unit_c: Expr | None = None

    @property
    def gates(self) -> int:
        """How many numbers each side says to a unit."""
        return len(self.functions)

    @property
    def states(self) -> int:
        """How many states it carries from step to step: h, or h and c."""
        return 1 if self.unit_c is None else 2

    @property
    def h(self) -> Expr:
        """The new h from both sides."""
        return self._whole(self.unit_h)

    @property
    def c(self) -> Expr | None:
        """The new c from both sides."""
        return None if self.unit_c is None else self._whole(self.unit_c)

    def _whole(self, expr: Expr) -> Expr:
        gates = self.gates
        args: list[Expr] = [Arg(index) for index in range(2 * gates + self.states)]
        for index, fn in enumerate(self.functions):
            if fn is not None:
                args[gates + index] = call(fn, call(Fn.ADD, Arg(index), Arg(gates + index)))
        return substitute(expr, args)


def _lstm() -> Cell:
    given, forgotten, new, shown, c = (Arg(index) for index in (4, 5, 6, 7, 9))
    return Cell(
        (Fn.SIGMOID, Fn.SIGMOID, Fn.TANH, Fn.SIGMOID),
        call(Fn.MUL, shown, call(Fn.TANH, c)),
        call(Fn.ADD, call(Fn.MUL, forgotten, c), call(Fn.MUL, given, new)),
    )


def _gru() -> Cell:
    reset, kept, h = Arg(3), Arg(4), Arg(6)
    new = call(Fn.TANH, call(Fn.ADD, Arg(2), call(Fn.MUL, reset, Arg(5))))
    fresh = call(Fn.MUL, call(Fn.SUB, 1.0, kept), new)
    return Cell((Fn.SIGMOID, Fn.SIGMOID, None), call(Fn.ADD, fresh, call(Fn.MUL, kept, h)))


CELLS: Mapping[str, Cell] = {
    "lstm": _lstm(),
    "gru": _gru(),
    "rnn_tanh": Cell((Fn.TANH,), Arg(1)),
    "rnn_relu": Cell((Fn.RELU,), Arg(1)),
}


@dataclass(frozen=True, slots=True)
class Recurrent:
    """All time steps of one layer in one direction.

    Operands: projected [T, B, G*H] (x @ w_ih.T + b_ih of every step), w_hh [G*H, H], b_hh [G*H], h [B, H]
    and, in an LSTM, c [B, H]. Result [T*B, H]: h after each step, in the order of ``projected``; in an LSTM B
    more rows follow, the last c. ``batch_first``: projected is [B, T, G*H]. ``reverse``: from the last step
    to the first. ``skewed``: w_hh is what :class:`Skewed` makes of it.
    """

    cell: str
    batch_first: bool = False
    reverse: bool = False
    skewed: bool = False

    def shape(self, *operands: Shape) -> Shape:
        """Rows of H. Raises ValueError when the operands do not fit together."""
        cell = CELLS[self.cell]
        projected, w, bias, *states = operands
        batch = projected[0] if self.batch_first else projected[1]
        hidden = w[1]
        width = cell.gates * hidden
        weights = Skewed().shape((width, hidden)) if self.skewed else (width, hidden)
        wanted = [weights, (width,), *[(batch, hidden)] * cell.states]
        if len(projected) != 3 or projected[2] != width or [w, bias, *states] != wanted:
            raise ValueError(f"{self.cell}: {operands} do not fit together")
        return (prod(projected[:2]) + batch * (cell.states - 1), hidden)

    def dtype(self, *operands: str) -> str:
        """f32 only."""
        if set(operands) != {"f32"}:
            raise ValueError(f"{self.cell} of {operands}")
        return "f32"

    def evaluate(self, *operands: Array) -> Array:
        """One step after the other."""
        projected, w, bias, *states = operands
        w = straightened(w, len(bias)) if self.skewed else w
        steps = np.swapaxes(projected, 0, 1) if self.batch_first else projected
        shown = np.empty((*steps.shape[:2], w.shape[1]), projected.dtype)
        order = range(len(steps))
        for step in reversed(order) if self.reverse else order:
            states = list(_step(CELLS[self.cell], steps[step], states[0] @ w.T + bias, states))
            shown[step] = states[0]
        rows = (np.swapaxes(shown, 0, 1) if self.batch_first else shown).reshape(-1, w.shape[1])
        return np.concatenate((rows, *states[1:]))

    def flops(self, *operands: Shape) -> int:
        """Of the products in the loop; the gates' functions are few beside them."""
        projected, w, bias, *_ = operands
        return 2 * prod(projected[:2]) * prod(bias) * w[1]


def _step(cell: Cell, x: Array, memory: Array, states: list[Array]) -> Iterator[Array]:
    """The new h and, in an LSTM, c."""
    args = [*np.split(x, cell.gates, axis=-1), *np.split(memory, cell.gates, axis=-1), *states]
    if cell.c is not None:
        args[-1] = evaluate(cell.c, args)
    yield evaluate(cell.h, args)
    yield from args[2 * cell.gates + 1 :]

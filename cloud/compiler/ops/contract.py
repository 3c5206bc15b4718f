"""Matrix products."""

from dataclasses import dataclass
from math import prod

import numpy as np

from cloud.compiler.expr import Expr, dtype_of, evaluate
from cloud.compiler.ir import Array, Shape
from cloud.compiler.ops.movement import Permute, Strided

SKEWED_COLUMNS = 16
_TURNED = 4  # columns, each by one more number


@dataclass(frozen=True, slots=True)
class Skewed:
    """Weights [N, K] as panels of 16 columns, [P, K, 16], the numbers of a column shifted round.

    Column n's number at step k is ``w[n, (k + n % 4) % K]``: why is in :mod:`cloud.compiler.kernels.skewed`.
    Columns that do not exist are zeros.
    """

    def shape(self, *operands: Shape) -> Shape:
        """[P, K, 16]. Raises ValueError for less than four numbers a column."""
        (w,) = operands
        if len(w) != 2 or w[1] < _TURNED:
            raise ValueError(f"skewed: {w}")
        return (-(-w[0] // SKEWED_COLUMNS), w[1], SKEWED_COLUMNS)

    def dtype(self, *operands: str) -> str:
        """f32 only."""
        if operands != ("f32",):
            raise ValueError(f"skewed: {operands}")
        return "f32"

    def evaluate(self, *operands: Array) -> Array:
        """Every column rolled back by 0 to 3."""
        (w,) = operands
        panels, depth, width = self.shape(w.shape)
        rolled = np.zeros((panels * width, depth), w.dtype)
        for index, column in enumerate(w):
            rolled[index] = np.roll(column, -(index % _TURNED))
        return np.ascontiguousarray(rolled.reshape(panels, width, depth).swapaxes(1, 2))


def straightened(w: Array, columns: int) -> Array:
    """What :class:`Skewed` was made of."""
    rolled = w.swapaxes(1, 2).reshape(-1, w.shape[1])[:columns]
    return np.stack([np.roll(column, index % _TURNED) for index, column in enumerate(rolled)])


@dataclass(frozen=True, slots=True)
class MatMul:
    """``epilogue(x @ w.T, extras...)``: x [*B, M, K] (or [K]), w [*B, N, K] -> [*B, M, N] (or [*B, N]).

    Batches are broadcast; a weight has none.
    ``rows``: w is given as [.., N, K], torch's layout of a linear layer; otherwise as [.., K, N].
    ``transposed``: x is given as [*B, K, M] (the gradient of a weight needs it so).
    ``epilogue``: Arg(0) is the product, Arg(1).. are extra operands, each broadcast to the result.
    ``x_view``, ``w_view``: where in its operand x or w is found, instead of being all of it.
    ``axes``: axis i of what is stored is axis ``axes[i]`` of the result.
    ``skewed``: N, where w is what :class:`Skewed` makes of [N, K].
    """

    rows: bool = True
    transposed: bool = False
    epilogue: Expr | None = None
    x_view: Strided | None = None
    w_view: Strided | None = None
    axes: tuple[int, ...] | None = None
    skewed: int = 0

    def shape(self, *operands: Shape) -> Shape:
        """[*B, M, N], as it is stored. Raises ValueError when the operands do not fit together."""
        result = self.result(*operands)
        return result if self.axes is None else Permute(self.axes).shape(result)

    def matrices(self, x: Shape, w: Shape) -> tuple[Shape, Shape]:
        """The shapes of x and w in their operands; of w before it was skewed."""
        if self.skewed:
            w = (self.skewed, w[1])
        return (
            x if self.x_view is None else self.x_view.shape(x),
            w if self.w_view is None else self.w_view.shape(w),
        )

    def result(self, *operands: Shape) -> Shape:
        """[*B, M, N]."""
        (x, w), extras = self.matrices(*operands[:2]), operands[2:]
        if not x or len(w) < 2 or (self.transposed and len(x) < 2):
            raise ValueError(f"matmul of {operands}")
        depth, *height = (x[-2], x[-1]) if self.transposed else (x[-1], *x[-2:-1])
        columns, w_depth = w[-2:] if self.rows else w[:-3:-1]
        if depth != w_depth:
            raise ValueError(f"matmul: {operands} do not fit together")
        shape = (*np.broadcast_shapes(x[:-2], w[:-2]), *height, columns)
        if any(np.broadcast_shapes(shape, one) != shape for one in extras):
            raise ValueError(f"matmul: extras {extras} do not broadcast to {shape}")
        return shape

    def dtype(self, *operands: str) -> str:
        """Products are of f32; what an epilogue also reads may be a truth value."""
        result = dtype_of(self.epilogue, ("f32", *operands[2:])) if self.epilogue is not None else "f32"
        if operands[:2] != ("f32", "f32") or result != "f32":
            raise ValueError(f"matmul of {operands} to {result}")
        return "f32"

    def flops(self, *operands: Shape) -> int:
        """A multiply-add counts as two."""
        depth = self.matrices(*operands[:2])[0][-2 if self.transposed else -1]
        return 2 * depth * prod(self.shape(*operands))

    def evaluate(self, *operands: Array) -> Array:
        """One matrix product, then the epilogue."""
        x, w, *extras = operands
        w = straightened(w, self.skewed) if self.skewed else w
        x = x if self.x_view is None else self.x_view.evaluate(x)
        w = w if self.w_view is None else self.w_view.evaluate(w)
        result = (np.swapaxes(x, -1, -2) if self.transposed else x) @ (
            np.swapaxes(w, -1, -2) if self.rows else w
        )
        if self.epilogue is not None:
            result = np.broadcast_to(evaluate(self.epilogue, (result, *extras)), result.shape)
        return np.ascontiguousarray(result if self.axes is None else result.transpose(self.axes))

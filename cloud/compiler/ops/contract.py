"""Matrix products."""

from dataclasses import dataclass
from math import prod

import numpy as np

from cloud.compiler.expr import Expr, dtype_of, evaluate
from cloud.compiler.ir import Array, Shape
from cloud.compiler.ops.movement import Permute, Strided


@dataclass(frozen=True, slots=True)
class MatMul:
    """``epilogue(x @ w.T, extras...)``: x [*B, M, K] (or [K]), w [*B, N, K] -> [*B, M, N] (or [*B, N]).

    Batches are broadcast; a weight has none.
    ``rows``: w is given as [.., N, K], torch's layout of a linear layer; otherwise as [.., K, N].
    ``transposed``: x is given as [*B, K, M] (the gradient of a weight needs it so).
    ``epilogue``: Arg(0) is the product, Arg(1).. are extra operands, each broadcast to the result.
    ``x_view``, ``w_view``: where in its operand x or w is found, instead of being all of it.
    ``axes``: axis i of what is stored is axis ``axes[i]`` of the result.
    """

    rows: bool = True
    transposed: bool = False
    epilogue: Expr | None = None
    x_view: Strided | None = None
    w_view: Strided | None = None
    axes: tuple[int, ...] | None = None

    def shape(self, *operands: Shape) -> Shape:
        """[*B, M, N], as it is stored. Raises ValueError when the operands do not fit together."""
        result = self.result(*operands)
        return result if self.axes is None else Permute(self.axes).shape(result)

    def matrices(self, x: Shape, w: Shape) -> tuple[Shape, Shape]:
        """The shapes of x and w in their operands."""
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
        x = x if self.x_view is None else self.x_view.evaluate(x)
        w = w if self.w_view is None else self.w_view.evaluate(w)
        result = (np.swapaxes(x, -1, -2) if self.transposed else x) @ (
            np.swapaxes(w, -1, -2) if self.rows else w
        )
        if self.epilogue is not None:
            result = np.broadcast_to(evaluate(self.epilogue, (result, *extras)), result.shape)
        return np.ascontiguousarray(result if self.axes is None else result.transpose(self.axes))

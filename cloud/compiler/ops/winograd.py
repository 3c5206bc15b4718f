"""Convolution by Winograd's F(4 x 4, 3 x 3), for ``precision="fast"``.

A tile of 4 x 4 results is computed from 6 x 6 pixels with 36 multiplications for each pair of channels
instead of 144 (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016):

    Y = A' [ (G g G') . (B' d B) ] A        g: 3 x 3 weights, d: 6 x 6 pixels, "." element by element

The coefficients of A reach 8, so that rounding errors grow: the result is within 2e-5 of the largest one,
where the direct convolution is within 1e-6.
"""

from dataclasses import dataclass

import numpy as np

from cloud.compiler.expr import Expr
from cloud.compiler.ir import Array, Shape
from cloud.compiler.ops.image import NO_BORDER, PANEL, Border, convolved_dtype, finished, fitting

TILE = 4  # results along each axis
POINTS = TILE + 2  # pixels that they see
INPUT = np.array(  # B'
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float64,
)
KERNEL = np.array(  # G
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    np.float64,
)
OUTPUT = np.array(  # A'
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], np.float64
)


@dataclass(frozen=True, slots=True)
class WinogradConv:
    """``epilogue(x * w, extras...)`` for 3 x 3 weights, stride 1, with w as u [36, P, C, 8], transformed.

    x [B, H, W, C] with whole tiles: H - 2 and W - 2 are ``height`` and ``width`` of the result, rounded up to
    multiples of 4; the pixels beyond must be zero. The rest as in :class:`cloud.compiler.ops.image.Conv`.
    """

    outputs: int
    height: int
    width: int
    epilogue: Expr | None = None
    halo: Border = NO_BORDER

    def shape(self, *operands: Shape) -> Shape:
        """[B, height, width, outputs], halo included. Raises ValueError when the operands do not fit."""
        x, u, *extras = operands
        image = (x[0], padded(self.height), padded(self.width), x[3])
        panels = -(-self.outputs // PANEL)
        if x != image or u != (POINTS * POINTS, panels, x[3], PANEL):
            raise ValueError(f"winograd: {operands} do not fit together")
        return self.halo.around(fitting((x[0], self.height, self.width, self.outputs), extras))

    def dtype(self, *operands: str) -> str:
        """Convolutions are of f32."""
        return convolved_dtype(self.epilogue, operands)

    def flops(self, *operands: Shape) -> int:
        """Of the convolution that this is, so that speeds can be compared."""
        batch, *_, channels = operands[0]
        return 2 * 9 * batch * self.height * self.width * channels * self.outputs

    def evaluate(self, *operands: Array) -> Array:
        """Every tile by the formula."""
        x, u, *extras = operands
        at_input, at_output = INPUT.astype(x.dtype), OUTPUT.astype(x.dtype)
        seen = np.lib.stride_tricks.sliding_window_view(x, (POINTS, POINTS), axis=(1, 2))[:, ::TILE, ::TILE]
        d = np.einsum("ai,btuCij,ej->btuCae", at_input, seen, at_input, optimize=True)
        dense = np.moveaxis(u.reshape(POINTS, POINTS, *u.shape[1:]), 4, 3)  # [6, 6, P, 8, C]
        dense = dense.reshape(POINTS, POINTS, -1, x.shape[3])[:, :, : self.outputs]
        products = np.einsum("btuCae,aeoC->btuaeo", d, dense, optimize=True)
        y = np.einsum("ia,btuaeo,je->btiujo", at_output, products, at_output, optimize=True)
        batch, rows, _, columns, *_ = y.shape
        y = y.reshape(batch, rows * TILE, columns * TILE, self.outputs)[:, : self.height, : self.width]
        return finished(y, self.epilogue, extras, self.halo)


def padded(size: int) -> int:
    """Pixels of an image that whole tiles of ``size`` results see."""
    return -(-size // TILE) * TILE + POINTS - TILE

"""Convolution with fewer multiplications, by Cook's and Toom's polynomials, for ``precision="fast"``.

A tile of m results of a kernel of r taps is the part of a product of polynomials that m + r - 1 points
determine, so that it takes m + r - 1 multiplications instead of m * r (Winograd, "Arithmetic Complexity of
Computations", 1980; Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016):

    Y = A' [ (G g) . (B' d) ]           g: r taps, d: m + r - 1 pixels, "." element by element

Along both axes of an image the same is done twice, each axis with a :class:`Scheme` of its own:

    tile, taps          points   multiplications
    4, 3                6        6 of 12: along both axes 36 of 144
    4, 5                8        8 of 20
    4, 3, stride 2      5 + 4    taps 0 and 2 see the even pixels, tap 1 the odd ones; each is a convolution
                                 of its own, and one tap needs no point at infinity: 9 of 12
    2, 3, enclosed      3        of a whole image of two pixels between zeros: 3 of 6
    1, 1                1        an axis without neighbours: the height of a signal

The coefficients grow with the points (they reach 8 for a tile of 4 and 3 taps), and so do rounding errors: a
result is within 2e-5 of the largest one, where the direct convolution is within 1e-6.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from cloud.compiler.expr import Expr
from cloud.compiler.ir import Array, Shape
from cloud.compiler.ops.image import (
    NO_BORDER,
    ONE_PHASE,
    PANEL,
    Border,
    Phases,
    convolved_dtype,
    finished,
    fitting,
)

Matrix: TypeAlias = npt.NDArray[np.float64]
POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)  # and infinity: small, in pairs, exact in binary


@dataclass(frozen=True, slots=True)
class Scheme:
    """How one axis is computed: ``tile`` (1, 2 or 4) results at a time of a kernel of ``taps``.

    ``enclosed``: the tile is all there is, and the pixels before and behind it are zeros.
    """

    tile: int
    taps: int
    stride: int = 1
    enclosed: bool = False

    @property
    def points(self) -> int:
        """Multiplications for a tile, of each piece that has all of them."""
        return len(output_matrix(self)[0])

    @property
    def window(self) -> int:
        """Pixels from the first that a tile sees to the last."""
        return self.stride * (self.tile - 1) + self.taps

    def tiles(self, results: int) -> int:
        """How many cover so many results."""
        return -(-results // self.tile)

    def padded(self, results: int) -> int:
        """Pixels that whole tiles see."""
        return (self.tiles(results) - 1) * self.tile * self.stride + self.window


ALONE = Scheme(1, 1)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the taps with pixels of its own: every ``stride``-th, from ``first`` on.

    ``seen`` (B') has a row for each point, ``weighed`` (G) too, with a column for each tap of the kernel.
    """

    first: int
    seen: Matrix
    weighed: Matrix


@lru_cache
def output_matrix(scheme: Scheme) -> Matrix:
    """A': [tile, points]."""
    matrix = _cook_toom(scheme.tile, _most_taps(scheme))[0]
    return matrix[::-1].copy() if scheme.enclosed else matrix


@lru_cache
def pieces(scheme: Scheme) -> tuple[Piece, ...]:
    """One for each pixel of a stride; those with fewer taps do without the last point, infinity."""
    taps = np.eye(scheme.taps)
    if scheme.enclosed:  # y1 = g0 d0 + g1 d1 and y0 = g1 d0 + g2 d1: pixels are the taps, over a kernel
        _, weighed, seen = _cook_toom(scheme.tile, scheme.tile)
        return (Piece(1, weighed, seen @ taps),)
    found = []
    for first in range(min(scheme.stride, scheme.taps)):
        _, weighed, seen = _cook_toom(scheme.tile, _most_taps(scheme))
        own = taps[first :: scheme.stride]
        if len(own) < weighed.shape[1]:
            weighed, seen = weighed[:-1, : len(own)], seen[:-1, :-1]
        found.append(Piece(first, seen, weighed @ own))
    return tuple(found)


def _most_taps(scheme: Scheme) -> int:
    """Of a piece; of an image of two pixels, which are the taps."""
    return scheme.tile if scheme.enclosed else -(-scheme.taps // scheme.stride)


def _cook_toom(tile: int, taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """A' [tile, n], G [n, taps] and B' [n, n] for n - 1 points and infinity."""
    size = tile + taps - 1
    finite = POINTS[: size - 1]
    at_output, at_kernel, at_input = np.zeros((tile, size)), np.zeros((size, taps)), np.zeros((size, size))
    for index, point in enumerate(finite):
        others = [one for one in finite if one != point]
        at_output[:, index] = point ** np.arange(tile)
        at_kernel[index] = point ** np.arange(taps) / prod(point - one for one in others)
        at_input[index, : size - 1] = np.polynomial.polynomial.polyfromroots(others) if others else 1
    at_output[-1, -1] = at_kernel[-1, -1] = 1
    at_input[-1] = np.polynomial.polynomial.polyfromroots(finite) if finite else 1
    return at_output, at_kernel, at_input


@dataclass(frozen=True, slots=True)
class Plane:
    """Products of one point, (row, column), for the pieces (above, beside) of the two axes."""

    point: tuple[int, int]
    piece: tuple[int, int]


@lru_cache
def planes(rows: Scheme, columns: Scheme) -> tuple[tuple[Plane, ...], ...]:
    """For each point the planes whose products are added up: points of most planes first."""
    points = [
        tuple(
            Plane((row, column), (above, beside))
            for above, high in enumerate(pieces(rows))
            for beside, wide in enumerate(pieces(columns))
            if row < len(high.seen) and column < len(wide.seen)
        )
        for row in range(rows.points)
        for column in range(columns.points)
    ]
    return tuple(sorted(points, key=len, reverse=True))


@lru_cache
def kernel_matrix(rows: Scheme, columns: Scheme) -> Matrix:
    """[planes, taps of both axes]: what makes u of the weights."""
    found = []
    for plane in (one for point in planes(rows, columns) for one in point):
        high, wide = pieces(rows)[plane.piece[0]], pieces(columns)[plane.piece[1]]
        found.append(np.kron(high.weighed[plane.point[0]], wide.weighed[plane.point[1]]))
    return np.array(found)


@dataclass(frozen=True, slots=True)
class WinogradConv:
    """``epilogue(x * w, extras...)``, with the weights as u [planes, P, C, 8], transformed.

    x [B, H, W, C] with whole tiles: H and W are at least what the schemes say for ``height`` and ``width`` of
    the result of a phase; pixels that only results beyond these see may be anything finite. The rest as in
    :class:`cloud.compiler.ops.image.Conv`.
    """

    outputs: int
    height: int
    width: int
    rows: Scheme
    columns: Scheme
    epilogue: Expr | None = None
    halo: Border = NO_BORDER
    phases: Phases = ONE_PHASE

    @property
    def stride(self) -> tuple[int, int]:
        """Of the convolution."""
        return self.rows.stride, self.columns.stride

    def shape(self, *operands: Shape) -> Shape:
        """[B, OH, OW, outputs], halo included. Raises ValueError when the operands do not fit together."""
        x, u, *extras = operands
        panels = self.phases.count * -(-self.outputs // PANEL)
        count = sum(map(len, planes(self.rows, self.columns)))
        _, height, width, _ = self.phases.seen(x)
        small = height < self.rows.padded(self.height) or width < self.columns.padded(self.width)
        if small or u != (count, panels, x[3], PANEL):
            raise ValueError(f"winograd: {operands} do not fit together")
        size = self.height * self.phases.rows, self.width * self.phases.columns
        return self.halo.around(fitting((x[0], *size, self.outputs), extras))

    def dtype(self, *operands: str) -> str:
        """Convolutions are of f32."""
        return convolved_dtype(self.epilogue, operands)

    def flops(self, *operands: Shape) -> int:
        """Of the convolution that this is, so that speeds can be compared."""
        batch, *_, channels = operands[0]
        taps = self.rows.taps * self.columns.taps
        return 2 * taps * batch * self.phases.count * self.height * self.width * channels * self.outputs

    def evaluate(self, *operands: Array) -> Array:
        """Every tile by the formula."""
        x, u, *extras = operands
        parts = np.split(u, self.phases.count, axis=1)
        y = self.phases.interleaved(lambda seen, index: self._tiles(seen, parts[index]), x)
        return finished(y, self.epilogue, extras, self.halo)

    def _tiles(self, x: Array, u: Array) -> Array:
        """One phase."""
        dense = np.moveaxis(u, 3, 2).reshape(len(u), -1, x.shape[3])[:, : self.outputs]  # [planes, O, C]
        seen, at, products = self._seen(x), 0, []
        for point in planes(self.rows, self.columns):
            total = 0
            for plane in point:
                total = total + seen[plane] @ dense[at].T
                at += 1
            products.append((point[0].point, total))
        y: Array = np.zeros((), x.dtype)
        for (row, column), total in products:  # [B, tiles, tiles, O]
            weights = np.outer(output_matrix(self.rows)[:, row], output_matrix(self.columns)[:, column])
            y = y + np.einsum("ij,btuo->btiujo", weights.astype(x.dtype), total)
        batch, high, _, wide, *_ = y.shape
        y = y.reshape(batch, high * self.rows.tile, wide * self.columns.tile, self.outputs)
        return y[:, : self.height, : self.width]

    def _seen(self, x: Array) -> dict[Plane, Array]:
        """B' d of every plane: [B, tiles, tiles, C]."""
        found = {}
        for plane in (one for point in planes(self.rows, self.columns) for one in point):
            high, wide = pieces(self.rows)[plane.piece[0]], pieces(self.columns)[plane.piece[1]]
            row, column = high.seen[plane.point[0]], wide.seen[plane.point[1]]
            found[plane] = sum(
                (row[i] * column[j]).astype(x.dtype) * self._pixels(x, high.first, i, wide.first, j)
                for i in range(len(row))
                for j in range(len(column))
            )
        return found

    def _pixels(self, x: Array, top: int, i: int, left: int, j: int) -> Array:
        """One pixel of every tile."""
        high, wide = self.rows.tile * self.rows.stride, self.columns.tile * self.columns.stride
        row, column = top + i * self.rows.stride, left + j * self.columns.stride
        tiles = self.rows.tiles(self.height), self.columns.tiles(self.width)
        return x[:, row::high, column::wide][:, : tiles[0], : tiles[1]]

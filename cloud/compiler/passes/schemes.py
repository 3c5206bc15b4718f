"""Which of the schemes computes a convolution soonest, or none: estimates, in multiply-adds of a vector.

    direct       every pixel, tap, channel and output
    winograd     the products of its planes, and the transforms of every tile: an operation, a load or a store
                 of a vector takes about half as long
    either       weights that a second-level cache cannot hold come while the first few pixels or tiles are
                 computed, which may have to wait for them

Measured on one Zen core, with 249 random sizes of convolutions: none that was estimated a tenth cheaper was
slower than the direct one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np

from cloud.compiler.ops.image import LANES, PANEL
from cloud.compiler.ops.winograd import ALONE, Matrix, Scheme, output_matrix, pieces, planes

ITEM_BYTES = 4
CACHE_BYTES = 1 << 20
STREAM = 0.3  # for a byte of weights from beyond the second-level cache
OPERATION = 0.5  # of a transform
GAIN_MIN = 1.1
FULL, LEAST = 4, 2  # pixels of a tile of registers; of fewer, its loads of weights take as long as two
TILES: dict[tuple[int, int], tuple[int, ...]] = {  # taps, stride -> results of a tile
    (2, 1): (2, 4),
    (3, 1): (2, 4),
    (5, 1): (2, 4),
    (3, 2): (2, 4),
    (5, 2): (2, 4),
    (7, 2): (2, 4),
}
ENCLOSED_PIXELS = 2


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a convolution. ``enclosed``: along which axes its image is two pixels between zeros."""

    batch: int
    height: int
    width: int
    channels: int
    outputs: int
    taps: tuple[int, int]
    stride: tuple[int, int]
    enclosed: tuple[bool, bool] = (False, False)
    changing: bool = False  # weights, from run to run

    @property
    def weights(self) -> int:
        """Of one plane: vectors, in whole panels."""
        return self.channels * -(-self.outputs // PANEL) * PANEL // LANES


def cheapest(sizes: Sizes) -> tuple[Scheme, Scheme] | None:
    """The schemes for rows and columns; None where the direct convolution is as good."""
    candidates = [(cost(sizes, *one), index, one) for index, one in enumerate(_candidates(sizes))]
    least, _, chosen = min(candidates, default=(np.inf, 0, None))
    return chosen if least * GAIN_MIN < direct_cost(sizes) else None


def direct_cost(sizes: Sizes) -> float:
    """Of the direct convolution."""
    weights = prod(sizes.taps) * sizes.channels * -(-sizes.outputs // LANES)
    return _products(sizes.batch * sizes.height, sizes.width, weights)


def cost(sizes: Sizes, rows: Scheme, columns: Scheme) -> float:
    """Of the convolution by these schemes."""
    tiles = sizes.batch * rows.tiles(sizes.height) * columns.tiles(sizes.width)
    weights = sum(map(len, planes(rows, columns))) * sizes.weights
    inputs = sum(_transform(down.seen, beside.seen) for down in pieces(rows) for beside in pieces(columns))
    outputs = _transform(output_matrix(rows), output_matrix(columns))
    transforms = tiles * (-(-sizes.channels // LANES) * inputs + -(-sizes.outputs // LANES) * outputs)
    changing = weights * prod(sizes.taps) if sizes.changing else 0
    return _products(1, tiles, weights) + OPERATION * transforms + changing


def _candidates(sizes: Sizes) -> Iterator[tuple[Scheme, Scheme]]:
    axes = [_schemes(*one) for one in zip(sizes.taps, sizes.stride, sizes.enclosed, strict=True)]
    for rows, columns in product(*axes):
        if (rows, columns) != (ALONE, ALONE):
            yield rows, columns


def _schemes(taps: int, stride: int, enclosed: bool) -> list[Scheme]:
    if (taps, stride) == (1, 1):
        return [ALONE]
    found = [Scheme(tile, taps, stride) for tile in TILES.get((taps, stride), ())]
    return [*found, Scheme(ENCLOSED_PIXELS, taps, stride, enclosed=True)] if enclosed else found


def _products(rows: int, pixels: int, weights: int) -> float:
    """Of rows of so many pixels (or tiles), each with all weights."""
    whole, rest = divmod(pixels, FULL)
    computed = rows * (whole * FULL + (max(rest, LEAST) if rest else 0))
    first, nbytes = FULL if whole else LEAST, weights * LANES * ITEM_BYTES
    coming = nbytes * STREAM if nbytes > CACHE_BYTES else 0.0
    return max(computed - first, 0) * weights + max(first * weights, coming)


def _transform(down: Matrix, beside: Matrix) -> int:
    """Operations, loads and stores of ``down @ tile @ beside.T``."""
    read, written = down.shape[1] * beside.shape[1], len(down) * len(beside)
    between = 0 if 1 in (down.size, beside.size) else 2 * len(down) * beside.shape[1]
    first, second = np.count_nonzero(down) * beside.shape[1], np.count_nonzero(beside) * len(down)
    return int(read + written + between + first + second)

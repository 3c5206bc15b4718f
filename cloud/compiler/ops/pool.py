"""Pooling and interpolation over NHWC images.

A pool is told every window, axis by axis, already cut to the image: padding, ceil_mode and adaptive sizes are
the lowering's affair, and no window reads outside its image.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from cloud.compiler.ir import Array, Shape
from cloud.compiler.ops.indexing import inside


class PoolKind(StrEnum):
    """What becomes of a window. NaN wins a maximum."""

    MAX = "max"
    MEAN = "mean"


@dataclass(frozen=True, slots=True)
class Window:
    """``count`` positions of one axis: ``start``, ``start + dilation``, ... ``divisor``: for a mean."""

    start: int
    count: int
    divisor: int = 1


@dataclass(frozen=True, slots=True)
class Piece:
    """``repeats`` windows like ``first``, ``step`` positions apart."""

    first: Window
    step: int
    repeats: int


@dataclass(frozen=True, slots=True)
class Pool:
    """One number for each window and channel: x [B, H, W, C] -> [B, rows, columns, C].

    A mean divides the sum by the product of its row's and its column's divisor.
    """

    kind: PoolKind
    rows: tuple[Window, ...]
    columns: tuple[Window, ...]
    dilation: tuple[int, int] = (1, 1)

    def shape(self, *operands: Shape) -> Shape:
        """[B, rows, columns, C]. Raises ValueError for a window that is empty or reaches outside."""
        ((batch, height, width, channels),) = operands
        _require_inside(self.rows, self.dilation[0], height)
        _require_inside(self.columns, self.dilation[1], width)
        return (batch, len(self.rows), len(self.columns), channels)

    def dtype(self, *operands: str) -> str:
        """Images are of f32."""
        if set(operands) != {"f32"}:
            raise ValueError(f"pool: of {operands}")
        return "f32"

    def evaluate(self, *operands: Array) -> Array:
        """All windows at once, tap after tap."""
        (x,) = operands
        result = np.full(self.shape(x.shape), -np.inf if self.kind is PoolKind.MAX else 0.0, x.dtype)
        for seen, has, _ in taps(x, self.rows, self.columns, self.dilation):
            if self.kind is PoolKind.MAX:
                result = np.where(has, np.maximum(result, seen), result)
            else:
                result = result + np.where(has, seen, 0)
        if self.kind is PoolKind.MAX:
            return result
        rows, columns = (np.array([one.divisor for one in axis]) for axis in (self.rows, self.columns))
        means: Array = (result / (rows[:, None, None] * columns[:, None])).astype(x.dtype)
        return means

    def flops(self, *operands: Shape) -> int:
        """One for each number looked at."""
        batch, _, _, channels = operands[0]
        rows, columns = (sum(one.count for one in axis) for axis in (self.rows, self.columns))
        return batch * channels * rows * columns


@dataclass(frozen=True, slots=True)
class PoolIndex:
    """Where each maximum of :class:`Pool` came from: x [B, H, W, C] -> i32 [B, rows, columns, C].

    Flat in the image, row * width + column; the first of equals, but the last NaN, as torch has it.
    """

    rows: tuple[Window, ...]
    columns: tuple[Window, ...]
    dilation: tuple[int, int] = (1, 1)

    def shape(self, *operands: Shape) -> Shape:
        """As the pool's."""
        return Pool(PoolKind.MAX, self.rows, self.columns, self.dilation).shape(*operands)

    def dtype(self, *operands: str) -> str:
        """Indices."""
        del operands
        return "i32"

    def evaluate(self, *operands: Array) -> Array:
        """All windows at once, tap after tap."""
        (x,) = operands
        best = np.full(self.shape(x.shape), -np.inf, x.dtype)
        where = np.full(best.shape, -1)
        for seen, has, place in taps(x, self.rows, self.columns, self.dilation):
            better = has & ((seen > best) | np.isnan(seen) | (where < 0))
            best, where = np.where(better, seen, best), np.where(better, place, where)
        return where.astype(np.int32)


@dataclass(frozen=True, slots=True)
class Resample:
    """Weighted sums of positions along ``axis``: x [*A, n, *B], indices and weights [m, t] -> [*A, m, *B].

    Position i of the result is the sum over t of ``weights[i, t] * x[indices[i, t]]``. Indices are i32 and
    mean what they mean in :class:`cloud.compiler.ops.indexing.Gather`.
    """

    axis: int

    def shape(self, *operands: Shape) -> Shape:
        """m in the place of n."""
        x, indices, weights = operands
        if indices != weights or len(indices) != 2 or not 0 <= self.axis < len(x):
            raise ValueError(f"resample: {operands} along axis {self.axis}")
        return (*x[: self.axis], indices[0], *x[self.axis + 1 :])

    def dtype(self, *operands: str) -> str:
        """Numbers are of f32."""
        if operands != ("f32", "i32", "f32"):
            raise ValueError(f"resample: of {operands}")
        return "f32"

    def evaluate(self, *operands: Array) -> Array:
        """One tap after another."""
        x, indices, weights = operands
        at = inside(indices, x.shape[self.axis])
        wide = [1] * (x.ndim - self.axis - 1)
        pieces = [
            np.take(x, at[:, tap], self.axis) * weights[:, tap].reshape(-1, *wide)
            for tap in range(at.shape[1])
        ]
        total: Array = sum(pieces[1:], pieces[0]).astype(x.dtype)
        return total

    def flops(self, *operands: Shape) -> int:
        """A multiply-add for each tap."""
        return 2 * int(np.prod(self.shape(*operands))) * operands[1][1]


def taps(
    x: Array, rows: tuple[Window, ...], columns: tuple[Window, ...], dilation: tuple[int, int]
) -> Iterator[tuple[Array, Array, Array]]:
    """For each tap the numbers that the windows see, which windows have it, and its place in the image."""
    for row in range(max(one.count for one in rows)):
        at_row, has_row = _tap(rows, row, dilation[0])
        for column in range(max(one.count for one in columns)):
            at_column, has_column = _tap(columns, column, dilation[1])
            place = (at_row[:, None] * x.shape[2] + at_column)[:, :, None]
            has = (has_row[:, None] & has_column)[:, :, None]
            yield x[:, at_row[:, None], at_column], has, place


def pieces(windows: tuple[Window, ...]) -> list[Piece]:
    """Neighbours of one size, one divisor and one distance, together."""
    found: list[Piece] = []
    for one in windows:
        last = found[-1] if found else None
        if last and (last.first.count, last.first.divisor) == (one.count, one.divisor):
            ahead = one.start - last.first.start - (last.repeats - 1) * last.step
            if last.repeats == 1 or ahead == last.step:
                found[-1] = Piece(last.first, ahead, last.repeats + 1)
                continue
        found.append(Piece(one, 0, 1))
    return found


def _tap(windows: tuple[Window, ...], index: int, dilation: int) -> tuple[Array, Array]:
    """Positions of one tap, and which windows have it; the others show their first."""
    has = np.array([index < one.count for one in windows])
    starts = np.array([one.start for one in windows])
    return np.where(has, starts + index * dilation, starts), has


def _require_inside(windows: tuple[Window, ...], dilation: int, size: int) -> None:
    for one in windows:
        if one.count < 1 or one.start < 0 or one.start + (one.count - 1) * dilation >= size:
            raise ValueError(f"pool: {one} with dilation {dilation} of {size} positions")

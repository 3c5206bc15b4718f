"""Pooling in ATen, on images in NHWC; a signal is an image of height 1.

Every form of pooling becomes two lists of windows, one for each axis, cut to the image: what padding adds to
a maximum is never greatest, what it adds to a mean is zero and only counts in the divisor. Large windows are
pooled along the columns first and then along the rows, which looks at fewer numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloud.compiler.ir import Value
from cloud.compiler.lowering import resample, volume
from cloud.compiler.lowering.call import AtenCall, Builder, Lowering
from cloud.compiler.lowering.image import from_image, to_image
from cloud.compiler.lowering.pieces import many
from cloud.compiler.ops.pool import Pool, PoolIndex, PoolKind, Window, pieces
from cloud.compiler.ops.reduce import Reduce, ReduceKind

_Windows = tuple[Window, ...]
LOOPS_MAX = 25  # pieces of rows by pieces of columns that one kernel writes out
_REDUCE = {PoolKind.MAX: ReduceKind.MAX, PoolKind.MEAN: ReduceKind.MEAN}


@dataclass(frozen=True, slots=True)
class _Axis:
    """How windows lie along one axis. ``counts_padding``: in a mean's divisor."""

    kernel: int
    stride: int
    padding: int = 0
    dilation: int = 1
    counts_padding: bool = False

    def windows(self, size: int, count: int) -> _Windows:
        """``count`` windows of an axis of ``size`` positions. Raises ValueError for one outside of it."""
        return tuple(self._window(index * self.stride - self.padding, size) for index in range(count))

    def _window(self, start: int, size: int) -> Window:
        skipped = -(min(start, 0) // self.dilation)
        end = min(self.kernel, -((start - size) // self.dilation))
        divisor = (
            min(start + self.kernel, size + self.padding) - start if self.counts_padding else end - skipped
        )
        return Window(start + skipped * self.dilation, end - skipped, divisor)


def _axes(aten: AtenCall, spatial: int, order: Sequence[str], *, counts_padding: bool = False) -> list[_Axis]:
    """The call's arguments for rows and columns; the rows of a signal are one window."""
    given = {name: aten.argument(1 + at, name) for at, name in enumerate(order)}
    kernel = many(given["kernel_size"], spatial)
    stride = many(given.get("stride") or kernel, spatial)
    padding, dilation = many(given.get("padding") or 0, spatial), many(given.get("dilation") or 1, spatial)
    found = [_Axis(*one, counts_padding) for one in zip(kernel, stride, padding, dilation, strict=True)]
    return [_Axis(1, 1)] * (2 - spatial) + found


_MAX = ("kernel_size", "stride", "padding", "dilation")
_MEAN = ("kernel_size", "stride", "padding")


def _max_pool(spatial: int, *, indices: bool = False) -> Lowering:
    def lowering(aten: AtenCall, build: Builder) -> Any:
        image = to_image(build, aten.arguments[0], spatial)
        axes = _axes(aten, spatial, _MAX)
        rows, columns = _windows(aten, image, axes, spatial)
        dilation = (axes[0].dilation, axes[1].dilation)
        y = from_image(build, _pooled(build, PoolKind.MAX, image, rows, columns, dilation), aten.shape)
        if not indices:
            return y
        return y, from_image(build, build(PoolIndex(rows, columns, dilation), image), aten.shape)

    return lowering


def _mean_pool(spatial: int) -> Lowering:
    """``avg_pool2d(x, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)``."""

    def lowering(aten: AtenCall, build: Builder) -> Value:
        image = to_image(build, aten.arguments[0], spatial)
        counted = bool(aten.argument(5, "count_include_pad", True))
        axes = _axes(aten, spatial, _MEAN, counts_padding=counted)
        rows, columns = _windows(aten, image, axes, spatial)
        if divisor := aten.argument(6, "divisor_override"):
            rows = tuple(Window(one.start, one.count, divisor) for one in rows)
            columns = tuple(Window(one.start, one.count) for one in columns)
        return from_image(build, _pooled(build, PoolKind.MEAN, image, rows, columns), aten.shape)

    return lowering


def _adaptive(spatial: int, kind: PoolKind) -> Lowering:
    def lowering(aten: AtenCall, build: Builder) -> Any:
        image = to_image(build, aten.arguments[0], spatial)
        rows, columns = (
            _parts(size, count) for size, count in zip(image.shape[1:3], _sizes(aten, spatial), strict=True)
        )
        y = from_image(build, _pooled(build, kind, image, rows, columns), aten.shape)
        if kind is PoolKind.MEAN:
            return y
        return y, from_image(build, build(PoolIndex(rows, columns), image), aten.shape)

    return lowering


def _parts(size: int, count: int) -> _Windows:
    """Part i of ``count`` reaches from floor(i * size / count) to ceil((i + 1) * size / count)."""
    edges = [(index * size // count, -(-(index + 1) * size // count)) for index in range(count)]
    return tuple(Window(start, stop - start, stop - start) for start, stop in edges)


def _sizes(aten: AtenCall, spatial: int) -> tuple[int, int]:
    """Rows and columns of the result."""
    rows, columns = (1, *aten.shape[-spatial:])[-2:]
    return rows, columns


def _windows(aten: AtenCall, image: Value, axes: Sequence[_Axis], spatial: int) -> tuple[_Windows, _Windows]:
    sizes, counts = image.shape[1:3], _sizes(aten, spatial)
    rows, columns = (axis.windows(size, count) for axis, size, count in zip(axes, sizes, counts, strict=True))
    return rows, columns


def _pooled(
    build: Builder,
    kind: PoolKind,
    image: Value,
    rows: _Windows,
    columns: _Windows,
    dilation: tuple[int, int] = (1, 1),
) -> Value:
    _, height, width, _ = image.shape
    if rows == _parts(height, 1) and columns == _parts(width, 1):
        return build(Reduce(_REDUCE[kind], (1, 2), True), image)
    if not _is_apart(height, rows, columns):
        return build(Pool(kind, rows, columns, dilation), image)
    image = build(Pool(kind, _each(height), columns, dilation), image)
    return build(Pool(kind, rows, _each(len(columns)), dilation), image)


def _is_apart(height: int, rows: _Windows, columns: _Windows) -> bool:
    """Whether columns first and then rows look at clearly fewer numbers, or need much less code."""
    high, wide = (sum(one.count for one in axis) for axis in (rows, columns))
    if high == len(rows) or wide == len(columns):
        return False
    together, apart = high * wide, height * (wide + len(columns)) + high * len(columns)
    return together > 1.5 * apart or len(pieces(rows)) * len(pieces(columns)) > LOOPS_MAX


def _each(count: int) -> _Windows:
    """Windows of one position."""
    return tuple(Window(index, 1) for index in range(count))


LOWERINGS: Mapping[str, Lowering] = {
    "_adaptive_avg_pool2d": _adaptive(2, PoolKind.MEAN),
    "adaptive_avg_pool1d": _adaptive(1, PoolKind.MEAN),
    "adaptive_avg_pool2d": _adaptive(2, PoolKind.MEAN),
    "adaptive_avg_pool3d": volume.adaptive3d(_adaptive(2, PoolKind.MEAN)),
    "adaptive_max_pool1d": _adaptive(1, PoolKind.MAX),
    "adaptive_max_pool2d": _adaptive(2, PoolKind.MAX),
    "adaptive_max_pool3d": volume.adaptive3d(_adaptive(2, PoolKind.MAX), several=True),
    "avg_pool1d": _mean_pool(1),
    "avg_pool2d": _mean_pool(2),
    "avg_pool3d": volume.mean3d(_mean_pool(2)),
    "max_pool1d": _max_pool(1),
    "max_pool1d_with_indices": _max_pool(1, indices=True),
    "max_pool2d": _max_pool(2),
    "max_pool3d": volume.max3d(_max_pool(2)),
    "max_pool2d_with_indices": _max_pool(2, indices=True),
    **resample.LOWERINGS,
}

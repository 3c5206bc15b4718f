"""Interpolation in ATen: columns first, then rows, with constant tables of positions and weights.

Positions and weights are computed in float32 exactly as torch does (``area_pixel_compute_source_index`` and
``get_cubic_upsample_coefficients`` in UpSample.h), from the scale factor where the model gives one: at column
100 the last bit of a position is 1e-5 of a pixel.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from cloud.compiler.ir import Array, Value
from cloud.compiler.lowering.call import AtenCall, Builder, Lowering
from cloud.compiler.lowering.image import from_image, to_image
from cloud.compiler.ops.indexing import Gather
from cloud.compiler.ops.movement import Expand
from cloud.compiler.ops.pool import Resample

# (axis, size before, size after, scale factor) -> the image, resampled along the axis
_Step: TypeAlias = Callable[[Value, int, int, float | None], Value]


def _nearest(spatial: int, shift: float) -> Lowering:
    """``upsample_nearest2d(x, size, scales...)``; ``shift``: 0.5 asks for the centre of a pixel (exact)."""

    def lowering(aten: AtenCall, build: Builder) -> Value:
        def step(x: Value, axis: int, count: int, scale: float | None) -> Value:
            size = x.shape[axis]
            if size == count:
                return x
            at = np.arange(count, dtype=np.float32) + np.float32(shift)
            found = np.minimum(np.floor(at * _ratio(size, count, scale)).astype(np.int32), size - 1)
            if count % size == 0 and np.array_equal(found, np.arange(count) // (count // size)):
                return _repeated(build, x, axis, count // size)
            return build(Gather(axis), x, build.constant(found))

        return _each_axis(aten, build, spatial, 2, step)

    return lowering


def _repeated(build: Builder, x: Value, axis: int, times: int) -> Value:
    front, back = x.shape[: axis + 1], x.shape[axis + 1 :]
    wide = build(Expand((*front, times, *back)), build.reshape(x, (*front, 1, *back)))
    return build.reshape(wide, (*front[:-1], front[-1] * times, *back))


def _linear(spatial: int) -> Lowering:
    """``upsample_bilinear2d(x, size, align_corners, scales...)``."""

    def lowering(aten: AtenCall, build: Builder) -> Value:
        align = bool(aten.argument(2, "align_corners", False))

        def step(x: Value, axis: int, count: int, scale: float | None) -> Value:
            size = x.shape[axis]
            if size == count:
                return x
            at = np.maximum(_positions(size, count, scale, align), np.float32(0.0))
            low = np.minimum(at.astype(np.int32), size - 1)
            after = np.clip(at - low.astype(np.float32), 0.0, 1.0).astype(np.float32)
            both = np.stack([low, np.minimum(low + 1, size - 1)], 1)
            weights = np.stack([np.float32(1.0) - after, after], 1)
            return build(Resample(axis), x, build.constant(both), build.constant(weights))

        return _each_axis(aten, build, spatial, 3, step)

    return lowering


def _cubic(aten: AtenCall, build: Builder) -> Value:
    """``upsample_bicubic2d(x, size, align_corners, scales...)``: Keys' convolution with a = -0.75."""
    align = bool(aten.argument(2, "align_corners", False))

    def step(x: Value, axis: int, count: int, scale: float | None) -> Value:
        size = x.shape[axis]
        at = _positions(size, count, scale, align)
        low = np.floor(at)
        after, before = at - low, np.float32(1) - (at - low)
        weights = np.stack([_far(after + 1), _near(after), _near(before), _far(before + 1)], 1)
        neighbours = np.clip(low.astype(np.int32)[:, None] + np.arange(-1, 3), 0, size - 1)
        return build(Resample(axis), x, build.constant(neighbours), build.constant(weights))

    return _each_axis(aten, build, 2, 3, step)


_A = np.float32(-0.75)


def _near(d: Array) -> Array:
    return _fused(_fused(_A + 2, d, -(_A + 3)) * d, d, np.float32(1))


def _far(d: Array) -> Array:
    return _fused(_fused(_fused(_A, d, -5 * _A), d, 8 * _A), d, -4 * _A)


def _fused(x: Array | np.float32, y: Array | np.float32, z: np.float32) -> Array:
    """x * y + z rounded once, as torch's code is compiled wherever a processor can do that."""
    return np.asarray(np.multiply(x, y, dtype=np.float64) + z, np.float32)


def _each_axis(aten: AtenCall, build: Builder, spatial: int, scales_at: int, step: _Step) -> Value:
    image = to_image(build, aten.arguments[0], spatial)
    counts, scales = aten.shape[-spatial:], _scales(aten, spatial, scales_at)
    for axis, count, scale in zip((2, 1), reversed(counts), reversed(scales), strict=spatial == 2):
        image = step(image, axis, count, scale)
    return from_image(build, image, aten.shape)


def _scales(aten: AtenCall, spatial: int, at: int) -> Sequence[float | None]:
    """One scale factor for each axis, where the model gave them: as a list (``.vec``), or one by one."""
    given = aten.argument(at, "scale_factors")
    if isinstance(given, tuple):
        return given
    return [aten.argument(at + axis) for axis in range(spatial)]


def _ratio(size: int, count: int, scale: float | None) -> np.float32:
    """Positions of the input for each of the output, in torch's precision."""
    return np.float32(1.0 / scale) if scale else np.float32(size) / np.float32(count)


def _positions(size: int, count: int, scale: float | None, align: bool) -> Array:
    """Where the centre of each pixel of the output lies in the input."""
    at = np.arange(count, dtype=np.float32)
    if align:
        aligned: Array = at * (np.float32(size - 1) / np.float32(count - 1) if count > 1 else np.float32(0))
        return aligned
    half = np.float32(0.5)
    return _fused(at + half, _ratio(size, count, scale), -half)


LOWERINGS: Mapping[str, Lowering] = {
    "_upsample_nearest_exact1d": _nearest(1, 0.5),
    "_upsample_nearest_exact2d": _nearest(2, 0.5),
    "upsample_bicubic2d": _cubic,
    "upsample_bilinear2d": _linear(2),
    "upsample_linear1d": _linear(1),
    "upsample_nearest1d": _nearest(1, 0.0),
    "upsample_nearest2d": _nearest(2, 0.0),
}

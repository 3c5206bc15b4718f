"""Convolution and pooling of volumes [B, C, D, H, W], in terms of images.

A volume's slices are items of a batch. A convolution over kd slices is one over an image that has these
slices side by side in its channels; a pooling is one of each slice, and then one along the depth, with height
and width as the width of an image.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

from cloud.compiler.ir import Shape, Value
from cloud.compiler.lowering.call import AtenCall, Builder, Lowering
from cloud.compiler.lowering.pieces import many, padded, taken
from cloud.compiler.ops.movement import Concat

_DEPTH = 2


def conv3d(aten: AtenCall, build: Builder, conv2d: Lowering) -> Value:
    """``conv3d(x, w, bias, stride, padding, dilation, groups)``."""
    x, w, bias = aten.arguments[0], aten.arguments[1], aten.argument(2, "bias")
    stride, dilation = (many(aten.argument(at, name, 1), 3) for at, name in ((3, "stride"), (5, "dilation")))
    groups = aten.argument(6, "groups", 1)
    x = build.reshape(x, (*(1,) * (5 - len(x.shape)), *x.shape))
    padding = _padding(aten.argument(4, "padding", 0), w.shape[_DEPTH:], dilation)
    widths = ([0, 0, *(front for front, _ in padding)], [0, 0, *(back for _, back in padding)])
    x = padded(build, x, *widths)
    image = _stacked(build, x, w.shape[_DEPTH], stride[0], dilation[0])
    batch, depth, channels, taps, high, wide = image.shape
    image = build.reshape(image, (batch * depth, channels * taps, high, wide))
    w = build.reshape(w, (w.shape[0], w.shape[1] * w.shape[2], *w.shape[3:]))
    *_, outputs, _, rows, columns = (1, *aten.shape)
    call = AtenCall(
        aten.operator,
        (image, w, bias, stride[1:], (0, 0), dilation[1:], groups),
        (batch * depth, outputs, rows, columns),
        aten.source,
    )
    y: Any = conv2d(call, build)
    y = build.permute(build.reshape(y, (batch, depth, outputs, rows, columns)), (0, 2, 1, 3, 4))
    return build.reshape(y, aten.shape)


def _padding(given: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    if given == "same":
        reach = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        return [(one // 2, one - one // 2) for one in reach]
    return [(one, one) for one in many(0 if given == "valid" else given, 3)]


def _stacked(build: Builder, x: Value, taps: int, stride: int, dilation: int) -> Value:
    """[B, C, D, H, W] -> [B, D', C, taps, H, W]: of each place along the depth the slices that it reads."""
    batch, channels, size, *image = x.shape
    depth = (size - dilation * (taps - 1) - 1) // stride + 1
    pieces = [
        taken(build, x, _DEPTH, at, at + (depth - 1) * stride + 1, stride)
        for at in range(0, taps * dilation, dilation)
    ]
    lined = [build.reshape(one, (batch, channels, 1, depth, *image)) for one in pieces]
    stacked = build(Concat(_DEPTH), *lined) if taps > 1 else lined[0]
    return build.permute(stacked, (0, 3, 1, 2, 4, 5))


def adaptive3d(pool2d: Lowering, *, several: bool = False) -> Lowering:
    """``adaptive_avg_pool3d(x, size)`` and its like. ``several``: positions, not covered, would follow."""

    def lowering(aten: AtenCall, build: Builder) -> Value | tuple[Value]:
        y = _twice(aten, build, pool2d, (), ())
        return (y,) if several else y

    return lowering


def max3d(pool2d: Lowering) -> Lowering:
    """``max_pool3d(x, kernel, stride, padding, dilation, ceil_mode)``."""

    def lowering(aten: AtenCall, build: Builder) -> Value:
        sizes = [*_sizes(aten), many(aten.argument(4, "dilation", 1), 3)]
        depth = [(one[0], rest) for one, rest in zip(sizes, _ALONE, strict=True)]
        return _twice(aten, build, pool2d, [one[1:] for one in sizes], depth)

    return lowering


def mean3d(pool2d: Lowering) -> Lowering:
    """``avg_pool3d(x, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)``."""

    def lowering(aten: AtenCall, build: Builder) -> Value:
        if aten.argument(6, "divisor_override"):
            raise aten.refuse("pool without divisor_override and multiply")
        sizes = _sizes(aten)
        counted = (aten.argument(4, "ceil_mode", False), aten.argument(5, "count_include_pad", True))
        depth = [(one[0], rest) for one, rest in zip(sizes, _ALONE, strict=False)]
        return _twice(aten, build, pool2d, [*(one[1:] for one in sizes), *counted], [*depth, *counted])

    return lowering


_ALONE = (1, 1, 0, 1)  # kernel, stride, padding, dilation of an axis whose positions stay as they are


def _sizes(aten: AtenCall) -> list[tuple[int, ...]]:
    """Kernel, stride and padding."""
    kernel = many(aten.arguments[1], 3)
    return [kernel, many(aten.argument(2, "stride") or kernel, 3), many(aten.argument(3, "padding", 0), 3)]


def _twice(
    aten: AtenCall, build: Builder, pool2d: Lowering, slices: Sequence[Any], depth: Sequence[Any]
) -> Value:
    """Pooled slice by slice, then along the depth. ``slices``, ``depth``: the arguments of both poolings."""
    x = aten.arguments[0]
    *front, before, high, wide = x.shape
    after, new_high, new_wide = aten.shape[-3:]
    items = prod(front)

    def pooled(image: Value, shape: Shape, arguments: Sequence[Any]) -> Value:
        pooling = AtenCall(aten.operator, (image, *arguments), shape, aten.source)
        y = pool2d(pooling, build)
        first = y[0] if isinstance(y, tuple) else y
        assert first is not None
        return first

    y = build.reshape(x, (1, items * before, high, wide))
    y = pooled(y, (1, items * before, new_high, new_wide), slices)
    y = build.reshape(y, (1, items, before, new_high * new_wide))
    y = pooled(y, (1, items, after, new_high * new_wide), depth)
    return build.reshape(y, aten.shape)

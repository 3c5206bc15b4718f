"""What only a train step contains: backward operators, put together from forward ones.

The gradients of a convolution are convolutions (Goodfellow et al., "Deep Learning", 2016, section 9.5):

    by its input    the gradient, convolved transposed with the weight
    by its weight   the input convolved with the gradient: batch and channels change places, so do stride and
                    dilation
    by its bias     the gradient, summed

They are written as calls of ``aten.convolution``, so that one lowering knows what a convolution is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cloud.compiler.expr import Arg, Fn, call
from cloud.compiler.ir import Shape, Value
from cloud.compiler.lowering import pool_backward
from cloud.compiler.lowering.call import AtenCall, Builder, Lowered, Lowering
from cloud.compiler.lowering.pieces import many
from cloud.compiler.ops.indexing import Scatter


def _again(aten: AtenCall, build: Builder, name: str, shape: Shape, *arguments: Any) -> Value:
    """Another ATen call in the place of this one; ``shape``: of its result."""
    from cloud.compiler.lowering import lower  # the table of all families, of which this is one

    call = AtenCall(f"aten.{name}.default", arguments, shape, aten.source, dtype=aten.dtype)
    value = lower(call, build)
    assert isinstance(value, Value)
    if value.shape != shape:
        raise ValueError(f"{name} gives {value.shape}, wanted is {shape}")
    return value


def _named(name: str) -> Lowering:
    def lowering(aten: AtenCall, build: Builder) -> Lowered:
        from cloud.compiler.lowering import LOWERINGS

        return LOWERINGS[name](aten, build)

    return lowering


def _filled(aten: AtenCall, build: Builder) -> Value:
    number = {"new_zeros": 0, "new_ones": 1}.get(aten.base_name, aten.argument(2, "fill_value", 0))
    return build.constant(np.full(aten.shape, number, np.float32 if aten.dtype == "f32" else np.int32))


def _convolution_backward(aten: AtenCall, build: Builder) -> tuple[Value, ...]:
    gradient, x, w = aten.arguments[:3]
    transposed, groups, wanted = aten.argument(7), aten.argument(9), aten.argument(10)
    unread = build.constant(np.zeros((), np.float32))  # stands for a result that nobody asks for
    by_input = _by_input(aten, build, gradient, x, w) if wanted[0] else unread
    # A transposed convolution goes back as an ordinary one goes forwards: x and the gradient change places.
    wide, narrow = (gradient, x) if transposed else (x, gradient)
    by_weight = _by_weight(aten, build, narrow, wide, w, groups) if wanted[1] else unread
    axes = (0, *range(2, len(gradient.shape)))
    by_bias = _again(aten, build, "sum", (gradient.shape[1],), gradient, axes, False) if wanted[2] else unread
    return by_input, by_weight, by_bias


def _by_input(aten: AtenCall, build: Builder, gradient: Value, x: Value, w: Value) -> Value:
    stride, padding, dilation, groups = (aten.argument(index) for index in (4, 5, 6, 9))
    if aten.argument(7):
        none = (0,) * len(stride)
        forward = (gradient, w, None, stride, padding, dilation, False, none, groups)
        return _again(aten, build, "convolution", x.shape, *forward)
    rest = [
        size - ((out - 1) * step - 2 * pad + spread * (kernel - 1) + 1)
        for size, out, step, pad, spread, kernel in zip(
            x.shape[2:], gradient.shape[2:], stride, padding, dilation, w.shape[2:], strict=True
        )
    ]
    arguments = (gradient, w, None, stride, padding, dilation, True, tuple(rest), groups)
    return _again(aten, build, "convolution", x.shape, *arguments)


def _by_weight(aten: AtenCall, build: Builder, gradient: Value, x: Value, w: Value, groups: int) -> Value:
    pieces = []
    inputs, outputs = x.shape[1] // groups, gradient.shape[1] // groups
    for group in range(groups):
        part = _channels(aten, build, x, group * inputs, inputs)
        seen = _channels(aten, build, gradient, group * outputs, outputs)
        pieces.append(_weight_of_group(aten, build, seen, part, w.shape[2:]))
    return pieces[0] if groups == 1 else _again(aten, build, "cat", w.shape, tuple(pieces), 0)


def _weight_of_group(
    aten: AtenCall, build: Builder, gradient: Value, x: Value, kernel: Sequence[int]
) -> Value:
    stride, padding, dilation = (aten.argument(index) for index in (4, 5, 6))
    swap = (1, 0, *range(2, len(x.shape)))
    image, filters = build.permute(x, swap), build.permute(gradient, swap)
    found = tuple(
        (size + 2 * pad - step * (out - 1) - 1) // spread + 1
        for size, pad, step, out, spread in zip(
            x.shape[2:], padding, stride, gradient.shape[2:], dilation, strict=True
        )
    )
    shape = (image.shape[0], filters.shape[0], *found)
    none = (0,) * len(found)
    y = _again(
        aten, build, "convolution", shape, image, filters, None, dilation, padding, stride, False, none, 1
    )
    for axis, size in enumerate(kernel, start=2):  # a stride that does not divide leaves a rim
        if y.shape[axis] != size:
            cut = (*y.shape[:axis], size, *y.shape[axis + 1 :])
            y = _again(aten, build, "slice", cut, y, axis, 0, size)
    return build.permute(y, swap)


def _channels(aten: AtenCall, build: Builder, x: Value, start: int, count: int) -> Value:
    if count == x.shape[1]:
        return x
    shape = (x.shape[0], count, *x.shape[2:])
    return _again(aten, build, "slice", shape, x, 1, start, start + count)


def _max_pool_backward(aten: AtenCall, build: Builder) -> Value:
    """Each gradient goes where its maximum came from; the indices, last, are flat within a plane."""
    gradient, x, indices = aten.argument(0), aten.argument(1), aten.arguments[-1]
    planes, size = x.shape[0] * x.shape[1], int(np.prod(x.shape[2:]))
    flat = (planes, int(np.prod(gradient.shape[2:])))
    zeros = build.constant(np.zeros((planes, size), np.float32))
    scattered = _again(
        aten,
        build,
        "scatter_add",
        (planes, size),
        zeros,
        1,
        build.reshape(indices, flat),
        build.reshape(gradient, flat),
    )
    return build.reshape(scattered, x.shape)


def _mean_pool_backward(aten: AtenCall, build: Builder) -> Value:
    """Each gradient is spread over its window: a transposed convolution with equal weights."""
    gradient, x = aten.arguments[:2]
    kernel, stride, padding = (many(aten.argument(index), 2) for index in (2, 3, 4))
    include, divisor = aten.argument(6, "count_include_pad", True), aten.argument(7, "divisor_override")
    if any(padding) and not include and not divisor:
        raise aten.refuse("train with count_include_pad=True, so that all windows have one size")
    channels = x.shape[1]
    weight = np.full((channels, 1, *kernel), 1.0 / (divisor or kernel[0] * kernel[1]), np.float32)
    rest = [
        size - ((out - 1) * step - 2 * pad + taps)
        for size, out, step, pad, taps in zip(
            x.shape[2:], gradient.shape[2:], stride or kernel, padding, kernel, strict=True
        )
    ]
    if any(not 0 <= one < step for one, step in zip(rest, stride or kernel, strict=True)):
        raise aten.refuse("train without ceil_mode")
    arguments = (
        *(gradient, build.constant(weight), None),
        *(stride or kernel, padding, (1, 1), True, tuple(rest), channels),
    )
    return _again(aten, build, "convolution", x.shape, *arguments)


def _embedding_backward(aten: AtenCall, build: Builder) -> Value:
    gradient, indices, rows = aten.arguments[:3]
    width = gradient.shape[-1]
    count = int(np.prod(indices.shape))
    zeros = build.constant(np.zeros((rows, width), np.float32))
    shape = (count, width)
    rows_of = _again(aten, build, "expand", shape, build.reshape(indices, (count, 1)), shape)
    return _again(aten, build, "scatter_add", zeros.shape, zeros, 0, rows_of, build.reshape(gradient, shape))


def _copy(aten: AtenCall, build: Builder) -> Value:
    """The second array takes the place of the first."""
    x: Value = aten.arguments[1]
    return x if x.shape == aten.shape else _again(aten, build, "expand", aten.shape, x, aten.shape)


def _replication_backward(aten: AtenCall, build: Builder) -> Value:
    """``replication_pad2d_backward(gradient, x, widths)``: what was copied outwards is added up again."""
    gradient: Value
    gradient, x, widths = aten.arguments[:3]
    for index in range(len(widths) // 2):
        axis = len(x.shape) - 1 - index
        size, (before, after) = x.shape[axis], widths[2 * index : 2 * index + 2]
        source = np.clip(np.arange(-before, size + after), 0, size - 1)
        shape = (*gradient.shape[:axis], size, *gradient.shape[axis + 1 :])
        zeros = build.constant(np.zeros(shape, np.float32))
        gradient = build(Scatter(axis, add=True), zeros, build.constant(source), gradient)
    return gradient


def _shrink_backward(aten: AtenCall, build: Builder) -> Value:
    """``hardshrink_backward(gradient, x, bound)``, and softshrink's: nothing within the bounds."""
    gradient, x, bound = aten.arguments[:3]
    inside = call(Fn.LE, call(Fn.ABS, Arg(0)), bound)
    return build.pointwise(call(Fn.WHERE, inside, 0.0, Arg(1)), x, gradient)


LOWERINGS: Mapping[str, Lowering] = {
    "avg_pool2d_backward": _mean_pool_backward,
    **pool_backward.LOWERINGS,
    "_safe_softmax": _named("softmax"),
    "adaptive_max_pool2d_backward": _max_pool_backward,
    "copy": _copy,
    "convolution_backward": _convolution_backward,
    "embedding_dense_backward": _embedding_backward,
    "hardshrink_backward": _shrink_backward,
    "max_pool2d_with_indices_backward": _max_pool_backward,
    "new_full": _filled,
    "new_ones": _filled,
    "new_zeros": _filled,
    "replication_pad1d_backward": _replication_backward,
    "replication_pad2d_backward": _replication_backward,
    "softshrink_backward": _shrink_backward,
    "unsafe_split": _named("split"),
}

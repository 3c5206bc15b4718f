"""Gradients of means and interpolations over images.

Both are linear and go axis by axis: y = R x C.T with a matrix for the rows and one for the columns, so the
gradient of x is R.T dy C. A matrix is found by asking the forward operator's own meaning, in one dimension,
what it makes of each unit signal; forward and backward can't disagree about windows, padding or rounding.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from cloud.compiler.ir import Array, Graph, Value, evaluate
from cloud.compiler.lowering.call import AtenCall, Builder, Lowering
from cloud.compiler.ops.contract import MatMul

# (axis, size before, size after) -> the matrix [size before, size after]
_Matrix = Callable[[int, int, int], Array]


def _mean_backward(aten: AtenCall, build: Builder) -> Value:
    gradient, x, kernel, stride, padding, ceil_mode, include, divisor = (aten.argument(at) for at in range(8))

    def matrix(axis: int, size: int, count: int) -> Array:
        own = ((one[axis],) for one in (kernel, stride or kernel, padding))
        found = _response(aten, "avg_pool1d", size, count, *own, ceil_mode, include)
        if not divisor:
            return found
        sums: Array = (found != 0).astype(np.float64)
        return sums if axis else sums / float(divisor)

    return _spread(build, gradient, x.shape[2:], matrix)


def _adaptive_backward(aten: AtenCall, build: Builder) -> Value:
    gradient, x = aten.arguments[:2]

    def matrix(_: int, size: int, count: int) -> Array:
        return _response(aten, "adaptive_avg_pool1d", size, count, (count,))

    return _spread(build, gradient, x.shape[2:], matrix)


def _interpolation_backward(name: str, linear: bool) -> Lowering:
    """``upsample_*_backward(gradient, output_size, input_size, [align_corners,] scales...)``."""

    def lowering(aten: AtenCall, build: Builder) -> Value:
        gradient, _, shape, *rest = aten.arguments
        align = (rest.pop(0),) if linear else ()

        def matrix(axis: int, size: int, count: int) -> Array:
            scale = rest[axis] if axis < len(rest) else None
            return _response(aten, name, size, count, (count,), *align, scale)

        return _spread(build, gradient, shape[2:], matrix)

    return lowering


def _response(aten: AtenCall, name: str, size: int, count: int, *arguments: Any) -> Array:
    """What the operator in one dimension makes of unit signals: [size, count]."""
    from cloud.compiler.lowering import lower  # the table of all families, of which this is one

    signals, build = Value("signals", (size, 1, size)), Builder()
    call = AtenCall(f"aten.{name}.default", (signals, *arguments), (size, 1, count), aten.source)
    found = lower(call, build)
    assert isinstance(found, Value)
    graph = Graph((signals,), (), tuple(build.nodes), (found,), tuple(build.constants))
    (response,) = evaluate(graph, [np.eye(size).reshape(size, 1, size)], {})
    return response.reshape(size, count)


def _spread(build: Builder, gradient: Value, sizes: Sequence[int], matrix: _Matrix) -> Value:
    """Each axis of the image by its own matrix."""
    for index, size in enumerate(sizes):
        axis = len(gradient.shape) - len(sizes) + index
        weights = build.constant(matrix(index, size, gradient.shape[axis]).astype(np.float32))
        gradient = _along(build, gradient, axis, weights)
    return gradient


def _along(build: Builder, y: Value, axis: int, w: Value) -> Value:
    """``w`` [size, count] times every line of y along the axis."""
    order = [*range(len(y.shape))]
    order[axis], order[-1] = order[-1], order[axis]
    turned = build.permute(y, order)
    lines = build.reshape(turned, (prod(turned.shape[:-1]), turned.shape[-1]))
    product = build.reshape(build(MatMul(), lines, w), (*turned.shape[:-1], w.shape[0]))
    return build.permute(product, order)


LOWERINGS: Mapping[str, Lowering] = {
    "_adaptive_avg_pool2d_backward": _adaptive_backward,
    "_upsample_nearest_exact1d_backward": _interpolation_backward("_upsample_nearest_exact1d", linear=False),
    "_upsample_nearest_exact2d_backward": _interpolation_backward("_upsample_nearest_exact1d", linear=False),
    "avg_pool2d_backward": _mean_backward,
    "upsample_bilinear2d_backward": _interpolation_backward("upsample_linear1d", linear=True),
    "upsample_linear1d_backward": _interpolation_backward("upsample_linear1d", linear=True),
    "upsample_nearest1d_backward": _interpolation_backward("upsample_nearest1d", linear=False),
    "upsample_nearest2d_backward": _interpolation_backward("upsample_nearest1d", linear=False),
}

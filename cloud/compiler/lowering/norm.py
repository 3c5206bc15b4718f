"""Normalisation layers.

A batch norm with fixed statistics is a scale and a shift of each channel, written as nodes on parameters:
they are computed once, and a pass folds them into the convolution or product before it.

    scale = weight / sqrt(var + eps)     shift = bias - mean * scale     y = x * scale + shift

The channels are brought to the last axis for that, as convolutions have them.
"""

from collections.abc import Mapping
from math import prod

from cloud.compiler.expr import Arg, Expr, Fn, Number, call
from cloud.compiler.ir import Shape, Value
from cloud.compiler.lowering.call import AtenCall, Builder, Lowering
from cloud.compiler.ops.reduce import TRUTHS, LayerNorm, Reduce, ReduceKind

_X = Arg(0)
_SQUARE = call(Fn.MUL, _X, _X)
_SCALED = call(Fn.ADD, call(Fn.MUL, _X, Arg(1)), Arg(2))
FLOAT_EPS = 2.0**-23  # torch's default of rms_norm: the distance from 1 to the next float32


def along(build: Builder, kind: ReduceKind, x: Value, axes: tuple[int, ...], keepdims: bool = False) -> Value:
    """A reduction; one over axes of a single position is a reshape."""
    op = Reduce(kind, axes, keepdims)
    if kind not in TRUTHS and all(x.shape[axis] == 1 for axis in axes):
        return build.reshape(x, op.shape(x.shape))
    return build(op, x)


def axes_of(x: Value, dim: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """Non-negative axes in rising order; all of them for None and for an empty list."""
    rank = len(x.shape)
    dims = (dim,) if isinstance(dim, int) else tuple(dim or range(rank))
    return tuple(sorted(axis % rank for axis in dims)) if rank else ()


def variance(
    build: Builder, x: Value, axes: tuple[int, ...], correction: float, keepdims: bool = False
) -> tuple[Value, Value]:
    """Variance and mean, in two passes. The divisor is the count less ``correction``."""
    mean = along(build, ReduceKind.MEAN, x, axes, keepdims=True)
    squares = build.pointwise(call(Fn.MUL, *[call(Fn.SUB, _X, Arg(1))] * 2), x, mean)
    total = along(build, ReduceKind.SUM, squares, axes, keepdims)
    count = max(0.0, prod(x.shape[axis] for axis in axes) - correction)
    return build.pointwise(call(Fn.DIV, _X, count), total), build.reshape(mean, total.shape)


def _layer_norm(aten: AtenCall, build: Builder) -> Value:
    """``layer_norm(x, normalized_shape, weight, bias, eps)``."""
    x, shape = aten.arguments[:2]
    weight, bias = aten.argument(2, "weight"), aten.argument(3, "bias")
    eps = float(aten.argument(4, "eps", 1e-5))
    return _normalised(build, x, LayerNorm(len(shape), eps), weight, bias)


def _native_layer_norm(aten: AtenCall, build: Builder) -> tuple[Value, Value, Value]:
    """The result, the mean and 1 / sqrt(var + eps); what nobody reads is removed as dead code."""
    x, shape = aten.arguments[:2]
    axes = tuple(range(len(x.shape) - len(shape), len(x.shape)))
    of_squares, mean = variance(build, x, axes, 0, keepdims=True)
    return _layer_norm(aten, build), mean, _reciprocal_root(build, of_squares, float(aten.arguments[4]))


def _rms_norm(aten: AtenCall, build: Builder) -> Value:
    """``rms_norm(x, normalized_shape, weight, eps)``."""
    x, shape = aten.arguments[:2]
    return _normalised(
        build, x, LayerNorm(len(shape), _rms_eps(aten), rms=True), aten.argument(2, "weight"), None
    )


def _fused_rms_norm(aten: AtenCall, build: Builder) -> tuple[Value, Value]:
    x, shape = aten.arguments[:2]
    axes = tuple(range(len(x.shape) - len(shape), len(x.shape)))
    squares = along(build, ReduceKind.MEAN, build.pointwise(_SQUARE, x), axes, keepdims=True)
    return _rms_norm(aten, build), _reciprocal_root(build, squares, _rms_eps(aten))


def _rms_eps(aten: AtenCall) -> float:
    eps = aten.argument(3, "eps")
    return FLOAT_EPS if eps is None else float(eps)


def _normalised(build: Builder, x: Value, op: LayerNorm, weight: Value | None, bias: Value | None) -> Value:
    if weight is None:
        normal = build(op, x)
        return normal if bias is None else build.pointwise(call(Fn.ADD, _X, Arg(1)), normal, bias)
    return build(op, x, weight) if bias is None else build(op, x, weight, bias)


def _group_norm(aten: AtenCall, build: Builder) -> Value:
    """``group_norm(x, groups, weight, bias, eps)``."""
    x, count = aten.arguments[:2]
    weight, bias = aten.argument(2, "weight"), aten.argument(3, "bias")
    return _by_group(build, x, count, (weight, bias), float(aten.argument(4, "eps", 1e-5)))


def _native_group_norm(aten: AtenCall, build: Builder) -> tuple[Value, Value, Value]:
    """``native_group_norm(x, weight, bias, N, C, HxW, groups, eps)``: also mean and 1 / sqrt(var + eps)."""
    x, weight, bias, batch, _, _, count, eps = aten.arguments
    rows = build.reshape(x, (batch, count, prod(x.shape) // (batch * count)))
    of_squares, mean = variance(build, rows, (2,), 0)
    result = _by_group(build, x, count, (weight, bias), float(eps))
    return result, mean, _reciprocal_root(build, of_squares, float(eps))


def _by_group(
    build: Builder, x: Value, count: int, affine: tuple[Value | None, Value | None], eps: float
) -> Value:
    """Each group of channels of each item is one row of a layer norm; channels are scaled afterwards."""
    rows = build.reshape(x, (x.shape[0] * count, prod(x.shape[1:]) // count))
    normal = build.reshape(build(LayerNorm(1, eps), rows), x.shape)
    per_channel = (x.shape[1], *(1 for _ in x.shape[2:]))
    weight, bias = (one if one is None else build.reshape(one, per_channel) for one in affine)
    if weight is not None and bias is not None:
        return build.pointwise(_SCALED, normal, weight, bias)
    if weight is not None:
        return build.pointwise(call(Fn.MUL, _X, Arg(1)), normal, weight)
    return normal if bias is None else build.pointwise(call(Fn.ADD, _X, Arg(1)), normal, bias)


def _instance_norm(aten: AtenCall, build: Builder) -> Value:
    """``instance_norm(x, weight, bias, running_mean, running_var, use_input_stats, momentum, eps, ..)``."""
    x, weight, bias, mean, of_squares, own = aten.arguments[:6]
    eps = float(aten.arguments[7])
    if own:
        return _by_group(build, x, x.shape[1], (weight, bias), eps)
    return _by_channel(build, x, (weight, bias, mean, of_squares), eps)


def _batch_norm(aten: AtenCall, build: Builder) -> Value:
    """``batch_norm(x, weight, bias, running_mean, running_var, training, momentum, eps, ..)``."""
    if aten.operator.endswith("no_stats") or aten.arguments[5]:
        raise aten.refuse("give it running statistics: those of a batch would mix its items")
    x, weight, bias, mean, of_squares = aten.arguments[:5]
    return _by_channel(build, x, (weight, bias, mean, of_squares), float(aten.arguments[7]))


def _native_batch_norm(aten: AtenCall, build: Builder) -> tuple[Value]:
    """The same arguments; with fixed statistics the other results are empty."""
    return (_batch_norm(aten, build),)


def _fixed_batch_norm(aten: AtenCall, build: Builder) -> tuple[Value]:
    """``(x, weight, bias, running_mean, running_var, momentum, eps)``; the other results are empty."""
    x, weight, bias, mean, of_squares, _, eps = aten.arguments
    return (_by_channel(build, x, (weight, bias, mean, of_squares), float(eps)),)


def _by_channel(build: Builder, x: Value, numbers: tuple[Value | None, ...], eps: float) -> Value:
    """``numbers``: weight, bias, mean, variance, each [C]; the first two may be missing."""
    weight, bias, mean, of_squares = numbers
    assert mean is not None
    assert of_squares is not None
    scale = _reciprocal_root(build, of_squares, eps)
    if weight is not None:
        scale = build.pointwise(call(Fn.MUL, _X, Arg(1)), weight, scale)
    moved: Expr = call(Fn.MUL, _X, Arg(1))
    if bias is None:
        shift = build.pointwise(call(Fn.NEG, moved), mean, scale)
    else:
        shift = build.pointwise(call(Fn.SUB, Arg(2), moved), mean, scale, bias)
    last, first = _channels_last(x.shape)
    return build.permute(build.pointwise(_SCALED, build.permute(x, last), scale, shift), first)


def _channels_last(shape: Shape) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """[N, C, ...] -> [N, ..., C], and back."""
    rank = len(shape)
    return (0, *range(2, rank), 1), (0, rank - 1, *range(1, rank - 1))


def _reciprocal_root(build: Builder, of_squares: Value, eps: float) -> Value:
    return build.pointwise(call(Fn.DIV, Number(1.0), call(Fn.SQRT, call(Fn.ADD, _X, eps))), of_squares)


LOWERINGS: Mapping[str, Lowering] = {
    "batch_norm": _batch_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
    "native_group_norm": _native_group_norm,
    "native_layer_norm": _native_layer_norm,
    "rms_norm": _rms_norm,
    "native_batch_norm": _native_batch_norm,
    "_fused_rms_norm": _fused_rms_norm,
    "_native_batch_norm_legit": _native_batch_norm,
    "_native_batch_norm_legit_no_training": _fixed_batch_norm,
}

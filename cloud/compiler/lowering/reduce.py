"""ATen operators along axes: sums, extremes, softmax. See also distance.py and norm.py."""

from collections.abc import Mapping
from math import inf, prod

from cloud.compiler.expr import Arg, Call, Fn, Number, call
from cloud.compiler.ir import Value
from cloud.compiler.lowering import distance, norm
from cloud.compiler.lowering.call import AtenCall, Builder, Lowering
from cloud.compiler.lowering.norm import along, axes_of, variance
from cloud.compiler.ops.reduce import ArgReduce, Cumulate, ReduceKind, Softmax

_X, _Y = Arg(0), Arg(1)


def _reduction(kind: ReduceKind) -> Lowering:
    """``sum(x, dim, keepdim)`` and its like; without ``dim``, of everything."""

    def lowering(aten: AtenCall, build: Builder) -> Value:
        x = _typed(aten, build, aten.arguments[0]) if kind in _TYPED else aten.arguments[0]
        axes = axes_of(x, aten.argument(1, "dim"))
        return along(build, kind, x, axes, bool(aten.argument(2, "keepdim", False)))

    return lowering


_TYPED = frozenset({ReduceKind.SUM, ReduceKind.MEAN, ReduceKind.PROD})


def _extreme(kind: ReduceKind) -> Lowering:
    """``max(x)``, ``max(x, dim, keepdim)`` with positions as the second result, ``max(x, y)``."""

    def lowering(aten: AtenCall, build: Builder) -> Value | tuple[Value, ...]:
        x = aten.arguments[0]
        if isinstance(aten.argument(1, "other"), Value):
            fn = Fn.MAX if kind is ReduceKind.MAX else Fn.MIN
            return build.pointwise(call(fn, _X, _Y), x, aten.argument(1, "other"))
        dim = aten.argument(1, "dim")
        if dim is None:
            return along(build, kind, x, axes_of(x, None))
        keepdims = bool(aten.argument(2, "keepdim", False))
        return along(build, kind, x, axes_of(x, dim), keepdims), _position(build, kind, x, dim, keepdims)

    return lowering


def _both_extremes(aten: AtenCall, build: Builder) -> tuple[Value, Value]:
    x = aten.arguments[0]
    axes, keepdims = axes_of(x, aten.argument(1, "dim")), bool(aten.argument(2, "keepdim", False))
    low, high = (along(build, kind, x, axes, keepdims) for kind in (ReduceKind.MIN, ReduceKind.MAX))
    return low, high


def _argument_of(kind: ReduceKind) -> Lowering:
    def lowering(aten: AtenCall, build: Builder) -> Value:
        x, dim = aten.arguments[0], aten.argument(1, "dim")
        if dim is None:
            flat = build.reshape(x, (prod(x.shape),))
            return build.reshape(_position(build, kind, flat, 0, False), aten.shape)
        return _position(build, kind, x, dim, bool(aten.argument(2, "keepdim", False)))

    return lowering


def _position(build: Builder, kind: ReduceKind, x: Value, dim: int, keepdims: bool) -> Value:
    if not x.shape:
        return build.reshape(_position(build, kind, build.reshape(x, (1,)), 0, False), ())
    return build(ArgReduce(kind, dim % len(x.shape), keepdims), x)


def _cumulation(kind: ReduceKind) -> Lowering:
    def lowering(aten: AtenCall, build: Builder) -> Value:
        x = _typed(aten, build, aten.arguments[0])
        return build(Cumulate(kind, aten.argument(1, "dim") % len(x.shape)), x) if x.shape else x

    return lowering


def _cumulative_extreme(kind: ReduceKind) -> Lowering:
    """The values; the second result, their positions, is not covered, and reading it is refused."""

    def lowering(aten: AtenCall, build: Builder) -> tuple[Value]:
        x = aten.arguments[0]
        return (build(Cumulate(kind, aten.argument(1, "dim") % len(x.shape)), x),)

    return lowering


def _variance(aten: AtenCall, build: Builder) -> Value:
    return _moments(aten, build)[0]


def _deviation(aten: AtenCall, build: Builder) -> Value:
    return build.pointwise(call(Fn.SQRT, _X), _variance(aten, build))


def _deviation_and_mean(aten: AtenCall, build: Builder) -> tuple[Value, Value]:
    of_squares, mean = _moments(aten, build)
    return build.pointwise(call(Fn.SQRT, _X), of_squares), mean


def _moments(aten: AtenCall, build: Builder) -> tuple[Value, Value]:
    """Variance and mean. ``var(x, unbiased)``, ``var(x, dim, unbiased, keepdim)``, ``var.correction``."""
    x, second = aten.arguments[0], aten.argument(1, "dim")
    unbiased = aten.argument(2, "unbiased", True)
    if isinstance(second, bool):
        second, unbiased = None, second
    correction = aten.argument(2, "correction") if aten.operator.endswith("correction") else int(unbiased)
    keepdims = bool(aten.argument(3, "keepdim", False))
    return variance(build, x, axes_of(x, second), 1 if correction is None else correction, keepdims)


def _count_nonzero(aten: AtenCall, build: Builder) -> Value:
    x = aten.arguments[0]
    nonzero = build.pointwise(Call(Fn.NE, (_X, Number(0.0, x.dtype))), x)
    return along(build, ReduceKind.SUM, nonzero, axes_of(x, aten.argument(1, "dim")))


def _nan_sum(aten: AtenCall, build: Builder) -> Value:
    x = aten.arguments[0]
    numbers = build.pointwise(call(Fn.WHERE, call(Fn.EQ, _X, _X), _X, 0.0), x) if x.dtype == "f32" else x
    keepdims = bool(aten.argument(2, "keepdim", False))
    return along(build, ReduceKind.SUM, numbers, axes_of(x, aten.argument(1, "dim")), keepdims)


def _nan_mean(aten: AtenCall, build: Builder) -> Value:
    x = aten.arguments[0]
    axes, keepdims = axes_of(x, aten.argument(1, "dim")), bool(aten.argument(2, "keepdim", False))
    known = call(Fn.EQ, _X, _X)
    total, count = (
        along(build, ReduceKind.SUM, build.pointwise(one, x), axes, keepdims)
        for one in (call(Fn.WHERE, known, _X, 0.0), call(Fn.TO_F32, known))
    )
    return build.pointwise(call(Fn.DIV, _X, _Y), total, count)


def _log_sum_exp(aten: AtenCall, build: Builder) -> Value:
    """max + log(sum(exp(x - max))); an infinite maximum is not taken out, as inf - inf is no number."""
    x = aten.arguments[0]
    axes, keepdims = axes_of(x, aten.argument(1, "dim")), bool(aten.argument(2, "keepdim", False))
    most = along(build, ReduceKind.MAX, x, axes, keepdims=True)
    infinite = call(Fn.EQ, call(Fn.ABS, _X), inf)
    most = build.pointwise(call(Fn.WHERE, infinite, 0.0, _X), most)
    total = along(
        build, ReduceKind.SUM, build.pointwise(call(Fn.EXP, call(Fn.SUB, _X, _Y)), x, most), axes, keepdims
    )
    return build.pointwise(call(Fn.ADD, call(Fn.LOG, _X), _Y), total, build.reshape(most, total.shape))


def _softmax(log: bool) -> Lowering:
    """``softmax(x, dim, dtype)``, ``_softmax(x, dim, half_to_float)``."""

    def lowering(aten: AtenCall, build: Builder) -> Value:
        x = _typed(aten, build, aten.arguments[0])
        if not x.shape:
            return build.reshape(build(Softmax(0, log), build.reshape(x, (1,))), ())
        return build(Softmax(aten.argument(1, "dim") % len(x.shape), log), x)

    return lowering


def _typed(aten: AtenCall, build: Builder, x: Value) -> Value:
    """x in the dtype of the result: ``sum(x, dtype=torch.float32)`` converts first."""
    if aten.dtype == "f32" and x.dtype == "i32":
        return build.pointwise(call(Fn.TO_F32, _X), x)
    if aten.dtype != "f32" and x.dtype == "f32":
        return build.pointwise(call(Fn.TO_I32, _X), x)
    return x


LOWERINGS: Mapping[str, Lowering] = {
    "all": _reduction(ReduceKind.ALL),
    "amax": _reduction(ReduceKind.MAX),
    "amin": _reduction(ReduceKind.MIN),
    "aminmax": _both_extremes,
    "any": _reduction(ReduceKind.ANY),
    "argmax": _argument_of(ReduceKind.MAX),
    "argmin": _argument_of(ReduceKind.MIN),
    "count_nonzero": _count_nonzero,
    "cummax": _cumulative_extreme(ReduceKind.MAX),
    "cummin": _cumulative_extreme(ReduceKind.MIN),
    "cumprod": _cumulation(ReduceKind.PROD),
    "cumsum": _cumulation(ReduceKind.SUM),
    "log_softmax": _softmax(log=True),
    "logsumexp": _log_sum_exp,
    "max": _extreme(ReduceKind.MAX),
    "mean": _reduction(ReduceKind.MEAN),
    "min": _extreme(ReduceKind.MIN),
    "nanmean": _nan_mean,
    "nansum": _nan_sum,
    "prod": _reduction(ReduceKind.PROD),
    "softmax": _softmax(log=False),
    "special_log_softmax": _softmax(log=True),
    "special_logsumexp": _log_sum_exp,
    "special_softmax": _softmax(log=False),
    "std": _deviation,
    "std_mean": _deviation_and_mean,
    "sum": _reduction(ReduceKind.SUM),
    "var": _variance,
    "var_mean": _moments,
    "_log_softmax": _softmax(log=True),
    "_softmax": _softmax(log=False),
    **distance.LOWERINGS,
    **norm.LOWERINGS,
}

"""Activation functions, as torch defines them."""

from collections.abc import Mapping
from math import pi, sqrt
from typing import Any

from cloud.compiler.expr import Expr, Fn
from cloud.compiler.ir import Value
from cloud.compiler.lowering.call import AtenCall, Builder, Lowering
from cloud.compiler.lowering.elements import apply, elementwise, floats, where

SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
RRELU_LOWER, RRELU_UPPER = 1 / 8, 1 / 3
# softplus(20) is 20 in float32, and so is mish(20).
LINEAR_FROM = 20.0


def clamped(x: Expr, low: float, high: float) -> Expr:
    """NaN stays NaN."""
    return apply(Fn.MIN, apply(Fn.MAX, x, low), high)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e^-x)."""
    return apply(Fn.SIGMOID, x)


def _leaky_relu(x: Expr, slope: float) -> Expr:
    return where(apply(Fn.GT, x, 0.0), x, apply(Fn.MUL, x, slope))


def _elu(x: Expr, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Expr:
    inner = x if input_scale == 1 else apply(Fn.MUL, x, input_scale)
    below = apply(Fn.MUL, apply(Fn.EXPM1, inner), alpha * scale)
    return where(apply(Fn.GT, x, 0.0), x if scale == 1 else apply(Fn.MUL, x, scale), below)


def _celu(x: Expr, alpha: float = 1.0) -> Expr:
    return _elu(x, alpha, 1.0, 1.0 / alpha)


def _selu(x: Expr) -> Expr:
    return _elu(x, SELU_ALPHA, SELU_SCALE)


def _gelu(x: Expr, approximate: str = "none") -> Expr:
    half = apply(Fn.MUL, x, 0.5)
    if approximate == "none":
        return apply(Fn.MUL, half, apply(Fn.ADD, apply(Fn.ERF, apply(Fn.MUL, x, sqrt(0.5))), 1.0))
    cube = apply(Fn.MUL, apply(Fn.MUL, x, x), x)
    inner = apply(Fn.MUL, apply(Fn.ADD, x, apply(Fn.MUL, cube, 0.044715)), sqrt(2 / pi))
    return apply(Fn.MUL, half, apply(Fn.ADD, apply(Fn.TANH, inner), 1.0))


def _silu(x: Expr) -> Expr:
    return apply(Fn.MUL, x, sigmoid(x))


def _mish(x: Expr) -> Expr:
    """x tanh(log(1 + e^x)) = x n / (n + 2) with n = e^x (e^x + 2): one exponential and no logarithm."""
    e = apply(Fn.EXP, apply(Fn.MIN, x, LINEAR_FROM))
    n = apply(Fn.MUL, e, apply(Fn.ADD, e, 2.0))
    return where(apply(Fn.GT, x, LINEAR_FROM), x, apply(Fn.MUL, x, apply(Fn.DIV, n, apply(Fn.ADD, n, 2.0))))


def _sixth(x: Expr) -> Expr:
    return clamped(apply(Fn.ADD, x, 3.0), 0.0, 6.0)


def _hardsigmoid(x: Expr) -> Expr:
    return apply(Fn.DIV, _sixth(x), 6.0)


def _hardswish(x: Expr) -> Expr:
    return apply(Fn.DIV, apply(Fn.MUL, x, _sixth(x)), 6.0)


def _softplus(x: Expr, beta: float = 1.0, threshold: float = 20.0) -> Expr:
    scaled = x if beta == 1 else apply(Fn.MUL, x, beta)
    smooth = apply(Fn.LOG1P, apply(Fn.EXP, scaled))
    return where(apply(Fn.GT, scaled, threshold), x, smooth if beta == 1 else apply(Fn.DIV, smooth, beta))


def log_sigmoid(x: Expr) -> Expr:
    """log(1 / (1 + e^-x)) without overflow."""
    small = apply(Fn.EXP, apply(Fn.NEG, apply(Fn.ABS, x)))
    return apply(Fn.SUB, apply(Fn.MIN, x, 0.0), apply(Fn.LOG1P, small))


def _softsign(x: Expr) -> Expr:
    return apply(Fn.DIV, x, apply(Fn.ADD, apply(Fn.ABS, x), 1.0))


def _tanhshrink(x: Expr) -> Expr:
    return apply(Fn.SUB, x, apply(Fn.TANH, x))


def _hardshrink(x: Expr, bound: float) -> Expr:
    return where(apply(Fn.LE, apply(Fn.ABS, x), bound), 0.0, x)


def _softshrink(x: Expr, bound: float) -> Expr:
    inner = where(apply(Fn.LT, x, -bound), apply(Fn.ADD, x, bound), apply(Fn.MUL, x, 0.0))  # NaN stays
    return where(apply(Fn.GT, x, bound), apply(Fn.SUB, x, bound), inner)


def _threshold(x: Expr, bound: float, value: float) -> Expr:
    return where(apply(Fn.LE, x, bound), value, x)


def _relu(aten: AtenCall, build: Builder) -> Value:
    x: Value = aten.arguments[0]
    if x.dtype == "f32":
        return elementwise(build, "f32", lambda one: apply(Fn.RELU, one), x)
    return elementwise(build, "i32", lambda one, zero: apply(Fn.MAX, one, zero), x, 0)


def _prelu(aten: AtenCall, build: Builder) -> Value:
    """One slope, or one for each channel (axis 1)."""
    x, slope = aten.arguments[:2]
    if slope.shape != () and len(slope.shape) == 1 < len(x.shape):
        slope = build.reshape(slope, (*slope.shape, *(1 for _ in x.shape[2:])))
    return elementwise(
        build, "f32", lambda a, w: where(apply(Fn.GT, a, 0.0), a, apply(Fn.MUL, a, w)), x, slope
    )


def _rrelu(aten: AtenCall, build: Builder) -> Value:
    """At inference the slope is the middle of its range."""
    if aten.argument(3, "training", False):
        raise aten.refuse("call model.eval(): inference has no randomness")
    lower, upper = aten.argument(1, "lower", RRELU_LOWER), aten.argument(2, "upper", RRELU_UPPER)
    return elementwise(build, "f32", lambda x: _leaky_relu(x, (lower + upper) / 2), aten.arguments[0])


def _gelu_of(aten: AtenCall, build: Builder) -> Value:
    approximate: Any = aten.argument(1, "approximate", "none")
    return elementwise(build, "f32", lambda x: _gelu(x, approximate), aten.arguments[0])


def _log_sigmoid_forward(aten: AtenCall, build: Builder) -> tuple[Value, ...]:
    """The second result, e^-|x|, is what the gradient is made of."""
    x = aten.arguments[0]
    small = elementwise(build, "f32", lambda one: apply(Fn.EXP, apply(Fn.NEG, apply(Fn.ABS, one))), x)
    return elementwise(build, "f32", log_sigmoid, x), small


LOWERINGS: Mapping[str, Lowering] = {
    "_prelu_kernel": _prelu,
    "celu": floats(_celu, (1, "alpha", 1.0)),
    "elu": floats(_elu, (1, "alpha", 1.0), (2, "scale", 1.0), (3, "input_scale", 1.0)),
    "gelu": _gelu_of,
    "hardshrink": floats(_hardshrink, (1, "lambd", 0.5)),
    "hardsigmoid": floats(_hardsigmoid),
    "hardswish": floats(_hardswish),
    "hardtanh": floats(clamped, (1, "min_val", -1.0), (2, "max_val", 1.0)),
    "leaky_relu": floats(_leaky_relu, (1, "negative_slope", 0.01)),
    "log_sigmoid": floats(log_sigmoid),
    "log_sigmoid_forward": _log_sigmoid_forward,
    "mish": floats(_mish),
    "prelu": _prelu,
    "relu": _relu,
    "relu6": floats(lambda x: clamped(x, 0.0, 6.0)),
    "rrelu": _rrelu,
    "selu": floats(_selu),
    "sigmoid": floats(sigmoid),
    "silu": floats(_silu),
    "softplus": floats(_softplus, (1, "beta", 1.0), (2, "threshold", 20.0)),
    "softshrink": floats(_softshrink, (1, "lambd", 0.5)),
    "softsign": floats(_softsign),
    "tanh": floats(lambda x: apply(Fn.TANH, x)),
    "tanhshrink": floats(_tanhshrink),
    "threshold": floats(_threshold, (1, "threshold", 0.0), (2, "value", 0.0)),
}

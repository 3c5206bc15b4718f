"""Arithmetic and elementary functions."""

from collections.abc import Mapping
from math import log as ln
from math import pi
from typing import Any

from cloud.compiler.expr import Expr, Fn, Number
from cloud.compiler.ir import Value
from cloud.compiler.lowering.call import AtenCall, Builder, Lowering
from cloud.compiler.lowering.elements import apply, elementwise, fits, floats, inside, number, where

POWERS_MAX = 8  # x ** 8 is three multiplications; more than that goes through the logarithm


def _binary(fn: Fn) -> Lowering:
    """f(x, alpha * y), in the result's type."""

    def lower(aten: AtenCall, build: Builder) -> Value:
        x, y = aten.arguments[:2]
        alpha = aten.argument(2, "alpha", 1) if fn in (Fn.ADD, Fn.SUB) else 1
        return _combined(aten, build, fn, x, y, alpha)

    return lower


def _combined(aten: AtenCall, build: Builder, fn: Fn, x: Any, y: Any, alpha: float) -> Value:
    dtype = inside(aten.dtype)
    if dtype == "i32" and not all(fits(one) for one in (x, y, alpha)):
        raise aten.refuse("integers have 32 bits: compute in float32")
    if alpha == 1:
        return elementwise(build, dtype, lambda a, b: apply(fn, a, b), x, y)
    scale = number(alpha, dtype)
    return elementwise(build, dtype, lambda a, b: apply(fn, a, apply(Fn.MUL, b, scale)), x, y)


def _rsub(aten: AtenCall, build: Builder) -> Value:
    x, y = aten.arguments[:2]
    return _combined(aten, build, Fn.SUB, y, x, aten.argument(2, "alpha", 1))


def _pow(aten: AtenCall, build: Builder) -> Value:
    x, y = aten.arguments[:2]
    dtype = inside(aten.dtype)
    if dtype == "i32" and (isinstance(y, Value) or not 0 <= y <= POWERS_MAX):
        raise aten.refuse(f"integers to a fixed power of 0 to {POWERS_MAX}, or floats")
    if isinstance(y, Value):
        return elementwise(build, dtype, lambda a, b: apply(Fn.POW, a, b), x, y)
    return elementwise(build, dtype, lambda a: power(a, y, dtype), x)


def power(x: Expr, exponent: float, dtype: str = "f32") -> Expr:
    """x to a fixed power: multiplications and square roots where they say the same."""
    if exponent == 0:
        return (
            apply(Fn.ADD, apply(Fn.XOR, x, x), number(1, "i32")) if dtype == "i32" else apply(Fn.POW, x, 0.0)
        )
    if exponent == int(exponent) and 0 < exponent <= POWERS_MAX:
        return _product(x, int(exponent))
    inverse = {-1.0: x, -2.0: apply(Fn.MUL, x, x), -0.5: apply(Fn.SQRT, x)}
    if exponent in inverse:
        return apply(Fn.DIV, 1.0, inverse[exponent])
    return apply(Fn.SQRT, x) if exponent == 0.5 else apply(Fn.POW, x, exponent)


def _product(x: Expr, count: int) -> Expr:
    """x multiplied ``count`` times, by squaring; what is read twice is computed once."""
    if count == 1:
        return x
    half = _product(x, count // 2)
    square = apply(Fn.MUL, half, half)
    return apply(Fn.MUL, square, x) if count % 2 else square


def _extreme(fn: Fn) -> Lowering:
    def lower(aten: AtenCall, build: Builder) -> Value:
        return elementwise(build, inside(aten.dtype), lambda a, b: apply(fn, a, b), *aten.arguments[:2])

    return lower


def _clamp(aten: AtenCall, build: Builder) -> Value:
    low, high = aten.argument(1, "min"), aten.argument(2, "max")
    return _clamped(aten, build, low, high)


def _clamp_min(aten: AtenCall, build: Builder) -> Value:
    return _clamped(aten, build, aten.arguments[1], None)


def _clamp_max(aten: AtenCall, build: Builder) -> Value:
    return _clamped(aten, build, None, aten.arguments[1])


def _clamped(aten: AtenCall, build: Builder, low: Any, high: Any) -> Value:
    def formula(x: Expr, *bounds: Expr) -> Expr:
        rest = list(bounds)
        x = x if low is None else apply(Fn.MAX, x, rest.pop(0))
        return x if high is None else apply(Fn.MIN, x, rest.pop(0))

    given = [one for one in (low, high) if one is not None]
    return elementwise(build, inside(aten.dtype), formula, aten.arguments[0], *given)


def _same_type(formula: Any) -> Lowering:
    """An operator that keeps integers integers. The formula also gets the dtype."""

    def lower(aten: AtenCall, build: Builder) -> Value:
        dtype = inside(aten.dtype)
        return elementwise(build, dtype, lambda x: formula(x, dtype), aten.arguments[0])

    return lower


def _sign(x: Expr, dtype: str) -> Expr:
    zero = number(0, dtype)
    sign = apply(Fn.SUB, apply(Fn.GT, x, zero), apply(Fn.LT, x, zero))
    return apply(Fn.TO_F32, sign) if dtype == "f32" else sign


def _rounded(fn: Fn) -> Lowering:
    return _same_type(lambda x, dtype: apply(fn, x) if dtype == "f32" else x)


def _round(aten: AtenCall, build: Builder) -> Value:
    """Ties to even."""
    if aten.argument(1, "decimals", 0):
        raise aten.refuse("round(x * 10 ** decimals) / 10 ** decimals")
    dtype = inside(aten.dtype)
    return elementwise(
        build, dtype, lambda x: apply(Fn.NEAREST, x) if dtype == "f32" else x, aten.arguments[0]
    )


def _lerp(aten: AtenCall, build: Builder) -> Value:
    """From the nearer end, so that weight 1 is exactly the end."""

    def formula(x: Expr, y: Expr, w: Expr) -> Expr:
        span = apply(Fn.SUB, y, x)
        near = apply(Fn.ADD, x, apply(Fn.MUL, w, span))
        far = apply(Fn.SUB, y, apply(Fn.MUL, span, apply(Fn.SUB, 1.0, w)))
        if isinstance(w, Number):
            return near if abs(w.value) < 0.5 else far
        return where(apply(Fn.LT, apply(Fn.ABS, w), 0.5), near, far)

    return elementwise(build, "f32", formula, *aten.arguments[:3])


def _add_combined(fn: Fn) -> Lowering:
    """x + value * (y fn z)."""

    def lower(aten: AtenCall, build: Builder) -> Value:
        dtype, value = inside(aten.dtype), aten.argument(3, "value", 1)

        def formula(x: Expr, y: Expr, z: Expr) -> Expr:
            first = y if value == 1 else apply(Fn.MUL, number(value, dtype), y)
            return apply(Fn.ADD, x, apply(fn, first, z))

        return elementwise(build, dtype, formula, *aten.arguments[:3])

    return lower


def _logit(aten: AtenCall, build: Builder) -> Value:
    eps = aten.argument(1, "eps")

    def formula(x: Expr) -> Expr:
        if eps is not None:
            x = apply(Fn.MIN, apply(Fn.MAX, x, eps), 1 - eps)
        return apply(Fn.LOG, apply(Fn.DIV, x, apply(Fn.SUB, 1.0, x)))

    return elementwise(build, "f32", formula, aten.arguments[0])


def _hyperbolic(sign: Fn) -> Lowering:
    """sinh |x| = (a + a / (a + 1)) / 2 with a = e^|x| - 1, which is right near 0; cosh from e^|x| itself."""

    def sinh(x: Expr) -> Expr:
        a = apply(Fn.EXPM1, apply(Fn.ABS, x))
        half = apply(Fn.MUL, apply(Fn.ADD, a, apply(Fn.DIV, a, apply(Fn.ADD, a, 1.0))), 0.5)
        half = where(apply(Fn.EQ, a, float("inf")), a, half)
        return where(apply(Fn.LT, x, 0.0), apply(Fn.NEG, half), half)

    def cosh(x: Expr) -> Expr:
        half = apply(Fn.MUL, apply(Fn.EXP, apply(Fn.ABS, x)), 0.5)
        return apply(Fn.ADD, half, apply(Fn.DIV, 0.25, half))

    return floats(sinh if sign is Fn.SUB else cosh)


def _scaled_log(base: float) -> Lowering:
    return floats(lambda x: apply(Fn.MUL, apply(Fn.LOG, x), 1 / ln(base)))


def _of(fn: Fn) -> Lowering:
    return floats(lambda x: apply(fn, x))


LOWERINGS: Mapping[str, Lowering] = {
    "abs": _same_type(lambda x, _: apply(Fn.ABS, x)),
    "add": _binary(Fn.ADD),
    "addcdiv": _add_combined(Fn.DIV),
    "addcmul": _add_combined(Fn.MUL),
    "ceil": _rounded(Fn.CEIL),
    "clamp": _clamp,
    "clamp_max": _clamp_max,
    "clamp_min": _clamp_min,
    "clip": _clamp,
    "cos": _of(Fn.COS),
    "cosh": _hyperbolic(Fn.ADD),
    "deg2rad": floats(lambda x: apply(Fn.MUL, x, pi / 180)),
    "erf": _of(Fn.ERF),
    "erfc": floats(lambda x: apply(Fn.SUB, 1.0, apply(Fn.ERF, x))),
    "exp": _of(Fn.EXP),
    "exp2": floats(lambda x: apply(Fn.POW, 2.0, x)),
    "expm1": _of(Fn.EXPM1),
    "floor": _rounded(Fn.FLOOR),
    "frac": floats(lambda x: apply(Fn.SUB, x, apply(Fn.TRUNC, x))),
    "lerp": _lerp,
    "log": _of(Fn.LOG),
    "log10": _scaled_log(10),
    "log1p": _of(Fn.LOG1P),
    "log2": _scaled_log(2),
    "logit": _logit,
    "maximum": _extreme(Fn.MAX),
    "minimum": _extreme(Fn.MIN),
    "mul": _binary(Fn.MUL),
    "multiply": _binary(Fn.MUL),
    "neg": _same_type(lambda x, _: apply(Fn.NEG, x)),
    "pow": _pow,
    "rad2deg": floats(lambda x: apply(Fn.MUL, x, 180 / pi)),
    "reciprocal": floats(lambda x: apply(Fn.DIV, 1.0, x)),
    "round": _round,
    "rsqrt": floats(lambda x: apply(Fn.DIV, 1.0, apply(Fn.SQRT, x))),
    "rsub": _rsub,
    "sgn": _same_type(_sign),
    "sign": _same_type(_sign),
    "sin": _of(Fn.SIN),
    "sinh": _hyperbolic(Fn.SUB),
    "sqrt": _of(Fn.SQRT),
    "square": _same_type(lambda x, _: apply(Fn.MUL, x, x)),
    "sub": _binary(Fn.SUB),
    "subtract": _binary(Fn.SUB),
    "tan": floats(lambda x: apply(Fn.DIV, apply(Fn.SIN, x), apply(Fn.COS, x))),
    "trunc": _rounded(Fn.TRUNC),
}

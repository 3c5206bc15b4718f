"""Inverse functions of angles, by the arc tangent and the logarithm; signs of zeros."""

from collections.abc import Callable, Mapping
from math import inf, pi
from math import log as ln

from cloud.compiler.expr import Expr, Fn
from cloud.compiler.ir import Value
from cloud.compiler.lowering.call import AtenCall, Builder, Lowering
from cloud.compiler.lowering.elements import apply, elementwise, floats, where

LARGE = 1e9  # its square and one more is its square


def _negative(x: Expr) -> Expr:
    """The sign bit of a number: that of a zero shows when it divides."""
    zero = apply(Fn.AND, apply(Fn.EQ, x, 0.0), apply(Fn.LT, apply(Fn.DIV, 1.0, x), 0.0))
    return apply(Fn.OR, apply(Fn.LT, x, 0.0), zero)


def _signed(magnitude: Expr, sign: Expr) -> Expr:
    return where(_negative(sign), apply(Fn.NEG, magnitude), magnitude)


def _atan2(y: Expr, x: Expr) -> Expr:
    """The angle of (x, y) in its own quadrant."""
    high, wide = apply(Fn.ABS, y), apply(Fn.ABS, x)
    slope = where(
        apply(Fn.EQ, high, wide), where(apply(Fn.EQ, high, 0.0), 0.0, 1.0), apply(Fn.DIV, high, wide)
    )
    angle = apply(Fn.ATAN, slope)
    return _signed(where(_negative(x), apply(Fn.SUB, pi, angle), angle), y)


def _asin(x: Expr) -> Expr:
    """Of the triangle whose long side is 1."""
    other = apply(Fn.SQRT, apply(Fn.MUL, apply(Fn.SUB, 1.0, x), apply(Fn.ADD, 1.0, x)))
    return apply(Fn.ATAN, apply(Fn.DIV, x, other))


def _acos(x: Expr) -> Expr:
    """By the half angle, which loses nothing near 1."""
    half = apply(Fn.SQRT, apply(Fn.DIV, apply(Fn.SUB, 1.0, x), apply(Fn.ADD, 1.0, x)))
    return apply(Fn.MUL, 2.0, apply(Fn.ATAN, half))


def _asinh(x: Expr) -> Expr:
    """log(a + sqrt(a^2 + 1)) of a = |x|, as log1p of what is more than 1."""
    a = apply(Fn.ABS, x)
    square = apply(Fn.MUL, a, a)
    root = apply(Fn.ADD, 1.0, apply(Fn.SQRT, apply(Fn.ADD, square, 1.0)))
    usual = apply(Fn.LOG1P, apply(Fn.ADD, a, apply(Fn.DIV, square, root)))
    return _signed(where(apply(Fn.GT, a, LARGE), apply(Fn.ADD, apply(Fn.LOG, a), ln(2)), usual), x)


def _acosh(x: Expr) -> Expr:
    t = apply(Fn.SUB, x, 1.0)
    root = apply(Fn.SQRT, apply(Fn.MUL, t, apply(Fn.ADD, t, 2.0)))
    usual = apply(Fn.LOG1P, apply(Fn.ADD, t, root))
    return where(apply(Fn.GT, x, LARGE), apply(Fn.ADD, apply(Fn.LOG, x), ln(2)), usual)


def _atanh(x: Expr) -> Expr:
    a = apply(Fn.ABS, x)
    ratio = apply(Fn.DIV, apply(Fn.MUL, 2.0, a), apply(Fn.SUB, 1.0, a))
    return _signed(apply(Fn.MUL, 0.5, apply(Fn.LOG1P, ratio)), x)


def _hypot(x: Expr, y: Expr) -> Expr:
    """By the ratio of the sides, whose squares never overflow."""
    a, b = apply(Fn.ABS, x), apply(Fn.ABS, y)
    most, least = apply(Fn.MAX, a, b), apply(Fn.MIN, a, b)
    ratio = apply(Fn.DIV, least, most)
    usual = apply(Fn.MUL, most, apply(Fn.SQRT, apply(Fn.ADD, 1.0, apply(Fn.MUL, ratio, ratio))))
    infinite = apply(Fn.OR, apply(Fn.EQ, a, inf), apply(Fn.EQ, b, inf))  # even beside NaN
    return where(infinite, inf, where(apply(Fn.EQ, most, 0.0), most, usual))


def _known_extreme(fn: Fn) -> Lowering:
    """A NaN loses against a number."""

    def formula(x: Expr, y: Expr) -> Expr:
        return where(apply(Fn.NE, x, x), y, where(apply(Fn.NE, y, y), x, apply(fn, x, y)))

    return _two(formula)


def _two(formula: Callable[[Expr, Expr], Expr]) -> Lowering:
    def lowering(aten: AtenCall, build: Builder) -> Value:
        return elementwise(build, "f32", formula, *aten.arguments[:2])

    return lowering


LOWERINGS: Mapping[str, Lowering] = {
    "acos": floats(_acos),
    "acosh": floats(_acosh),
    "asin": floats(_asin),
    "asinh": floats(_asinh),
    "atan": floats(lambda x: apply(Fn.ATAN, x)),
    "atan2": _two(_atan2),
    "atanh": floats(_atanh),
    "copysign": _two(lambda x, y: _signed(apply(Fn.ABS, x), y)),
    "fmax": _known_extreme(Fn.MAX),
    "fmin": _known_extreme(Fn.MIN),
    "hypot": _two(_hypot),
    "signbit": floats(_negative),
}

"""Division: of floats and integers, rounded and not, and what is left over."""

from collections.abc import Mapping

from cloud.compiler.expr import Expr, Fn
from cloud.compiler.ir import Value
from cloud.compiler.lowering.call import AtenCall, Builder, Lowering
from cloud.compiler.lowering.elements import apply, elementwise, inside, number, where


def _div(aten: AtenCall, build: Builder) -> Value:
    return _division(aten, build, aten.argument(2, "rounding_mode"))


def _floor_divide(aten: AtenCall, build: Builder) -> Value:
    return _division(aten, build, "floor")


def _division(aten: AtenCall, build: Builder, rounding: str | None) -> Value:
    x, y = aten.arguments[:2]
    dtype = inside(aten.dtype)
    formulas = {
        (None, "f32"): lambda a, b: apply(Fn.DIV, a, b),
        ("trunc", "f32"): lambda a, b: apply(Fn.TRUNC, apply(Fn.DIV, a, b)),
        ("floor", "f32"): _floor_quotient,
        ("trunc", "i32"): _truncated_quotient,
        ("floor", "i32"): lambda a, b: apply(Fn.FLOOR_DIV, a, b),
    }
    return elementwise(build, dtype, formulas[rounding, dtype], x, y)


def _floor_quotient(x: Expr, y: Expr) -> Expr:
    """As Python divides: the exact quotient's floor, although x / y may round up to the next integer."""
    rest = apply(Fn.FMOD, x, y)
    whole = apply(Fn.DIV, apply(Fn.SUB, x, rest), y)
    lower = where(_other_side(rest, y), apply(Fn.SUB, whole, 1.0), whole)
    floor = apply(Fn.FLOOR, lower)
    nearest = where(apply(Fn.GT, apply(Fn.SUB, lower, floor), 0.5), apply(Fn.ADD, floor, 1.0), floor)
    quotient = apply(Fn.DIV, x, y)
    zero = apply(Fn.MUL, quotient, 0.0)
    return where(apply(Fn.EQ, y, 0.0), quotient, where(apply(Fn.EQ, lower, 0.0), zero, nearest))


def _other_side(rest: Expr, divisor: Expr) -> Expr:
    """Whether a remainder is not zero and has the other sign than the divisor."""
    signs = apply(Fn.NE, apply(Fn.LT, rest, 0.0), apply(Fn.LT, divisor, 0.0))
    return apply(Fn.AND, apply(Fn.NE, rest, 0.0), signs)


def _truncated_quotient(x: Expr, y: Expr) -> Expr:
    floor = apply(Fn.FLOOR_DIV, x, y)
    rest = apply(Fn.SUB, x, apply(Fn.MUL, floor, y))
    zero = number(0, "i32")
    signs = apply(Fn.NE, apply(Fn.LT, x, zero), apply(Fn.LT, y, zero))
    return apply(Fn.ADD, floor, apply(Fn.AND, apply(Fn.NE, rest, zero), signs))


def _remainder(aten: AtenCall, build: Builder) -> Value:
    """The sign of the divisor, as Python has it."""
    dtype = inside(aten.dtype)
    if dtype == "f32":
        return elementwise(build, dtype, _float_remainder, *aten.arguments[:2])
    return elementwise(build, dtype, lambda a, b: _rest(a, b, apply(Fn.FLOOR_DIV, a, b)), *aten.arguments[:2])


def _float_remainder(x: Expr, y: Expr) -> Expr:
    rest = apply(Fn.FMOD, x, y)
    return where(_other_side(rest, y), apply(Fn.ADD, rest, y), rest)


def _fmod(aten: AtenCall, build: Builder) -> Value:
    """The sign of the dividend, as C has it."""
    dtype = inside(aten.dtype)
    if dtype == "f32":
        return elementwise(build, dtype, lambda a, b: apply(Fn.FMOD, a, b), *aten.arguments[:2])
    return elementwise(build, dtype, lambda a, b: _rest(a, b, _truncated_quotient(a, b)), *aten.arguments[:2])


def _rest(x: Expr, y: Expr, quotient: Expr) -> Expr:
    return apply(Fn.SUB, x, apply(Fn.MUL, quotient, y))


LOWERINGS: Mapping[str, Lowering] = {
    "div": _div,
    "divide": _div,
    "floor_divide": _floor_divide,
    "fmod": _fmod,
    "remainder": _remainder,
    "true_divide": _div,
}

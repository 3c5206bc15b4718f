"""What lowerings of elementwise operators are written with: numbers and arrays alike become expressions.

    elementwise(build, "f32", lambda x, y: add(x, y), array, 2.0)     one node, array + 2

Torch promotes: an integer array in a float operation is converted, element by element, in the same loop.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from cloud.compiler.expr import Arg, Call, Expr, Fn, Number, call
from cloud.compiler.ir import Value
from cloud.compiler.lowering.call import AtenCall, Builder, Lowering

I32_MIN, I32_MAX = -(2**31), 2**31 - 1
# An expression of the operands, which may be numbers.
Formula: TypeAlias = Callable[..., Expr]


def elementwise(build: Builder, dtype: str, formula: Formula, *arguments: Any) -> Value:
    """``formula`` over arrays and numbers, each taken as ``dtype`` (f32 or i32); at least one is an array."""
    values: list[Value] = []
    exprs = [_expression(one, dtype, values) for one in arguments]
    return build.pointwise(formula(*exprs), *values)


def working_dtype(*arguments: Any) -> str:
    """f32 if any array or number is a float, else i32."""
    floats = (one.dtype == "f32" if isinstance(one, Value) else isinstance(one, float) for one in arguments)
    return "f32" if any(floats) else "i32"


def inside(dtype: str) -> str:
    """How torch's dtype is kept: f32 or i32."""
    return "f32" if dtype == "f32" else "i32"


def floats(formula: Formula, *names: tuple[int, str, Any]) -> Lowering:
    """An operator of one array; ``names``: position, name and default of the numbers it also takes.

    The formula gets the array's expression and the numbers as they are.
    """

    def lower(aten: AtenCall, build: Builder) -> Value:
        numbers = [aten.argument(*one) for one in names]
        return elementwise(build, "f32", lambda x: formula(x, *numbers), aten.arguments[0])

    return lower


def number(value: float, dtype: str = "f32") -> Number:
    """A constant; an integer beyond 32 bits is the nearest one within (they are limits and fillers)."""
    if dtype == "i32":
        return Number(min(max(int(value), I32_MIN), I32_MAX), "i32")
    return Number(float(value))


def fits(value: Any) -> bool:
    """Whether a number can be computed with as an i32; an array is one already."""
    return isinstance(value, Value) or I32_MIN <= value <= I32_MAX


def apply(fn: Fn, *args: Expr | float) -> Call:
    """A call; plain numbers among the arguments are f32."""
    return call(fn, *args)


def where(condition: Expr, x: Expr | float, y: Expr | float) -> Call:
    """x where the condition is true, else y."""
    return call(Fn.WHERE, condition, x, y)


def is_true(x: Expr, dtype: str) -> Expr:
    """0 or 1: whether a number is not zero."""
    return Call(Fn.NE, (x, number(0, dtype)))


def converted(x: Expr, source: str, target: str) -> Expr:
    """From f32 or i32 to f32 or i32."""
    if source == target:
        return x
    return Call(Fn.TO_F32 if target == "f32" else Fn.TO_I32, (x,))


def _expression(argument: Any, dtype: str, values: list[Value]) -> Expr:
    if not isinstance(argument, Value):
        return number(argument, dtype)
    if argument not in values:
        values.append(argument)
    return converted(Arg(values.index(argument)), argument.dtype, dtype)

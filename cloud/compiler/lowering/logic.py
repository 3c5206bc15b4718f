"""Comparisons, truth values, choices, and conversions between types."""

from collections.abc import Mapping
from typing import Any

from cloud.compiler.expr import Arg, Expr, Fn
from cloud.compiler.ir import Value
from cloud.compiler.lowering.call import AtenCall, Builder, Lowering
from cloud.compiler.lowering.elements import (
    apply,
    converted,
    elementwise,
    inside,
    is_true,
    number,
    where,
    working_dtype,
)

INF = float("inf")
F32_MAX = 3.4028234663852886e38


def _compare(fn: Fn) -> Lowering:
    def lower(aten: AtenCall, build: Builder) -> Value:
        x, y = aten.arguments[:2]
        return elementwise(build, working_dtype(x, y), lambda a, b: apply(fn, a, b), x, y)

    return lower


def _logical(fn: Fn) -> Lowering:
    """Any numbers as truth values."""

    def lower(aten: AtenCall, build: Builder) -> Value:
        x, y = aten.arguments[:2]
        dtype = working_dtype(x, y)
        return elementwise(build, dtype, lambda a, b: apply(fn, is_true(a, dtype), is_true(b, dtype)), x, y)

    return lower


def _logical_not(aten: AtenCall, build: Builder) -> Value:
    (x,) = aten.arguments
    return elementwise(build, x.dtype, lambda a: apply(Fn.EQ, a, number(0, x.dtype)), x)


def _bitwise(fn: Fn) -> Lowering:
    def lower(aten: AtenCall, build: Builder) -> Value:
        return elementwise(build, "i32", lambda a, b: apply(fn, a, b), *aten.arguments[:2])

    return lower


def _bitwise_not(aten: AtenCall, build: Builder) -> Value:
    ones = number(1 if aten.dtype == "bool" else -1, "i32")
    return elementwise(build, "i32", lambda a: apply(Fn.XOR, a, ones), aten.arguments[0])


def _where(aten: AtenCall, build: Builder) -> Value:
    if len(aten.arguments) < 3:
        raise aten.refuse("where(condition) has a result of unknown size; give it two arrays to choose from")
    condition, x, y = aten.arguments[:3]
    return _choice(build, inside(aten.dtype), condition, x, y)


def _masked_fill(aten: AtenCall, build: Builder) -> Value:
    x, mask, value = aten.arguments[:3]
    return _choice(build, inside(aten.dtype), mask, value, x)


def _choice(build: Builder, dtype: str, condition: Value, x: Any, y: Any) -> Value:
    """The condition keeps its own type, whatever the others are."""
    others = [one for one in (x, y) if isinstance(one, Value)]
    args = iter(converted(Arg(1 + index), one.dtype, dtype) for index, one in enumerate(others))
    chosen = [next(args) if isinstance(one, Value) else number(one, dtype) for one in (x, y)]
    return build.pointwise(where(Arg(0), *chosen), condition, *others)


def _to(aten: AtenCall, build: Builder) -> Value:
    """Any conversion; the result's type is torch's word."""
    x: Value = aten.arguments[0]
    target = aten.dtype
    if target == "bool":
        return elementwise(build, x.dtype, lambda a: is_true(a, x.dtype), x)
    if target == "u8":
        byte = number(255, "i32")
        return build.pointwise(apply(Fn.AND, converted(Arg(0), x.dtype, "i32"), byte), x)
    if x.dtype == inside(target):
        return x
    return build.pointwise(converted(Arg(0), x.dtype, inside(target)), x)


def _nan_to_num(aten: AtenCall, build: Builder) -> Value:
    nan = aten.argument(1, "nan") or 0.0
    high, low = aten.argument(2, "posinf"), aten.argument(3, "neginf")

    def formula(x: Expr) -> Expr:
        finite = where(apply(Fn.EQ, x, INF), F32_MAX if high is None else float(high), x)
        finite = where(apply(Fn.EQ, x, -INF), -F32_MAX if low is None else float(low), finite)
        return where(apply(Fn.NE, x, x), float(nan), finite)

    return elementwise(build, "f32", formula, aten.arguments[0])


def _test(formula: Any) -> Lowering:
    def lower(aten: AtenCall, build: Builder) -> Value:
        return elementwise(build, "f32", formula, aten.arguments[0])

    return lower


LOWERINGS: Mapping[str, Lowering] = {
    "__and__": _bitwise(Fn.AND),
    "__or__": _bitwise(Fn.OR),
    "__xor__": _bitwise(Fn.XOR),
    "_to_copy": _to,
    "bitwise_and": _bitwise(Fn.AND),
    "bitwise_not": _bitwise_not,
    "bitwise_or": _bitwise(Fn.OR),
    "bitwise_xor": _bitwise(Fn.XOR),
    "eq": _compare(Fn.EQ),
    "ge": _compare(Fn.GE),
    "gt": _compare(Fn.GT),
    "isfinite": _test(lambda x: apply(Fn.LT, apply(Fn.ABS, x), INF)),
    "isinf": _test(lambda x: apply(Fn.EQ, apply(Fn.ABS, x), INF)),
    "isnan": _test(lambda x: apply(Fn.NE, x, x)),
    "le": _compare(Fn.LE),
    "logical_and": _logical(Fn.AND),
    "logical_not": _logical_not,
    "logical_or": _logical(Fn.OR),
    "logical_xor": _logical(Fn.XOR),
    "lt": _compare(Fn.LT),
    "masked_fill": _masked_fill,
    "nan_to_num": _nan_to_num,
    "ne": _compare(Fn.NE),
    "to": _to,
    "type_as": _to,
    "where": _where,
}

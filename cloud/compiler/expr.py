"""Expressions of one element: what a fused loop computes at each position.

    relu(a0 + a1)        Call(RELU, (Call(ADD, (Arg(0), Arg(1))),))

A pointwise operation is such an expression over its operands; a matrix product or a convolution carries one
as its *epilogue*, where ``Arg(0)`` is the kernel's own result and the other arguments are a bias, a residual.
Fusing two operations is substitution. Each function means what torch means by it, NaN and signed zero
included, and its numpy meaning stands here; :mod:`cloud.compiler.kernels.expression` writes the same in SIMD.

Truth values are i32, 0 or 1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import erf as _erf
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]


class Fn(StrEnum):
    """Functions of one to three numbers. The comment says which types they take and give."""

    # (f) -> f
    RELU = "relu"  # x < 0 ? 0 : x
    SQRT = "sqrt"
    EXP = "exp"
    EXPM1 = "expm1"
    LOG = "log"
    LOG1P = "log1p"
    TANH = "tanh"
    SIGMOID = "sigmoid"
    ERF = "erf"
    SIN = "sin"
    COS = "cos"
    ATAN = "atan"
    FLOOR = "floor"
    CEIL = "ceil"
    TRUNC = "trunc"
    NEAREST = "nearest"  # ties to even
    # (f) -> f or (i) -> i
    NEG = "neg"
    ABS = "abs"
    # (f, f) -> f or (i, i) -> i
    ADD = "add"
    SUB = "sub"
    MUL = "mul"
    MAX = "max"  # NaN wins
    MIN = "min"  # NaN wins
    # (f, f) -> f
    DIV = "div"
    POW = "pow"
    FMOD = "fmod"  # the sign of the first
    # (i, i) -> i
    FLOOR_DIV = "floor_div"  # towards minus infinity; anything by 0 is 0
    # (f, f) or (i, i) -> truth
    EQ = "eq"
    NE = "ne"
    LT = "lt"
    LE = "le"
    GT = "gt"
    GE = "ge"
    # (i, i) -> i, bit by bit; on truth values: and, or, exclusive or
    AND = "and"
    OR = "or"
    XOR = "xor"
    # (truth, x, x) -> x
    WHERE = "where"
    # conversions
    TO_F32 = "to_f32"  # i -> f
    TO_I32 = "to_i32"  # f -> i, towards zero, saturating; NaN is 0


@dataclass(frozen=True, slots=True)
class Arg:
    """The element of operand ``index`` at this position."""

    index: int


@dataclass(frozen=True, slots=True)
class Number:
    """A constant. ``dtype``: f32 or i32."""

    value: float
    dtype: str = "f32"


@dataclass(frozen=True, slots=True)
class Call:
    """A function of expressions."""

    fn: Fn
    args: tuple["Expr", ...]


Expr: TypeAlias = Arg | Number | Call

TRUTHS = frozenset({Fn.EQ, Fn.NE, Fn.LT, Fn.LE, Fn.GT, Fn.GE})


def call(fn: Fn, *args: "Expr | float") -> Call:
    """``call(Fn.ADD, Arg(0), 1.0)``: plain numbers become f32 constants."""
    return Call(fn, tuple(Number(float(one)) if isinstance(one, int | float) else one for one in args))


def dtype_of(expr: Expr, operands: Sequence[str]) -> str:
    """f32 or i32, from the operands' dtypes."""
    match expr:
        case Arg(index):
            return operands[index]
        case Number(_, dtype):
            return dtype
        case Call(Fn.TO_F32, _):
            return "f32"
        case Call(Fn.TO_I32, _):
            return "i32"
        case Call(fn, args) if fn not in TRUTHS:
            return dtype_of(args[-1], operands)
        case _:
            return "i32"


def arity(expr: Expr) -> int:
    """One more than the highest argument; 0 for a constant."""
    match expr:
        case Arg(index):
            return index + 1
        case Call(_, args):
            return max(arity(one) for one in args)
        case _:
            return 0


def substitute(expr: Expr, args: Sequence[Expr]) -> Expr:
    """The expression with ``args[i]`` in the place of ``Arg(i)``."""
    match expr:
        case Arg(index):
            return args[index]
        case Call(fn, inner):
            return Call(fn, tuple(substitute(one, args) for one in inner))
        case _:
            return expr


def size(expr: Expr) -> int:
    """Number of function calls in it."""
    return 1 + sum(size(one) for one in expr.args) if isinstance(expr, Call) else 0


def evaluate(expr: Expr, operands: Sequence[Array]) -> Array:
    """The meaning, in numpy, in the operands' own precision."""
    match expr:
        case Arg(index):
            return operands[index]
        case Number(value, dtype):
            return np.asarray(value, np.int32 if dtype == "i32" else _precision(operands))
        case Call(fn, args):
            with np.errstate(all="ignore"):
                return MEANINGS[fn](*(evaluate(one, operands) for one in args))


def _precision(operands: Sequence[Array]) -> Any:
    floats = [one.dtype for one in operands if one.dtype.kind == "f"]
    return np.result_type(*floats) if floats else np.dtype(np.float32)


def _truth(compare: Callable[..., Any]) -> Callable[..., Array]:
    return lambda x, y: np.asarray(compare(x, y)).astype(np.int32)


def _sigmoid(x: Array) -> Array:
    result: Array = np.where(x < 0, np.exp(x) / (1 + np.exp(x)), 1 / (1 + np.exp(-x)))
    return result.astype(x.dtype)


def _error_function(x: Array) -> Array:
    result: Array = np.vectorize(_erf, otypes=[np.float64])(x)
    return result.astype(x.dtype)


def _to_i32(x: Array) -> Array:
    whole = np.nan_to_num(np.trunc(x.astype(np.float64)), nan=0.0)
    clipped: Array = np.clip(whole, -(2.0**31), 2.0**31 - 1)
    return clipped.astype(np.int32)


def _where(condition: Array, x: Array, y: Array) -> Array:
    chosen: Array = np.where(condition != 0, x, y)
    return chosen


MEANINGS: Mapping[Fn, Callable[..., Array]] = {
    Fn.RELU: lambda x: np.where(x < 0, np.zeros_like(x), x),
    Fn.SQRT: np.sqrt,
    Fn.EXP: np.exp,
    Fn.EXPM1: np.expm1,
    Fn.LOG: np.log,
    Fn.LOG1P: np.log1p,
    Fn.TANH: np.tanh,
    Fn.SIGMOID: _sigmoid,
    Fn.ERF: _error_function,
    Fn.SIN: np.sin,
    Fn.COS: np.cos,
    Fn.ATAN: np.arctan,
    Fn.FLOOR: np.floor,
    Fn.CEIL: np.ceil,
    Fn.TRUNC: np.trunc,
    Fn.NEAREST: np.rint,
    Fn.NEG: np.negative,
    Fn.ABS: np.abs,
    Fn.ADD: np.add,
    Fn.SUB: np.subtract,
    Fn.MUL: np.multiply,
    Fn.MAX: np.maximum,
    Fn.MIN: np.minimum,
    Fn.DIV: np.divide,
    Fn.POW: np.power,
    Fn.FMOD: np.fmod,
    Fn.FLOOR_DIV: np.floor_divide,
    Fn.EQ: _truth(np.equal),
    Fn.NE: _truth(np.not_equal),
    Fn.LT: _truth(np.less),
    Fn.LE: _truth(np.less_equal),
    Fn.GT: _truth(np.greater),
    Fn.GE: _truth(np.greater_equal),
    Fn.AND: np.bitwise_and,
    Fn.OR: np.bitwise_or,
    Fn.XOR: np.bitwise_xor,
    Fn.WHERE: _where,
    Fn.TO_F32: lambda x: x.astype(np.float32),
    Fn.TO_I32: _to_i32,
}

"""Expressions of one element -> SIMD, four elements at a time.

    vector(f, relu(a0 + a1), ["(local.get $x)", "(local.get $b)"], ["f32", "f32"])
        -> (f32x4.pmax (f32x4.add (local.get $x) (local.get $b)) (v128.const f32x4 0 0 0 0))

Small functions are single instructions and stay inside the returned expression. A subexpression that is read
twice, and what the polynomials of :mod:`cloud.compiler.kernels.maths` need more than once, is computed into a
local of ``f`` in front of it; such a local is named after what it holds.

A comparison is a mask (all bits of a lane) while another truth function reads it, and 0 or 1 as a value.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import isnan
from typing import TypeAlias

from cloud.compiler.expr import TRUTHS, Arg, Call, Expr, Fn, Number, dtype_of
from cloud.compiler.kernels import maths, maths_wide
from cloud.compiler.kernels.vector import ZERO
from cloud.compiler.wat import Function, Kernel

_FLOAT_ONLY: Mapping[Fn, str] = {
    Fn.DIV: "f32x4.div",
    Fn.SQRT: "f32x4.sqrt",
    Fn.FLOOR: "f32x4.floor",
    Fn.CEIL: "f32x4.ceil",
    Fn.TRUNC: "f32x4.trunc",
    Fn.NEAREST: "f32x4.nearest",
    Fn.TO_F32: "f32x4.convert_i32x4_s",
    Fn.TO_I32: "i32x4.trunc_sat_f32x4_s",
}
_BITS: Mapping[Fn, str] = {Fn.AND: "v128.and", Fn.OR: "v128.or", Fn.XOR: "v128.xor"}
_TYPED = frozenset({Fn.NEG, Fn.ABS, Fn.ADD, Fn.SUB, Fn.MUL, Fn.MAX, Fn.MIN}) | TRUTHS
_SIGNED = frozenset({Fn.MAX, Fn.MIN, Fn.LT, Fn.LE, Fn.GT, Fn.GE})  # i32x4 names say that lanes have a sign
Functions: TypeAlias = Mapping[Fn, Callable[..., str]]
_INLINE: Functions = {**maths.FUNCTIONS, **maths_wide.FUNCTIONS}


def vector(
    f: Function, expr: Expr, args: Sequence[str], dtypes: Sequence[str], special: Functions | None = None
) -> str:
    """A WAT expression (v128: f32x4 or i32x4) for ``expr`` over four elements.

    ``args``: WAT expressions of the operands' vectors; each may be evaluated several times. ``special``:
    functions that are written in another way than usual.
    May emit statements to ``f``: the result holds as long as the locals in ``args`` keep their values.
    """
    return _Writer(f, expr, args, dtypes, {**_INLINE, **(special or {})}).value(expr)


def helpers(expr: Expr) -> tuple[Kernel, ...]:
    """Functions that the emitted code calls: none so far, every function is written in line."""
    del expr
    return ()


def is_truth(expr: Expr) -> bool:
    """Whether it is 0 or 1 by construction."""
    match expr:
        case Call(fn, args) if fn in _BITS:
            return all(is_truth(one) for one in args)
        case Call(fn, _):
            return fn in TRUTHS
        case Number(value, "i32"):
            return value in (0, 1)
        case _:
            return False


def _is_bound(expr: Expr) -> bool:
    return isinstance(expr, Number) and expr.dtype == "f32" and not isnan(expr.value)


class _Writer:
    """One expression with its operands."""

    def __init__(
        self, f: Function, expr: Expr, args: Sequence[str], dtypes: Sequence[str], functions: Functions
    ) -> None:
        self._args, self._dtypes, self._functions = args, dtypes, functions
        self._hold = maths.Holder(f)
        self._readers = _readers(expr)
        self._known: dict[tuple[Expr, bool], str] = {}

    def value(self, expr: Expr) -> str:
        """The number in each lane; truth values are 0 or 1."""
        match expr:
            case Arg(index):
                return self._args[index]
            case Number(value, dtype):
                return maths.splat(value) if dtype == "f32" else maths.splat_i32(int(value))
            case Call() if is_truth(expr):
                return f"(i32x4.shr_u {self.mask(expr)} (i32.const 31))"
            case Call():
                return self._once(expr, False, self._call)

    def mask(self, expr: Expr) -> str:
        """All bits of each lane where the truth value is not 0."""
        match expr:
            case Call() if is_truth(expr):
                return self._once(expr, True, self._truth)
            case Number(value, _):
                return maths.splat_i32(-1 if value else 0)
            case _:
                return f"(i32x4.ne {self.value(expr)} {ZERO})"

    def _once(self, expr: Call, mask: bool, write: Callable[[Call], str]) -> str:
        """What has several readers is computed into a local."""
        if (expr, mask) not in self._known:
            text = write(expr)
            self._known[expr, mask] = self._hold(text) if self._readers[expr] > 1 else text
        return self._known[expr, mask]

    def _call(self, expr: Call) -> str:
        match expr.fn:
            case Fn.WHERE:
                condition, x, y = expr.args
                return f"(v128.bitselect {self.value(x)} {self.value(y)} {self.mask(condition)})"
            case Fn.RELU:  # pmax(x, 0) is x < 0 ? 0 : x, so that NaN stays NaN
                return f"(f32x4.pmax {self.value(expr.args[0])} {ZERO})"
            case Fn.MAX | Fn.MIN if _is_bound(expr.args[1]):  # one instruction instead of six; NaN in x stays
                return f"(f32x4.p{expr.fn} {' '.join(self.value(one) for one in expr.args)})"
            case fn if fn in self._functions:
                return self._functions[fn](self._hold, *(self._hold(self.value(one)) for one in expr.args))
            case _:
                return self._instruction(expr)

    def _truth(self, expr: Call) -> str:
        match expr:
            case Call(fn, (x, y)) if fn in _BITS:
                return f"({_BITS[fn]} {self.mask(x)} {self.mask(y)})"
            case Call(Fn.EQ, (x, Number(0, "i32"))) if is_truth(x):
                return f"(v128.not {self.mask(x)})"
            case Call(Fn.NE, (x, Number(0, "i32"))) if is_truth(x):
                return self.mask(x)
            case _:
                return self._instruction(expr)

    def _instruction(self, expr: Call) -> str:
        args = " ".join(self.value(one) for one in expr.args)
        return f"({self._name(expr)} {args})"

    def _name(self, expr: Call) -> str:
        fn = expr.fn
        if fn in _FLOAT_ONLY:
            return _FLOAT_ONLY[fn]
        if fn in _BITS:
            return _BITS[fn]
        assert fn in _TYPED, fn
        if dtype_of(expr.args[-1], self._dtypes) == "f32":
            return f"f32x4.{fn}"
        return f"i32x4.{fn}{'_s' if fn in _SIGNED else ''}"


def _readers(expr: Expr) -> Counter[Expr]:
    """How many different subexpressions read each one, and how often."""
    counts: Counter[Expr] = Counter()
    seen: set[Expr] = set()

    def walk(one: Expr) -> None:
        if isinstance(one, Call) and one not in seen:
            seen.add(one)
            counts.update(one.args)
            for argument in one.args:
                walk(argument)

    walk(expr)
    return counts

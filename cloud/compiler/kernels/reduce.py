"""Kernels of :mod:`cloud.compiler.ops.reduce`; this file holds Reduce itself.

The loops follow the groups of :mod:`cloud.compiler.kernels.axes`, whatever axes are reduced:

    across    four accumulators run along the row, then they and their lanes are joined
    along     up to eight vectors of neighbouring columns; every row is joined to them

A float extreme steps by ``pmax``, one instruction where ``f32x4.max`` is seven, which passes NaN by; lanes
that saw a NaN are remembered beside it, and a NaN is put there before accumulators are joined.

Sums are of two levels, as rounding grows with the number of additions to one accumulator: a run of at most
64 additions gives a partial sum, and partial sums are added up (a sum of 64 x 64 rows errs like one of 128).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

from cloud.compiler.ir import Node
from cloud.compiler.kernels.argreduce import arg_reduce
from cloud.compiler.kernels.axes import (
    ITEM_BYTES,
    Group,
    groups,
    join,
    keep,
    nest,
    splat,
    store_vector,
    sweep,
)
from cloud.compiler.kernels.cumulate import cumulate
from cloud.compiler.kernels.norm import layer_norm
from cloud.compiler.kernels.softmax import softmax
from cloud.compiler.kernels.vector import LANES, VECTOR_BYTES, ZERO, load
from cloud.compiler.ops.reduce import TRUTHS, ArgReduce, Cumulate, LayerNorm, Reduce, ReduceKind, Softmax
from cloud.compiler.wat import Function, Kernel, get

_Step: TypeAlias = Callable[[str, str], str]
RUN = 64  # additions to one accumulator
ACROSS = 4  # accumulators
ALONG = 8


def _instruction(name: str) -> _Step:
    return lambda x, y: f"({name} {x} {y})"


_STEPS: Mapping[tuple[ReduceKind, str], tuple[str, _Step]] = {
    (ReduceKind.SUM, "f32"): (ZERO, _instruction("f32x4.add")),
    (ReduceKind.SUM, "i32"): (ZERO, _instruction("i32x4.add")),
    (ReduceKind.MEAN, "f32"): (ZERO, _instruction("f32x4.add")),
    (ReduceKind.PROD, "f32"): (splat("1"), _instruction("f32x4.mul")),
    (ReduceKind.PROD, "i32"): (splat("1", "i32"), _instruction("i32x4.mul")),
    (ReduceKind.MAX, "f32"): (splat("-inf"), _instruction("f32x4.max")),
    (ReduceKind.MAX, "i32"): (splat("0x80000000", "i32"), _instruction("i32x4.max_s")),
    (ReduceKind.MIN, "f32"): (splat("inf"), _instruction("f32x4.min")),
    (ReduceKind.MIN, "i32"): (splat("0x7fffffff", "i32"), _instruction("i32x4.min_s")),
    (ReduceKind.ANY, "f32"): (ZERO, _instruction("v128.or")),
    (ReduceKind.ANY, "i32"): (ZERO, _instruction("v128.or")),
    (ReduceKind.ALL, "f32"): (splat("-1", "i32"), _instruction("v128.and")),
    (ReduceKind.ALL, "i32"): (splat("-1", "i32"), _instruction("v128.and")),
}


@dataclass(frozen=True, slots=True)
class _Fold:
    """One reduction: the kind for one dtype, over ``loops`` of reduced groups, ``count`` numbers in all."""

    kind: ReduceKind
    dtype: str
    loops: tuple[Group, ...]

    @property
    def neutral(self) -> str:
        return _STEPS[self.kind, self.dtype][0]

    @property
    def step(self) -> _Step:
        return _STEPS[self.kind, self.dtype][1]

    @property
    def quick(self) -> _Step | None:
        """For a float extreme: the step of an accumulator that does not see NaN."""
        name = {ReduceKind.MAX: "f32x4.pmax", ReduceKind.MIN: "f32x4.pmin"}.get(self.kind)
        return _instruction(name) if name and self.dtype == "f32" else None

    @property
    def cascade(self) -> bool:
        return self.kind in (ReduceKind.SUM, ReduceKind.MEAN) and self.count > RUN

    @property
    def count(self) -> int:
        return prod(one.size for one in self.loops)

    def taken(self, vector: str) -> str:
        """Numbers as they are joined: for ANY and ALL, all bits of a lane that is not zero."""
        shape = "f32x4" if self.dtype == "f32" else "i32x4"
        return f"({shape}.ne {vector} {ZERO})" if self.kind in TRUTHS else vector

    def finished(self, vector: str) -> str:
        """The result from what was joined."""
        if self.kind in TRUTHS:
            return f"(v128.and {vector} {splat('1', 'i32')})"
        return f"(f32x4.div {vector} {splat(str(self.count))})" if self.kind is ReduceKind.MEAN else vector


def reduce_kernel(node: Node) -> Kernel:
    """``reduce_<kind>...(x, y)``."""
    assert isinstance(node.op, Reduce)
    (x,) = node.operands
    found = groups(x.shape, node.op.axes)
    text = "_".join(f"{'r' if one.reduced else 'k'}{one.size}" for one in found)
    f = Function(f"reduce_{node.op.kind}_{x.dtype}_{text}", ("x", "y"))
    fold = _Fold(node.op.kind, x.dtype, tuple(one for one in found if one.reduced))
    kept = [one for one in found if not one.reduced]
    if found and found[-1].reduced:
        with nest(f, kept, "x") as row:
            _across(f, fold, row)
            f.set("total", fold.finished(get("total")), "v128")
            store_vector(f, "y", 0, "total", 1)
            f.advance("y", ITEM_BYTES)
    else:
        inner = kept.pop().size if kept else 1
        with nest(f, kept, "x") as row:
            _along(f, fold, row, inner)
    return f.kernel()


def _across(f: Function, fold: _Fold, row: str) -> None:
    """``total`` := the row at ``row``, in every lane."""
    *loops, last = fold.loops

    def run(count: int) -> None:
        _start(f, fold, ACROSS)
        for widths in sweep(f, count, ACROSS, "at"):
            for index, lanes in enumerate(widths):
                _join(f, fold, index, load("at", index * VECTOR_BYTES), lanes)
        _settle(f, fold, ACROSS)
        f.set("sum0", fold.step(get("sum0"), get("sum1")), "v128")
        f.set("sum2", fold.step(get("sum2"), get("sum3")), "v128")
        f.set("sum0", fold.step(get("sum0"), get("sum2")), "v128")
        f.set("total", fold.step(get("total"), get("sum0")), "v128")

    f.set("total", fold.neutral, "v128")
    f.set("x_at", get(row))
    with nest(f, loops, "x_at") as at:
        f.set("at", get(at))
        whole, rest = divmod(last.size, RUN * ACROSS * LANES)
        if whole:
            with f.loop(whole):
                run(RUN * ACROSS * LANES)
        if rest:
            run(rest)
    join(f, "total", fold.step)


def _start(f: Function, fold: _Fold, width: int) -> None:
    """Accumulators that have seen nothing."""
    for index in range(width):
        f.set(f"sum{index}", fold.neutral, "v128")
        if fold.quick:
            f.set(f"nan{index}", ZERO, "v128")


def _settle(f: Function, fold: _Fold, width: int) -> None:
    """All bits set are a NaN: where one was seen, the accumulator becomes one."""
    for index in range(width if fold.quick else 0):
        f.set(f"sum{index}", f"(v128.or {get(f'sum{index}')} {get(f'nan{index}')})", "v128")


def _along(f: Function, fold: _Fold, row: str, inner: int) -> None:
    """``inner`` results, each from a column below the row at ``row``; y moves on."""
    f.set("column", get(row))
    width = ALONG // 2 if fold.quick else ALONG  # two registers for each
    for lanes in sweep(f, inner, width, "column", "y"):
        _columns(f, fold, lanes)


def _columns(f: Function, fold: _Fold, widths: list[int]) -> None:
    """As many vectors of results as there are ``widths``, each of so many lanes."""
    indices = range(len(widths))
    *loops, last = fold.loops or (Group(1, 0, True),)
    _start(f, fold, len(widths))
    for index in indices if fold.cascade else ():
        f.set(f"total{index}", fold.neutral, "v128")

    def run(count: int) -> None:
        with f.loop(count):
            for index in indices:
                _join(f, fold, index, load("at", index * VECTOR_BYTES))
            f.advance("at", last.step)
        for index in indices if fold.cascade else ():
            f.set(f"total{index}", fold.step(get(f"total{index}"), get(f"sum{index}")), "v128")
            f.set(f"sum{index}", fold.neutral, "v128")

    f.set("x_at", get("column"))
    with nest(f, loops, "x_at") as start:
        f.set("at", get(start))
        whole, rest = divmod(last.size, RUN) if fold.cascade else (0, last.size)
        if whole:
            with f.loop(whole):
                run(RUN)
        if rest:
            run(rest)
    _settle(f, fold, len(widths))
    for index, lanes in enumerate(widths):
        f.set("result", fold.finished(get(f"{'total' if fold.cascade else 'sum'}{index}")), "v128")
        store_vector(f, "y", index * VECTOR_BYTES, "result", lanes)


def _join(f: Function, fold: _Fold, index: int, vector: str, lanes: int = LANES) -> None:
    taken = keep(lanes, fold.taken(vector), fold.neutral)
    if fold.quick:
        f.set("number", taken, "v128")
        taken = get("number")
        f.set(f"nan{index}", f"(v128.or {get(f'nan{index}')} (f32x4.ne {taken} {taken}))", "v128")
    f.set(f"sum{index}", (fold.quick or fold.step)(get(f"sum{index}"), taken), "v128")


EMITTERS: Mapping[type, Callable[[Node], Kernel | None]] = {
    Reduce: reduce_kernel,
    ArgReduce: arg_reduce,
    Cumulate: cumulate,
    Softmax: softmax,
    LayerNorm: layer_norm,
}

"""Pointwise operations: one loop nest over the result, four elements at a time.

Axes of size one vanish, and neighbouring axes along which every operand is either dense or repeated become
one. What remains of the common cases:

    x[8,16,32] + y[8,16,32]    one flat loop of 4096
    x[8,16,32] + bias[32]      128 rows of 32, the bias begins again for each
    x[8,16,32] * scale[16,1]   8 x 16 rows of 32, one number of scale in four lanes for each
    x[8,16,32] * 2.5[]         one flat loop, the number in four lanes before it

Every operand has a pointer that moves along the innermost axis or stands still there; after a row it moves on
to where the next row wants it. Four vectors a turn for cheap expressions, fewer for the expensive ones: a
polynomial keeps the processor busy on its own, and its text is long. The end of a row is computed in a whole
vector (arrays may be read beyond their end) of which only the elements inside are stored.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cloud.compiler.expr import Call, Expr, Fn
from cloud.compiler.ir import Node, Shape
from cloud.compiler.kernels.expression import helpers, vector
from cloud.compiler.kernels.vector import LANES, VECTOR_BYTES, load, store
from cloud.compiler.ops.pointwise import Pointwise
from cloud.compiler.wat import Function, Kernel, get

ITEM_BYTES = 4
Strides: TypeAlias = tuple[int, ...]  # in elements, one for each axis; 0 where the operand is repeated

_INSTRUCTIONS: Mapping[Fn, int] = {
    Fn.EXP: 28,
    Fn.EXPM1: 26,
    Fn.LOG: 38,
    Fn.LOG1P: 46,
    Fn.TANH: 28,
    Fn.SIGMOID: 26,
    Fn.ERF: 56,
    Fn.SIN: 180,
    Fn.COS: 180,
    Fn.POW: 130,
    Fn.FMOD: 60,
    Fn.FLOOR_DIV: 14,
}


@dataclass(frozen=True, slots=True)
class Nest:
    """``sizes``: of the axes that remain, outermost first (at least one). ``strides``: for each operand."""

    sizes: Shape
    strides: tuple[Strides, ...]


def nest_of(result: Shape, operands: Sequence[Shape]) -> Nest:
    """The shortest loop nest over a result."""
    sizes: list[int] = []
    strides: list[list[int]] = [[] for _ in operands]
    dense = [_strides(one, len(result)) for one in operands]
    for axis, size in enumerate(result):
        here = [one[axis] for one in dense]
        if size == 1:
            continue
        if sizes and all(outer[-1] == step * size for outer, step in zip(strides, here, strict=True)):
            sizes[-1] *= size
            for outer, step in zip(strides, here, strict=True):
                outer[-1] = step
        else:
            sizes.append(size)
            for outer, step in zip(strides, here, strict=True):
                outer.append(step)
    if not sizes:
        return Nest((1,), ((0,),) * len(operands))
    return Nest(tuple(sizes), tuple(tuple(one) for one in strides))


def pointwise(node: Node) -> Kernel:
    """``<functions>_<sizes>_<digest>(operands..., y)``."""
    assert isinstance(node.op, Pointwise)
    nest = nest_of(node.result.shape, [one.shape for one in node.operands])
    return _Loops(node.op.expr, tuple(one.dtype for one in node.operands), nest).kernel()


class _Loops:
    """Writes one kernel."""

    def __init__(self, expr: Expr, dtypes: tuple[str, ...], nest: Nest) -> None:
        self._expr, self._dtypes, self._nest = expr, dtypes, nest
        self._pointers = tuple(f"p{index}" for index in range(len(dtypes)))
        self._f = Function(self._name(), (*self._pointers, "y"), f"{_functions(expr)} over {nest.sizes}")
        self._steps = {
            name: strides for name, strides in zip(self._pointers, nest.strides, strict=True) if any(strides)
        }
        self._moving = [name for name in self._pointers if name in self._steps and self._steps[name][-1]]

    def kernel(self) -> Kernel:
        """The finished function."""
        for index, name in enumerate(self._pointers):
            if name not in self._steps:
                self._splat(index)
        self._axis(0)
        return self._f.kernel(helpers=helpers(self._expr))

    def _name(self) -> str:
        # The digest stands for all that the text depends on; the rest is for the reader.
        everything = repr((self._expr, self._dtypes, self._nest))
        digest = hashlib.sha256(everything.encode()).hexdigest()[:12]
        return f"{_functions(self._expr)}_{'x'.join(str(one) for one in self._nest.sizes)}_{digest}"

    def _axis(self, axis: int) -> None:
        """Loop over this axis and all inside it. Every operand's pointer moves by size x stride."""
        sizes = self._nest.sizes
        if axis == len(sizes) - 1:
            self._row(sizes[axis])
            return
        with self._f.loop(sizes[axis]):
            self._axis(axis + 1)
            for name, strides in self._steps.items():
                rest = strides[axis] - strides[axis + 1] * sizes[axis + 1]
                if rest:
                    self._f.advance(name, rest * ITEM_BYTES)

    def _row(self, size: int) -> None:
        for index, name in enumerate(self._pointers):
            if name in self._steps and name not in self._moving:
                self._splat(index)
        vectors, lanes = divmod(size, LANES)
        turn = _vectors_a_turn(self._expr)
        turns, rest = divmod(vectors, turn)
        if turns:
            with self._f.loop(turns):
                self._span(turn, 0)
        if rest or lanes:
            self._span(rest, lanes)

    def _span(self, vectors: int, lanes: int) -> None:
        """``vectors`` whole vectors and ``lanes`` more elements; then the pointers move past them."""
        for index in range(vectors + (lanes > 0)):
            offset = index * VECTOR_BYTES
            for position, name in enumerate(self._pointers):
                if name in self._moving:
                    self._f.set(f"x{position}", load(name, offset), "v128")
            args = [get(f"x{position}") for position in range(len(self._pointers))]
            self._f.set("value", vector(self._f, self._expr, args, self._dtypes), "v128")
            for line in store("y", offset, "value", LANES if index < vectors else lanes):
                self._f.emit(line)
        for name in (*self._moving, "y"):
            self._f.advance(name, vectors * VECTOR_BYTES + lanes * ITEM_BYTES)

    def _splat(self, index: int) -> None:
        self._f.set(f"x{index}", f"(v128.load32_splat {get(self._pointers[index])})", "v128")


def _strides(shape: Shape, rank: int) -> list[int]:
    """Of a dense array whose shape is filled up with ones in front."""
    strides, step = [0] * rank, 1
    for axis, size in zip(range(rank - 1, -1, -1), reversed(shape), strict=False):
        strides[axis] = step if size > 1 else 0
        step *= size
    return strides


def _vectors_a_turn(expr: Expr) -> int:
    instructions = _instructions(expr)
    return 4 if instructions <= 12 else 2 if instructions <= 40 else 1


def _instructions(expr: Expr) -> int:
    """About how many it takes."""
    if not isinstance(expr, Call):
        return 0
    return _INSTRUCTIONS.get(expr.fn, 1) + sum(_instructions(one) for one in expr.args)


def _functions(expr: Expr) -> str:
    """Up to three of the functions, the innermost first: ``add_relu``."""
    found: list[str] = []

    def walk(one: Expr) -> None:
        if isinstance(one, Call):
            for argument in one.args:
                walk(argument)
            found.append(one.fn.value)

    walk(expr)
    return "_".join(dict.fromkeys(found[-3:])) or "copy"


EMITTERS: Mapping[type, Callable[[Node], Kernel | None]] = {Pointwise: pointwise}

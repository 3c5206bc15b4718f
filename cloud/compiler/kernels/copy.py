"""Strided copies: one kernel for whatever moves numbers by a rule (permute, slice, expand, flip, concat).

A copy is a box of positions; each axis has a step in the source and a step in the target:

    transpose of [3, 5]      axes (5 positions, source 1, target 3), (3, source 5, target 1)
    rows 2.. of it, doubled  a source offset; an axis whose source step is 0

Axes of one position vanish, axes that move as one merge, and the rest become loops, the target's longest
steps outside. What the innermost axis looks like decides how its numbers go:

    run        both steps 1                     vectors, or memory.copy when it is long
    fill       source step 0                    one number, spread over a vector
    pairs      source step 2                    two vectors, every other lane
    backward   source step -1                   lanes turned round
    triples    three rows, interleaved          colours: three vectors become three others
    tiles      another axis has source step 1   4 x 4 numbers are transposed in registers
    single     anything else                    one number at a time

Tiles go down a band of sixteen columns (a cache line of each source row is used up in one visit) so that both
sides of the copy stay in the first-level cache whatever the row's length.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from cloud.compiler.ir import Shape
from cloud.compiler.kernels.vector import LANES, VECTOR_BYTES, load, shuffle, store
from cloud.compiler.wat import Function, Kernel, const, get

ITEM_BYTES = 4
BAND = 16
UNROLL = 4
LONG_RUN = 256  # numbers; a memory.copy costs about as much as copying so many with vectors


@dataclass(frozen=True, slots=True)
class Axis:
    """``size`` positions; steps in numbers (not bytes)."""

    size: int
    source: int
    target: int


@dataclass(frozen=True, slots=True)
class Copy:
    """Where the numbers are, where they go. The offsets are in numbers."""

    axes: tuple[Axis, ...]
    source_offset: int = 0
    target_offset: int = 0

    @property
    def name(self) -> str:
        """Everything that the function's text depends on."""
        axes = "".join(f"_{one.size}.{one.source}.{one.target}" for one in self.axes)
        return f"copy{axes}_{self.source_offset}_{self.target_offset}"


_Moved = tuple[int, int]  # bytes that a piece of code moves the two pointers by
_Leaf = Callable[[Function], _Moved]


def strides(shape: Shape) -> tuple[int, ...]:
    """Steps of a dense row-major array, in numbers."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def simplified(axes: Sequence[Axis]) -> tuple[Axis, ...]:
    """The same copy with as few axes as possible, the target's longest steps first."""
    merged: list[Axis] = []
    for axis in sorted((one for one in axes if one.size > 1), key=lambda one: -abs(one.target)):
        last = merged[-1] if merged else None
        if last and (last.source, last.target) == (axis.source * axis.size, axis.target * axis.size):
            merged[-1] = Axis(last.size * axis.size, axis.source, axis.target)
        else:
            merged.append(axis)
    return tuple(merged)


def copy_kernel(copy: Copy, item_bytes: int = ITEM_BYTES) -> Kernel:
    """``copy_...(x, y)``: x is where the source array starts, y where the target array starts.

    Numbers of 8 bytes (i64, at the border only) move as pairs; numbers of one byte (bool) move singly.
    """
    if item_bytes == 1:
        return _byte_kernel(copy)
    words = item_bytes // ITEM_BYTES
    axes = [Axis(one.size, one.source * words, one.target * words) for one in copy.axes]
    copy = Copy(
        simplified([*axes, Axis(words, 1, 1)]), copy.source_offset * words, copy.target_offset * words
    )
    f = Function(copy.name, ("x", "y"))
    advance(f, "x", copy.source_offset * ITEM_BYTES)
    advance(f, "y", copy.target_offset * ITEM_BYTES)
    outer, leaf = _leaf(copy.axes)
    nest(f, outer, leaf)
    return f.kernel()


def _byte_kernel(copy: Copy) -> Kernel:
    copy = Copy(simplified(copy.axes), copy.source_offset, copy.target_offset)
    f = Function(f"bytes_{copy.name}", ("x", "y"))
    advance(f, "x", copy.source_offset)
    advance(f, "y", copy.target_offset)

    def one(f: Function) -> _Moved:
        f.emit(f"(i32.store8 {get('y')} (i32.load8_u {get('x')}))")
        return 0, 0

    nest(f, copy.axes, one, item_bytes=1)
    return f.kernel()


def _leaf(axes: tuple[Axis, ...]) -> tuple[tuple[Axis, ...], _Leaf]:
    """The axes that are plain loops, and how the numbers inside them go."""
    outer, inner = axes[:-1], axes[-1] if axes else Axis(1, 1, 1)
    if inner.target != 1:
        return axes, _single
    match inner.source:
        case 1:
            return outer, lambda f: run(f, inner.size)
        case 0:
            return outer, lambda f: _fill(f, inner.size)
        case -1:
            return outer, lambda f: _backward(f, inner.size)
    across = next((one for one in outer if one.source == 1), None)
    if across is not None and inner.source > 0:
        rest = tuple(one for one in outer if one is not across)
        if inner.size == across.target == 3:
            return rest, lambda f: _triples(f, across, inner)
        return rest, lambda f: _tiles(f, across, inner)
    if inner.source == 2:
        return outer, lambda f: _pairs(f, inner.size)
    return axes, _single


def nest(f: Function, axes: tuple[Axis, ...], leaf: _Leaf, item_bytes: int = ITEM_BYTES) -> _Moved:
    """Loops over the axes around ``leaf``; x and y move by the axes' steps."""
    if not axes:
        return leaf(f)
    axis = axes[0]
    with f.loop(axis.size):
        moved = nest(f, axes[1:], leaf, item_bytes)
        advance(f, "x", axis.source * item_bytes - moved[0])
        advance(f, "y", axis.target * item_bytes - moved[1])
    return axis.size * axis.source * item_bytes, axis.size * axis.target * item_bytes


def _single(f: Function) -> _Moved:
    f.emit(f"(i32.store {get('y')} (i32.load {get('x')}))")
    return 0, 0


def run(f: Function, size: int) -> _Moved:
    """``size`` contiguous numbers from x to y."""
    if size >= LONG_RUN:
        f.emit(f"(memory.copy {get('y')} {get('x')} {const(size * ITEM_BYTES)})")
        return 0, 0
    return _vectors(f, size, VECTOR_BYTES, lambda offset, lanes: load("x", offset, lanes))


def _fill(f: Function, size: int) -> _Moved:
    f.set("spread", f"(v128.load32_splat {get('x')})", "v128")
    return spread(f, size, "spread")


def spread(f: Function, size: int, vector: str) -> _Moved:
    """``size`` numbers of a vector whose lanes are equal, to y."""
    return _vectors(f, size, 0, lambda _, __: get(vector))


def _pairs(f: Function, size: int) -> _Moved:
    def every_other(offset: int, _: int) -> str:
        return shuffle((0, 2, 4, 6), load("x", offset), load("x", offset + VECTOR_BYTES))

    return _vectors(f, size, 2 * VECTOR_BYTES, every_other)


def _backward(f: Function, size: int) -> _Moved:
    """The vectors of a run from its end: x is kept four numbers to the left, where each load begins."""
    tail = size % LANES
    advance(f, "x", ITEM_BYTES - VECTOR_BYTES)

    def turned(offset: int, lanes: int) -> str:
        if lanes < LANES:  # only numbers that exist: what lies before them may be before the memory
            offset += VECTOR_BYTES - lanes * ITEM_BYTES
            order = (*range(lanes - 1, -1, -1), *range(lanes, LANES))
            return shuffle((order[0], order[1], order[2], order[3]), load("x", offset, lanes), get("none"))
        return shuffle((3, 2, 1, 0), load("x", offset), get("none"))

    f.set("none", "(v128.const i32x4 0 0 0 0)", "v128")
    vectors = size // LANES
    if vectors:
        with f.loop(vectors):
            f.set("piece", turned(0, LANES), "v128")
            _store(f, 0, LANES)
            advance(f, "x", -VECTOR_BYTES)
            advance(f, "y", VECTOR_BYTES)
    if tail:
        f.set("piece", turned(0, tail), "v128")
        _store(f, 0, tail)
    return ITEM_BYTES - VECTOR_BYTES - vectors * VECTOR_BYTES, vectors * VECTOR_BYTES


def _vectors(f: Function, size: int, step: int, piece: Callable[[int, int], str]) -> _Moved:
    """``size`` numbers to y: ``piece(offset in x, lanes)`` are the next; x moves ``step`` bytes a vector."""
    vectors, tail = divmod(size, LANES)
    blocks, rest = divmod(vectors, UNROLL)
    if blocks == 1:  # short enough for one straight line
        blocks, rest = 0, vectors
    if blocks:
        with f.loop(blocks):
            for index in range(UNROLL):
                f.set("piece", piece(index * step, LANES), "v128")
                _store(f, index * VECTOR_BYTES, LANES)
            advance(f, "x", UNROLL * step)
            advance(f, "y", UNROLL * VECTOR_BYTES)
    for index in range(rest):
        f.set("piece", piece(index * step, LANES), "v128")
        _store(f, index * VECTOR_BYTES, LANES)
    if tail:
        f.set("piece", piece(rest * step, tail), "v128")
        _store(f, rest * VECTOR_BYTES, tail)
    return blocks * UNROLL * step, blocks * UNROLL * VECTOR_BYTES


def _store(f: Function, offset: int, lanes: int) -> None:
    for line in store("y", offset, "piece", lanes):
        f.emit(line)


def _triples(f: Function, across: Axis, down: Axis) -> _Moved:
    """a0 a1 a2 a3, b0 .., c0 .. become a0 b0 c0 a1 | b1 c1 a2 b2 | c2 a3 b3 c3."""
    fours, rest = divmod(across.size, LANES)
    if fours:
        with f.loop(fours):
            for index, row in enumerate("abc"):
                f.set(row, load("x", index * down.source * ITEM_BYTES), "v128")
            f.set("front", shuffle((0, 4, 1, 5), get("a"), get("b")), "v128")  # a0 b0 a1 b1
            f.set("middle", shuffle((1, 5, 1, 5), get("b"), get("c")), "v128")  # b1 c1
            f.set("back", shuffle((2, 6, 3, 7), get("a"), get("b")), "v128")  # a2 b2 a3 b3
            for index, (lanes, x, y) in enumerate(
                (
                    ((0, 1, 4, 2), "front", "c"),
                    ((0, 1, 4, 5), "middle", "back"),
                    ((6, 2, 3, 7), "back", "c"),
                )
            ):
                f.set("piece", shuffle(lanes, get(x), get(y)), "v128")
                _store(f, index * VECTOR_BYTES, LANES)
            advance(f, "x", VECTOR_BYTES)
            advance(f, "y", 3 * VECTOR_BYTES)
    if rest:
        _band(f, down, across.target, rest)
    return across.size * ITEM_BYTES, across.size * across.target * ITEM_BYTES


def _tiles(f: Function, across: Axis, down: Axis) -> _Moved:
    """A matrix transposed: the source is contiguous along ``across``, the target along ``down``."""
    bands, rest = divmod(across.size, BAND)
    if bands:
        with f.loop(bands):
            _band(f, down, across.target, BAND)
    if rest:
        _band(f, down, across.target, rest)
    return across.size * ITEM_BYTES, across.size * across.target * ITEM_BYTES


def _band(f: Function, down: Axis, step: int, width: int) -> None:
    """``width`` columns of all rows; then the pointers move on to the next columns."""
    f.set("from", get("x"))
    f.set("to", get("y"))
    fours, rest = divmod(down.size, LANES)
    if fours:
        with f.loop(fours):
            _height(f, down.source, step, LANES, width)
            advance(f, "from", LANES * down.source * ITEM_BYTES)
            advance(f, "to", VECTOR_BYTES)
    if rest:
        _height(f, down.source, step, rest, width)
    advance(f, "x", width * ITEM_BYTES)
    advance(f, "y", width * step * ITEM_BYTES)


def _height(f: Function, source: int, target: int, height: int, width: int) -> None:
    """``height`` (to 4) rows by ``width`` columns."""
    for column in range(0, width, LANES):
        for row in range(LANES):
            at = (min(row, height - 1) * source + column) * ITEM_BYTES
            f.set(f"row{row}", load("from", at), "v128")
        count = min(LANES, width - column)
        for index in range(count):
            f.set("piece", _column(f, index), "v128")
            for line in store("to", (column + index) * target * ITEM_BYTES, "piece", height):
                f.emit(line)


def _column(f: Function, index: int) -> str:
    """Lane ``index`` of the locals row0 to row3, as one vector. Two columns share their first shuffles."""
    if index % 2 == 0:
        pair = (0, 4, 1, 5) if index == 0 else (2, 6, 3, 7)
        f.set("upper", shuffle(pair, get("row0"), get("row1")), "v128")
        f.set("lower", shuffle(pair, get("row2"), get("row3")), "v128")
    return shuffle((0, 1, 4, 5) if index % 2 == 0 else (2, 3, 6, 7), get("upper"), get("lower"))


def advance(f: Function, pointer: str, nbytes: int) -> None:
    """Move a pointer, unless it stays."""
    if nbytes:
        f.advance(pointer, nbytes)

"""Pooling: windows that are alike share a loop, and a loop's taps are written out, four channels a vector.

    rows     | cut above | whole, whole, whole, ... | cut below |      each piece: windows of one size at one
    columns  | cut left  | whole, whole, whole, ... | cut right |      distance, so a pointer and a step

Every pair of a piece of rows and a piece of columns is a loop nest of its own: the taps at the border are
simply fewer, and nothing is padded or tested.

A maximum is ``pmax`` (one instruction, which passes NaN over) and a mask of the NaNs that went by: the NaN
aware ``f32x4.max`` is eight instructions in a chain. An index goes with its maximum, lane by lane.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cloud.compiler.ir import Node, Shape
from cloud.compiler.kernels.copy import advance
from cloud.compiler.kernels.resample import resample
from cloud.compiler.kernels.vector import LANES, VECTOR_BYTES, load, store
from cloud.compiler.ops.pool import Piece, Pool, PoolIndex, PoolKind, Resample, Window, pieces
from cloud.compiler.wat import Function, Kernel, const, get

F32_BYTES = 4


@dataclass(frozen=True, slots=True)
class Taps:
    """What one window sees: distances from its first number in bytes, and in pixels of the image."""

    offsets: tuple[int, ...]
    places: tuple[int, ...]
    divisor: int


_Leaf = Callable[[Function, Taps, int], None]  # writes the result of `lanes` channels to y


def _pool(node: Node) -> Kernel:
    op = node.op
    assert isinstance(op, Pool)
    return _kernel(node, op, _maximum if op.kind is PoolKind.MAX else _mean)


def _pool_index(node: Node) -> Kernel:
    assert isinstance(node.op, PoolIndex)
    return _kernel(node, node.op, _index)


def _kernel(node: Node, op: Pool | PoolIndex, leaf: _Leaf) -> Kernel:
    image = node.operands[0].shape
    rule = hashlib.sha256(repr((op.rows, op.columns, op.dilation)).encode()).hexdigest()[:12]
    f = Function(f"pool{leaf.__name__}_{'x'.join(map(str, image))}_{rule}", ("x", "y"))
    batch, height, width, channels = image
    with f.loop(batch):
        for rows in pieces(op.rows):
            f.set("row", _plus("x", rows.first.start * width * channels * F32_BYTES))
            f.set("row_place", const(rows.first.start * width))
            with f.loop(rows.repeats):
                for columns in pieces(op.columns):
                    _line(f, image, columns, _taps(image, rows.first, columns.first, op.dilation), leaf)
                advance(f, "row", rows.step * width * channels * F32_BYTES)
                advance(f, "row_place", rows.step * width)
        advance(f, "x", height * width * channels * F32_BYTES)
    return f.kernel()


def _line(f: Function, image: Shape, columns: Piece, taps: Taps, leaf: _Leaf) -> None:
    """The windows of a piece of one row."""
    pixel = image[3] * F32_BYTES
    f.set("at", _plus("row", columns.first.start * pixel))
    f.set("place", _plus("row_place", columns.first.start))
    with f.loop(columns.repeats):
        moved = _channels(f, image[3], taps, leaf)
        advance(f, "at", columns.step * pixel - moved)
        advance(f, "place", columns.step)


def _channels(f: Function, channels: int, taps: Taps, leaf: _Leaf) -> int:
    """All channels of one window; y moves on. Returns the bytes that ``at`` has moved."""
    vectors, lanes = divmod(channels, LANES)
    if vectors:
        with f.loop(vectors):
            leaf(f, taps, LANES)
            f.advance("at", VECTOR_BYTES)
            f.advance("y", VECTOR_BYTES)
    if lanes:
        leaf(f, taps, lanes)
        f.advance("y", lanes * F32_BYTES)
    return vectors * VECTOR_BYTES


def _taps(image: Shape, rows: Window, columns: Window, dilation: tuple[int, int]) -> Taps:
    _, _, width, channels = image
    places = tuple(
        row * dilation[0] * width + column * dilation[1]
        for row in range(rows.count)
        for column in range(columns.count)
    )
    offsets = tuple(place * channels * F32_BYTES for place in places)
    return Taps(offsets, places, rows.divisor * columns.divisor)


def _maximum(f: Function, taps: Taps, lanes: int) -> None:
    """The first tap needs no mask: once it is NaN, nothing is greater."""
    first, *rest = taps.offsets
    f.set("best", load("at", first, lanes), "v128")
    for index, offset in enumerate(rest):
        f.set("seen", load("at", offset, lanes), "v128")
        nan = f"(f32x4.ne {get('seen')} {get('seen')})"
        f.set("nan", f"(v128.or {get('nan')} {nan})" if index else nan, "v128")
        f.set("best", f"(f32x4.pmax {get('best')} {get('seen')})", "v128")
    if rest:
        f.set("best", f"(v128.or {get('best')} {get('nan')})", "v128")
    _put(f, "best", lanes)


def _mean(f: Function, taps: Taps, lanes: int) -> None:
    first, *rest = taps.offsets
    f.set("sum", load("at", first, lanes), "v128")
    for offset in rest:
        f.set("sum", f"(f32x4.add {get('sum')} {load('at', offset, lanes)})", "v128")
    if taps.divisor != 1:
        f.set("sum", f"(f32x4.div {get('sum')} (f32x4.splat (f32.const {taps.divisor})))", "v128")
    _put(f, "sum", lanes)


def _index(f: Function, taps: Taps, lanes: int) -> None:
    first, *rest = taps.offsets
    f.set("best", load("at", first, lanes), "v128")
    f.set("where", _place(taps.places[0]), "v128")
    for offset, place in zip(rest, taps.places[1:], strict=True):
        f.set("seen", load("at", offset, lanes), "v128")
        nan = f"(f32x4.ne {get('seen')} {get('seen')})"
        f.set("better", f"(v128.or (f32x4.gt {get('seen')} {get('best')}) {nan})", "v128")
        f.set("where", f"(v128.bitselect {_place(place)} {get('where')} {get('better')})", "v128")
        f.set("best", f"(v128.bitselect {get('seen')} {get('best')} {get('better')})", "v128")
    _put(f, "where", lanes)


def _place(ahead: int) -> str:
    return f"(i32x4.splat (i32.add {get('place')} {const(ahead)}))"


def _put(f: Function, value: str, lanes: int) -> None:
    for line in store("y", 0, value, lanes):
        f.emit(line)


def _plus(local: str, amount: int) -> str:
    return f"(i32.add {get(local)} {const(amount)})" if amount else get(local)


def _resample(node: Node) -> Kernel:
    assert isinstance(node.op, Resample)
    x, indices, _ = node.operands
    return resample(x.shape, indices.shape, node.op.axis)


EMITTERS: Mapping[type, Callable[[Node], Kernel | None]] = {
    Pool: _pool,
    PoolIndex: _pool_index,
    Resample: _resample,
}

"""The tile of a product whose operands both lie along the depth: x [M, K], w [N, K].

Weights stay in torch's own layout of a linear layer. A tile holds its sums in registers, four partial sums
(lanes) for each element of the result:

             w: 4 rows (one column of the result each)
           ┌────┬────┬────┬────┐
    x row 0│ s  │ s  │ s  │ s  │    2 x 4 sums + 2 x vectors + 4 w vectors fit into 16 registers
    x row 1│ s  │ s  │ s  │ s  │    the odd last row: 1 x 4; a single row: 1 x 8, for an addition takes
           └────┴────┴────┴────┘    three cycles, and each cycle can begin two
    after the last k: add the four lanes of each sum, apply the epilogue, store 4 columns

Why the branch that is never taken: Cranelift keeps loads in order but sinks pure operations to the end of
their basic block, so a plain unrolled loop loads everything first and spills. ``br_if`` on a flag that is
always zero (but comes from memory, so that nobody can fold it) ends the block after each four columns of a k.

Along a great depth the sums of each stretch of k (some 200 of them) are added to totals: rounding errors grow
with the longest chain of additions, and this makes it that of a stretch plus their number (Higham, "Accuracy
and Stability of Numerical Algorithms", section 4.2). Totals live in memory meanwhile: they are rarely needed.

``f32x4.add(f32x4.mul)`` and not ``relaxed_madd``: the same bits on every processor.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from cloud.compiler.kernels.product import F32_BYTES, Places, Product, finish
from cloud.compiler.kernels.vector import (
    LANES,
    VECTOR_BYTES,
    ZERO,
    add,
    interleaved_sum,
    load,
    multiply,
    paired_sum,
)
from cloud.compiler.wat import Function, get

ROWS, COLUMNS = 2, 4
SINGLE_COLUMNS = 8
# The deadline of a device's runtime is checked at the end of every turn of a loop: long turns make it cheap.
SINGLE_TURN = 16  # columns: two tiles of a single row
MANY_TURNS = 10  # fewer do not earn the code, which a lone run reads from memory
STRAIGHT_MAX = {1: 32, 2: 16}  # by rows of the tile: one row and 32 steps are as much code as two and 16
UNROLLS = range(16, 7, -1)
STRETCH_TURNS = 4
Place: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Tile:
    """``height`` rows by ``columns`` of them, where locals ``x`` and ``w`` point."""

    product: Product
    height: int
    columns: range
    x: str
    w: str

    def each(self, f: Function, value: Callable[[Place], str], local: Callable[[Place], str]) -> None:
        """Set a local of every element of the tile."""
        for row in range(self.height):
            for column in range(len(self.columns)):
                f.set(local((row, column)), value((row, column)), "v128")


def dot_tile(f: Function, product: Product, at: Places, height: int, columns: range) -> None:
    """``height`` rows (1 or 2) by some columns of the result, counted from ``at``, over the whole depth."""
    _depth(f, _Tile(product, height, columns, at["x"], at["w"]))
    for row in range(height):
        for column in range(0, len(columns), COLUMNS):
            lanes = min(len(columns) - column, COLUMNS)
            _gather(f, row, column, lanes)
            finish(f, product, at, (row, columns[column]), lanes)


def tile_columns(product: Product) -> int:
    """Columns of a tile: twice as many where there is a single row, so that there are as many sums."""
    return SINGLE_COLUMNS if product.rows == 1 else COLUMNS


def turn_columns(product: Product) -> int:
    """Columns of one turn of the loop over them: two tiles of a single row, if they are short and many."""
    short = product.depth <= STRAIGHT_MAX[2] * LANES
    many = product.columns >= MANY_TURNS * SINGLE_TURN
    return SINGLE_TURN if product.rows == 1 and short and many else tile_columns(product)


def _depth(f: Function, tile: _Tile) -> None:
    """The sums of a tile over the whole depth."""
    vectors, lanes = divmod(tile.product.depth, LANES)
    unroll = _unroll(vectors, tile.height)
    turns, rest = divmod(vectors, unroll)
    with f.block() as done:
        if turns > 1:
            f.set("x_k", get(tile.x))
            f.set("w_k", get(tile.w))
            tile = replace(tile, x="x_k", w="w_k")
        stretches = (turns - 1) // STRETCH_TURNS if turns > 2 * STRETCH_TURNS else 0
        if stretches:
            tile.each(f, lambda _: ZERO, _total)
            with f.loop(stretches):
                tile.each(f, lambda _: ZERO, _sum)
                _turns(f, tile, STRETCH_TURNS, unroll, done)
                tile.each(f, lambda at: add(get(_total(at)), get(_sum(at))), _total)
        if turns == 1:  # what begins with a product needs no zeros and no addition
            _step(f, tile, 0, LANES, done, first=True)
            for index in range(1, unroll):
                _step(f, tile, index * VECTOR_BYTES, LANES, done)
        else:
            tile.each(f, lambda _: ZERO, _sum)
            _turns(f, tile, turns - stretches * STRETCH_TURNS, unroll, done)
        past = unroll * VECTOR_BYTES if turns == 1 else 0
        for index in range(rest):
            _step(f, tile, past + index * VECTOR_BYTES, LANES, done)
        if lanes:
            _step(f, tile, past + rest * VECTOR_BYTES, lanes, done)
        if stretches:
            tile.each(f, lambda at: add(get(_total(at)), get(_sum(at))), _sum)


def _turns(f: Function, tile: _Tile, count: int, unroll: int, done: str) -> None:
    """``count`` turns of the loop over k, of ``unroll`` steps each."""
    if not count:
        return
    with f.loop(count):
        for index in range(unroll):
            _step(f, tile, index * VECTOR_BYTES, LANES, done)
        f.advance("x_k", unroll * VECTOR_BYTES)
        f.advance("w_k", unroll * VECTOR_BYTES)


def _unroll(vectors: int, height: int) -> int:
    """How many steps a turn of the loop takes: all of them if they are few, else what leaves no rest."""
    if vectors <= STRAIGHT_MAX[height]:
        return max(vectors, 1)
    return next((one for one in UNROLLS if vectors % one == 0), UNROLLS[0])


def _step(f: Function, tile: _Tile, offset: int, lanes: int, done: str, *, first: bool = False) -> None:
    """``lanes`` consecutive k: every sum += x * w. The ``first`` of them: sum = x * w."""
    x_bytes, w_bytes = tile.product["x"].row * F32_BYTES, tile.product["w"].column * F32_BYTES
    for row in range(tile.height):
        f.set(f"x{row}", load(tile.x, row * x_bytes + offset, lanes), "v128")
    for column, place in enumerate(tile.columns):
        f.set("w_vector", load(tile.w, place * w_bytes + offset, lanes), "v128")
        for row in range(tile.height):
            term = multiply(get(f"x{row}"), get("w_vector"))
            total = _sum((row, column))
            f.set(total, term if first else add(get(total), term), "v128")
        if column % COLUMNS == COLUMNS - 1 or place == tile.columns[-1]:
            f.emit(f"(br_if ${done} {get('never')})")


def _gather(f: Function, row: int, first: int, width: int) -> None:
    """The lanes of each sum added up: local ``result``, one column a lane."""
    sums = [get(_sum((row, first + column))) if column < width else ZERO for column in range(COLUMNS)]
    f.set("low", interleaved_sum(sums[0], sums[1]), "v128")
    f.set("high", interleaved_sum(sums[2], sums[3]) if width > 2 else ZERO, "v128")
    f.set("result", paired_sum(get("low"), get("high")), "v128")


def _sum(at: Place) -> str:
    return f"sum{at[0]}_{at[1]}"


def _total(at: Place) -> str:
    return f"total{at[0]}_{at[1]}"

"""The tile of a product whose weights ``prepare`` has laid out askew (``ops.contract.Skewed``).

              step 0        step 1        step 2
    x row     x0 x1 x2 x3   x1 x2 x3 x4   x2 x3 x4 x5    one load each, four bytes further on
    w         00 11 22 33   01 12 23 34   02 13 24 35    digits: column, k
              each lane is a column and goes round the whole depth, from its own k on

              w: one panel, 16 columns of a step side by side, [K][16]
             ┌────────┬────────┬────────┬────────┐
    x row 0  │ s s s s│ s s s s│ s s s s│ s s s s│    8 sums + 4 vectors of w + 2 of x;
    x row 1  │ s s s s│ s s s s│ s s s s│ s s s s│    a single row: 8 sums of two panels
             └────────┴────────┴────────┴────────┘

The tile of :mod:`cloud.compiler.kernels.dot` adds up lanes at its end, that of
:mod:`cloud.compiler.kernels.outer` spreads each number of x over a vector: both take turns from the units
that multiply and add. Here there is neither: a load that is not aligned does it, and loads have units of
their own. It measured 94 % of what 128-bit vectors can do at all on Zen 5, where those two reach 87 and 80 %.
In the last three steps some lanes are round the corner: x's last and first numbers are put together once, in
the workspace.

A bias is where the sums begin, instead of being added to them in the end. Along a great depth sums are of
stretches, as in ``dot``, which also explains the branch that is never taken. The order of additions depends
on the depth alone: an item gets the same bits in every batch.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from cloud.compiler.expr import Arg, Call, Expr, Fn
from cloud.compiler.ir import Node
from cloud.compiler.kernels.product import F32_BYTES, Places, Product, finish
from cloud.compiler.kernels.vector import LANES, VECTOR_BYTES, ZERO, add, load, multiply
from cloud.compiler.ops.contract import SKEWED_COLUMNS, Skewed
from cloud.compiler.wat import Function, Kernel, const, get

ROWS, COLUMNS = 2, SKEWED_COLUMNS
SINGLE_COLUMNS = 2 * COLUMNS
TOGETHER = 4  # vectors of w
STEP_BYTES = COLUMNS * F32_BYTES
STRAIGHT_MAX = 32  # steps
ROUND_THE_CORNER = LANES - 1  # steps at the end of the depth
CORNER, CORNER_BYTES = "corner", ROUND_THE_CORNER * VECTOR_BYTES  # of a row, in the workspace
STRETCH_TURNS = 4


def skewed_tile(f: Function, product: Product, at: Places, height: int, width: int) -> None:
    """``height`` rows (1 or 2) by ``width`` columns of the result, over the whole depth."""
    tile = _Tile(f, product, at, height, width)
    bias, product = _begun(product)
    tile.each("sum", (lambda place: tile.biased(bias, place)) if bias else (lambda _: ZERO))
    _depth(tile)
    for row, column in tile.places():
        f.set("result", get(_local("sum", (row, column))), "v128")
        finish(f, product, at, (row, column), min(LANES, width - column))


@dataclass(frozen=True, slots=True)
class _Tile:
    """Where ``at`` points. ``moving``: the depth is a loop, with pointers of its own."""

    f: Function
    product: Product
    at: Places
    height: int
    width: int

    def places(self) -> Iterator[tuple[int, int]]:
        """(row, column) of each vector of sums."""
        for row in range(self.height):
            for column in range(0, self.width, LANES):
                yield row, column

    def each(self, kind: str, value: Callable[[tuple[int, int]], str]) -> None:
        """Set a local of every vector of the tile."""
        for place in self.places():
            self.f.set(_local(kind, place), value(place), "v128")

    def biased(self, bias: str, place: tuple[int, int]) -> str:
        """What the sums begin with."""
        return load(self.at[bias], place[1] * F32_BYTES)

    def row_bytes(self, row: int) -> int:
        """From the tile's first row of x to another."""
        return row * self.product["x"].row * F32_BYTES

    def step(self, done: str, x: Callable[[int], str], w: str, index: int) -> None:
        """Every sum += x * w, ``index`` steps behind pointer ``w``; ``x``: the vector of a row."""
        f, columns = self.f, range(0, self.width, LANES)
        for some in (columns[at : at + TOGETHER] for at in range(0, len(columns), TOGETHER)):
            for column in some:
                f.set(f"w{column}", load(w, index * STEP_BYTES + self.column_bytes(column)), "v128")
            if some[0] == 0:
                for row in range(self.height):
                    f.set(f"x{row}", x(row), "v128")
            for row in range(self.height):
                for column in some:
                    total = _local("sum", (row, column))
                    term = multiply(get(f"x{row}"), get(f"w{column}"))
                    f.set(total, add(get(total), term), "v128")
            f.emit(f"(br_if ${done} {get('never')})")

    def column_bytes(self, column: int) -> int:
        """From the tile's first column of w to another, in the same step."""
        panel, rest = divmod(column, COLUMNS)
        return panel * self.product.depth * STEP_BYTES + rest * F32_BYTES


def tile_columns(product: Product) -> int:
    """Columns of a tile: twice as many where there is a single row, so that there are as many sums."""
    return SINGLE_COLUMNS if product.rows == 1 else COLUMNS


def _depth(tile: _Tile) -> None:
    """All steps: turns of the loop, what is left of them, and those round the corner."""
    f, steps = tile.f, tile.product.depth - ROUND_THE_CORNER
    turns, turn, rest = _divided(steps)
    stretches, stretch = (turns - 1) // STRETCH_TURNS if turns > 2 * STRETCH_TURNS else 0, STRETCH_TURNS
    if tile.height == 1 and not tile.product.often:  # a lone run reads the code from memory: half of it
        turns, turn, stretch = 2 * turns, turn // 2, 2 * stretch
    with f.block() as done:
        x, w = ("x_k", "w_k") if turns else (tile.at["x"], tile.at["w"])
        if turns:
            f.set(x, get(tile.at["x"]))
            f.set(w, get(tile.at["w"]))
        if stretches:
            tile.each("total", lambda place: get(_local("sum", place)))
            with f.loop(stretches):
                tile.each("sum", lambda _: ZERO)
                _turns(tile, done, stretch, turn)
                tile.each("total", _grown)
            tile.each("sum", lambda _: ZERO)
        _turns(tile, done, turns - stretches * stretch, turn)
        for index in range(rest):
            tile.step(done, _straight(tile, x, index), w, index)
        for index in range(ROUND_THE_CORNER):
            tile.step(done, _turned(tile, index), w, rest + index)
        if stretches:
            tile.each("sum", _grown)


def _divided(steps: int) -> tuple[int, int, int]:
    """Turns of the loop, steps of a turn (an even number), and what is left: no loop, or few long turns.

    At the end of a turn of a device's module the deadline is looked at, and all sums are put aside meanwhile.
    """
    turns = -(-steps // STRAIGHT_MAX)
    if turns == 1:
        return 0, 0, steps
    turn = steps // turns // 2 * 2
    return turns, turn, steps - turns * turn


def _turns(tile: _Tile, done: str, count: int, turn: int) -> None:
    if not count:
        return
    with tile.f.loop(count):
        for index in range(turn):
            tile.step(done, _straight(tile, "x_k", index), "w_k", index)
        tile.f.advance("x_k", turn * F32_BYTES)
        tile.f.advance("w_k", turn * STEP_BYTES)


def _straight(tile: _Tile, x: str, index: int) -> Callable[[int], str]:
    """The vector of a row that begins ``index`` numbers behind pointer ``x``."""
    return lambda row: load(x, tile.row_bytes(row) + index * F32_BYTES)


def _turned(tile: _Tile, index: int) -> Callable[[int], str]:
    """The vector of a row that :func:`write_corners` has put together."""
    return lambda row: load(tile.at[CORNER], row * CORNER_BYTES + index * VECTOR_BYTES)


def write_corners(f: Function, product: Product, x: str, rows: int) -> None:
    """Of some rows, the vectors that begin with the last three, two, and one numbers of the depth.

    Loads may reach over either end of a row: what they find there is replaced.
    """
    end, at = product.depth * F32_BYTES, get("x_corner")
    f.set("x_corner", get(x))
    f.set("to", get(CORNER))
    with f.loop(rows):
        three = f"(v128.load32_lane 3 {at} (v128.load offset={end - 3 * F32_BYTES} {at}))"
        two = f"(v128.load64_lane 1 {at} (v128.load64_zero offset={end - 2 * F32_BYTES} {at}))"
        before = f"(v128.load (i32.sub {at} {const(F32_BYTES)}))"
        one = f"(v128.load32_lane offset={end - F32_BYTES} 0 {at} {before})"
        for index, vector in enumerate((three, two, one)):
            f.emit(f"(v128.store offset={index * VECTOR_BYTES} {get('to')} {vector})")
        f.advance("x_corner", product["x"].row * F32_BYTES)
        f.advance("to", CORNER_BYTES)


def _grown(place: tuple[int, int]) -> str:
    return add(get(_local("total", place)), get(_local("sum", place)))


def _begun(product: Product) -> tuple[str, Product]:
    """The extra that the epilogue adds first, if it is one number a column, and the product without it."""
    biases = {
        name: index
        for index, name in enumerate(product.extras, 1)
        if product.dtypes[index - 1] == "f32" and product[name].row == 0 and product[name].column == 1
    }
    for name, index in biases.items():
        sought = Call(Fn.ADD, (Arg(0), Arg(index)))
        rest = _replaced(product.epilogue, sought)
        if _count(product.epilogue, Arg(0)) == _count(product.epilogue, sought) == 1:
            return name, replace(product, epilogue=rest)
    return "", product


def _replaced(expr: Expr, sought: Expr) -> Expr:
    """With ``Arg(0)`` in the place of ``sought``."""
    if expr == sought:
        return Arg(0)
    return (
        Call(expr.fn, tuple(_replaced(one, sought) for one in expr.args)) if isinstance(expr, Call) else expr
    )


def _count(expr: Expr, sought: Expr) -> int:
    inner = sum(_count(one, sought) for one in expr.args) if isinstance(expr, Call) else 0
    return inner + (expr == sought)


def _local(kind: str, place: tuple[int, int]) -> str:
    return f"{kind}{place[0]}_{place[1]}"


# The layout -----------------------------------------------------------------------------------------


def skew_kernel(node: Node) -> Kernel:
    """``skew_<columns>x<depth>(w, y)``: only ``prepare`` calls it, so it is short and not quick."""
    assert isinstance(node.op, Skewed)
    columns, depth = node.operands[0].shape
    f = Function(f"skew_{columns}x{depth}", ("w", "y"))
    panels, rest = divmod(columns, COLUMNS)
    if panels:
        with f.loop(panels):
            _panel(f, depth, COLUMNS)
            f.advance("y", (depth - 1) * STEP_BYTES)
    if rest:
        f.emit(f"(memory.fill {get('y')} {const(0)} {const(depth * STEP_BYTES)})")
        _panel(f, depth, rest)
    return f.kernel()


def _panel(f: Function, depth: int, columns: int) -> None:
    """Some columns, from w on; y moves on by as many numbers."""
    fours, rest = divmod(columns, LANES)
    if fours:
        with f.loop(fours):
            for lane in range(LANES):
                _column(f, depth, lane)
    for lane in range(rest):
        _column(f, depth, lane)


def _column(f: Function, depth: int, lane: int) -> None:
    """One row of w as a lane: from k = ``lane`` to the end, then from the first k."""
    f.set("to", get("y"))
    for start, count in ((lane, depth - lane), (0, lane)):
        if not count:
            continue
        f.set("from", f"(i32.add {get('w')} {const(start * F32_BYTES)})")
        with f.loop(count):
            f.emit(f"(i32.store {get('to')} (i32.load {get('from')}))")
            f.advance("from", F32_BYTES)
            f.advance("to", STEP_BYTES)
    f.advance("w", depth * F32_BYTES)
    f.advance("y", F32_BYTES)


assert STEP_BYTES == VECTOR_BYTES * COLUMNS // LANES

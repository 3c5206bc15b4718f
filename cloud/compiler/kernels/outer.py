"""The tile of a product whose result's columns lie side by side in w: x [M, K] or [K, M], w [K, N].

               w row k: 4 vectors of columns
              ┌────────┬────────┬────────┬────────┐
    x[0, k] ──│ s s s s│ s s s s│ s s s s│ s s s s│   one number of x, repeated in all lanes, against a
    x[1, k] ──│ s s s s│ s s s s│ s s s s│ s s s s│   vector of w: each lane is a column of its own, and
              └────────┴────────┴────────┴────────┘   nothing is added up across lanes

Where x lies does not matter, so this is also the product with a transposed x (the gradient of a weight), and
the one for a small depth, where adding up lanes would cost more than the products. 2 x 16 measured 1.1 times
faster than 4 x 8.

A number of x is repeated by the load itself (``vector.spread``), which costs the units that multiply and add
nothing: 1.15 times faster than with shuffles, on Zen 5.

Where many rows want the same columns, a *panel* of w is copied first, [K, 16] without gaps, if w is larger
than what a second-level cache holds surely (rows of it that lie a power of two apart share few sets), or if
it is [N, K], and would be gathered for each tile.
"""

from cloud.compiler.kernels.product import F32_BYTES, Places, Product, Strides, finish, with_strides
from cloud.compiler.kernels.vector import LANES, ZERO, add, multiply, spread
from cloud.compiler.wat import Function, get

ROWS, COLUMNS = 2, 16
UNROLL = 8
STRAIGHT_MAX = 32
PANEL_ROWS_MIN = 16
CACHED_BYTES = 1 << 18


def outer_tile(f: Function, product: Product, at: Places, height: int, width: int) -> None:
    """``height`` rows (1 or 2) by ``width`` columns (up to 16) of the result, over the whole depth."""
    starts = range(0, width, LANES)
    if product.depth > STRAIGHT_MAX:  # else the first step sets the sums
        for row in range(height):
            for column in starts:
                f.set(_sum(row, column), ZERO, "v128")
    _depth(f, product, at, (height, width))
    for row in range(height):
        for column in starts:
            f.set("result", get(_sum(row, column)), "v128")
            finish(f, product, at, (row, column), min(LANES, width - column))


def wants_panel(product: Product) -> bool:
    """Whether copying columns of w pays: they are used by many rows, and would not stay in the cache."""
    if product["w"].column > 1 and product.rows > ROWS:
        return True
    large = product.depth * product.columns * F32_BYTES > CACHED_BYTES
    return large and product.rows >= PANEL_ROWS_MIN


def panel_bytes(product: Product) -> int:
    """The workspace of one panel."""
    return product.depth * COLUMNS * F32_BYTES


def copy_panel(f: Function, product: Product, at: Places, panel: str, width: int) -> tuple[Product, Places]:
    """Copy ``width`` columns of w to local ``panel``; gives product and places that read them there."""
    strides = product["w"]
    f.set("from", get(at["w"]))
    f.set("to", get(panel))
    with f.loop(product.depth):
        for column in range(0, width, LANES):
            f.set("columns", _columns(product, "from", 0, column, min(LANES, width - column)), "v128")
            f.emit(f"(v128.store offset={column * F32_BYTES} {get('to')} {get('columns')})")
        f.advance("from", strides.depth * F32_BYTES)
        f.advance("to", COLUMNS * F32_BYTES)
    copied = Strides(strides.batch, depth=COLUMNS, column=1)
    return with_strides(product, w=copied), {**at, "w": panel}


def _depth(f: Function, product: Product, at: Places, tile: tuple[int, int]) -> None:
    """The loop over k. The never-taken branch: see :mod:`cloud.compiler.kernels.dot`."""
    depth = product.depth
    unroll = depth if depth <= STRAIGHT_MAX else UNROLL
    blocks, rest = divmod(depth, unroll)
    places = {name: at[name] for name in ("x", "w")}
    with f.block() as done:
        if blocks > 1:
            for name in places:
                f.set(f"{name}_k", get(at[name]))
            places = {name: f"{name}_k" for name in places}
        with f.loop(blocks):
            _steps(f, product, places, tile, unroll, done)
            if blocks > 1:
                for name, local in places.items():
                    f.advance(local, unroll * product[name].depth * F32_BYTES)
        _steps(f, product, places, tile, rest, done)


def _steps(f: Function, product: Product, at: Places, tile: tuple[int, int], count: int, done: str) -> None:
    """``count`` neighbouring k: every sum += x * w."""
    height, width = tile
    for k in range(count):
        for column in range(0, width, LANES):
            f.set(f"w{column}", _columns(product, at["w"], k, column, min(LANES, width - column)), "v128")
        for row in range(height):
            offset = (row * product["x"].row + k * product["x"].depth) * F32_BYTES
            spread(f, f"x{row}", at["x"], offset, first=k == 0)
        for row in range(height):
            for column in range(0, width, LANES):
                term = multiply(get(f"x{row}"), get(f"w{column}"))
                first = k == 0 and product.depth <= STRAIGHT_MAX
                f.set(_sum(row, column), term if first else add(get(_sum(row, column)), term), "v128")
        f.emit(f"(br_if ${done} {get('never')})")


def _columns(product: Product, w: str, k: int, column: int, lanes: int) -> str:
    """Four columns of w at one k. Side by side they are one load, which may reach beyond the last of them."""
    strides = product["w"]
    offset = (k * strides.depth + column * strides.column) * F32_BYTES
    if strides.column <= 1:
        return f"(v128.load offset={offset} {get(w)})"
    found = f"(v128.load32_zero offset={offset} {get(w)})"
    for lane in range(1, lanes):
        there = offset + lane * strides.column * F32_BYTES
        found = f"(v128.load32_lane offset={there} {lane} {get(w)} {found})"
    return found


def _sum(row: int, column: int) -> str:
    return f"sum{row}_{column}"

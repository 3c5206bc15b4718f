"""Kernels of :mod:`cloud.compiler.ops.contract`: one loop nest around one of three tiles.

    for batch: for block of rows: for tile of columns: for tile of rows: tile over the whole depth

A tile's part of w stays in the first-level cache while the rows of a block pass by; the block's part of x
stays in the second-level cache while all columns do.
"""

from collections.abc import Callable, Mapping

from cloud.compiler.ir import Node
from cloud.compiler.kernels import dot, outer, skewed
from cloud.compiler.kernels.expression import helpers
from cloud.compiler.kernels.product import F32_BYTES, Places, Product, exchanged, product_of, tiles
from cloud.compiler.ops.contract import MatMul, Skewed
from cloud.compiler.wat import Function, Kernel, const

BLOCK_BYTES = 1 << 18


def matmul_kernel(node: Node) -> Kernel:
    """``(x, w, extras..., y)``."""
    return product_kernel(product_of(node))


def product_kernel(product: Product) -> Kernel:
    """The function that computes a product."""
    if _is_vector(product):
        product = exchanged(product)
    sizes = "[" + ", ".join(map(str, product.batch)) + "] x " if product.batch else ""
    comment = f"{sizes}y[{product.rows}, {product.columns}], depth {product.depth}"
    workspace = _workspace(product)
    f = Function(product.name, (*product.parameters, *workspace), comment)
    f.set("never", f"(i32.load {const(0)})")
    for name, nbytes in product.offsets:
        f.advance(name, nbytes)
    _batch(f, product, {name: name for name in product.parameters}, 0)
    return f.kernel(scratch_bytes=sum(workspace.values()), helpers=helpers(product.epilogue))


def _workspace(product: Product) -> Mapping[str, int]:
    """The name and the bytes of the workspace, if there is one."""
    if product.skewed:
        return {skewed.CORNER: _block(product) * skewed.CORNER_BYTES}
    if not _is_dot(product) and outer.wants_panel(product):
        return {"panel": outer.panel_bytes(product)}
    return {}


def _batch(f: Function, product: Product, at: Places, axis: int) -> None:
    if axis < len(product.batch):
        steps = product.steps(lambda one: one.batch[axis])
        for inner, _ in tiles(f, at, steps, product.batch[axis], 1, f"batch{axis}"):
            _batch(f, product, inner, axis + 1)
    elif product.skewed:
        _skewed(f, product, at)
    elif _is_dot(product):
        _dots(f, product, at)
    else:
        _outers(f, product, at)


def _dots(f: Function, product: Product, at: Places) -> None:
    rows, columns = product.steps(lambda one: one.row), product.steps(lambda one: one.column)
    for block, size in tiles(f, at, rows, product.rows, _block(product), "block"):
        for column, width in tiles(f, block, columns, product.columns, dot.turn_columns(product), "column"):
            for row, height in tiles(f, column, rows, size, dot.ROWS, "row"):
                for first in range(0, width, dot.tile_columns(product)):
                    last = min(first + dot.tile_columns(product), width)
                    dot.dot_tile(f, product, row, height, range(first, last))


def _skewed(f: Function, product: Product, at: Places) -> None:
    rows, columns = product.steps(lambda one: one.row), product.steps(lambda one: one.column)
    below = {**rows, skewed.CORNER: skewed.CORNER_BYTES}
    beside = {**columns, skewed.CORNER: 0}
    for block, size in tiles(f, at, rows, product.rows, _block(product), "block"):
        skewed.write_corners(f, product, block["x"], size)
        block, step = {**block, skewed.CORNER: skewed.CORNER}, skewed.tile_columns(product)
        for column, width in tiles(f, block, beside, product.columns, step, "column"):
            for row, height in tiles(f, column, below, size, skewed.ROWS, "row"):
                skewed.skewed_tile(f, product, row, height, width)


def _outers(f: Function, product: Product, at: Places) -> None:
    rows, columns = product.steps(lambda one: one.row), product.steps(lambda one: one.column)
    panel = outer.wants_panel(product)
    for column, width in tiles(f, at, columns, product.columns, outer.COLUMNS, "column"):
        near, places = outer.copy_panel(f, product, column, "panel", width) if panel else (product, column)
        for row, height in tiles(f, places, rows, product.rows, outer.ROWS, "row"):
            outer.outer_tile(f, near, row, height, width)


def _is_dot(product: Product) -> bool:
    """Whether both operands lie along the depth."""
    return product["x"].depth == product["w"].depth == 1


def _block(product: Product) -> int:
    """Rows of x that fit the cache: all, or a multiple of the tile's height that leaves no rest if it can."""
    most = max(BLOCK_BYTES // (product.depth * F32_BYTES) // dot.ROWS, 1) * dot.ROWS
    if most >= product.rows:
        return product.rows
    even = [size for size in range(most, most // 2, -dot.ROWS) if product.rows % size == 0]
    return even[0] if even else most


def _is_vector(product: Product) -> bool:
    """A matrix times one column, where the rows of the result lie side by side."""
    beside = all(product[name].row <= 1 for name in (*product.extras, "y"))
    return product.columns == 1 and product.rows > 1 and beside and not product.skewed


EMITTERS: Mapping[type, Callable[[Node], Kernel | None]] = {
    MatMul: matmul_kernel,
    Skewed: skewed.skew_kernel,
}

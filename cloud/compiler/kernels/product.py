"""A matrix product as its kernels see it: sizes, and every operand as an address with strides.

    y[b.., m, n] = epilogue(sum over k of x[b.., m, k] * w[b.., n, k], extras[b.., m, n]...)

    operand      batch   row   depth   column     in numbers; 0: the operand is the same along this axis
    x [M, K]     0       K     1       0
    w [N, K]     0       0     1       K          w [K, N]: depth N, column 1; skewed, [P, K, 16]: 16 and K
    y [M, N]     0       N     0       1
    bias [N]     0       0     0       1

With strides, a broadcast is a zero, a transposed operand is two numbers exchanged, and one head of an
attention layer is an operand like any other: there is one loop nest, and a tile needs to know only how far
apart its rows and columns are.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from cloud.compiler.expr import Arg, Expr
from cloud.compiler.ir import Node, Shape
from cloud.compiler.kernels.expression import vector
from cloud.compiler.kernels.vector import store
from cloud.compiler.ops.contract import SKEWED_COLUMNS, MatMul
from cloud.compiler.wat import Function, get

F32_BYTES = 4
Places: TypeAlias = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Strides:
    """How far apart neighbours along each axis of the product are in one operand, in numbers."""

    batch: tuple[int, ...]
    row: int = 0
    depth: int = 0
    column: int = 0


@dataclass(frozen=True, slots=True)
class Product:
    """One product, or a batch of them.

    ``operands``: by name, in the order of the kernel's parameters: x, w, e0, e1, ..., y. ``dtypes``: of the
    extras. ``offsets``: bytes from an operand's address to its first number, where that is not zero.
    ``skewed``: w is laid out askew; its column stride is true of whole panels. ``often``: a run computes it
    again and again, so that its code stays in the cache and may be longer.
    """

    batch: Shape
    rows: int
    depth: int
    columns: int
    operands: tuple[tuple[str, Strides], ...]
    epilogue: Expr
    dtypes: tuple[str, ...]
    offsets: tuple[tuple[str, int], ...] = ()
    skewed: bool = False
    often: bool = False

    def __getitem__(self, operand: str) -> Strides:
        return dict(self.operands)[operand]

    @property
    def name(self) -> str:
        """Sizes to read, and a digest of everything else that the text depends on."""
        sizes = "x".join(str(size) for size in (*self.batch, self.rows, self.depth, self.columns))
        return f"matmul_{sizes}_{hashlib.sha256(repr(self).encode()).hexdigest()[:8]}"

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the addresses that the kernel takes."""
        return tuple(name for name, _ in self.operands)

    @property
    def extras(self) -> tuple[str, ...]:
        """Names of what the epilogue reads beside the product."""
        return self.parameters[2:-1]

    def steps(self, axis: Callable[[Strides], int]) -> dict[str, int]:
        """Bytes between neighbours along an axis, of each operand."""
        return {name: axis(strides) * F32_BYTES for name, strides in self.operands}


def product_of(node: Node) -> Product:
    """The product that a node of :class:`MatMul` stands for, in as few loops as its strides allow."""
    op = node.op
    assert isinstance(op, MatMul)
    shapes = [one.shape for one in node.operands]
    result = op.result(*shapes)
    x, w = op.matrices(*shapes[:2])
    if len(x) == 1:  # a vector is a matrix of one row
        x, result = (1, *x), (*result[:-1], 1, result[-1])
    *batch, rows, columns = result
    x_steps = op.x_view.steps if op.x_view is not None else _dense(x)
    w_steps = op.w_view.steps if op.w_view is not None else _dense(w)
    if op.skewed:
        w_steps = (w[1], SKEWED_COLUMNS)
    operands = [
        ("x", _strides(x, x_steps, result, "depth row" if op.transposed else "row depth"), op.x_view),
        ("w", _strides(w, w_steps, result, "column depth" if op.rows else "depth column"), op.w_view),
        *(
            (f"e{i}", _strides(one, _dense(one), result, "row column"), None)
            for i, one in enumerate(shapes[2:])
        ),
        ("y", _strides(result, _stored(result, op.axes), result, "row column"), None),
    ]
    offsets = tuple((name, view.offset * F32_BYTES) for name, _, view in operands if view and view.offset)
    product = merged(
        Product(
            tuple(batch),
            rows,
            x[-2] if op.transposed else x[-1],
            columns,
            tuple((name, strides) for name, strides, _ in operands),
            op.epilogue or Arg(0),
            tuple(one.dtype for one in node.operands[2:]),
            offsets,
            op.skewed > 0,
        )
    )
    return merged(longest_rows(product))


def merged(product: Product) -> Product:
    """Loops over batches that every operand walks through without a jump become one, or more rows."""
    product = _without(product, [index for index, size in enumerate(product.batch) if size == 1])
    while product.batch and _continues(product):
        last, rows = product.batch[-1], product.rows
        operands = tuple(
            (name, replace(one, batch=one.batch[:-1], row=one.row if rows > 1 else one.batch[-1]))
            for name, one in product.operands
        )
        product = replace(product, batch=product.batch[:-1], rows=rows * last, operands=operands)
    return product


def longest_rows(product: Product) -> Product:
    """Items of a batch that use one w may change places with the rows: the more rows, the better."""
    free = [axis for axis in range(len(product.batch)) if product["w"].batch[axis] == 0]
    longest = max(free, key=lambda axis: product.batch[axis], default=None)
    if longest is None or product.batch[longest] <= product.rows:
        return product

    def put(batch: tuple[int, ...], value: int) -> tuple[int, ...]:
        return (*batch[:longest], value, *batch[longest + 1 :])

    operands = tuple(
        (name, replace(one, batch=put(one.batch, one.row), row=one.batch[longest]))
        for name, one in product.operands
    )
    batch = put(product.batch, product.rows)
    return replace(product, batch=batch, rows=product.batch[longest], operands=operands)


def exchanged(product: Product) -> Product:
    """The product of a matrix and a vector as that of the vector and the matrix: rows become columns."""

    def turned(one: Strides) -> Strides:
        return Strides(one.batch, row=one.column, depth=one.depth, column=one.row)

    other = {"x": "w", "w": "x"}  # the addresses keep their places
    operands = tuple((other.get(name, name), turned(one)) for name, one in product.operands)
    offsets = tuple((other.get(name, name), offset) for name, offset in product.offsets)
    return replace(product, rows=product.columns, columns=product.rows, operands=operands, offsets=offsets)


def with_strides(product: Product, **strides: Strides) -> Product:
    """The product with other strides of the operands named."""
    operands = tuple((name, strides.get(name, one)) for name, one in product.operands)
    return replace(product, operands=operands)


def tiles(
    f: Function, at: Places, steps: Mapping[str, int], size: int, step: int, level: str
) -> Iterator[tuple[Places, int]]:
    """Write the loop over one axis, ``step`` positions at a time; ``steps``: bytes from one to the next.

    Gives the pointers inside and the width of a tile: once for whole tiles and once for a narrower last one.
    """
    whole, rest = divmod(size, step)
    if whole + (rest > 0) == 1:
        yield at, size
        return
    inner = {name: f"{name}_{level}" if steps[name] else local for name, local in at.items()}
    moving = [name for name in at if steps[name]]
    for name in moving:
        f.set(inner[name], get(at[name]))
    if whole:
        with f.loop(whole):
            yield inner, step
            for name in moving:
                f.advance(inner[name], steps[name] * step)
    if rest:
        yield inner, rest


def finish(f: Function, product: Product, at: Places, position: tuple[int, int], lanes: int) -> None:
    """Local ``result``, ``lanes`` sums at (row, column) of the tile: apply the epilogue and store them."""

    def offset(name: str) -> int:
        strides = product[name]
        return (position[0] * strides.row + position[1] * strides.column) * F32_BYTES

    for name in product.extras:
        load = "v128.load" if product[name].column else "v128.load32_splat"
        f.set(f"{name}_value", f"({load} offset={offset(name)} {get(at[name])})", "v128")
    args = [get("result"), *(get(f"{name}_value") for name in product.extras)]
    if product.epilogue != Arg(0):
        f.set("result", vector(f, product.epilogue, args, ("f32", *product.dtypes)), "v128")
    for line in store(at["y"], offset("y"), "result", lanes):
        f.emit(line)


def _dense(shape: Sequence[int]) -> list[int]:
    """Row-major strides; 0 along an axis of one."""
    found, step = [], 1
    for size in reversed(shape):
        found.append(step if size > 1 else 0)
        step *= size
    return found[::-1]


def _stored(result: Shape, axes: tuple[int, ...] | None) -> list[int]:
    """Steps of the result's axes where it is stored in another order."""
    if axes is None:
        return _dense(result)
    steps = _dense([result[axis] for axis in axes])
    return [steps[axes.index(axis)] for axis in range(len(result))]


def _strides(shape: Shape, steps: Sequence[int], result: Shape, axes: str) -> Strides:
    """An operand whose last two axes are ``axes``; all before are broadcast to the result's batch."""
    missing = len(result) - len(shape)
    found = [0] * missing + [step if size > 1 else 0 for size, step in zip(shape, steps, strict=True)]
    first, second = axes.split()
    return Strides(tuple(found[:-2]), **{first: found[-2], second: found[-1]})


def _without(product: Product, axes: Sequence[int]) -> Product:
    """Without these axes of the batch."""

    def kept(values: Sequence[int]) -> tuple[int, ...]:
        return tuple(one for index, one in enumerate(values) if index not in axes)

    operands = tuple((name, replace(one, batch=kept(one.batch))) for name, one in product.operands)
    return replace(product, batch=kept(product.batch), operands=operands)


def _continues(product: Product) -> bool:
    """Whether the next item of the innermost batch is, for every operand, simply the next rows."""
    if product.rows == 1:
        return product["w"].batch[-1] == 0
    return all(one.batch[-1] == one.row * product.rows for _, one in product.operands)

"""Winograd's convolution in three steps over blocks of tiles (see :mod:`cloud.compiler.ops.winograd`).

    x ──B'dB──> v [planes][tiles][C]  ── times u [planes][P][C][8] ──> m [points][tiles][O] ──A'mA──> y

Transforms work on four channels at a time: the columns of a tile are transformed in registers, pass through a
scratch, and then the rows are; along an axis without neighbours there is nothing to do, and no scratch. The
products are the panel tiles of the direct convolution, pixels being tiles here; the planes of one point are
one sum. A block is as many tiles, of one image or of several, as keep v and m in the second-level cache; u
passes by once per block.

In the workspace C and O are rounded up, so that transforms store whole vectors: what stands in the lanes
between is read by nobody.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from math import prod
from typing import TypeAlias

from cloud.compiler.ir import Node
from cloud.compiler.kernels.combine import combined
from cloud.compiler.kernels.loops import Axis, even_block, move, nest
from cloud.compiler.kernels.panels import STEP_BYTES, PanelTile, load_never, tile_width
from cloud.compiler.kernels.vector import LANES, VECTOR_BYTES, load, store
from cloud.compiler.kernels.windows import F32_BYTES, Window, finish, window_of, write_border
from cloud.compiler.ops.image import PANEL
from cloud.compiler.ops.winograd import (
    Matrix,
    Piece,
    Plane,
    Scheme,
    WinogradConv,
    output_matrix,
    pieces,
    planes,
)
from cloud.compiler.wat import Function, Kernel, get

BLOCK_BYTES = 1 << 19  # of v and m
TURN = 16  # steps of a product; the deadline is looked at once a turn
LINE_BYTES = 64
_Load: TypeAlias = Callable[[int, int], str]
_Keep: TypeAlias = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class _Block:
    """``images`` x ``rows`` x ``columns`` tiles, in bytes from one to the next along each axis of v and m."""

    schemes: tuple[Scheme, Scheme]
    images: int
    rows: int
    columns: int
    channels: int
    outputs: int
    phases: int

    @property
    def points(self) -> tuple[tuple[Plane, ...], ...]:
        """In the order of m, each with its planes, in the order of u and v."""
        return planes(*self.schemes)

    @property
    def panels(self) -> int:
        """Of the weights of a plane, for one phase."""
        return -(-self.outputs // PANEL)

    @property
    def panel_bytes(self) -> int:
        return self.channels * STEP_BYTES

    @property
    def plane_bytes(self) -> int:
        """Of u, for all phases."""
        return self.phases * self.panels * self.panel_bytes

    @property
    def planes(self) -> int:
        return sum(map(len, self.points))

    @property
    def scratch_bytes(self) -> int:
        return prod(one.points for one in self.schemes) * VECTOR_BYTES

    @property
    def tiles(self) -> int:
        return self.images * self.rows * self.columns

    @property
    def v_tile(self) -> int:
        return -(-self.channels // LANES) * VECTOR_BYTES

    @property
    def m_tile(self) -> int:
        return self.panels * STEP_BYTES

    @property
    def v_point(self) -> int:
        return _spaced(self.tiles * self.v_tile)

    @property
    def m_point(self) -> int:
        return _spaced(self.tiles * self.m_tile)

    @property
    def nbytes(self) -> int:
        return self.planes * self.v_point + len(self.points) * self.m_point


def _spaced(nbytes: int) -> int:
    """An odd number of cache lines: planes whose distance is a power of two would share one cache set."""
    return (-(-nbytes // LINE_BYTES) | 1) * LINE_BYTES


def winograd_kernel(node: Node) -> Kernel:
    """``winograd_...(x, u, extras..., y, workspace)`` for a node of :class:`WinogradConv`."""
    assert isinstance(node.op, WinogradConv)
    window, schemes = window_of(node), (node.op.rows, node.op.columns)
    largest = _largest(window, schemes)
    name = "_".join((window.name("winograd"), *map(_label, schemes)))
    f = Function(name, (*window.parameters, "workspace"), f"{node.op} of {window.x}")
    load_never(f)
    write_border(f, window.result, window.halo)
    axes = {**window.axes(), **window.phase_axes(largest.panels * largest.panel_bytes)}
    order = (("above", 1), ("beside", 1), ("batch", largest.images), ("row", largest.rows * schemes[0].tile))
    nest(f, axes, order, lambda sizes: _block(f, window, schemes, axes, sizes))
    return f.kernel(scratch_bytes=largest.scratch_bytes + largest.nbytes)


def _label(scheme: Scheme) -> str:
    return f"{scheme.tile}.{scheme.taps}.{scheme.stride}" + (".enclosed" if scheme.enclosed else "")


def _largest(window: Window, schemes: tuple[Scheme, Scheme]) -> _Block:
    """The largest block that stays in the cache: whole images, or rows of tiles of one."""
    batch, height, width, outputs = window.interior
    rows, columns = schemes[0].tiles(height), schemes[1].tiles(width)
    row = _Block(schemes, 1, 1, columns, window.x[3], outputs, window.phases.count).nbytes
    images = even_block(batch, max(BLOCK_BYTES // (row * rows), 1))
    blocks = -(-rows // max(BLOCK_BYTES // row, 1))
    high = -(-rows // blocks)
    return _Block(schemes, images, high, columns, window.x[3], outputs, window.phases.count)


def _block(
    f: Function,
    window: Window,
    schemes: tuple[Scheme, Scheme],
    axes: Mapping[str, Axis],
    sizes: Mapping[str, int],
) -> None:
    rows, columns = schemes[0].tiles(sizes["row"]), schemes[1].tiles(sizes["column"])
    channels, outputs = window.x[3], window.interior[3]
    block = _Block(schemes, sizes["batch"], rows, columns, channels, outputs, window.phases.count)
    _set(f, "v", "workspace", block.scratch_bytes)
    _set(f, "m", "v", block.planes * block.v_point)
    _input(f, window, block)
    _products(f, block)
    _output(f, window, block, axes, sizes)


def _set(f: Function, pointer: str, base: str, nbytes: int) -> None:
    f.set(pointer, get(base))
    f.advance(pointer, nbytes)


def _input(f: Function, window: Window, block: _Block) -> None:
    """v = B' d B for every tile, four channels at a time."""
    pixel = window.x[3] * F32_BYTES
    row = window.x[2] * pixel
    down, beside = (one.tile * one.stride for one in block.schemes)
    axes = {
        "batch": Axis(block.images, _steps(block, "v", 0, x_at=window.x[1] * row)),
        "row": Axis(block.rows, _steps(block, "v", 1, x_at=down * row)),
        "column": Axis(block.columns, _steps(block, "v", 2, x_at=beside * pixel)),
        "vector": Axis(block.v_tile // VECTOR_BYTES, {"v_at": VECTOR_BYTES, "x_at": VECTOR_BYTES}),
    }
    f.set("x_at", get("x"))
    f.set("v_at", get("v"))
    at = {plane: index for index, plane in enumerate(one for point in block.points for one in point)}

    def leaf(_: Mapping[str, int]) -> None:
        for above, high in enumerate(pieces(block.schemes[0])):
            for side, wide in enumerate(pieces(block.schemes[1])):
                _piece(f, (high, wide), _pixels(window, high, wide), (above, side), at, block.v_point)

    nest(f, axes, tuple((name, 1) for name in axes), leaf)


def _pixels(window: Window, high: Piece, wide: Piece) -> _Load:
    """Loads a pixel of a piece."""
    pixel = window.x[3] * F32_BYTES
    row = window.x[2] * pixel
    down, beside = window.stride

    def load_pixel(i: int, j: int) -> str:
        return load("x_at", (high.first + i * down) * row + (wide.first + j * beside) * pixel)

    return load_pixel


def _piece(
    f: Function,
    piece: tuple[Piece, Piece],
    pixels: _Load,
    name: tuple[int, int],
    at: Mapping[Plane, int],
    v_point: int,
) -> None:
    def keep(row: int, column: int, value: str) -> None:
        _store(f, "v_at", at[Plane((row, column), name)] * v_point, value)

    _transform(f, piece[0].seen, piece[1].seen, pixels, keep)


def _transform(f: Function, down: Matrix, beside: Matrix, load_one: _Load, keep: _Keep) -> None:
    """``down @ d @ beside.T``: columns first, then rows, each where there is something to do."""
    if down.size == 1:
        across = [load_one(0, column) for column in range(beside.shape[1])]
        for column, value in enumerate(combined(f, beside, across)):
            keep(0, column, value)
        return
    columns = beside.shape[1]
    for column in range(columns):
        values = combined(f, down, [load_one(row, column) for row in range(down.shape[1])])
        for row, value in enumerate(values):
            if beside.size == 1:
                keep(row, column, value)
            else:
                _store(f, "workspace", (row * columns + column) * VECTOR_BYTES, value)
    if beside.size == 1:
        return
    for row in range(len(down)):
        kept = [load("workspace", (row * columns + column) * VECTOR_BYTES) for column in range(columns)]
        for column, value in enumerate(combined(f, beside, kept)):
            keep(row, column, value)


def _steps(block: _Block, array: str, axis: int, **others: int) -> dict[str, int]:
    """Bytes of v or m between tiles along batch, row or column, and those of other pointers."""
    tile = block.v_tile if array == "v" else block.m_tile
    apart = prod((block.rows, block.columns)[axis:])
    return {f"{array}_at": tile * apart, **others}


def _products(f: Function, block: _Block) -> None:
    """m[point] = the sum of v[plane] @ u[plane] over its planes, for each point."""
    for name, base in (("v_at", "v"), ("m_at", "m"), ("u_at", "w")):
        f.set(name, get(base))
    panel, panels = block.panel_bytes, block.panels
    for count, points in groupby(block.points, len):
        axes = {
            "point": Axis(
                len(list(points)),
                {"v_at": count * block.v_point, "m_at": block.m_point, "u_at": count * block.plane_bytes},
            ),
            "panel": Axis(panels, {"m_at": STEP_BYTES, "u_at": panel}),
            "tile": Axis(block.tiles, {"v_at": block.v_tile, "m_at": block.m_tile}),
        }
        order = (("point", 1), ("panel", 1), ("tile", tile_width(block.tiles)))
        moved = nest(f, axes, order, partial(_product, f, block, count))
        point = axes["point"]
        move(f, {one: step * point.size - moved.get(one, 0) for one, step in point.steps.items()})


def _product(f: Function, block: _Block, count: int, sizes: Mapping[str, int]) -> None:
    """A tile of registers of m, from ``count`` planes."""
    tiles = sizes["tile"]
    tile = PanelTile(f, tiles, PANEL, block.v_tile)
    f.set("x_at", get("v_at"))
    f.set("w_at", get("u_at"))
    axes = {
        "plane": Axis(count, {"x_at": block.v_point, "w_at": block.plane_bytes}),
        "number": Axis(block.channels, {"x_at": F32_BYTES, "w_at": STEP_BYTES}),
    }
    with tile.sums() as done:
        order = (("plane", 1), ("number", TURN))
        nest(f, axes, order, lambda sizes: tile.steps(done, sizes["number"]))
    for pixel in range(tiles):
        for index in range(tile.vectors):
            _store(f, "m_at", pixel * block.m_tile + index * VECTOR_BYTES, get(tile.sum(pixel, index)))


def _output(
    f: Function, window: Window, block: _Block, axes: Mapping[str, Axis], sizes: Mapping[str, int]
) -> None:
    """y = epilogue(A' m A) for every tile, four channels at a time; edge tiles store what exists."""
    high, wide = block.schemes
    moves = {
        "batch": block.m_tile * block.rows * block.columns,  # the others for each result
        "row": block.m_tile * block.columns // high.tile,
        "column": block.m_tile // wide.tile,
        "channel": F32_BYTES,
    }
    inner = {
        name: Axis(sizes[name], {**_without(axes[name], "x"), "m_at": step}) for name, step in moves.items()
    }
    f.set("m_at", get("m"))
    at = {point[0].point: index * block.m_point for index, point in enumerate(block.points)}

    def leaf(counts: Mapping[str, int]) -> None:
        def keep(row: int, column: int, value: str) -> None:
            f.set("sum", value, "v128")
            finish(f, window, inner, "sum", {"row": row, "column": column}, counts["channel"])

        down, beside = output_matrix(high)[: counts["row"]], output_matrix(wide)[: counts["column"]]
        _transform(f, down, beside, lambda row, column: load("m_at", at[row, column]), keep)

    order = (("batch", 1), ("row", high.tile), ("column", wide.tile), ("channel", LANES))
    moved = nest(f, inner, order, leaf)
    move(f, {one: -nbytes for one, nbytes in moved.items() if one != "m_at"})


def _without(axis: Axis, pointer: str) -> dict[str, int]:
    return {one: step for one, step in axis.steps.items() if one != pointer}


def _store(f: Function, pointer: str, offset: int, value: str) -> None:
    f.set("result", value, "v128")
    f.emit(store(pointer, offset, "result")[0])

"""Winograd's F(4 x 4, 3 x 3) in three steps over blocks of tiles (see :mod:`cloud.compiler.ops.winograd`).

    x ──B'dB──> v [36][tiles][C]  ── 36 products with u [36][P][C][8] ──> m [36][tiles][O] ──A'mA──> y

Transforms work on four channels at a time: a column of six vectors becomes six (four) in registers, passes
through a scratch of 36 vectors, and then the rows do the same. The products are the panel tiles of the direct
convolution, pixels being tiles here. A block is as many tiles, of one image or of several, as keep v and m in
the second-level cache; u passes by once per block.

In the workspace C and O are rounded up, so that transforms store whole vectors: what stands in the lanes
between is read by nobody.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from cloud.compiler.ir import Node
from cloud.compiler.kernels.loops import Axis, move, nest
from cloud.compiler.kernels.maths import splat
from cloud.compiler.kernels.panels import PIXELS, STEP_BYTES, PanelTile, load_never
from cloud.compiler.kernels.vector import LANES, VECTOR_BYTES, add, load, multiply, store
from cloud.compiler.kernels.windows import F32_BYTES, Window, finish, window_of, write_border
from cloud.compiler.ops.image import PANEL
from cloud.compiler.ops.winograd import POINTS, TILE
from cloud.compiler.wat import Function, Kernel, get

BLOCK_BYTES = 1 << 19  # of v and m
TURN = 16  # steps of a product; the deadline is looked at once a turn
LINE_BYTES = 64
SQUARE = POINTS * POINTS
SCRATCH_BYTES = SQUARE * VECTOR_BYTES


@dataclass(frozen=True, slots=True)
class _Block:
    """``images`` x ``rows`` x ``columns`` tiles, in bytes from one to the next along each axis of v and m."""

    images: int
    rows: int
    columns: int
    channels: int
    outputs: int

    @property
    def tiles(self) -> int:
        return self.images * self.rows * self.columns

    @property
    def v_tile(self) -> int:
        return -(-self.channels // LANES) * VECTOR_BYTES

    @property
    def m_tile(self) -> int:
        return -(-self.outputs // PANEL) * STEP_BYTES

    @property
    def v_point(self) -> int:
        return _spaced(self.tiles * self.v_tile)

    @property
    def m_point(self) -> int:
        return _spaced(self.tiles * self.m_tile)

    @property
    def nbytes(self) -> int:
        return SQUARE * (self.v_point + self.m_point)


def _spaced(nbytes: int) -> int:
    """An odd number of cache lines: 36 arrays whose distance is a power of two would share one cache set."""
    return (-(-nbytes // LINE_BYTES) | 1) * LINE_BYTES


def winograd_kernel(node: Node) -> Kernel:
    """``winograd_...(x, u, extras..., y, workspace)`` for a node of :class:`WinogradConv`."""
    window = window_of(node)
    largest = _largest(window)
    f = Function(window.name("winograd"), (*window.parameters, "workspace"), f"{node.op} of {window.x}")
    load_never(f)
    write_border(f, window.result, window.halo)
    axes = window.axes()
    order = (("batch", largest.images), ("row", largest.rows * TILE))
    nest(f, axes, order, lambda sizes: _block(f, window, axes, sizes))
    return f.kernel(scratch_bytes=SCRATCH_BYTES + largest.nbytes)


def _largest(window: Window) -> _Block:
    """The largest block that stays in the cache: whole images, or rows of tiles of one."""
    batch, height, width, outputs = window.interior
    rows, columns = -(-height // TILE), -(-width // TILE)
    row = _Block(1, 1, columns, window.x[3], outputs).nbytes
    images = min(max(BLOCK_BYTES // (row * rows), 1), batch)
    return _Block(images, min(max(BLOCK_BYTES // row, 1), rows), columns, window.x[3], outputs)


def _block(f: Function, window: Window, axes: Mapping[str, Axis], sizes: Mapping[str, int]) -> None:
    rows, columns = -(-sizes["row"] // TILE), -(-sizes["column"] // TILE)
    block = _Block(sizes["batch"], rows, columns, window.x[3], window.interior[3])
    _set(f, "v", "workspace", SCRATCH_BYTES)
    _set(f, "m", "v", SQUARE * block.v_point)
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
    axes = {
        "batch": Axis(block.images, _steps(block, "v", 0, x_at=window.x[1] * row)),
        "row": Axis(block.rows, _steps(block, "v", 1, x_at=TILE * row)),
        "column": Axis(block.columns, _steps(block, "v", 2, x_at=TILE * pixel)),
        "vector": Axis(block.v_tile // VECTOR_BYTES, {"v_at": VECTOR_BYTES, "x_at": VECTOR_BYTES}),
    }
    f.set("x_at", get("x"))
    f.set("v_at", get("v"))

    def leaf(_: Mapping[str, int]) -> None:
        for column in range(POINTS):
            d = [load("x_at", index * row + column * pixel) for index in range(POINTS)]
            _to_scratch(f, _transformed_input(f, d), column)
        for index in range(POINTS):
            values = _transformed_input(f, _from_scratch(index))
            for column, value in enumerate(values):
                _store(f, "v_at", (index * POINTS + column) * block.v_point, value)

    nest(f, axes, tuple((name, 1) for name in axes), leaf)


def _steps(block: _Block, array: str, axis: int, **others: int) -> dict[str, int]:
    """Bytes of v or m between tiles along batch, row or column, and those of other pointers."""
    tile = block.v_tile if array == "v" else block.m_tile
    apart = prod((block.rows, block.columns)[axis:])
    return {f"{array}_at": tile * apart, **others}


def _products(f: Function, block: _Block) -> None:
    """m[point] = v[point] @ u[point] for each of the 36 points."""
    depth = block.channels * STEP_BYTES
    panels = block.m_tile // STEP_BYTES
    axes = {
        "point": Axis(
            SQUARE,
            {"v_at": block.v_point, "m_at": block.m_point, "u_at": panels * depth},
        ),
        "panel": Axis(panels, {"m_at": STEP_BYTES, "u_at": depth}),
        "tile": Axis(block.tiles, {"v_at": block.v_tile, "m_at": block.m_tile}),
    }
    for name, base in (("v_at", "v"), ("m_at", "m"), ("u_at", "w")):
        f.set(name, get(base))
    order = (("point", 1), ("panel", 1), ("tile", PIXELS))
    nest(f, axes, order, lambda sizes: _product(f, block, sizes["tile"]))


def _product(f: Function, block: _Block, tiles: int) -> None:
    tile = PanelTile(f, tiles, PANEL, block.v_tile)
    f.set("x_at", get("v_at"))
    f.set("w_at", get("u_at"))
    number = {"number": Axis(block.channels, {"x_at": F32_BYTES, "w_at": STEP_BYTES})}
    with tile.sums() as done:
        nest(f, number, (("number", TURN),), lambda sizes: tile.steps(done, sizes["number"]))
    for pixel in range(tiles):
        for index in range(tile.vectors):
            _store(f, "m_at", pixel * block.m_tile + index * VECTOR_BYTES, get(tile.sum(pixel, index)))


def _output(
    f: Function, window: Window, block: _Block, axes: Mapping[str, Axis], sizes: Mapping[str, int]
) -> None:
    """y = epilogue(A' m A) for every tile, four channels at a time; edge tiles store what exists."""
    tile = block.m_tile // TILE  # bytes of m for each row or column of the result
    moves = {"batch": tile * TILE * block.rows * block.columns, "row": tile * block.columns, "column": tile}
    moves["channel"] = F32_BYTES
    inner = {
        name: Axis(sizes[name], {**_without(axes[name], "x"), "m_at": moves[name]})
        for name in ("batch", "row", "column", "channel")
    }
    f.set("m_at", get("m"))

    def leaf(counts: Mapping[str, int]) -> None:
        for column in range(POINTS):
            m = [load("m_at", (index * POINTS + column) * block.m_point) for index in range(POINTS)]
            _to_scratch(f, _transformed_output(f, m), column)
        for row in range(counts["row"]):
            values = _transformed_output(f, _from_scratch(row))
            for column, value in enumerate(values[: counts["column"]]):
                f.set("sum", value, "v128")
                finish(f, window, inner, "sum", {"row": row, "column": column}, counts["channel"])

    order = (("batch", 1), ("row", TILE), ("column", TILE), ("channel", LANES))
    moved = nest(f, inner, order, leaf)
    move(f, {one: -nbytes for one, nbytes in moved.items() if one != "m_at"})


def _without(axis: Axis, pointer: str) -> dict[str, int]:
    return {one: step for one, step in axis.steps.items() if one != pointer}


def _to_scratch(f: Function, values: Sequence[str], column: int) -> None:
    for index, value in enumerate(values):
        _store(f, "workspace", (index * POINTS + column) * VECTOR_BYTES, value)


def _from_scratch(row: int) -> list[str]:
    return [load("workspace", (row * POINTS + column) * VECTOR_BYTES) for column in range(POINTS)]


def _store(f: Function, pointer: str, offset: int, value: str) -> None:
    f.set("result", value, "v128")
    f.emit(store(pointer, offset, "result")[0])


def _transformed_input(f: Function, d: Sequence[str]) -> list[str]:
    """B' times a column of six, with what its rows share computed once."""
    d0, d1, d2, d3, d4, d5 = _locals(f, "d", d)
    (even,) = _locals(f, "even", [_sub(d4, _times(4, d2))])
    (odd,) = _locals(f, "odd", [_sub(d3, _times(4, d1))])
    (far,) = _locals(f, "far", [_sub(d4, d2)])
    (near,) = _locals(f, "near", [_times(2, _sub(d3, d1))])
    first = add(_times(4, _sub(d0, d2)), far)
    last = add(_sub(_times(4, d1), _times(5, d3)), d5)
    return [first, add(even, odd), _sub(even, odd), add(far, near), _sub(far, near), last]


def _transformed_output(f: Function, m: Sequence[str]) -> list[str]:
    """A' times a column of six."""
    m0, m1, m2, m3, m4, m5 = _locals(f, "d", m)
    (plus,) = _locals(f, "even", [add(m1, m2)])
    (minus,) = _locals(f, "odd", [_sub(m1, m2)])
    (plus2,) = _locals(f, "far", [add(m3, m4)])
    (minus2,) = _locals(f, "near", [_sub(m3, m4)])
    return [
        add(add(m0, plus), plus2),
        add(minus, _times(2, minus2)),
        add(plus, _times(4, plus2)),
        add(add(minus, _times(8, minus2)), m5),
    ]


def _locals(f: Function, name: str, values: Sequence[str]) -> list[str]:
    for index, value in enumerate(values):
        f.set(f"{name}{index}", value, "v128")
    return [get(f"{name}{index}") for index in range(len(values))]


def _sub(x: str, y: str) -> str:
    return f"(f32x4.sub {x} {y})"


def _times(factor: int, x: str) -> str:
    return multiply(x, splat(factor))

"""Direct convolution, over images with their zeros already around them.

A row of the kernel sees kw * C numbers in a run (NHWC), so that nothing is gathered: a tile of pixels walks
through rows of the kernel, and where the dilation or the groups cut a run into pieces, through those.

Order of the loops: blocks of pixels whose part of the image fits the first-level cache; in a block panel
after panel, so that a panel's weights are read once per block; then row by row, tile by tile. Where all
weights together would not stay in the second-level cache, it is better to read them seldom: larger blocks.

Sizes are trip counts and steps of pointers (each pixel of a tile has its own), never offsets of a load, and
a loop is a loop even if it has one turn: so convolutions of many sizes are one function (see sharing).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from cloud.compiler.ir import Node
from cloud.compiler.kernels.loops import Axis, even_block, move, nest
from cloud.compiler.kernels.panels import STEP_BYTES, UNROLL, PanelTile, load_never, tile_width
from cloud.compiler.kernels.vector import LANES
from cloud.compiler.kernels.windows import (
    F32_BYTES,
    Window,
    finish,
    flattened,
    tap_steps,
    window_of,
    write_border,
)
from cloud.compiler.ops.image import PANEL, Conv
from cloud.compiler.wat import Function, Kernel, const, get

UNROLLED_TAPS_MAX = 12  # up to so many steps a tile has no loop at all
SHORT_RUN_MAX = 24
LONG_TURN, NARROW_TURN = 16, 32
REST_MAX = 2
BLOCK_BYTES = 1 << 14  # of the image: half of a first-level cache
LARGE_BLOCK_BYTES = 1 << 18  # a part of a second-level cache
LARGE_WEIGHTS_BYTES = 1 << 19
ALL = 0  # positions of an axis
_Places = Mapping[str, str]  # pointer -> the local that it is at some level of the loops


@dataclass(frozen=True, slots=True)
class _Taps:
    """How a tile walks through the kernel: ``rows`` x ``runs`` runs of ``length`` neighbouring numbers."""

    rows: int
    runs: int
    length: int
    row_bytes: int
    run_bytes: int

    @property
    def depth(self) -> int:
        return self.rows * self.runs * self.length


def conv_kernel(node: Node) -> Kernel:
    """``conv_...(x, w, extras..., y)`` for a node of :class:`Conv`."""
    assert isinstance(node.op, Conv)
    window, groups = window_of(node), node.op.groups
    f = Function(window.name(f"conv{groups}"), window.parameters, f"{node.op} of {window.x} and {window.w}")
    load_never(f)
    write_border(f, window.result, window.halo)
    taps = _taps(window, groups)
    axes = _axes(window, groups, taps)
    axes |= window.phase_axes(prod(window.w) // window.phases.count * F32_BYTES)
    order = (("above", 1), ("beside", 1), ("batch", 1), ("group", 1))
    nest(f, axes, order, lambda _: _image(f, window, taps, axes))
    return f.kernel()


def _taps(window: Window, groups: int) -> _Taps:
    _, rows, columns, channels, _ = window.w
    row, column = tap_steps(window)
    if groups == 1 and window.dilation[1] == 1:
        return _Taps(rows, 1, columns * channels, row, 0)
    return _Taps(rows, columns, channels, row, column)


def _axes(window: Window, groups: int, taps: _Taps) -> dict[str, Axis]:
    """Those of the image, with the channels as outputs in groups."""
    axes = flattened(window.axes())
    channel = axes.pop("channel")
    outputs = window.interior[-1] // groups
    extras = {one: step for one, step in channel.steps.items() if one != "x"}
    padded = -(-outputs // PANEL) * PANEL
    whole = {one: step * outputs for one, step in extras.items()}
    group_steps = {**whole, "x": window.w[3] * F32_BYTES, "w": padded * taps.depth * F32_BYTES}
    axes["group"] = Axis(groups, group_steps)
    axes["output"] = Axis(outputs, {**extras, "w": taps.depth * F32_BYTES})
    return axes


def _image(f: Function, window: Window, taps: _Taps, axes: Mapping[str, Axis]) -> None:
    """The outputs of one group for one image."""
    row, column = axes["row"], axes["column"]
    width = tile_width(column.size)
    high, wide = _block(window, row, column, width)
    places = {name: name for name in window.parameters}
    for block, rows in _pieces(f, places, row, high, "block"):
        for part, columns in _pieces(f, block, column, wide, "part"):
            for panel, outputs in _pieces(f, part, axes["output"], PANEL, "panel"):
                for line, _ in _pieces(f, panel, Axis(rows, row.steps), 1, "line"):
                    for at, pixels in _pieces(f, line, Axis(columns, column.steps), width, "tile"):
                        _tile(f, window, taps, axes, at, (pixels, outputs))


def _pieces(f: Function, places: _Places, axis: Axis, step: int, level: str) -> Iterator[tuple[_Places, int]]:
    """The loop over one axis, ``step`` positions at a time: where the pointers are inside, and how many.

    A step of ``ALL`` is no loop.
    """
    if step == ALL or axis.size == 1:
        yield places, axis.size
        return
    moving = {name: step_bytes for name, step_bytes in axis.steps.items() if step_bytes}
    inner = {**places, **{name: f"{name}_{level}" for name in moving}}
    for name in moving:
        f.set(inner[name], get(places[name]))
    whole, rest = divmod(axis.size, step)
    if whole:
        with f.loop(whole, always=True):
            yield inner, step
            for name, nbytes in moving.items():
                f.advance(inner[name], nbytes * step)
    if rest:
        yield inner, rest


def _block(window: Window, row: Axis, column: Axis, width: int) -> tuple[int, int]:
    """Rows and columns of a block."""
    large = prod(window.w) * F32_BYTES > LARGE_WEIGHTS_BYTES
    nbytes = LARGE_BLOCK_BYTES if large else BLOCK_BYTES
    if row.size == 1:
        tiles = -(-column.size // width)
        wanted = round(nbytes / max(column.steps["x"], 1) / width)
        return 1, min(even_block(tiles, max(wanted, 1)) * width, column.size)
    return even_block(row.size, max(nbytes // row.steps["x"], 1)), ALL


def _tile(
    f: Function,
    window: Window,
    taps: _Taps,
    axes: Mapping[str, Axis],
    places: _Places,
    size: tuple[int, int],
) -> None:
    pixels, outputs = size
    column = axes["column"].steps
    tile = PanelTile(f, pixels, outputs, pointers=tuple(f"at{pixel}" for pixel in range(pixels)))
    f.set("at0", get(places["x"]))
    for before, pointer in pairwise(tile.pointers):
        f.set(pointer, f"(i32.add {get(before)} {const(column['x'])})")
    f.set("w_at", get(places["w"]))
    with tile.sums() as done:
        _walk(f, taps, tile, done, _turn(taps, pixels, axes["column"].size))
    moving = {name: step for name, step in column.items() if step and name != "x"} if pixels > 1 else {}
    for name in moving:
        f.set(f"{name}_at", get(places[name]))
    places = {**places, **{name: f"{name}_at" for name in moving}}
    for pixel in range(pixels):
        for index in range(tile.vectors):
            lanes = outputs - index * LANES
            finish(f, window, axes, tile.sum(pixel, index), {"output": index * LANES}, lanes, places)
        if pixel < pixels - 1:
            for name, step in moving.items():
                f.advance(f"{name}_at", step)


def _walk(f: Function, taps: _Taps, tile: PanelTile, done: str, turn: int) -> None:
    """All taps, ``turn`` numbers of a run at a time. The weights lie in the order of this walk."""
    if taps.depth <= UNROLLED_TAPS_MAX:
        for index in range(taps.rows * taps.runs):
            row, run = divmod(index, taps.runs)
            offset = row * taps.row_bytes + run * taps.run_bytes
            tile.steps(done, taps.length, offset, index * taps.length * STEP_BYTES)
        return

    def axis(size: int, x_bytes: int, w_bytes: int) -> Axis:
        return Axis(size, {**dict.fromkeys(tile.pointers, x_bytes), "w_at": w_bytes})

    axes = {
        "row": axis(taps.rows, taps.row_bytes, taps.runs * taps.length * STEP_BYTES),
        "run": axis(taps.runs, taps.run_bytes, taps.length * STEP_BYTES),
        "number": axis(taps.length, F32_BYTES, STEP_BYTES),
    }
    order = (("row", 1), ("run", 1), ("number", turn))
    if taps.rows * taps.runs == 1 and taps.length % turn == 0:
        with f.loop(taps.length // turn, always=True):
            tile.steps(done, turn)
            move(f, {pointer: step * turn for pointer, step in axes["number"].steps.items()})
        return
    nest(f, axes, order, lambda sizes: tile.steps(done, sizes["number"]))


def _turn(taps: _Taps, pixels: int, columns: int) -> int:
    """Steps in a turn of the loop along a run: many, for they make bumping pointers and looking at the
    deadline cheap, but for a rest of one or two pixels, which is not worth so much code. In an image that is
    no wider, a step is short, and a turn takes more of them. A short run is no loop, if there are several.
    """
    length = taps.length
    if length <= UNROLLED_TAPS_MAX:
        return length
    if pixels <= REST_MAX:
        return NARROW_TURN if columns <= REST_MAX and length % NARROW_TURN == 0 else UNROLL
    if length <= SHORT_RUN_MAX and taps.rows * taps.runs > 1:
        return length
    return LONG_TURN if length % LONG_TURN == 0 else UNROLL

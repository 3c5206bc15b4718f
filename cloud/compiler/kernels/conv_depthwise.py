"""Depthwise convolution: four channels in a vector, four pixels of a row (or three) in a tile.

    x    0 1 2 3 4 5         a row of six pixels serves four windows of width 3: each is loaded once,
    y    0 1 2 3             and multiplied by every weight that some window has for it

Weights are [kh, kw, C]: those of four channels are vectors at one step, C apart. Channels are the innermost
loop, so that the cache lines of the image are used up as they come.

The branch that is never taken ends the basic block after each row of the kernel (see panels).
"""

from collections.abc import Mapping

from cloud.compiler.ir import Node
from cloud.compiler.kernels.loops import Axis, nest
from cloud.compiler.kernels.panels import load_never, tile_width
from cloud.compiler.kernels.vector import LANES, ZERO, add, load, multiply
from cloud.compiler.kernels.windows import F32_BYTES, Window, finish, tap_steps, window_of, write_border
from cloud.compiler.wat import Function, Kernel, get


def depthwise_kernel(node: Node) -> Kernel:
    """``depthwise_...(x, w, extras..., y)`` for a node of :class:`Depthwise`."""
    window = window_of(node)
    f = Function(window.name("depthwise"), window.parameters, f"{node.op} of {window.x} and {window.w}")
    load_never(f)
    write_border(f, window.result, window.halo)
    axes = window.axes()
    channel = axes["channel"]
    axes["channel"] = Axis(channel.size, {**channel.steps, "w": F32_BYTES})
    order = (("batch", 1), ("row", 1), ("column", tile_width(window.interior[2])), ("channel", LANES))
    nest(f, axes, order, lambda sizes: _tile(f, window, axes, sizes))
    return f.kernel()


def _tile(f: Function, window: Window, axes: Mapping[str, Axis], sizes: Mapping[str, int]) -> None:
    sums = [f"sum{pixel}" for pixel in range(sizes["column"])]
    for one in sums:
        f.set(one, ZERO, "v128")
    with f.block() as done:
        for row in range(window.w[0]):
            _row(f, window, row, sums)
            f.emit(f"(br_if ${done} {get('never')})")
    for pixel, one in enumerate(sums):
        finish(f, window, axes, one, {"column": pixel}, sizes["channel"])


def _row(f: Function, window: Window, row: int, sums: list[str]) -> None:
    """One row of the kernel for all pixels of the tile."""
    _, taps, channels = window.w
    row_step, _ = tap_steps(window)
    pixel = channels * F32_BYTES
    for tap in range(taps):
        f.set(f"w{tap}", load("w", (row * taps + tap) * pixel), "v128")
    for column, uses in sorted(_uses(window, len(sums)).items()):
        f.set("seen", load("x", row * row_step + column * pixel), "v128")
        for index, tap in uses:
            product = multiply(get("seen"), get(f"w{tap}"))
            f.set(sums[index], add(get(sums[index]), product), "v128")


def _uses(window: Window, pixels: int) -> dict[int, list[tuple[int, int]]]:
    """Column of the image -> (pixel of the tile, tap) that meet there."""
    found: dict[int, list[tuple[int, int]]] = {}
    for index in range(pixels):
        for tap in range(window.w[1]):
            column = index * window.stride[1] + tap * window.dilation[1]
            found.setdefault(column, []).append((index, tap))
    return found

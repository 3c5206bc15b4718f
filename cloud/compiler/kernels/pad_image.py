"""Zeros around an image, and between its pixels: a row is zeroed, then its pixels are put in their places.

Rows without a source, and the borders, are zero; what a negative border cuts off is not read.
"""

import hashlib
from dataclasses import dataclass

from cloud.compiler.ir import Node, Shape
from cloud.compiler.kernels.loops import Axis, nest
from cloud.compiler.kernels.vector import LANES, VECTOR_BYTES, load, store
from cloud.compiler.kernels.windows import F32_BYTES
from cloud.compiler.ops.image import PadImage
from cloud.compiler.wat import Function, Kernel, const, get

UNROLL = 4


@dataclass(frozen=True, slots=True)
class _Span:
    """Along one axis: ``count`` source positions from ``source`` on go to ``target``, ``target + spread``."""

    source: int
    target: int
    count: int
    spread: int


def pad_kernel(node: Node) -> Kernel:
    """``pad_image_...(x, y)`` for a node of :class:`PadImage`."""
    assert isinstance(node.op, PadImage)
    op, x, y = node.op, node.operands[0].shape, node.result.shape
    digest = hashlib.sha256(repr((op, x)).encode()).hexdigest()[:8]
    f = Function(f"pad_image_{'x'.join(map(str, y))}_{digest}", ("x", "y"), f"{op} of {x}")
    rows = _span(x[1], y[1], op.border.top, op.spread[0])
    columns = _span(x[2], y[2], op.border.left, op.spread[1])
    size = y[0] * y[1] * y[2] * y[3] * F32_BYTES
    if (rows.count * columns.count, 1, 1) != (y[1] * y[2], rows.spread, columns.spread):
        f.emit(f"(memory.fill {get('y')} {const(0)} {const(size)})")
    if rows.count and columns.count:
        _pixels(f, x, y, rows, columns)
    return f.kernel()


def _span(size: int, result: int, before: int, spread: int) -> _Span:
    first = max(-(before // spread), 0) if before < 0 else 0
    target = before + first * spread
    count = max(min(size - first, (result - 1 - target) // spread + 1), 0)
    return _Span(first, target, count, spread)


def _pixels(f: Function, x: Shape, y: Shape, rows: _Span, columns: _Span) -> None:
    pixel = x[3] * F32_BYTES
    f.advance("x", (rows.source * x[2] + columns.source) * pixel)
    f.advance("y", (rows.target * y[2] + columns.target) * pixel)
    together = columns.spread == 1
    axes = {
        "batch": Axis(x[0], {"x": x[1] * x[2] * pixel, "y": y[1] * y[2] * pixel}),
        "row": Axis(rows.count, {"x": x[2] * pixel, "y": rows.spread * y[2] * pixel}),
        "column": Axis(1 if together else columns.count, {"x": pixel, "y": columns.spread * pixel}),
        "number": Axis(x[3] * (columns.count if together else 1), {"x": F32_BYTES, "y": F32_BYTES}),
    }
    order = (("batch", 1), ("row", 1), ("column", 1), ("number", UNROLL * LANES))
    nest(f, axes, order, lambda sizes: _copy(f, sizes["number"]))


def _copy(f: Function, count: int) -> None:
    for index in range(0, count, LANES):
        width = min(LANES, count - index)
        f.set("numbers", load("x", index // LANES * VECTOR_BYTES, width), "v128")
        for line in store("y", index // LANES * VECTOR_BYTES, "numbers", width):
            f.emit(line)

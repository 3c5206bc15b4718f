"""Weighted sums of slices along an axis: what interpolation is, one axis after the other.

For each result the taps' addresses and weights (spread over vectors) are fetched once; then the slices, which
are contiguous, pass by four numbers at a time.
"""

from math import prod

from cloud.compiler.ir import Shape
from cloud.compiler.kernels.copy import ITEM_BYTES, advance
from cloud.compiler.kernels.gather import next_index
from cloud.compiler.kernels.vector import LANES, VECTOR_BYTES, add, load, multiply, store
from cloud.compiler.wat import Function, Kernel, const, get


def resample(x: Shape, indices: Shape, axis: int) -> Kernel:
    """``resample_...(x, i, w, y)``."""
    outer, size, width = prod(x[:axis]), x[axis], prod(x[axis + 1 :])
    count, taps = indices
    f = Function(f"resample_{outer}x{size}x{width}_{count}x{taps}", ("x", "i", "w", "y"))
    with f.loop(outer):
        f.set("index", get("i"))
        f.set("weight", get("w"))
        with f.loop(count):
            for tap in range(taps):
                next_index(f, size)
                f.set(f"x{tap}", f"(i32.add {get('x')} (i32.mul {get('at')} {const(width * ITEM_BYTES)}))")
                f.set(f"w{tap}", f"(v128.load32_splat offset={tap * ITEM_BYTES} {get('weight')})", "v128")
            _slice(f, width, taps)
            f.advance("weight", taps * ITEM_BYTES)
        advance(f, "x", size * width * ITEM_BYTES)
    return f.kernel()


def _slice(f: Function, width: int, taps: int) -> None:
    """One result: ``width`` numbers; y moves on."""
    vectors, rest = divmod(width, LANES)
    if vectors:
        with f.loop(vectors):
            _piece(f, taps, LANES)
            for tap in range(taps):
                f.advance(f"x{tap}", VECTOR_BYTES)
            f.advance("y", VECTOR_BYTES)
    if rest:
        _piece(f, taps, rest)
        f.advance("y", rest * ITEM_BYTES)


def _piece(f: Function, taps: int, lanes: int) -> None:
    total = multiply(load("x0", 0, lanes), get("w0"))
    for tap in range(1, taps):
        total = add(total, multiply(load(f"x{tap}", 0, lanes), get(f"w{tap}")))
    f.set("total", total, "v128")
    for line in store("y", 0, "total", lanes):
        f.emit(line)

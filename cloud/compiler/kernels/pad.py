"""Padding in one pass over the result, from its first number to its last.

    axis 0   before | row row row | after          each row again: before | column column | after
             fill     recursion     fill

Trailing axes without padding are one run. Both kinds of piece are contiguous in the result, so that its
pointer only ever moves forwards.
"""

import struct
from collections.abc import Sequence
from math import prod

from cloud.compiler.ir import Shape
from cloud.compiler.kernels.copy import ITEM_BYTES, LONG_RUN, advance, run, spread
from cloud.compiler.ops.movement import Pad
from cloud.compiler.wat import Function, Kernel, const, get


def pad_kernel(shape: Shape, pad: Pad, dtype: str) -> Kernel:
    """``pad_<axes as size.before.after>_<value>(x, y)``."""
    axes = simplified(shape, pad)
    word = _word(pad.value, dtype)
    f = Function(
        "pad" + "".join(f"_{n}.{before}.{after}" for n, before, after in axes) + f"_{word:x}", ("x", "y")
    )
    f.set("value", f"(i32x4.splat {const(word)})", "v128")
    _axis(f, axes, word)
    return f.kernel()


def simplified(shape: Shape, pad: Pad) -> list[tuple[int, int, int]]:
    """(size, before, after) of each axis, in units of the next. An unpadded axis joins the one before."""
    axes: list[tuple[int, int, int]] = []
    for size, before, after in zip(shape, pad.before, pad.after, strict=True):
        if axes and before == after == 0:
            axes[-1] = (axes[-1][0] * size, axes[-1][1] * size, axes[-1][2] * size)
        else:
            axes.append((size, before, after))
    return axes or [(1, 0, 0)]


def _axis(f: Function, axes: Sequence[tuple[int, int, int]], word: int) -> None:
    """Writes the whole axis; x and y end behind what they read and wrote."""
    (size, before, after), inner = axes[0], axes[1:]
    numbers = prod(n + front + back for n, front, back in inner)
    _fill(f, before * numbers, word)
    if inner:
        with f.loop(size):
            _axis(f, inner, word)
    else:
        moved = run(f, size)
        advance(f, "x", size * ITEM_BYTES - moved[0])
        advance(f, "y", size * ITEM_BYTES - moved[1])
    _fill(f, after * numbers, word)


def _fill(f: Function, numbers: int, word: int) -> None:
    if not numbers:
        return
    if word == 0 and numbers >= LONG_RUN:
        f.emit(f"(memory.fill {get('y')} {const(0)} {const(numbers * ITEM_BYTES)})")
        advance(f, "y", numbers * ITEM_BYTES)
    else:
        advance(f, "y", numbers * ITEM_BYTES - spread(f, numbers, "value")[1])


def _word(value: float, dtype: str) -> int:
    """The four bytes of a number, as an unsigned integer."""
    packed = struct.pack("<f", value) if dtype == "f32" else struct.pack("<i", int(value))
    return int.from_bytes(packed, "little")

"""Softmax and its logarithm, with the row's maximum taken out so that nothing overflows.

    across, row of up to 64 numbers     two loops over some rows, which stay in registers: what is below the
                                        maximum (kept in y); exponentials, their sum, scaling
    across, longer                      three passes: maximum; exponentials (kept in y) and their sum; scaling
    along another axis                  the same three, a column in each lane

Why two loops: a processor looks some 200 operations ahead, and a row's chain from its first maximum to its
last product is longer. Two short chains overlap with those of the next rows (1.2 times faster on Zen 5). The
exponentials of a row are written side by side (another 1.2 times).

The exponential is of numbers up to 0 only, and counts beside one of 0 (see ``maths.share``).
``pmax`` lets a NaN pass by unseen, which saves five instructions of six: it comes back with the exponentials,
and makes the whole row NaN as it should. Lanes that do not belong to a row are -inf: their exponential is 0.
"""

from collections.abc import Callable, Iterator
from typing import TypeAlias

from cloud.compiler.expr import Arg, Fn, call
from cloud.compiler.ir import Node
from cloud.compiler.kernels import maths
from cloud.compiler.kernels.axes import (
    Extent,
    by_pairs,
    extent,
    join,
    keep,
    lanes_of,
    splat,
    store_vector,
    sweep,
)
from cloud.compiler.kernels.expression import helpers, vector
from cloud.compiler.kernels.vector import VECTOR_BYTES, ZERO, add, load, multiply
from cloud.compiler.ops.reduce import Softmax
from cloud.compiler.wat import Function, Kernel, const, get

SHORT = 64  # numbers: 16 vectors, as many as there are registers
WIDTH = 4
TOGETHER = 8  # vectors of a short row whose exponentials are written side by side
PARTS = ("sum_even", "sum_odd")  # of a short row: half the chain of additions
LOWEST = splat("-inf")
LOG = call(Fn.LOG, Arg(0))
ROWS = 32  # in a turn of short ones: they stay in the first-level cache
# A pass over the numbers: gives the lanes of the vectors at "from" and "to"; these move on after the body.
_Pass: TypeAlias = Callable[[], Iterator[list[int]]]


def softmax(node: Node) -> Kernel:
    """``softmax_<outer>x<reduced>x<inner>(x, y)``, ``log_softmax_...``."""
    assert isinstance(node.op, Softmax)
    (x,) = node.operands
    log, around = node.op.log, extent(x.shape, node.op.axis)
    f = Function(f"{'log_' if log else ''}softmax_{around}", ("x", "y"))
    if around.inner == 1 and around.reduced <= SHORT:
        _short(f, around, log)
    else:
        with f.loop(around.outer):
            if around.inner > 1:
                _along(f, around, log)
            else:
                _long(f, around.reduced, log)
    return f.kernel(helpers=helpers(LOG))


def _short(f: Function, around: Extent, log: bool) -> None:
    """Rows in registers, some at a time."""
    f.set("never", f"(i32.load {const(0)})")
    whole, rest = divmod(around.outer, ROWS)
    if whole:
        with f.loop(whole):
            _rows(f, ROWS, around.reduced, log)
    if rest:
        _rows(f, rest, around.reduced, log)


def _rows(f: Function, rows: int, length: int, log: bool) -> None:
    f.set("row", get("y"))
    with f.loop(rows):
        _centre(f, length)
    with f.loop(rows):
        _share(f, length, log)


def _centre(f: Function, length: int) -> None:
    """One row without its maximum, from x to ``row``."""
    widths = lanes_of(length)
    for index, lanes in enumerate(widths):
        f.set(f"x{index}", keep(lanes, load("x", index * VECTOR_BYTES), LOWEST), "v128")
    f.set("most", by_pairs([get(f"x{index}") for index in range(len(widths))], _larger), "v128")
    join(f, "most", _larger)
    for index, lanes in enumerate(widths):
        f.set("centred", f"(f32x4.sub {get(f'x{index}')} {get('most')})", "v128")
        store_vector(f, "row", index * VECTOR_BYTES, "centred", lanes)
    f.advance("x", length * 4)
    f.advance("row", length * 4)


def _share(f: Function, length: int, log: bool) -> None:
    """The result of one row, in its place in y."""
    widths = lanes_of(length)
    for one in PARTS:
        f.set(one, ZERO, "v128")
    for start in range(0, len(widths), TOGETHER):
        several = range(start, min(start + TOGETHER, len(widths)))
        for index in several:
            f.set(f"x{index}", keep(widths[index], load("y", index * VECTOR_BYTES), LOWEST), "v128")
        exponentials = [f"exp{index}" if log else f"x{index}" for index in several]
        if log:
            for index, one in zip(several, exponentials, strict=True):
                f.set(one, get(f"x{index}"), "v128")
        maths.shares(f, exponentials)
        for index, one in zip(several, exponentials, strict=True):
            part = PARTS[index % len(PARTS)]
            f.set(part, add(get(part), get(one)), "v128")
    f.set("sum", by_pairs([get(one) for one in PARTS], add), "v128")
    join(f, "sum", add)
    _prepare(f, "sum", log)
    for index, lanes in enumerate(widths):
        f.set("result", _result(get(f"x{index}"), get("sum"), log), "v128")
        store_vector(f, "y", index * VECTOR_BYTES, "result", lanes)
    f.advance("y", length * 4)


def _long(f: Function, length: int, log: bool) -> None:
    """One row in three passes; four accumulators, joined at the end of the first two."""

    def over_row() -> Iterator[list[int]]:
        f.set("from", get("x"))
        f.set("to", get("y"))
        yield from sweep(f, length, WIDTH, "from", "to")

    def joined(kind: str, step: Callable[[str, str], str]) -> None:
        for index in range(1, WIDTH):
            f.set(f"{kind}0", step(get(f"{kind}0"), get(f"{kind}{index}")), "v128")
        join(f, f"{kind}0", step)
        for index in range(1, WIDTH):
            f.set(f"{kind}{index}", get(f"{kind}0"), "v128")

    _maxima(f, WIDTH, over_row)
    joined("most", _larger)
    _sums(f, WIDTH, over_row, log)
    joined("sum", add)
    _scale(f, WIDTH, over_row, log)
    f.advance("x", length * 4)
    f.advance("y", length * 4)


def _along(f: Function, around: Extent, log: bool) -> None:
    """All columns of one outer position, up to four vectors of them at a time."""
    for widths in sweep(f, around.inner, WIDTH, "x", "y"):

        def down(widths: list[int] = widths) -> Iterator[list[int]]:
            f.set("from", get("x"))
            f.set("to", get("y"))
            with f.loop(around.reduced):
                yield widths
                f.advance("from", around.inner * 4)
                f.advance("to", around.inner * 4)

        _maxima(f, len(widths), down)
        _sums(f, len(widths), down, log)
        _scale(f, len(widths), down, log)
    for pointer in ("x", "y"):
        f.advance(pointer, (around.reduced - 1) * around.inner * 4)


def _maxima(f: Function, width: int, over: _Pass) -> None:
    """``most<i>``: the maximum of every i-th vector, lane by lane."""
    for index in range(width):
        f.set(f"most{index}", LOWEST, "v128")
    for widths in over():
        for index, lanes in enumerate(widths):
            number = keep(lanes, load("from", index * VECTOR_BYTES), LOWEST)
            f.set(f"most{index}", _larger(get(f"most{index}"), number), "v128")


def _sums(f: Function, width: int, over: _Pass, log: bool) -> None:
    """``sum<i>``: the sum of the exponentials, which are stored unless it is the logarithm that is wanted."""
    for index in range(width):
        f.set(f"sum{index}", ZERO, "v128")
    for widths in over():
        for index, lanes in enumerate(widths):
            number = keep(lanes, load("from", index * VECTOR_BYTES), LOWEST)
            f.set("centred", f"(f32x4.sub {number} {get(f'most{index}')})", "v128")
            f.set("exp", _exponential(f, get("centred")), "v128")
            f.set(f"sum{index}", add(get(f"sum{index}"), get("exp")), "v128")
            if not log:
                store_vector(f, "to", index * VECTOR_BYTES, "exp", lanes)


def _scale(f: Function, width: int, over: _Pass, log: bool) -> None:
    """The results, from x or from the exponentials in y."""
    for index in range(width):
        _prepare(f, f"sum{index}", log)
    for widths in over():
        for index, lanes in enumerate(widths):
            number = load("from" if log else "to", index * VECTOR_BYTES)
            if log:
                number = f"(f32x4.sub {number} {get(f'most{index}')})"
            f.set("result", _result(number, get(f"sum{index}"), log), "v128")
            store_vector(f, "to", index * VECTOR_BYTES, "result", lanes)


def _exponential(f: Function, x: str) -> str:
    """e^x of x <= 0."""
    return maths.share(maths.Holder(f), x)


def _prepare(f: Function, total: str, log: bool) -> None:
    """What each number of the row meets: the sum's logarithm, or its reciprocal."""
    value = vector(f, LOG, [get(total)], ["f32"]) if log else f"(f32x4.div {splat('1')} {get(total)})"
    f.set(total, value, "v128")


def _result(number: str, total: str, log: bool) -> str:
    return f"(f32x4.sub {number} {total})" if log else multiply(number, total)


def _larger(x: str, y: str) -> str:
    return f"(f32x4.pmax {x} {y})"

"""Layer norm and RMS norm: rows of neighbouring numbers get mean 0 and variance 1, or mean square 1.

    row of up to 64 numbers     one pass over memory; the row stays in registers
    longer                      three passes: sum; squares of the centred numbers; result

The variance is that of the centred numbers, never mean(x * x) - mean(x) ** 2, which loses all digits of a row
that is far from zero. Sums run in four accumulators.
"""

from collections.abc import Callable, Sequence

from cloud.compiler.ir import Node
from cloud.compiler.kernels.axes import by_pairs, extent, join, keep, lanes_of, splat, store_vector, sweep
from cloud.compiler.kernels.vector import VECTOR_BYTES, ZERO, add, load, multiply
from cloud.compiler.ops.reduce import LayerNorm
from cloud.compiler.wat import Function, Kernel, get

SHORT = 64  # numbers: 16 vectors, as many as there are registers
WIDTH = 4
_Affine = tuple[str, ...]  # weight, bias: as far as there are any


def layer_norm(node: Node) -> Kernel:
    """``layer_norm_<rows>x<length>...(x[, weight[, bias]], y)``, ``rms_norm_...``."""
    op = node.op
    assert isinstance(op, LayerNorm)
    x = node.operands[0]
    around = extent(x.shape, len(x.shape) - op.axes, op.axes)
    affine = ("weight", "bias")[: len(node.operands) - 1]
    shape = f"{around.outer}x{around.reduced}"
    name = "_".join((f"{'rms' if op.rms else 'layer'}_norm", shape, float(op.eps).hex(), *affine))
    f = Function(name, ("x", *affine, "y"))
    with f.loop(around.outer):
        (_short if around.reduced <= SHORT else _long)(f, op, around.reduced, affine)
        f.advance("x", around.reduced * 4)
        f.advance("y", around.reduced * 4)
    return f.kernel()


def _short(f: Function, op: LayerNorm, length: int, affine: _Affine) -> None:
    widths = lanes_of(length)
    for index, lanes in enumerate(widths):
        f.set(f"x{index}", keep(lanes, load("x", index * VECTOR_BYTES), ZERO), "v128")
    if not op.rms:
        _sum_of(f, "mean", [get(f"x{index}") for index in range(len(widths))])
        _mean(f, "mean", length)
        for index, lanes in enumerate(widths):
            f.set(f"x{index}", keep(lanes, _centred(get(f"x{index}"), op), ZERO), "v128")
    _sum_of(f, "scale", [multiply(get(f"x{index}"), get(f"x{index}")) for index in range(len(widths))])
    _scale(f, op, length)
    for index, lanes in enumerate(widths):
        _store_result(f, get(f"x{index}"), index, lanes, (*affine, "y"))


def _long(f: Function, op: LayerNorm, length: int, affine: _Affine) -> None:
    if not op.rms:
        _fold(f, "mean", length, lambda: get("number"))
        _mean(f, "mean", length)

    def square() -> str:
        f.set("number", _centred(get("number"), op), "v128")
        return multiply(get("number"), get("number"))

    _fold(f, "scale", length, square)
    _scale(f, op, length)
    pointers = tuple(f"{one}_at" for one in (*affine, "y"))
    f.set("x_at", get("x"))
    for pointer, start in zip(pointers, (*affine, "y"), strict=True):
        f.set(pointer, get(start))
    for widths in sweep(f, length, WIDTH, "x_at", *pointers):
        for index, lanes in enumerate(widths):
            _store_result(f, _centred(load("x_at", index * VECTOR_BYTES), op), index, lanes, pointers)


def _fold(f: Function, total: str, length: int, taken: Callable[[], str]) -> None:
    """``total`` := the sum over the row of what ``taken`` makes of local number, in every lane."""
    for index in range(WIDTH):
        f.set(f"sum{index}", ZERO, "v128")
    f.set("x_at", get("x"))
    for widths in sweep(f, length, WIDTH, "x_at"):
        for index, lanes in enumerate(widths):
            f.set("number", load("x_at", index * VECTOR_BYTES), "v128")
            f.set(f"sum{index}", add(get(f"sum{index}"), keep(lanes, taken(), ZERO)), "v128")
    _sum_of(f, total, [get(f"sum{index}") for index in range(WIDTH)])


def _sum_of(f: Function, total: str, vectors: Sequence[str]) -> None:
    """``total`` := the sum of all lanes of all vectors, in every lane."""
    f.set(total, by_pairs(vectors, add), "v128")
    join(f, total, add)


def _mean(f: Function, total: str, length: int) -> None:
    if length & (length - 1):
        f.set(total, f"(f32x4.div {get(total)} {splat(str(length))})", "v128")
    else:  # a power of two: the same bits, and a third of the time
        f.set(total, multiply(get(total), splat(float(1 / length).hex())), "v128")


def _centred(number: str, op: LayerNorm) -> str:
    return number if op.rms else f"(f32x4.sub {number} {get('mean')})"


def _scale(f: Function, op: LayerNorm, length: int) -> None:
    """``scale``: sum of squares -> 1 / sqrt(their mean + eps)."""
    _mean(f, "scale", length)
    f.set("scale", f"(f32x4.sqrt {add(get('scale'), splat(float(op.eps).hex()))})", "v128")
    f.set("scale", f"(f32x4.div {splat('1')} {get('scale')})", "v128")


def _store_result(f: Function, centred: str, index: int, lanes: int, pointers: Sequence[str]) -> None:
    """``pointers``: weight and bias as far as there are any, then the result's."""
    *affine, y = pointers
    result = multiply(centred, get("scale"))
    for step, pointer in zip((multiply, add), affine, strict=False):
        result = step(result, load(pointer, index * VECTOR_BYTES))
    f.set("result", result, "v128")
    store_vector(f, y, index * VECTOR_BYTES, "result", lanes)

"""Running sums, products and extremes along an axis.

Running sums and products of f32 are kept in f64, as torch keeps them, so that a long row is as exact at its
end as at its start. A last axis goes number by number; any other one in vectors of neighbouring columns.
"""

from cloud.compiler.ir import Node
from cloud.compiler.kernels.axes import Extent, extent, splat, store_vector, sweep
from cloud.compiler.kernels.vector import load, shuffle
from cloud.compiler.ops.reduce import Cumulate, ReduceKind
from cloud.compiler.wat import Function, Kernel, get

_STARTS = {
    ("f32", ReduceKind.SUM): "0",
    ("f32", ReduceKind.PROD): "1",
    ("f32", ReduceKind.MAX): "-inf",
    ("f32", ReduceKind.MIN): "inf",
    ("i32", ReduceKind.SUM): "0",
    ("i32", ReduceKind.PROD): "1",
    ("i32", ReduceKind.MAX): "0x80000000",
    ("i32", ReduceKind.MIN): "0x7fffffff",
}
_NAMES = {ReduceKind.SUM: "add", ReduceKind.PROD: "mul", ReduceKind.MAX: "max", ReduceKind.MIN: "min"}


def cumulate(node: Node) -> Kernel:
    """``cumulate_<kind>...(x, y)``."""
    assert isinstance(node.op, Cumulate)
    (x,) = node.operands
    kind, around = node.op.kind, extent(x.shape, node.op.axis)
    f = Function(f"cumulate_{kind}_{x.dtype}_{around}", ("x", "y"))
    wide = x.dtype == "f32" and kind in (ReduceKind.SUM, ReduceKind.PROD)
    with f.loop(around.outer):
        if around.inner == 1:
            _row(f, kind, x.dtype, around.reduced, wide)
        else:
            for widths in sweep(f, around.inner, 1, "x", "y"):
                _columns(f, (kind, x.dtype, wide), around, widths[0])
            for pointer in ("x", "y"):
                f.advance(pointer, (around.reduced - 1) * around.inner * 4)
    return f.kernel()


def _row(f: Function, kind: ReduceKind, dtype: str, length: int, wide: bool) -> None:
    """One row, number by number; both pointers move on."""
    number = "f64" if wide else dtype
    f.set("so_far", f"({number}.const {_STARTS[dtype, kind]})", number)
    with f.loop(length):
        loaded = f"({dtype}.load {get('x')})"
        taken = f"(f64.promote_f32 {loaded})" if wide else loaded
        if dtype == "i32" and kind in (ReduceKind.MAX, ReduceKind.MIN):
            f.set("taken", taken, dtype)
            compare = "gt_s" if kind is ReduceKind.MAX else "lt_s"
            chosen = f"(i32.{compare} {get('taken')} {get('so_far')})"
            f.set("so_far", f"(select {get('taken')} {get('so_far')} {chosen})", dtype)
        else:
            f.set("so_far", f"({number}.{_NAMES[kind]} {get('so_far')} {taken})", number)
        result = f"(f32.demote_f64 {get('so_far')})" if wide else get("so_far")
        f.emit(f"({dtype}.store {get('y')} {result})")
        f.advance("x", 4)
        f.advance("y", 4)


def _columns(f: Function, what: tuple[ReduceKind, str, bool], around: Extent, lanes: int) -> None:
    """One vector of columns, from the first row to the last."""
    kind, dtype, wide = what
    shape = "f32x4" if dtype == "f32" else "i32x4"
    signed = "_s" if dtype == "i32" and kind in (ReduceKind.MAX, ReduceKind.MIN) else ""
    for half in ("low", "high") if wide else ("so_far",):
        start = _STARTS[dtype, kind]
        f.set(half, f"(v128.const f64x2 {start} {start})" if wide else splat(start, dtype), "v128")
    f.set("from", get("x"))
    f.set("to", get("y"))
    with f.loop(around.reduced):
        if wide:
            f.set("taken", load("from"), "v128")
            for half, turned in (("low", get("taken")), ("high", _swapped("taken"))):
                promoted = f"(f64x2.promote_low_f32x4 {turned})"
                f.set(half, f"(f64x2.{_NAMES[kind]} {get(half)} {promoted})", "v128")
            low, high = (f"(f32x4.demote_f64x2_zero {get(half)})" for half in ("low", "high"))
            f.set("so_far", shuffle((0, 1, 4, 5), low, high), "v128")
        else:
            f.set("so_far", f"({shape}.{_NAMES[kind]}{signed} {get('so_far')} {load('from')})", "v128")
        store_vector(f, "to", 0, "so_far", lanes)
        for pointer in ("from", "to"):
            f.advance(pointer, around.inner * 4)


def _swapped(local: str) -> str:
    return shuffle((2, 3, 0, 1), get(local), get(local))

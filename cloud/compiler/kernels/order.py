"""Sorting: a merge from the bottom up, of 64-bit keys.

    key of x[i]    | x as an integer of the same order | i |      the position below makes equals keep theirs

    run of 2^p | run of 2^p | ..      --pass p-->      run of 2^(p+1) | ..        from one buffer to another

A float's bits, of a negative one turned over, are integers of the same order; -0 becomes 0 and each NaN the
greatest of all first. In descending order the upper half is turned over. A pass writes every key once and
takes the smaller of two, with no branch on the numbers: the time depends on the length alone.
"""

from collections.abc import Callable, Mapping
from math import prod

from cloud.compiler.ir import Node
from cloud.compiler.ops.order import ArgSort
from cloud.compiler.wat import Function, Kernel, const, get

KEY_BYTES = 8
ITEM_BYTES = 4
_GREATEST = const(0x7FFFFFFF)


def arg_sort(node: Node) -> Kernel:
    """``sort_<dtype>_<rows>x<length>[_down](x, y, workspace)``."""
    assert isinstance(node.op, ArgSort)
    (x,) = node.operands
    *rows, length = x.shape
    name = f"sort_{x.dtype}_{prod(rows)}x{length}{'_down' * node.op.descending}"
    f = Function(name, ("x", "y", "first"))
    buffer_bytes = (length + 1) * KEY_BYTES  # both sides of a pass are read one key beyond their end
    with f.loop(prod(rows)):
        f.set("from", get("first"))
        f.set("to", f"(i32.add {get('first')} {const(buffer_bytes)})")
        _write_keys(f, x.dtype, length, node.op.descending)
        f.set("run", const(KEY_BYTES))
        with f.loop(max((length - 1).bit_length(), 1)):
            _pass(f, length)
        _write_positions(f, length)
    return f.kernel(scratch_bytes=2 * buffer_bytes)


def _write_keys(f: Function, dtype: str, length: int, descending: bool) -> None:
    f.set("at", get("from"))
    f.set("position", const(0))
    with f.loop(length):
        f.set("number", f"(i32.load {get('x')})")
        if dtype == "f32":
            f.set("float", f"(f32.add (f32.load {get('x')}) (f32.const 0))", "f32")
            bits = f"(i32.reinterpret_f32 {get('float')})"
            f.set("number", f"(i32.xor {bits} (i32.shr_u (i32.shr_s {bits} {const(31)}) {const(1)}))")
            f.set(
                "number",
                f"(select {get('number')} {_GREATEST} (f32.eq {get('float')} {get('float')}))",
            )
        if descending:
            f.set("number", f"(i32.xor {get('number')} {const(-1)})")
        upper = f"(i64.shl (i64.extend_i32_s {get('number')}) (i64.const 32))"
        f.emit(f"(i64.store {get('at')} (i64.or {upper} (i64.extend_i32_u {get('position')})))")
        f.advance("x", ITEM_BYTES)
        f.advance("at", KEY_BYTES)
        f.advance("position", 1)


def _pass(f: Function, length: int) -> None:
    """Merge neighbouring runs; then the buffers change places and runs are twice as long."""
    f.set("out", get("to"))
    f.set("limit", f"(i32.add {get('from')} {const(length * KEY_BYTES)})")
    for one in ("left", "middle", "right", "end"):
        f.set(one, get("from"))
    with f.loop(length):
        both_done = f"(i32.and (i32.eq {get('left')} {get('middle')}) (i32.eq {get('right')} {get('end')}))"
        f.emit(f"(if {both_done} (then")
        f.set("left", get("end"))
        f.set("middle", _within_limit("left"))
        f.set("right", get("middle"))
        f.set("end", _within_limit("right"))
        f.emit("))")
        f.set("a", f"(i64.load {get('left')})", "i64")
        f.set("b", f"(i64.load {get('right')})", "i64")
        smaller = f"(i32.or (i32.eq {get('right')} {get('end')}) (i64.lt_s {get('a')} {get('b')}))"
        f.set("take", f"(i32.and (i32.ne {get('left')} {get('middle')}) {smaller})")
        f.emit(f"(i64.store {get('out')} (select {get('a')} {get('b')} {get('take')}))")
        step = f"(i32.shl {get('take')} {const(3)})"
        f.set("left", f"(i32.add {get('left')} {step})")
        f.set("right", f"(i32.add {get('right')} (i32.sub {const(KEY_BYTES)} {step}))")
        f.advance("out", KEY_BYTES)
    f.set("out", get("from"))
    f.set("from", get("to"))
    f.set("to", get("out"))
    f.set("run", f"(i32.shl {get('run')} {const(1)})")


def _within_limit(start: str) -> str:
    """``start`` and a run, or the end of the buffer."""
    end = f"(i32.add {get(start)} {get('run')})"
    return f"(select {end} {get('limit')} (i32.lt_u {end} {get('limit')}))"


def _write_positions(f: Function, length: int) -> None:
    f.set("at", get("from"))
    with f.loop(length):
        f.emit(f"(i32.store {get('y')} (i32.load {get('at')}))")
        f.advance("at", KEY_BYTES)
        f.advance("y", ITEM_BYTES)


EMITTERS: Mapping[type, Callable[[Node], Kernel | None]] = {ArgSort: arg_sort}

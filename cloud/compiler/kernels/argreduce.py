"""Where an extreme is, in two passes over each row: find it, then find its first position.

    pass 1    best  = max of the row                     (NaN wins, as in f32x4.max)
    pass 2    found = min over i of (x[i] == best or x[i] is NaN ? i : none)

If the row has a NaN then best is NaN, equal to nothing, and the first NaN is found; if not, the first of the
equals. Ties and lanes need no other rule, and both passes are plain folds.
"""

from collections.abc import Callable

from cloud.compiler.ir import Node
from cloud.compiler.kernels.axes import Extent, extent, join, keep, splat, store_vector, sweep
from cloud.compiler.kernels.vector import VECTOR_BYTES, load
from cloud.compiler.ops.reduce import ArgReduce, ReduceKind
from cloud.compiler.wat import Function, Kernel, get

NONE = splat("0x7fffffff", "i32")
ALONG = 4
_NEUTRAL = {
    ("f32", ReduceKind.MAX): splat("-inf"),
    ("f32", ReduceKind.MIN): splat("inf"),
    ("i32", ReduceKind.MAX): splat("0x80000000", "i32"),
    ("i32", ReduceKind.MIN): splat("0x7fffffff", "i32"),
}


class _Search:
    """The instructions for one kind and dtype."""

    def __init__(self, kind: ReduceKind, dtype: str) -> None:
        self.neutral = _NEUTRAL[dtype, kind]
        self._shape = "f32x4" if dtype == "f32" else "i32x4"
        self._extreme = f"{self._shape}.{kind}" + ("_s" if dtype == "i32" else "")

    def better(self, x: str, y: str) -> str:
        """The extreme of two."""
        return f"({self._extreme} {x} {y})"

    def position(self, x: str, best: str) -> str:
        """``here`` in the lanes of local x that are the extreme, none in the others."""
        equal, nan = f"({self._shape}.eq {get(x)} {best})", f"({self._shape}.ne {get(x)} {get(x)})"
        return f"(v128.bitselect {get('here')} {NONE} (v128.or {equal} {nan}))"


def arg_reduce(node: Node) -> Kernel:
    """``arg<kind>...(x, y)``."""
    assert isinstance(node.op, ArgReduce)
    (x,) = node.operands
    around = extent(x.shape, node.op.axis)
    search = _Search(node.op.kind, x.dtype)
    f = Function(f"arg{node.op.kind}_{x.dtype}_{around}", ("x", "y"))
    with f.loop(around.outer):
        if around.inner == 1:
            _across(f, search, around.reduced)
        else:
            for widths in sweep(f, around.inner, ALONG, "x", "y"):
                _columns(f, search, around, widths)
            f.advance("x", (around.reduced - 1) * around.inner * 4)
    return f.kernel()


def _across(f: Function, search: _Search, length: int) -> None:
    """One row; both pointers move on."""

    def extreme(vector: str) -> None:
        f.set("best", search.better(get("best"), vector), "v128")

    def place(vector: str) -> None:
        f.set("number", vector, "v128")
        f.set("found", f"(i32x4.min_s {get('found')} {search.position('number', get('best'))})", "v128")
        f.set("here", f"(i32x4.add {get('here')} {splat('4', 'i32')})", "v128")

    f.set("best", search.neutral, "v128")
    _walk(f, length, search.neutral, extreme)
    join(f, "best", search.better)
    f.set("found", NONE, "v128")
    f.set("here", "(v128.const i32x4 0 1 2 3)", "v128")
    _walk(f, length, search.neutral, place)
    # A missing lane can equal the best only where the whole row does: a position of the row's own is lower.
    join(f, "found", lambda x, y: f"(i32x4.min_s {x} {y})")
    store_vector(f, "y", 0, "found", 1)
    f.advance("x", length * 4)
    f.advance("y", 4)


def _walk(f: Function, length: int, neutral: str, body: Callable[[str], None]) -> None:
    """The row at x, vector by vector."""
    f.set("at", get("x"))
    for lanes in sweep(f, length, 1, "at"):
        body(keep(lanes[0], load("at"), neutral))


def _columns(f: Function, search: _Search, around: Extent, widths: list[int]) -> None:
    """As many vectors of results as there are ``widths``, each of so many lanes."""
    indices = range(len(widths))
    row_bytes = around.inner * 4
    for index in indices:
        f.set(f"best{index}", search.neutral, "v128")
        f.set(f"found{index}", NONE, "v128")
    f.set("at", get("x"))
    with f.loop(around.reduced):
        for index in indices:
            number = load("at", index * VECTOR_BYTES)
            f.set(f"best{index}", search.better(get(f"best{index}"), number), "v128")
        f.advance("at", row_bytes)
    f.set("at", get("x"))
    f.set("here", splat("0", "i32"), "v128")
    with f.loop(around.reduced):
        for index in indices:
            f.set("number", load("at", index * VECTOR_BYTES), "v128")
            position = search.position("number", get(f"best{index}"))
            f.set(f"found{index}", f"(i32x4.min_s {get(f'found{index}')} {position})", "v128")
        f.set("here", f"(i32x4.add {get('here')} {splat('1', 'i32')})", "v128")
        f.advance("at", row_bytes)
    for index, lanes in enumerate(widths):
        store_vector(f, "y", index * VECTOR_BYTES, f"found{index}", lanes)

"""Kernels of :mod:`cloud.compiler.ops.indexing`: loops in which an index from memory says where to go.

    slices      for each index: x + index * slice  <->  one contiguous run      Gather, Scatter
    elements    for each element: x + index * step  <->  one number             TakeAlong, PutAlong

Every index is first brought inside the array, without a branch: negative ones count from the end, the rest is
clamped. Putting copies x to the result and then works there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

from cloud.compiler.ir import Node, Shape
from cloud.compiler.kernels.copy import ITEM_BYTES, Axis, advance, nest, run, simplified, strides
from cloud.compiler.kernels.vector import LANES, VECTOR_BYTES, load, store
from cloud.compiler.ops.indexing import Gather, PutAlong, Scatter, TakeAlong
from cloud.compiler.wat import Function, Kernel, const, get


@dataclass(frozen=True, slots=True)
class Slices:
    """``outer`` blocks of ``size`` slices of ``width`` numbers; ``count`` indices."""

    outer: int
    size: int
    count: int
    width: int

    @property
    def name(self) -> str:
        """For functions' names."""
        return f"{self.outer}x{self.size}x{self.width}_{self.count}"


def _slices(x: Shape, indices: Shape, axis: int) -> Slices:
    return Slices(prod(x[:axis]), x[axis], prod(indices), prod(x[axis + 1 :]))


def gather_kernel(spec: Slices) -> Kernel:
    """``gather_...(x, i, y)``."""
    f = Function(f"gather_{spec.name}", ("array", "i", "y"))
    with f.loop(spec.outer):
        f.set("index", get("i"))
        with f.loop(spec.count):
            next_index(f, spec.size)
            f.set("x", _at("array", spec.width))
            moved = run(f, spec.width)
            advance(f, "y", spec.width * ITEM_BYTES - moved[1])
        advance(f, "array", spec.size * spec.width * ITEM_BYTES)
    return f.kernel()


def scatter_kernel(spec: Slices, add: str) -> Kernel:
    """``scatter_...(x, i, source, y)``; ``add``: the type of vector addition, empty to replace."""
    f = Function(f"scatter{add}_{spec.name}", ("before", "i", "x", "result"))
    _copy_first(f, spec.outer * spec.size * spec.width)
    with f.loop(spec.outer):
        f.set("index", get("i"))
        with f.loop(spec.count):
            next_index(f, spec.size)
            f.set("y", _at("result", spec.width))
            moved = _add_run(f, spec.width, add) if add else run(f, spec.width)[0]
            advance(f, "x", spec.width * ITEM_BYTES - moved)
        advance(f, "result", spec.size * spec.width * ITEM_BYTES)
    return f.kernel()


def take_kernel(x: Shape, indices: Shape, axis: int) -> Kernel:
    """``take_...(x, i, y)``."""
    axes = _element_axes(x, indices, axis)
    f = Function(_element_name("take", axes, x, axis), ("x", "index", "y"))
    step = strides(x)[axis]

    def element(f: Function) -> tuple[int, int]:
        next_index(f, x[axis])
        f.emit(f"(i32.store {get('y')} (i32.load {_at('x', step)}))")
        return 0, 0

    nest(f, axes, element)
    return f.kernel()


def put_kernel(x: Shape, indices: Shape, axis: int, add: str) -> Kernel:
    """``put_...(x, i, source, y)``; ``add``: the type to add in (f32 or i32), empty to replace."""
    axes = _element_axes(x, indices, axis)
    f = Function(_element_name(f"put{add}", axes, x, axis), ("before", "index", "y", "result"))
    _copy_first(f, prod(x))
    f.set("x", get("result"))
    step = strides(x)[axis]

    def element(f: Function) -> tuple[int, int]:
        next_index(f, x[axis])
        f.set("to", _at("x", step))
        number = f"({add or 'i32'}.load {get('y')})"
        if add:
            number = f"({add}.add ({add}.load {get('to')}) {number})"
        f.emit(f"({add or 'i32'}.store {get('to')} {number})")
        return 0, 0

    nest(f, axes, element)
    return f.kernel()


def _element_axes(x: Shape, indices: Shape, axis: int) -> tuple[Axis, ...]:
    """Positions of the indices in order; ``source`` is the step in x of every axis but the indexed one."""
    steps = [0 if other == axis else step for other, step in enumerate(strides(x))]
    return simplified([*map(Axis, indices, steps, strides(indices))])


def _element_name(kind: str, axes: tuple[Axis, ...], x: Shape, axis: int) -> str:
    rule = "".join(f"_{one.size}.{one.source}" for one in axes)
    return f"{kind}{rule}_{x[axis]}.{strides(x)[axis]}_{prod(x)}"


def next_index(f: Function, size: int) -> None:
    """``at`` is the index at pointer ``index``, brought inside; the pointer moves on."""
    at = get("at")
    f.set("at", f"(i32.load {get('index')})")
    f.set("at", f"(i32.add {at} (i32.and {const(size)} (i32.shr_s {at} {const(31)})))")
    nearest = f"(select {const(0)} {const(size - 1)} (i32.lt_s {at} {const(0)}))"
    f.set("at", f"(select {at} {nearest} (i32.lt_u {at} {const(size)}))")
    f.advance("index", ITEM_BYTES)


def _at(pointer: str, step: int) -> str:
    return f"(i32.add {get(pointer)} (i32.mul {get('at')} {const(step * ITEM_BYTES)}))"


def _copy_first(f: Function, numbers: int) -> None:
    f.emit(f"(memory.copy {get('result')} {get('before')} {const(numbers * ITEM_BYTES)})")


def _add_run(f: Function, size: int, add: str) -> int:
    """y += x for ``size`` contiguous numbers; both pointers move by the bytes returned."""
    vectors, rest = divmod(size, LANES)
    moved = 0
    if vectors:
        with f.loop(vectors):
            _add_piece(f, add, LANES)
            if vectors > 1 or rest:
                f.advance("x", VECTOR_BYTES)
                f.advance("y", VECTOR_BYTES)
                moved = vectors * VECTOR_BYTES
    if rest:
        _add_piece(f, add, rest)
    return moved


def _add_piece(f: Function, add: str, lanes: int) -> None:
    f.set("piece", f"({add}x4.add {load('y', 0, lanes)} {load('x', 0, lanes)})", "v128")
    for line in store("y", 0, "piece", lanes):
        f.emit(line)


def _gather(node: Node) -> Kernel:
    assert isinstance(node.op, Gather)
    x, indices = node.operands
    return gather_kernel(_slices(x.shape, indices.shape, node.op.axis))


def _take(node: Node) -> Kernel:
    assert isinstance(node.op, TakeAlong)
    x, indices = node.operands
    return take_kernel(x.shape, indices.shape, node.op.axis)


def _scatter(node: Node) -> Kernel:
    assert isinstance(node.op, Scatter)
    x, indices, _ = node.operands
    spec = _slices(x.shape, indices.shape, node.op.axis)
    return scatter_kernel(spec, x.dtype if node.op.add else "")


def _put(node: Node) -> Kernel:
    assert isinstance(node.op, PutAlong)
    x, indices, _ = node.operands
    return put_kernel(x.shape, indices.shape, node.op.axis, x.dtype if node.op.add else "")


EMITTERS: Mapping[type, Callable[[Node], Kernel | None]] = {
    Gather: _gather,
    PutAlong: _put,
    Scatter: _scatter,
    TakeAlong: _take,
}

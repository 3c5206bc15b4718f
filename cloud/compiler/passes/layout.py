"""Images are NHWC inside: permutations between the layouts sink through the graph until they cancel.

    conv ─> NCHW ─> relu ─> NHWC ─> conv      becomes      conv ─> relu ─> conv

The pass walks through the graph and keeps, for each value, of which array it is an arrangement (its axes in
another order). An operation that works in any order of axes is done on that array; its result is arranged the
same way, and so on, until an operation needs the axes in their order: there the array is made. What nobody
needs in its order is never made.

A flattened image before a linear layer is not put into order either: the columns of the weight are, once.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from cloud.compiler.ir import Graph, Node, Op, Value
from cloud.compiler.lowering.call import Builder
from cloud.compiler.ops.contract import MatMul
from cloud.compiler.ops.movement import Cast, Concat, Flip, Pad, Permute, Reshape, Slice
from cloud.compiler.ops.pointwise import Pointwise
from cloud.compiler.ops.reduce import ArgReduce, Cumulate, Reduce, Softmax
from cloud.compiler.passes.arrangement import Arrangement, plain, regrouped
from cloud.compiler.passes.dead_code import remove_dead_code
from cloud.compiler.plan import derived

_Rule: TypeAlias = Callable[["_Layout", Node], Arrangement | None]


def choose_layout(graph: Graph) -> Graph:
    """Sink permutations, squeezes and unsqueezes; what became unused is removed."""
    layout = _Layout(graph)
    for node in graph.nodes:
        layout.visit(node)
    return remove_dead_code(replace(graph, nodes=tuple(layout.build.nodes)))


class _Names(Builder):
    """A builder whose names are not the graph's."""

    def name(self, kind: str) -> str:
        return f"layout/{super().name(kind)}"


class _Layout:
    """One walk. ``known``: what each value is an arrangement of; ``flat``: images that were flattened."""

    def __init__(self, graph: Graph) -> None:
        self.build = _Names()
        self.derived = derived(graph)
        self.outputs = {one.name for one in graph.outputs}
        self.parameters = {one.name for one in graph.fixed()}
        self.known: dict[str, Arrangement] = {}
        self.flat: dict[str, Arrangement] = {}

    def visit(self, node: Node) -> None:
        """Add the node, in its own order of axes and, if it has one, in its source's."""
        self.build.source = node.source
        rule = RULES.get(type(node.op))
        made = rule(self, node) if rule is not None else None
        if made is None:
            self.build.nodes.append(node)
            return
        if not (node.result.name in self.outputs and made.is_in_order):  # it is made in any case: read that
            self.known[node.result.name] = made
        self._define(node, made)

    def arrangement(self, value: Value) -> Arrangement:
        """What a value is an arrangement of; perhaps of itself."""
        return self.known.get(value.name) or plain(value)

    def is_early(self, value: Value) -> bool:
        """Whether it is computed once, by ``prepare``."""
        return value.name in self.derived or value.name in self.parameters

    def _define(self, node: Node, made: Arrangement) -> None:
        """The value under its own name, for readers that need its axes in their order."""
        value = made.realised(self.build)
        last = self.build.nodes[-1] if self.build.nodes else None
        if last is not None and last.result == value and value != made.source:
            self.build.nodes[-1] = replace(last, result=node.result)
        else:
            self.build.nodes.append(replace(node, op=Reshape(node.result.shape), operands=(value,)))


def _permute(layout: _Layout, node: Node) -> Arrangement:
    assert isinstance(node.op, Permute)
    return layout.arrangement(node.operands[0]).permuted(node.op.axes)


def _reshape(layout: _Layout, node: Node) -> Arrangement | None:
    made = layout.arrangement(node.operands[0])
    if (unit := made.reshaped(node.result.shape)) is not None:
        return unit
    if made.is_plain:
        return None
    found = regrouped(made, node.result.shape)
    if found is None:
        layout.flat[node.result.name] = made
        return None
    shape, axes = found
    return Arrangement(layout.build.reshape(made.source, shape), axes)


def _pointwise(layout: _Layout, node: Node) -> Arrangement | None:
    """On the source of the operands, if those of the result's size have one order in common."""
    given = [layout.arrangement(one) for one in node.operands]
    shape = node.result.shape
    leading = next((one for one in given if not one.is_plain and one.shape == shape), None)
    if leading is None:
        return None
    operands = []
    for value, made in zip(node.operands, given, strict=True):
        if made.axes == leading.axes and len(made.source.shape) == len(leading.source.shape):
            operands.append(made.source)
        elif value.shape == shape and not layout.is_early(value):
            return None
        else:
            operands.append(leading.brought_back(layout.build, value))
    return Arrangement(layout.build(node.op, *operands), leading.axes)


def _along(layout: _Layout, node: Node) -> Arrangement | None:
    """Softmax, running sums, slices: one axis, which stays."""
    op: Any = node.op
    made = layout.arrangement(node.operands[0])
    axis = made.axes[op.axis]
    if made.is_plain or axis is None:
        return None
    return Arrangement(layout.build(replace(op, axis=axis), made.source), made.axes)


def _reduced(layout: _Layout, node: Node) -> Arrangement | None:
    op: Any = node.op
    made = layout.arrangement(node.operands[0])
    rank = len(made.axes)
    axes = tuple(one % rank for one in ((op.axis,) if isinstance(op, ArgReduce) else op.axes))
    places = [made.axes[one] for one in axes]
    real = tuple(sorted(one for one in places if one is not None))
    if made.is_plain or not real or len(real) != len(places):
        return None
    there = {"axis": real[0]} if isinstance(op, ArgReduce) else {"axes": real}
    reduced = layout.build(replace(op, keepdims=True, **there), made.source)
    return Arrangement(reduced, made.without(axes, op.keepdims))


def _concat(layout: _Layout, node: Node) -> Arrangement | None:
    assert isinstance(node.op, Concat)
    given = [layout.arrangement(one) for one in node.operands]
    first = given[0]
    axis = first.axes[node.op.axis]
    same = all(one.axes == first.axes and len(one.source.shape) == len(first.source.shape) for one in given)
    if first.is_plain or axis is None or not same:
        return None
    return Arrangement(layout.build(Concat(axis), *(one.source for one in given)), first.axes)


def _pad(layout: _Layout, node: Node) -> Arrangement | None:
    assert isinstance(node.op, Pad)
    made = layout.arrangement(node.operands[0])
    places = dict(zip(made.axes, zip(node.op.before, node.op.after, strict=True), strict=False))
    if made.is_plain or None in made.axes:
        return None
    sizes = [places.get(axis, (0, 0)) for axis in range(len(made.source.shape))]
    op = replace(node.op, before=tuple(one for one, _ in sizes), after=tuple(one for _, one in sizes))
    return Arrangement(layout.build(op, made.source), made.axes)


def _flip(layout: _Layout, node: Node) -> Arrangement | None:
    assert isinstance(node.op, Flip)
    made = layout.arrangement(node.operands[0])
    axes = tuple(axis for at in node.op.axes if (axis := made.axes[at]) is not None)
    if made.is_plain or not axes:
        return None
    return Arrangement(layout.build(Flip(axes), made.source), made.axes)


def _cast(layout: _Layout, node: Node) -> Arrangement | None:
    made = layout.arrangement(node.operands[0])
    return None if made.is_plain else Arrangement(layout.build(node.op, made.source), made.axes)


def _matmul(layout: _Layout, node: Node) -> Arrangement | None:
    """A linear layer of rows in any order, or of a flattened image."""
    op, x, w = node.op, *node.operands[:2]
    assert isinstance(op, MatMul)
    made = layout.arrangement(x)
    if not made.is_plain and made.axes[-1] == len(made.source.shape) - 1 and len(w.shape) == 2:
        if op.transposed or len(node.operands) > 2 or len(made.axes) < 2:
            return None
        return Arrangement(layout.build(op, made.source, w), made.axes)
    return _flattened(layout, node)


def _flattened(layout: _Layout, node: Node) -> Arrangement | None:
    """``flatten(image) @ w.T``: the image as it lies in memory, and the columns of w in that order."""
    op, x, w = node.op, *node.operands[:2]
    assert isinstance(op, MatMul)
    made = layout.flat.get(x.name)
    if made is None or op.transposed or not op.rows or len(w.shape) != 2 or not layout.is_early(w):
        return None
    image = made.shape
    if made.axes[0] != 0 or x.shape != (image[0], w.shape[1]) or None in made.axes:
        return None
    build = layout.build
    order = [axis for axis in range(len(made.source.shape)) if axis in made.axes]
    columns = build.permute(build.reshape(w, (w.shape[0], *image[1:])), _inverse(made.axes, order))
    flat = build.reshape(made.source, x.shape)
    product = build(op, flat, build.reshape(columns, w.shape), *node.operands[2:])
    return plain(product)


def _inverse(axes: tuple[int | None, ...], order: list[int]) -> tuple[int, ...]:
    return tuple(axes.index(axis) for axis in order)


RULES: Mapping[type[Op], _Rule] = {
    Permute: _permute,
    Reshape: _reshape,
    Pointwise: _pointwise,
    Softmax: _along,
    Cumulate: _along,
    Slice: _along,
    Reduce: _reduced,
    ArgReduce: _reduced,
    Concat: _concat,
    Pad: _pad,
    Flip: _flip,
    Cast: _cast,
    MatMul: _matmul,
}

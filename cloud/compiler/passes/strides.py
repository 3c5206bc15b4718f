"""Products read and write where the numbers are, so that heads of attention are taken apart without a copy.

    qkv ─> reshape ─> permute ─> slice ─> matmul     becomes    qkv ─> matmul(x_view: steps and an offset)
    matmul ─> permute                                becomes    matmul(axes: the order it stores in)

A kernel walks its operands by steps anyway; what counts is that vectors stay vectors: of columns, or along
the depth.
"""

from collections.abc import Mapping
from dataclasses import replace

from cloud.compiler.ir import Graph, Node, Value
from cloud.compiler.ops.contract import MatMul
from cloud.compiler.ops.movement import Permute, Reshape, Strided
from cloud.compiler.passes.views import View, through, whole
from cloud.compiler.plan import derived


def absorb_strides(graph: Graph) -> Graph:
    """Permutations, reshapes and slices around a product become its strides."""
    early, uses = derived(graph), graph.uses()
    updates = {one.new.name for one in graph.updates}  # written over what they read: in its order
    makers: dict[str, Node] = {}
    for node in graph.nodes:
        if isinstance(node.op, MatMul):
            node = _reading(node, makers, early)
        elif isinstance(node.op, Permute) and node.result.name not in updates:
            node = _storing(node, makers, uses)
        makers[node.result.name] = node
    return replace(graph, nodes=tuple(makers.values()))


def _reading(node: Node, makers: Mapping[str, Node], early: frozenset[str]) -> Node:
    """x and w from where they come from: both, or one of them, or none."""
    x, w, *extras = node.operands
    assert isinstance(node.op, MatMul)
    if len(x.shape) < 2 or node.op.x_view is not None or node.op.w_view is not None:
        return node
    here = (x, None)
    sources = [(_source(x, makers, early), _source(w, makers, early)), (_source(x, makers, early), (w, None))]
    sources.append((here, _source(w, makers, early)))
    for (x_root, x_view), (w_root, w_view) in sources:
        op = replace(node.op, x_view=x_view, w_view=w_view)
        if _keeps_vectors(op, x, w):
            return replace(node, op=op, operands=(x_root, w_root, *extras))
    return node


def _source(value: Value, makers: Mapping[str, Node], early: frozenset[str]) -> tuple[Value, Strided | None]:
    """The array that a value is a view of, and the view; the value itself if there is none.

    What ``prepare`` has laid out once is read as it is.
    """
    chain: list[Node] = []
    best: tuple[Value, Strided | None] = (value, None)
    at = value
    while (maker := makers.get(at.name)) is not None and maker.result.name not in early:
        if len(maker.operands) != 1:
            break
        chain.append(maker)
        at = maker.operands[0]
        view = _composed(at, chain)
        if view is None:
            break
        strided = view.strided()
        if strided is not None and any(not isinstance(one.op, Reshape) for one in chain):
            best = (at, strided)
    return best


def _composed(root: Value, chain: list[Node]) -> View | None:
    view: View | None = whole(root.shape)
    for node in reversed(chain):
        view = None if view is None else through(view, node.op)
    return view


def _keeps_vectors(op: MatMul, x: Value, w: Value) -> bool:
    """Whether both lie along the depth, or the columns of w lie side by side."""
    x_steps = op.x_view.steps if op.x_view is not None else whole_steps(x)
    w_steps = op.w_view.steps if op.w_view is not None else whole_steps(w)
    x_depth = x_steps[-2 if op.transposed else -1]
    w_depth, w_column = (w_steps[-1], w_steps[-2]) if op.rows else (w_steps[-2], w_steps[-1])
    return x_depth == w_depth == 1 or w_column == 1


def whole_steps(value: Value) -> tuple[int, ...]:
    """Row-major steps."""
    return tuple(step for ((_, step),) in whole(value.shape).axes)


def _storing(node: Node, makers: dict[str, Node], uses: Mapping[str, int]) -> Node:
    """A product that only this permutation reads stores in its order, if columns stay side by side."""
    maker = makers.get(node.operands[0].name)
    assert isinstance(node.op, Permute)
    if maker is None or not isinstance(maker.op, MatMul) or uses[maker.result.name] != 1:
        return node
    axes, columns = node.op.axes, len(maker.result.shape) - 1
    if maker.op.axes is not None or axes[-1] != columns or len(maker.operands[0].shape) < 2:
        return node
    del makers[maker.result.name]
    return replace(node, op=replace(maker.op, axes=axes), operands=maker.operands)

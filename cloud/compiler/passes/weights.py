"""Weights are laid out anew, once, by ``prepare``, for the tile that is fastest for their product.

    matmul(x, w [N, K])     becomes     w ─> permute ─> matmul(rows=False)     K up to 7; 24 for N below 32
                                        w ─> skewed ─> matmul(skewed=N)        K up to 2048 and N from 32 on
    recurrent(x, w, ...)                w ─> skewed ─> recurrent(skewed)       likewise

Along a short depth the tile of :mod:`cloud.compiler.kernels.dot` spends its time on adding up lanes; with
columns side by side there is nothing to add up: at 32 x 128 that is 1.3 times faster for K = 8, 1.13 for 24,
and from 48 on the same. :mod:`cloud.compiler.kernels.skewed` is 1.04 to 1.08 times faster than that at any K
from 8 on. A single row gains nothing (a recurrent layer's loses 3 %, for h has just been written where an
unaligned load wants it, and of many rows it gains 5 %). A panel must fit the cache, and a tile be full.

Only sizes of w decide, not how many rows of x there are: an item gets the same bits in every batch.
"""

from dataclasses import replace

from cloud.compiler.ir import Graph, Node, Value
from cloud.compiler.ops.contract import MatMul, Skewed
from cloud.compiler.ops.movement import Permute
from cloud.compiler.ops.recurrent import Recurrent
from cloud.compiler.passes.strides import whole_steps
from cloud.compiler.plan import derived

DEPTH_MAX = 24
COLUMNS_MIN = 8
SKEWED_DEPTH_MIN = 8
SKEWED_DEPTH_MAX = 2048  # a panel of 128 KB
SKEWED_COLUMNS_MIN = 32


def lay_out_weights(graph: Graph) -> Graph:
    """Products with weights that last read them in the layout that suits their depth and their rows."""
    changing = {one.parameter.name for one in graph.updates}
    lasting = {one.value.name for one in graph.parameters} - changing
    lasting |= {one.value.name for one in graph.constants} | derived(graph)
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node.op, Recurrent):
            w = node.operands[1]
            nodes += _askew(node) if w.name in lasting and _suits_askew(w) else [node]
        elif not _has_weights(node, lasting):
            nodes.append(node)
        elif _gains_askew(node):
            nodes += _askew(node)
        else:
            nodes += _by_columns(node) if node.operands[1].shape[1] <= DEPTH_MAX else [node]
    return replace(graph, nodes=tuple(nodes))


def _has_weights(node: Node, lasting: set[str]) -> bool:
    """Whether it is a product with [N, K] that is there before the run."""
    if not isinstance(node.op, MatMul) or not node.op.rows or node.op.w_view is not None:
        return False
    w = node.operands[1]
    return w.name in lasting and len(w.shape) == 2 and w.shape[0] >= COLUMNS_MIN


def _gains_askew(node: Node) -> bool:
    assert isinstance(node.op, MatMul)
    x, w = node.operands[:2]
    steps = node.op.x_view.steps if node.op.x_view is not None else whole_steps(x)
    if steps[-1] != 1 or node.op.transposed:
        return False
    return _suits_askew(w)


def _suits_askew(w: Value) -> bool:
    return w.shape[0] >= SKEWED_COLUMNS_MIN and SKEWED_DEPTH_MIN <= w.shape[1] <= SKEWED_DEPTH_MAX


def _by_columns(node: Node) -> list[Node]:
    assert isinstance(node.op, MatMul)
    x, w, *extras = node.operands
    turned = Value(f"{node.result.name}/columns", (w.shape[1], w.shape[0]))
    layout = Node(turned, Permute((1, 0)), (w,), node.source)
    return [layout, replace(node, op=replace(node.op, rows=False), operands=(x, turned, *extras))]


def _askew(node: Node) -> list[Node]:
    x, w, *others = node.operands
    panels = Value(f"{node.result.name}/skewed", Skewed().shape(w.shape))
    layout = Node(panels, Skewed(), (w,), node.source)
    if isinstance(node.op, Recurrent):
        op: MatMul | Recurrent = replace(node.op, skewed=True)
    else:
        assert isinstance(node.op, MatMul)
        op = replace(node.op, skewed=w.shape[0])
    return [layout, replace(node, op=op, operands=(x, panels, *others))]

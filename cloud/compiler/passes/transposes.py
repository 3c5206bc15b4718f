"""A transposed operand of a product is read transposed, instead of being written out anew.

    w [N, K] ─> permute ─> matmul(rows=False)    becomes    matmul(rows=True) of w itself

A train step is full of them: the gradient of a weight is a product with a transposed input.
"""

from dataclasses import replace

from cloud.compiler.ir import Graph, Node
from cloud.compiler.ops.contract import MatMul
from cloud.compiler.ops.movement import Permute


def fuse_transposes(graph: Graph) -> Graph:
    """Products whose operand is a permute of the last two axes read what the permute reads."""
    makers: dict[str, Node] = {}
    for node in graph.nodes:
        makers[node.result.name] = _fused(node, makers)
    return replace(graph, nodes=tuple(makers.values()))


def _fused(node: Node, makers: dict[str, Node]) -> Node:
    if not isinstance(node.op, MatMul):
        return node
    x, w, *extras = node.operands
    x_maker, w_maker = (makers.get(one.name) for one in (x, w))
    rows = node.op.rows
    if w_maker is not None and _is_transpose(w_maker):
        rows, w = not rows, w_maker.operands[0]
    transposed = node.op.transposed
    if x_maker is not None and _is_transpose(x_maker):
        transposed, x = not transposed, x_maker.operands[0]
    if transposed and rows:  # both depths strided: there is no fast kernel for it
        return node
    return replace(node, op=replace(node.op, rows=rows, transposed=transposed), operands=(x, w, *extras))


def _is_transpose(node: Node) -> bool:
    """Whether it exchanges the last two axes and nothing else."""
    if not isinstance(node.op, Permute):
        return False
    axes = node.op.axes
    return len(axes) > 1 and axes == (*range(len(axes) - 2), len(axes) - 1, len(axes) - 2)

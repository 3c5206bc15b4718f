"""What computes nothing disappears.

reshape to its own shape, permute by (0, 1, 2)   -> its operand
reshape(reshape(x)), permute(permute(x))         -> one of them
permute that moves only axes of size one         -> reshape, which costs nothing
"""

from dataclasses import replace

from cloud.compiler.ir import Graph, Node, Value
from cloud.compiler.ops.movement import Permute, Reshape


def remove_identities(graph: Graph) -> Graph:
    """Readers of an identity read its operand; two of a kind in a row become one."""
    renamed: dict[str, Value] = {}
    makers: dict[str, Node] = {}
    for node in graph.nodes:
        operands = tuple(renamed.get(one.name, one) for one in node.operands)
        simpler = _simplified(replace(node, operands=operands), makers)
        if _is_identity(simpler):
            renamed[node.result.name] = simpler.operands[0]
        else:
            makers[node.result.name] = simpler
    return renaming(replace(graph, nodes=tuple(makers.values())), renamed)


def renaming(graph: Graph, renamed: dict[str, Value]) -> Graph:
    """Outputs and updates that read a renamed value read what it became."""
    return replace(
        graph,
        outputs=tuple(renamed.get(one.name, one) for one in graph.outputs),
        updates=tuple(replace(one, new=renamed.get(one.new.name, one.new)) for one in graph.updates),
    )


def _simplified(node: Node, makers: dict[str, Node]) -> Node:
    maker = makers.get(node.operands[0].name) if node.operands else None
    match node.op, maker.op if maker is not None else None:
        case Reshape(), Reshape():
            assert maker is not None
            return replace(node, operands=maker.operands)
        case Permute(axes), Permute(first):
            assert maker is not None
            merged = replace(node, op=Permute(tuple(first[axis] for axis in axes)), operands=maker.operands)
            return _simplified(merged, makers)
        case Permute(axes), _ if _moves_nothing(axes, node.operands[0].shape):
            return _simplified(replace(node, op=Reshape(node.result.shape)), makers)
        case _:
            return node


def _moves_nothing(axes: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    kept = [axis for axis in axes if shape[axis] != 1]
    return kept == sorted(kept)


def _is_identity(node: Node) -> bool:
    match node.op:
        case Reshape(to):
            return to == node.operands[0].shape
        case Permute(axes):
            return axes == tuple(range(len(axes)))
        case _:
            return False

"""What a graph costs, for people: operator counts and floating-point operations."""

from collections import Counter
from math import prod

from cloud.compiler.ir import Graph, Node
from cloud.compiler.ops import Identity, Linear, Reshape


def operator_counts(graph: Graph) -> dict[str, int]:
    """Operation name -> how often, in the order of first use; reshapes cost nothing and are left out."""
    return dict(
        Counter(type(one.op).__name__.lower() for one in graph.nodes if not isinstance(one.op, Reshape))
    )


def flops(graph: Graph) -> int:
    """Floating-point operations of one run; a multiply-add counts as two."""
    return sum(_node_flops(node) for node in graph.nodes)


def _node_flops(node: Node) -> int:
    elements = prod(node.result.shape)
    match node.op:
        case Linear():
            _, w, *bias = node.operands
            return elements * (2 * w.shape[1] + len(bias))
        case Reshape() | Identity():
            return 0
        case _:
            return elements

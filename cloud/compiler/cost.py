"""What a graph costs, for people: operator counts and floating-point operations."""

from collections import Counter
from math import prod
from typing import Any

from cloud.compiler.expr import size
from cloud.compiler.ir import Graph, Node
from cloud.compiler.ops.movement import Reshape
from cloud.compiler.plan import derived


def operator_counts(graph: Graph) -> dict[str, int]:
    """Operation name -> how often, in the order of first use.

    Reshapes cost nothing, and what ``prepare`` computes costs nothing in a run: both are left out.
    """
    early = derived(graph)
    return dict(
        Counter(
            type(one.op).__name__.lower()
            for one in graph.nodes
            if not isinstance(one.op, Reshape) and one.result.name not in early
        )
    )


def flops(graph: Graph) -> int:
    """Floating-point operations of one run; a multiply-add counts as two, any function as one."""
    early = derived(graph)
    return sum(_node_flops(node) for node in graph.nodes if node.result.name not in early)


def _node_flops(node: Node) -> int:
    """An operation that is not one function an element says itself how many (``flops``)."""
    op: Any = node.op
    shapes = [one.shape for one in node.operands]
    elements = prod(node.result.shape)
    own = op.flops(*shapes) if hasattr(op, "flops") else 0
    expr = getattr(op, "epilogue", None) or getattr(op, "expr", None)
    return int(own + (elements * size(expr) if expr is not None else 0))

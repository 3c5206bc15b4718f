"""The same operation on the same operands is computed once (common subexpressions)."""

from dataclasses import replace

from cloud.compiler.ir import Graph, Node, Op, Value
from cloud.compiler.passes.identities import renaming


def merge_duplicates(graph: Graph) -> Graph:
    """Later copies of a node disappear; their readers read the first."""
    first: dict[tuple[Op, tuple[Value, ...]], Value] = {}
    renamed: dict[str, Value] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        operands = tuple(renamed.get(one.name, one) for one in node.operands)
        known = first.setdefault((node.op, operands), node.result)
        if known is node.result:
            nodes.append(replace(node, operands=operands))
        else:
            renamed[node.result.name] = known
    return renaming(replace(graph, nodes=tuple(nodes)), renamed)

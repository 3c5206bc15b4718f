"""What nothing depends on is dropped."""

from dataclasses import replace

from cloud.compiler.ir import Graph


def remove_dead_code(graph: Graph) -> Graph:
    """Drop every node, parameter and constant that no output and no update depends on."""
    needed = {value.name for value in graph.kept()} | {one.parameter.name for one in graph.updates}
    nodes = []
    for node in reversed(graph.nodes):
        if node.result.name in needed:
            needed |= {operand.name for operand in node.operands}
            nodes.append(node)
    return replace(
        graph,
        nodes=tuple(reversed(nodes)),
        parameters=tuple(one for one in graph.parameters if one.value.name in needed),
        states=tuple(one for one in graph.states if one.value.name in needed),
        constants=tuple(one for one in graph.constants if one.value.name in needed),
    )

"""Graph -> graph: each pass keeps the meaning and makes the graph cheaper.

A pass is a plain function; :data:`PASSES` is the order they run in. Invariant, tested on random graphs: for
any inputs, :func:`cloud.compiler.ir.evaluate` of the graph before and after a pass agrees.

    linear ─> add b ─> relu      becomes      linear(+ b, relu)         when nobody else reads the parts
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from cloud.compiler.ir import Graph, Node, Value
from cloud.compiler.ops import Activation, Add, Identity, Linear, Relu, Reshape

Pass: TypeAlias = Callable[[Graph], Graph]


def optimise(graph: Graph) -> Graph:
    """All passes in order; the invariants are checked after each."""
    for one in PASSES:
        graph = one(graph)
        graph.check()
    return graph


def remove_identities(graph: Graph) -> Graph:
    """Readers of a copy, or of a reshape to the same shape, read the original; two reshapes become one."""
    renamed: dict[str, Value] = {}
    reshaped: dict[str, Value] = {}  # result of a reshape -> what it reshapes
    nodes = []
    for node in graph.nodes:
        operands = tuple(renamed.get(one.name, one) for one in node.operands)
        if isinstance(node.op, Reshape):
            operands = tuple(reshaped.get(one.name, one) for one in operands)
            reshaped[node.result.name] = operands[0]
        if isinstance(node.op, Identity | Reshape) and operands[0].shape == node.result.shape:
            renamed[node.result.name] = operands[0]
        else:
            nodes.append(replace(node, operands=operands))
    outputs = tuple(renamed.get(one.name, one) for one in graph.outputs)
    return replace(graph, nodes=tuple(nodes), outputs=outputs)


def fuse_bias(graph: Graph) -> Graph:
    """``add(linear(x, w), b)`` with a vector b becomes ``linear(x, w, b)``."""
    return _fuse(graph, _with_bias)


def fuse_activation(graph: Graph) -> Graph:
    """``relu(linear(...))`` becomes a linear operation that applies the activation as it stores."""
    return _fuse(graph, _with_activation)


def remove_dead_code(graph: Graph) -> Graph:
    """Drop every node, and every parameter, that no output depends on."""
    needed = {value.name for value in graph.outputs}
    nodes = []
    for node in reversed(graph.nodes):
        if node.result.name in needed:
            needed |= {operand.name for operand in node.operands}
            nodes.append(node)
    parameters = tuple(one for one in graph.parameters if one.value.name in needed)
    return replace(graph, nodes=tuple(reversed(nodes)), parameters=parameters)


PASSES: tuple[Pass, ...] = (remove_identities, fuse_bias, fuse_activation, remove_dead_code)

_Rule: TypeAlias = Callable[[Node, Node], Node | None]


def _fuse(graph: Graph, rule: _Rule) -> Graph:
    """Offer each node, with the maker of its first operand, to the rule if nobody else reads that value.

    The fused node stands where the reader stood, so everything that either read is already defined.
    """
    uses = graph.uses()
    makers: dict[str, Node] = {}
    for node in graph.nodes:
        maker = makers.get(node.operands[0].name)
        fused = rule(maker, node) if maker is not None and uses[maker.result.name] == 1 else None
        if maker is not None and fused is not None:
            del makers[maker.result.name]
        makers[node.result.name] = fused or node
    return replace(graph, nodes=tuple(makers.values()))


def _with_bias(maker: Node, reader: Node) -> Node | None:
    match maker.op, reader.op:
        case Linear(Activation.NONE), Add() if (
            len(maker.operands) == 2 and len(reader.operands[1].shape) == 1
        ):
            return replace(reader, op=maker.op, operands=(*maker.operands, reader.operands[1]))
        case _:
            return None


def _with_activation(maker: Node, reader: Node) -> Node | None:
    match maker.op, reader.op:
        case Linear(Activation.NONE), Relu():
            return replace(reader, op=Linear(Activation.RELU), operands=maker.operands)
        case _:
            return None

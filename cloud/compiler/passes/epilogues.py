"""Bias, activation and residual are applied by the kernel that computes the product, as it stores.

matmul ─> add b ─> relu      becomes      matmul(epilogue: relu(product + b))
"""

from dataclasses import replace

from cloud.compiler.expr import Arg, Expr, dtype_of, size, substitute
from cloud.compiler.ir import Graph, Node, Value
from cloud.compiler.ops.contract import MatMul
from cloud.compiler.ops.image import Conv, Depthwise
from cloud.compiler.ops.pointwise import Pointwise
from cloud.compiler.plan import derived

ABSORBING = (MatMul, Conv, Depthwise)
OWN_OPERANDS = 2
EXTRAS_MAX = 4
SIZE_MAX = 48


def fuse_epilogues(graph: Graph) -> Graph:
    """A pointwise operation that alone reads a product becomes its epilogue.

    The fused node stands where the reader stood, so everything that either read is already defined.
    """
    uses, early = graph.uses(), derived(graph)
    makers: dict[str, Node] = {}
    for node in graph.nodes:
        absorbed = _absorbed(node, makers, uses, early)
        if absorbed is not None:
            maker, node = absorbed
            del makers[maker]
        makers[node.result.name] = node
    return replace(graph, nodes=tuple(makers.values()))


def _absorbed(
    node: Node, makers: dict[str, Node], uses: dict[str, int], early: frozenset[str]
) -> tuple[str, Node] | None:
    """The product that can compute this node too, and the node that does both."""
    if not isinstance(node.op, Pointwise) or node.result.dtype != "f32":
        return None
    for operand in reversed(dict.fromkeys(node.operands)):
        maker = makers.get(operand.name)
        if maker is None or not isinstance(maker.op, ABSORBING) or operand.shape != node.result.shape:
            continue
        # What prepare computes once must not move into the run.
        moves = operand.name in early and node.result.name not in early
        if moves or uses[operand.name] != node.operands.count(operand):
            continue
        merged = _merged(maker, node, operand)
        if _fits(merged):
            return operand.name, merged
    return None


def _merged(maker: Node, reader: Node, product: Value) -> Node:
    """One node for both; an operand that either reads is an extra once."""
    assert isinstance(reader.op, Pointwise)
    assert isinstance(maker.op, ABSORBING)
    own, held = maker.operands[:OWN_OPERANDS], maker.operands[OWN_OPERANDS:]
    extras = list(dict.fromkeys((*held, *(one for one in reader.operands if one != product))))
    before = substitute(maker.op.epilogue or Arg(0), [Arg(0), *(Arg(1 + extras.index(one)) for one in held)])
    after: list[Expr] = [before if one == product else Arg(1 + extras.index(one)) for one in reader.operands]
    op = replace(maker.op, epilogue=substitute(reader.op.expr, after))
    return replace(reader, op=op, operands=(*own, *extras))


def _fits(node: Node) -> bool:
    """Whether a kernel exists for it: few pointers, not much code, and the broadcasts that it can read."""
    assert isinstance(node.op, ABSORBING)
    extras = node.operands[OWN_OPERANDS:]
    epilogue = node.op.epilogue or Arg(0)
    if len(extras) > EXTRAS_MAX or size(epilogue) > SIZE_MAX:
        return False
    if dtype_of(epilogue, ("f32", *(one.dtype for one in extras))) != "f32":
        return False
    return isinstance(node.op, MatMul) or all(_beside(one, node.result) for one in extras)


def _beside(extra: Value, image: Value) -> bool:
    """Convolutions read an array like their result, or one number for each channel."""
    channels = image.shape[-1]
    return extra.dtype == "f32" and (extra.shape == image.shape or extra.shape == (channels,))

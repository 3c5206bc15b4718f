"""Zeros around an image are written by whoever computes the image.

    conv ─> pad ─> conv      becomes      conv (halo) ─> conv

The first convolution stores its rows into the larger image and zeroes the border, so that nothing is copied.
"""

from dataclasses import replace

from cloud.compiler.ir import Graph, Node
from cloud.compiler.ops.image import NO_BORDER, Border, Conv, Depthwise, PadImage
from cloud.compiler.ops.movement import Pad


def fuse_padding(graph: Graph) -> Graph:
    """A border of zeros whose image nobody else reads becomes the halo of the convolution that makes it."""
    uses = graph.uses()
    nodes: dict[str, Node] = {}
    for node in graph.nodes:
        border = _border(node)
        maker = nodes.get(node.operands[0].name) if border is not None else None
        if maker is not None and isinstance(maker.op, Conv | Depthwise) and uses[maker.result.name] == 1:
            assert border is not None
            if maker.op.halo == NO_BORDER:
                fused = replace(maker, op=replace(maker.op, halo=border), result=node.result)
                nodes[maker.result.name] = fused
                continue
        nodes[node.result.name] = node
    return replace(graph, nodes=tuple(nodes.values()))


def _border(node: Node) -> Border | None:
    """The border that a node writes around an image, if that is all it does."""
    match node.op:
        case PadImage(border, (1, 1)) if min(border.top, border.bottom, border.left, border.right) >= 0:
            return border
        case Pad((0, top, left, 0), (0, bottom, right, 0), 0.0):
            return Border(top, bottom, left, right)
        case _:
            return None

"""3 x 3 convolutions by Winograd's F(4 x 4, 3 x 3): four times fewer multiplications, larger rounding errors.

    conv(x, w)      becomes      winograd(x', transform(w))

x' is the image with zeros beyond its end up to whole tiles: more of the border that it has anyway, where
somebody writes one. The transform is a product with a constant on parameters, computed once by ``prepare``;
in a train step, where parameters change, it is computed each time, for images so large that it is a trifle.
"""

from dataclasses import replace

import numpy as np

from cloud.compiler.ir import Graph, Node, Value
from cloud.compiler.lowering.call import Builder
from cloud.compiler.ops.contract import MatMul
from cloud.compiler.ops.image import PANEL, Border, Conv, Depthwise, PadImage
from cloud.compiler.ops.winograd import KERNEL, POINTS, TILE, WinogradConv, padded
from cloud.compiler.plan import derived

CHANNELS_MIN = 16  # below, the transforms cost more than they save
TILES_MIN = 4  # a tile of registers is full; fewer would read 4 times larger weights for nothing
TILES_MIN_CHANGING = 36  # transforming the weights costs what 36 pixels do: at most a sixteenth


def use_winograd(graph: Graph) -> Graph:
    """Replace every convolution that gains by it. The results differ by up to 2e-5 of their scale."""
    walk = _Walk(graph)
    for node in graph.nodes:
        walk.visit(node)
    return replace(graph, nodes=tuple(walk.build.nodes), constants=(*graph.constants, *walk.build.constants))


class _Names(Builder):
    """A builder whose names are not the graph's."""

    def name(self, kind: str) -> str:
        return f"winograd/{super().name(kind)}"


class _Walk:
    def __init__(self, graph: Graph) -> None:
        self.build = _Names()
        changing = {one.parameter.name for one in graph.updates}
        self._early = derived(graph) | {one.value.name for one in graph.parameters} - changing
        self._uses = graph.uses()

    def visit(self, node: Node) -> None:
        self.build.source = node.source
        self.build.nodes.append(self._replaced(node) if self._gains(node) else node)

    def _gains(self, node: Node) -> bool:
        match node.op:
            case Conv(stride=(1, 1), dilation=(1, 1), groups=1):
                x, w = node.operands[0].shape, node.operands[1]
                tiles = x[0] * -(-(x[1] - 2) // TILE) * -(-(x[2] - 2) // TILE)
                return (
                    w.shape[1:3] == (3, 3)
                    and min(x[3], node.op.outputs) >= CHANNELS_MIN
                    and tiles >= (TILES_MIN if w.name in self._early else TILES_MIN_CHANGING)
                    and min(x[1], x[2]) > TILE
                )
            case _:
                return False

    def _replaced(self, node: Node) -> Node:
        assert isinstance(node.op, Conv)
        x, w, *extras = node.operands
        height, width = x.shape[1] - 2, x.shape[2] - 2
        image = self._whole_tiles(x, height, width)
        op = WinogradConv(node.op.outputs, height, width, node.op.epilogue, node.op.halo)
        return replace(node, op=op, operands=(image, self._transformed(w), *extras))

    def _transformed(self, w: Value) -> Value:
        """[P, 3, 3, C, 8] -> [36, P, C, 8]."""
        build = self.build
        panels, _, _, channels, _ = w.shape
        taps = build.reshape(build.permute(w, (1, 2, 0, 3, 4)), (9, panels * channels * PANEL))
        u = build(MatMul(rows=False), build.constant(np.kron(KERNEL, KERNEL)), taps)
        return build.reshape(u, (POINTS * POINTS, panels, channels, PANEL))

    def _whole_tiles(self, x: Value, height: int, width: int) -> Value:
        """The image with zeros up to the end of its last tiles, written by whoever makes it if possible."""
        more = Border(bottom=padded(height) - x.shape[1], right=padded(width) - x.shape[2])
        if more == Border():
            return x
        at = next((i for i, node in enumerate(self.build.nodes) if node.result == x), None)
        if at is not None and self._uses[x.name] == 1:
            maker = self.build.nodes[at]
            larger = _larger(maker, more)
            if larger is not None:
                result = replace(x, shape=more.around(x.shape))
                self.build.nodes[at] = replace(maker, op=larger, result=result)
                return result
        return self.build(PadImage(more), x)


def _larger(maker: Node, more: Border) -> Conv | Depthwise | WinogradConv | PadImage | None:
    """The operation with a larger border."""
    match maker.op:
        case PadImage(border, (1, 1)):
            return replace(maker.op, border=_sum(border, more))
        case Conv() | Depthwise() | WinogradConv():
            return replace(maker.op, halo=_sum(maker.op.halo, more))
        case _:
            return None


def _sum(one: Border, other: Border) -> Border:
    return Border(
        one.top + other.top, one.bottom + other.bottom, one.left + other.left, one.right + other.right
    )

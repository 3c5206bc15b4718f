"""Convolutions with fewer multiplications and larger rounding errors (:mod:`cloud.compiler.ops.winograd`).

    conv(x, w)      becomes      winograd(x', transform(w))

x' is the image with zeros beyond its end up to whole tiles: more of the border that it has anyway, where
somebody writes one. The transform is a product with a constant on parameters, computed once by ``prepare``;
in a train step, where parameters change, it is computed each time, for images so large that it is a trifle.
"""

from dataclasses import replace
from math import prod

from cloud.compiler.ir import Graph, Node, Value
from cloud.compiler.lowering.call import Builder
from cloud.compiler.ops.contract import MatMul
from cloud.compiler.ops.image import NO_BORDER, PANEL, Border, Conv, Depthwise, PadImage
from cloud.compiler.ops.winograd import Scheme, WinogradConv, kernel_matrix
from cloud.compiler.passes.schemes import ENCLOSED_PIXELS, Sizes, cheapest
from cloud.compiler.plan import derived

PIXELS_MIN_CHANGING = 576  # where weights are transformed in each run: at most a sixteenth of it
ENCLOSED = (ENCLOSED_PIXELS, 3, 1, (1, 1))  # results, taps, stride, zeros before and behind


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
        chosen = self._schemes(node)
        self.build.nodes.append(node if chosen is None else self._replaced(node, chosen))

    def _schemes(self, node: Node) -> tuple[Scheme, Scheme] | None:
        match node.op:
            case Conv(outputs, stride, (1, 1), 1):
                batch, w = node.result.shape[0], node.operands[1]
                size = _phase_size(node)
                changing = w.name not in self._early
                if changing and batch * prod(size) < PIXELS_MIN_CHANGING:
                    return None
                taps, channels = (w.shape[1], w.shape[2]), w.shape[3]
                enclosed = self._enclosed(node, size)
                return cheapest(Sizes(batch, *size, channels, outputs, taps, stride, enclosed, changing))
            case _:
                return None

    def _enclosed(self, node: Node, size: tuple[int, int]) -> tuple[bool, bool]:
        """Along which axes three taps see two pixels, and a zero before and behind them."""
        assert isinstance(node.op, Conv)
        if ENCLOSED_PIXELS not in size:
            return False, False
        taps, stride = node.operands[1].shape[1:3], node.op.stride
        maker = next((one for one in self.build.nodes if one.result == node.operands[0]), None)
        border = _border(maker) if maker is not None else NO_BORDER
        zeros = (border.top, border.bottom), (border.left, border.right)
        high, wide = (one == ENCLOSED for one in zip(size, taps, stride, zeros, strict=True))
        return high, wide

    def _replaced(self, node: Node, chosen: tuple[Scheme, Scheme]) -> Node:
        assert isinstance(node.op, Conv)
        x, w, *extras = node.operands
        size, phases = _phase_size(node), node.op.phases
        op = WinogradConv(node.op.outputs, *size, *chosen, node.op.epilogue, node.op.halo, phases)
        image = self._whole_tiles(x, op)
        return replace(node, op=op, operands=(image, self._transformed(w, chosen), *extras))

    def _transformed(self, w: Value, chosen: tuple[Scheme, Scheme]) -> Value:
        """[P, kh, kw, C, 8] -> [planes, P, C, 8]."""
        build = self.build
        panels, high, wide, channels, _ = w.shape
        taps = build.reshape(build.permute(w, (1, 2, 0, 3, 4)), (high * wide, panels * channels * PANEL))
        matrix = kernel_matrix(*chosen)
        u = build(MatMul(rows=False), build.constant(matrix), taps)
        return build.reshape(u, (len(matrix), panels, channels, PANEL))

    def _whole_tiles(self, x: Value, op: WinogradConv) -> Value:
        """The image with zeros up to the end of its last tiles, written by whoever makes it if possible."""
        _, height, width, _ = op.phases.seen(x.shape)
        bottom, right = op.rows.padded(op.height) - height, op.columns.padded(op.width) - width
        more = Border(bottom=max(bottom, 0), right=max(right, 0))
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


def _phase_size(node: Node) -> tuple[int, int]:
    """Height and width of the result of one phase."""
    assert isinstance(node.op, Conv)
    (_, height, width, _), halo, phases = node.result.shape, node.op.halo, node.op.phases
    return (height - halo.height) // phases.rows, (width - halo.width) // phases.columns


def _border(maker: Node) -> Border:
    """The zeros that a node has written around its image."""
    match maker.op:
        case PadImage(border):
            return border
        case Conv() | Depthwise() | WinogradConv():
            return maker.op.halo
        case _:
            return NO_BORDER


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

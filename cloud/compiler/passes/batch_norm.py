"""A batch norm after a convolution or a product becomes part of its weights.

    scale * conv(x, w) + shift      becomes      conv(x, scale * w) + shift

where scale is a number for each channel that depends on parameters only: scaled weights are computed once,
by ``prepare``, and the shift is a bias. A bias of the convolution's own comes along: scale * bias + shift.
"""

from dataclasses import replace

from cloud.compiler.expr import Arg, Call, Fn, call
from cloud.compiler.ir import Graph, Node, Value
from cloud.compiler.lowering.call import Builder
from cloud.compiler.ops.contract import MatMul
from cloud.compiler.ops.image import PANEL, Conv, Depthwise
from cloud.compiler.ops.movement import Expand, Pad
from cloud.compiler.ops.pointwise import Pointwise
from cloud.compiler.passes.dead_code import remove_dead_code
from cloud.compiler.plan import derived

PRODUCT = call(Fn.MUL, Arg(0), Arg(1))
SUM = call(Fn.ADD, Arg(0), Arg(1))
SCALED = call(Fn.ADD, PRODUCT, Arg(2))


def fold_batch_norm(graph: Graph) -> Graph:
    """Scales of channels that only parameters decide move into the weights before them."""
    fold = _Fold(graph)
    for node in graph.nodes:
        fold.visit(node)
    return remove_dead_code(replace(graph, nodes=tuple(fold.build.nodes)))


class _Names(Builder):
    """A builder whose names are not the graph's."""

    def name(self, kind: str) -> str:
        return f"batch_norm/{super().name(kind)}"


class _Fold:
    """One walk. What a folded node has replaced becomes dead code."""

    def __init__(self, graph: Graph) -> None:
        self.build = _Names()
        self._uses = graph.uses()
        self._early = derived(graph) | {one.name for one in graph.fixed()}
        self._makers: dict[str, Node] = {node.result.name: node for node in graph.nodes}

    def visit(self, node: Node) -> None:
        """Write the node, or what replaces it."""
        self.build.source = node.source
        self.build.nodes.append(self._folded(node) or node)

    def _folded(self, node: Node) -> Node | None:
        found = self._affine(node)
        if found is None:
            return None
        y, scale, shift = found
        maker, bias = self._product(y)
        if maker is None or scale.shape != y.shape[-1:]:
            return None
        w = self._scaled(maker, scale)
        if w is None:
            return None
        x, _, *extras = maker.operands
        product = self.build(maker.op, x, w, *extras)
        if bias is not None:
            shift = self.build.pointwise(
                SCALED if shift else PRODUCT, bias, scale, *([shift] if shift else [])
            )
        if shift is None:
            return replace(node, op=Pointwise(Arg(0)), operands=(product,))
        return replace(node, op=Pointwise(SUM), operands=(product, shift))

    def _affine(self, node: Node) -> tuple[Value, Value, Value | None] | None:
        """y, scale and shift of a node that is ``y * scale + shift`` or ``y * scale``."""
        match node.op:
            case Pointwise(Call(Fn.ADD, (Call(Fn.MUL, (Arg(y), Arg(scale))), Arg(shift)))):
                values = [node.operands[at] for at in (y, scale, shift)]
            case Pointwise(Call(Fn.MUL, (Arg(y), Arg(scale)))):
                values = [node.operands[at] for at in (y, scale)]
            case _:
                return None
        if values[0].shape != node.result.shape or any(one.name not in self._early for one in values[1:]):
            return None
        return values[0], values[1], values[2] if len(values) == 3 else None

    def _product(self, y: Value) -> tuple[Node | None, Value | None]:
        """The convolution or product that computes y alone, and the bias it was added on the way."""
        maker, bias = self._alone(y), None
        if maker is not None and maker.op == Pointwise(SUM) and maker.operands[1].name in self._early:
            y, bias = maker.operands
            maker = self._alone(y) if bias.shape == y.shape[-1:] else None
        if (
            maker is None
            or not isinstance(maker.op, Conv | Depthwise | MatMul)
            or maker.op.epilogue is not None
        ):
            return None, None
        return maker, bias

    def _alone(self, value: Value) -> Node | None:
        return self._makers.get(value.name) if self._uses[value.name] == 1 else None

    def _scaled(self, maker: Node, scale: Value) -> Value | None:
        w, build = maker.operands[1], self.build
        if w.name not in self._early:
            return None
        match maker.op:
            case Conv(outputs, groups=groups, phases=phases):
                factor = build.reshape(scale, (groups, outputs // groups))
                missing = -factor.shape[1] % PANEL
                if missing:
                    factor = build(Pad((0, 0), (0, missing)), factor)
                if phases.count > 1:
                    factor = build(Expand((phases.count, factor.shape[1])), factor)
                factor = build.reshape(factor, (w.shape[0], 1, 1, 1, PANEL))
            case MatMul(rows=True) if len(w.shape) == 2:
                factor = build.reshape(scale, (w.shape[0], 1))
            case MatMul() if len(w.shape) != 2:
                return None
            case _:
                factor = scale
        return build.pointwise(PRODUCT, w, factor)

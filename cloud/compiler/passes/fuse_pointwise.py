"""Chains of pointwise operations become one loop: what is read once is never written.

    t = a + b;  u = relu(t);  v = u * c        becomes        v = relu(a + b) * c

The fused node stands at the reader's place, where the operands of both are defined. Left alone are

    results of another shape     a bias computed from smaller arrays would be computed for every row
    derived values               they are computed once, by ``prepare``, and not in every run
    large results                more operands or functions than the processor has registers and patience for

A cheap result with several readers is computed by each of them if that makes it disappear, unless a product
or a convolution would rather compute it as it stores. On the way, operands that only repeat themselves are
read where they come from, and constants of one number become part of the expression.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cloud.compiler.expr import Arg, Expr, Number, size, substitute
from cloud.compiler.ir import Array, Graph, Node, Shape, Value
from cloud.compiler.ops.movement import Expand
from cloud.compiler.ops.pointwise import Pointwise
from cloud.compiler.passes.epilogues import ABSORBING
from cloud.compiler.plan import derived

OPERANDS_MAX = 8
SIZE_MAX = 40
REPEATED_SIZE_MAX = 2
REPEATED_OPERANDS_MAX = 2


def fuse_pointwise(graph: Graph) -> Graph:
    """A pointwise operation that only others of its shape read is computed inside them."""
    return _Fusion(graph).run()


@dataclass(frozen=True, slots=True)
class _Formula:
    """An expression with its operands: a pointwise node that is being put together."""

    expr: Expr
    operands: tuple[Value, ...]

    def replaced(self, formulas: Mapping[Value, "_Formula"]) -> "_Formula":
        """Some operands computed by formulas of their own; equal operands become one."""
        operands: dict[Value, Arg] = {}
        args = []
        for value in self.operands:
            formula = formulas.get(value, _Formula(Arg(0), (value,)))
            inner = [operands.setdefault(one, Arg(len(operands))) for one in formula.operands]
            args.append(substitute(formula.expr, inner))
        return _Formula(substitute(self.expr, args), tuple(operands))


class _Fusion:
    """One walk over a graph. ``_readers``: names of the nodes that read a value, "" where it is kept."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._derived = derived(graph)
        self._makers = {node.result.name: node for node in graph.nodes}
        self._readers: defaultdict[str, set[str]] = defaultdict(set)
        for node in graph.nodes:
            self._read(node.operands, node.result.name)
        self._read(graph.kept(), "")
        self._numbers = {
            one.value.name: number for one in graph.constants if (number := _number(one.array()))
        }
        self._done: dict[str, Node] = {}

    def run(self) -> Graph:
        """The graph with its chains fused."""
        for node in self._graph.nodes:
            self._done[node.result.name] = self._fused(node) if isinstance(node.op, Pointwise) else node
        return replace(self._graph, nodes=tuple(self._done.values()))

    def _fused(self, node: Node) -> Node:
        assert isinstance(node.op, Pointwise)
        formula = _Formula(node.op.expr, node.operands).replaced({})
        while (merged := self._absorbed(formula, node.result)) is not None:
            formula = merged
        formula = self._simplified(formula, node.result.shape)
        return replace(node, op=Pointwise(formula.expr), operands=formula.operands)

    def _absorbed(self, formula: _Formula, result: Value) -> _Formula | None:
        """The formula with one more operand computed inside it; None when there is none to be had."""
        for value in formula.operands:
            maker = self._done.get(value.name)
            if maker is None or not isinstance(maker.op, Pointwise) or not self._may_absorb(maker, result):
                continue
            merged = formula.replaced({value: _Formula(maker.op.expr, maker.operands)})
            if len(merged.operands) <= OPERANDS_MAX and size(merged.expr) <= SIZE_MAX:
                self._forget(maker, result.name)
                return merged
        return None

    def _may_absorb(self, maker: Node, result: Value) -> bool:
        name = maker.result.name
        if maker.result.shape != result.shape or (name in self._derived and result.name not in self._derived):
            return False
        return self._readers[name] == {result.name} or self._is_cheap(maker)

    def _is_cheap(self, maker: Node) -> bool:
        """Small, read only by pointwise operations of its shape, and not a product's epilogue."""
        assert isinstance(maker.op, Pointwise)
        makers = [self._done.get(one.name) for one in maker.operands]
        readers = [self._makers.get(one) for one in self._readers[maker.result.name]]
        return (
            size(maker.op.expr) <= REPEATED_SIZE_MAX
            and len(maker.operands) <= REPEATED_OPERANDS_MAX
            and all(one is not None and _is_pointwise(one, maker.result.shape) for one in readers)
            and not any(one is not None and isinstance(one.op, ABSORBING) for one in makers)
        )

    def _forget(self, maker: Node, reader: str) -> None:
        """One reader fewer; the last one takes the operation away. What it read is read by the reader now."""
        name = maker.result.name
        self._read(maker.operands, reader)
        self._readers[name].discard(reader)
        if not self._readers[name]:
            del self._done[name]
            for one in maker.operands:
                self._readers[one.name].discard(name)

    def _read(self, values: Sequence[Value], reader: str) -> None:
        for one in values:
            self._readers[one.name].add(reader)

    def _simplified(self, formula: _Formula, shape: Shape) -> _Formula:
        """Operands as far up as the shape allows it: before they were repeated, or as numbers."""
        for value in formula.operands:
            for shorter in self._shorter(value):
                found = formula.replaced({value: shorter})
                if found.operands and _broadcast(found.operands) == shape:
                    formula, value = found, (*shorter.operands, value)[0]
        return formula

    def _shorter(self, value: Value) -> list[_Formula]:
        """The operand before it was repeated; then its number."""
        maker = self._done.get(value.name)
        found = []
        if maker is not None and isinstance(maker.op, Expand):
            (value,) = maker.operands
            found.append(_Formula(Arg(0), (value,)))
        if value.name in self._numbers:
            found.append(_Formula(self._numbers[value.name], ()))
        return found


def _is_pointwise(node: Node, shape: Shape) -> bool:
    return isinstance(node.op, Pointwise) and node.result.shape == shape


def _number(array: Array) -> Number | None:
    """The one number in a constant, if it is one number."""
    first = array.reshape(-1)[:1]
    if not array.size or array.tobytes() != first.tobytes() * array.size:
        return None
    return Number(first.item(), "f32" if array.dtype.kind == "f" else "i32")


def _broadcast(values: Sequence[Value]) -> Shape:
    return np.broadcast_shapes(*(one.shape for one in values))

"""The compiler's intermediate representation: a straight line of typed operations in SSA form.

    inputs ─┐
            ├─> node, node, node ... ─> outputs        each node defines one value, once, before its first use
    parameters ─┘

A value has a name, a shape and a dtype, and nothing else: where it lives is the memory plan's affair. A node
ties an operation (:mod:`cloud.compiler.ops`: attributes and meaning) to the values it reads (its operands),
so that a pass rewires a graph without knowing what its operations do.

Every operation says what it means in numpy. :func:`evaluate` therefore runs any graph, before or after any
pass, slowly and obviously: it is the oracle that passes and back end are tested against.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from shared.abi import ITEM_BYTES
from shared.errors import LocalError

Shape: TypeAlias = tuple[int, ...]
Array: TypeAlias = npt.NDArray[np.floating[Any]]


class Op(Protocol):
    """What a node does: a frozen dataclass of attributes with its meaning beside them."""

    def shape(self, *operands: Shape) -> Shape:
        """The result's shape. Raises ValueError when these operands do not fit."""
        ...

    def evaluate(self, *operands: Array) -> Array:
        """The meaning, in numpy, in the operands' own precision."""
        ...


@dataclass(frozen=True, slots=True)
class Value:
    """One array, defined once. ``name`` is unique in its graph; ``dtype`` is one of the ABI's."""

    name: str
    shape: Shape
    dtype: str = "f32"

    @property
    def nbytes(self) -> int:
        """Size in bytes, dense."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value that is trained, not computed. ``key``: the model's own name for it (``layers.0.weight``)."""

    key: str
    value: Value


@dataclass(frozen=True, slots=True)
class Node:
    """``result = op(*operands)``. ``source``: the line of the model it came from, for messages only."""

    result: Value
    op: Op
    operands: tuple[Value, ...]
    source: str = ""


@dataclass(frozen=True, slots=True)
class Graph:
    """One function of the module. ``nodes`` are in the order of execution."""

    inputs: tuple[Value, ...]
    parameters: tuple[Parameter, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]

    def check(self) -> None:
        """Assert the invariants: defined once, before use, with the shape the operation says.

        Raises :class:`LocalError`: a front end or a pass made a wrong graph.
        """
        defined: dict[str, Value] = {}
        for value in self._given():
            _define(defined, value)
        for node in self.nodes:
            _require(defined, node.operands)
            _check_shape(node)
            _define(defined, node.result)
        _require(defined, self.outputs)

    def uses(self) -> Counter[str]:
        """Name -> how often the value is read; being an output counts as one reading."""
        read = [value.name for node in self.nodes for value in node.operands]
        return Counter(read + [value.name for value in self.outputs])

    def _given(self) -> Iterator[Value]:
        yield from self.inputs
        yield from (parameter.value for parameter in self.parameters)


def evaluate(graph: Graph, inputs: Sequence[Array], parameters: Mapping[str, Array]) -> tuple[Array, ...]:
    """Run the graph in numpy. ``parameters``: by the model's own names. Float64 in, float64 out."""
    arrays = {value.name: array for value, array in zip(graph.inputs, inputs, strict=True)}
    arrays |= {parameter.value.name: parameters[parameter.key] for parameter in graph.parameters}
    for node in graph.nodes:
        arrays[node.result.name] = node.op.evaluate(*(arrays[operand.name] for operand in node.operands))
    return tuple(arrays[value.name] for value in graph.outputs)


def _define(defined: dict[str, Value], value: Value) -> None:
    if value.name in defined:
        raise LocalError(f"graph: {value.name!r} is defined twice")
    defined[value.name] = value


def _require(defined: Mapping[str, Value], values: Sequence[Value]) -> None:
    for value in values:
        if defined.get(value.name) != value:
            raise LocalError(f"graph: {value} is used but {defined.get(value.name)} is defined")


def _check_shape(node: Node) -> None:
    shape = node.op.shape(*(operand.shape for operand in node.operands))
    if shape != node.result.shape:
        raise LocalError(f"graph: {node.op} gives {shape}, but {node.result} was declared ({node.source})")

"""The compiler's intermediate representation: a straight line of typed operations in SSA form.

    inputs ─────┐
    parameters ─┼─> node, node, node ... ─> outputs, updates     each node defines one value, once, before use
    constants ──┘

A value has a name, a shape and a dtype, and nothing else: it is dense and row-major, and where it lives is
the memory plan's affair. A node ties an operation (:mod:`cloud.compiler.ops`: attributes and meaning) to the
values it reads (its operands), so that a pass rewires a graph without knowing what its operations do.

Every operation says what it means in numpy. :func:`evaluate` therefore runs any graph, before or after any
pass, slowly and obviously: it is the oracle that passes and back end are tested against.

dtypes: f32 and i32 inside; truth values are i32 (0 or 1). i64 and bool are found at the border only (inputs
and outputs), where a Cast stands.
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
Array: TypeAlias = npt.NDArray[Any]
NUMPY: Mapping[str, Any] = {
    "f32": np.dtype("<f4"),
    "i32": np.dtype("<i4"),
    "i64": np.dtype("<i8"),
    "u8": np.dtype("u1"),
    "bool": np.dtype("?"),
}


class Op(Protocol):
    """What a node does: a frozen dataclass of attributes with its meaning beside them."""

    def shape(self, *operands: Shape) -> Shape:
        """The result's shape. Raises ValueError when these operands do not fit."""
        ...

    def dtype(self, *operands: str) -> str:
        """The result's dtype."""
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
    """A value that lasts from call to call. ``key``: the model's own name for it (``layers.0.weight``)."""

    key: str
    value: Value


@dataclass(frozen=True, slots=True)
class Constant:
    """A value that is the same in every model of this architecture: indices, masks. Part of the module."""

    value: Value
    data: bytes

    def array(self) -> Array:
        """The numbers, read-only."""
        return np.frombuffer(self.data, NUMPY[self.value.dtype]).reshape(self.value.shape)


@dataclass(frozen=True, slots=True)
class Update:
    """At the end of the function the parameter or state takes the new value."""

    parameter: Value
    new: Value


@dataclass(frozen=True, slots=True)
class Node:
    """``result = op(*operands)``. ``source``: the line of the model it came from, for messages only."""

    result: Value
    op: Op
    operands: tuple[Value, ...]
    source: str = ""


@dataclass(frozen=True, slots=True)
class Graph:
    """One function of the module. ``nodes`` are in the order of execution.

    ``states``: values that last from call to call, start as zeros, and belong to no model (an optimiser's
    momentum).
    """

    inputs: tuple[Value, ...]
    parameters: tuple[Parameter, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    constants: tuple[Constant, ...] = ()
    states: tuple[Parameter, ...] = ()
    updates: tuple[Update, ...] = ()

    def check(self) -> None:
        """Assert the invariants: defined once, before use, with the shape and dtype the operation says.

        Raises :class:`LocalError`: a front end or a pass made a wrong graph.
        """
        defined: dict[str, Value] = {}
        for value in self._given():
            _define(defined, value)
        for node in self.nodes:
            _require(defined, node.operands)
            _check_result(node)
            _define(defined, node.result)
        _require(defined, self.kept())
        _require(defined, tuple(one.parameter for one in self.updates))

    def kept(self) -> tuple[Value, ...]:
        """Values that are needed when the last node is done: outputs, and the new values of updates."""
        return (*self.outputs, *(one.new for one in self.updates))

    def fixed(self) -> Iterator[Value]:
        """Parameters and constants: what is there before the first run."""
        yield from (one.value for one in self.parameters)
        yield from (one.value for one in self.constants)

    def uses(self) -> Counter[str]:
        """Name -> how often the value is read; being kept counts as one reading."""
        read = [value.name for node in self.nodes for value in node.operands]
        return Counter(read + [value.name for value in self.kept()])

    def _given(self) -> Iterator[Value]:
        yield from self.inputs
        yield from self.fixed()
        yield from (one.value for one in self.states)


def evaluate(
    graph: Graph,
    inputs: Sequence[Array],
    parameters: Mapping[str, Array],
    states: Mapping[str, Array] | None = None,
) -> tuple[Array, ...]:
    """Run the graph in numpy: the outputs, then the new values of the updates in their order.

    ``parameters`` and ``states``: by key. Float64 in, float64 out.
    """
    arrays = {value.name: array for value, array in zip(graph.inputs, inputs, strict=True)}
    arrays |= {one.value.name: parameters[one.key] for one in graph.parameters}
    arrays |= {one.value.name: (states or {})[one.key] for one in graph.states}
    arrays |= {one.value.name: one.array() for one in graph.constants}
    for node in graph.nodes:
        arrays[node.result.name] = node.op.evaluate(*(arrays[operand.name] for operand in node.operands))
    return tuple(arrays[value.name] for value in graph.kept())


def _define(defined: dict[str, Value], value: Value) -> None:
    if value.name in defined:
        raise LocalError(f"graph: {value.name!r} is defined twice")
    defined[value.name] = value


def _require(defined: Mapping[str, Value], values: Sequence[Value]) -> None:
    for value in values:
        if defined.get(value.name) != value:
            raise LocalError(f"graph: {value} is used but {defined.get(value.name)} is defined")


def _check_result(node: Node) -> None:
    shape = node.op.shape(*(operand.shape for operand in node.operands))
    dtype = node.op.dtype(*(operand.dtype for operand in node.operands))
    if (shape, dtype) != (node.result.shape, node.result.dtype):
        raise LocalError(
            f"graph: {node.op} gives {dtype}{shape}, but declared is {node.result} ({node.source})"
        )

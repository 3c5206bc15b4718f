"""What a lowering is given: one ATen call in plain Python values, and a builder to write nodes with."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from cloud.compiler.errors import UnsupportedOperator
from cloud.compiler.expr import Expr
from cloud.compiler.ir import NUMPY, Array, Constant, Node, Op, Shape, Value
from cloud.compiler.ops.movement import Permute, Reshape
from cloud.compiler.ops.pointwise import Pointwise

Lowered: TypeAlias = Value | tuple[Value, ...] | None
_DTYPES = {NUMPY[name]: name for name in ("f32", "i32")}


@dataclass(frozen=True, slots=True)
class AtenCall:
    """One call in the traced graph. ``operator``: ``aten.linear.default``.

    ``arguments``: arrays are :class:`Value`; lists are tuples; dtypes are "f32", "i64", "i32", "bool".
    ``shape`` and ``dtype``: of the (first) result, as torch states them.
    """

    operator: str
    arguments: tuple[Any, ...]
    shape: Shape
    source: str
    keywords: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "f32"

    @property
    def base_name(self) -> str:
        """``linear`` of ``aten.linear.default``."""
        return self.operator.removeprefix("aten.").split(".")[0]

    def argument(self, position: int, name: str = "", default: Any = None) -> Any:
        """A positional argument that may also come by name, or be left out."""
        if position < len(self.arguments):
            return self.arguments[position]
        return self.keywords.get(name, default)

    def refuse(self, advice: str) -> UnsupportedOperator:
        """The error for this call."""
        return UnsupportedOperator(self.operator, self.source, advice)


class Builder:
    """Writes nodes; shapes and dtypes follow from the operations. ``source``: where the model is just now."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.constants: list[Constant] = []
        self.source = ""
        self._counts: Counter[str] = Counter()
        self._known: dict[tuple[Shape, str, bytes], Value] = {}

    def __call__(self, op: Op, *operands: Value) -> Value:
        """``op(*operands)``. Raises ValueError when they do not fit."""
        shape = op.shape(*(one.shape for one in operands))
        dtype = op.dtype(*(one.dtype for one in operands))
        result = Value(self.name(type(op).__name__.lower()), shape, dtype)
        self.nodes.append(Node(result, op, operands, self.source))
        return result

    def pointwise(self, expr: Expr, *operands: Value) -> Value:
        """One expression over arrays."""
        return self(Pointwise(expr), *operands)

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        """The same numbers under another shape."""
        return x if x.shape == tuple(shape) else self(Reshape(tuple(shape)), x)

    def permute(self, x: Value, axes: Sequence[int]) -> Value:
        """Axes in another order."""
        return x if tuple(axes) == tuple(range(len(x.shape))) else self(Permute(tuple(axes)), x)

    def constant(self, array: Array) -> Value:
        """Numbers that are part of the module: f32, or any integers or truth values (as i32)."""
        array = np.asarray(array, np.float32 if array.dtype.kind == "f" else np.int32, order="C")
        data = array.tobytes()
        key = (array.shape, _DTYPES[array.dtype], data)
        if key not in self._known:
            self._known[key] = Value(self.name("constant"), array.shape, key[1])
            self.constants.append(Constant(self._known[key], data))
        return self._known[key]

    def name(self, kind: str) -> str:
        """A name that no other value has."""
        self._counts[kind] += 1
        return f"{kind}_{self._counts[kind]}"


Lowering: TypeAlias = Callable[[AtenCall, Builder], Lowered]

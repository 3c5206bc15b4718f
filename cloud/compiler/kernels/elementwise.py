"""Elementwise kernels: one pass over dense arrays, four vectors at a time, then the odd end."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from cloud.compiler.kernels.vector import LANES, VECTOR_BYTES, activate, add, load, store
from cloud.compiler.ops import Activation
from cloud.compiler.wat import Function, Kernel, get

UNROLL = 4
_Formula: TypeAlias = Callable[..., str]


@dataclass(frozen=True, slots=True)
class _Map:
    """``y[row, i] = formula(x[row, i], ...)``; an operand in ``repeated`` is one row, read again for each."""

    name: str
    operands: tuple[str, ...]
    repeated: frozenset[str]
    formula: _Formula


def relu_kernel(count: int) -> Kernel:
    """``relu_<count>(x, y)``: y = max(x, 0)."""
    relu = _Map(f"relu_{count}", ("x",), frozenset(), lambda x: activate(x, Activation.RELU))
    return _emit(relu, 1, count)


def add_kernel(rows: int, columns: int) -> Kernel:
    """``add_<rows>x<columns>(x, b, y)``: y[rows, columns] = x[rows, columns] + b[columns]."""
    name = f"add_{rows}x{columns}"
    return _emit(_Map(name, ("x", "b"), frozenset({"b"}), add), rows, columns)


def _emit(spec: _Map, rows: int, columns: int) -> Kernel:
    f = Function(spec.name, (*spec.operands, "y"))
    with f.loop(rows):
        cursor = {one: f"{one}_row" if one in spec.repeated and rows > 1 else one for one in spec.operands}
        for operand, local in cursor.items():
            if operand != local:
                f.set(local, get(operand))
        _row(f, spec.formula, tuple(cursor.values()), columns)
    return f.kernel()


def _row(f: Function, formula: _Formula, cursors: tuple[str, ...], columns: int) -> None:
    vectors, lanes = divmod(columns, LANES)
    blocks, rest = divmod(vectors, UNROLL)
    if blocks:
        with f.loop(blocks):
            _span(f, formula, cursors, UNROLL, 0)
    if rest or lanes:
        _span(f, formula, cursors, rest, lanes)


def _span(f: Function, formula: _Formula, cursors: tuple[str, ...], vectors: int, lanes: int) -> None:
    """``vectors`` whole vectors and ``lanes`` more floats; then every pointer moves past them."""
    for index, width in enumerate([LANES] * vectors + [lanes] * (lanes > 0)):
        offset = index * VECTOR_BYTES
        f.set("value", formula(*(load(one, offset, width) for one in cursors)), "v128")
        for line in store("y", offset, "value", width):
            f.emit(line)
    for pointer in (*cursors, "y"):
        f.advance(pointer, vectors * VECTOR_BYTES + lanes * 4)

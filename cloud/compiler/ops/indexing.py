"""Numbers taken from, or put to, positions that other numbers say.

Indices are i32. A negative one counts from the end, as in torch. One outside the array, for which torch
raises, means the nearest position inside: a compiled module never reads or writes anything else.
"""

from dataclasses import dataclass

import numpy as np

from cloud.compiler.ir import Array, Shape


def inside(indices: Array, size: int) -> Array:
    """Indices as they are meant: from 0 to ``size`` - 1."""
    clipped: Array = np.clip(np.where(indices < 0, indices + size, indices), 0, size - 1)
    return clipped


@dataclass(frozen=True, slots=True)
class Gather:
    """``x[.., indices, ..]``: whole slices along ``axis``. x [*A, n, *B], indices [*I] -> [*A, *I, *B]."""

    axis: int

    def shape(self, *operands: Shape) -> Shape:
        """The indices' shape takes the axis's place."""
        x, indices = operands
        if not 0 <= self.axis < len(x):
            raise ValueError(f"gather: axis {self.axis} of {x}")
        return (*x[: self.axis], *indices, *x[self.axis + 1 :])

    def dtype(self, *operands: str) -> str:
        """Unchanged."""
        _require_i32(operands[1])
        return operands[0]

    def evaluate(self, *operands: Array) -> Array:
        """numpy's take."""
        x, indices = operands
        return np.take(x, inside(indices, x.shape[self.axis]), axis=self.axis)


@dataclass(frozen=True, slots=True)
class TakeAlong:
    """Every element of the result has an index of its own along ``axis`` (``torch.gather``)."""

    axis: int

    def shape(self, *operands: Shape) -> Shape:
        """The indices' shape. It may be smaller than the operand's, never larger but along the axis."""
        x, indices = operands
        _require_smaller(indices, x, self.axis)
        return indices

    def dtype(self, *operands: str) -> str:
        """Unchanged."""
        _require_i32(operands[1])
        return operands[0]

    def evaluate(self, *operands: Array) -> Array:
        """numpy's advanced indexing."""
        x, indices = operands
        result: Array = x[_along(indices, x.shape, self.axis)]
        return result


@dataclass(frozen=True, slots=True)
class Scatter:
    """x with slices along ``axis`` replaced or, with ``add``, added to: the reverse of :class:`Gather`.

    Operands: x [*A, n, *B], indices [*I], source [*A, *I, *B]. The last source for a place counts.
    """

    axis: int
    add: bool = False

    def shape(self, *operands: Shape) -> Shape:
        """x's shape."""
        x, indices, source = operands
        if Gather(self.axis).shape(x, indices) != source:
            raise ValueError(f"scatter: {operands} along axis {self.axis}")
        return x

    def dtype(self, *operands: str) -> str:
        """Unchanged."""
        _require_i32(operands[1])
        if operands[0] != operands[2]:
            raise ValueError(f"scatter: of {operands}")
        return operands[0]

    def evaluate(self, *operands: Array) -> Array:
        """Slices in the order of their indices."""
        x, indices, source = operands
        result = np.array(x)
        rows = np.moveaxis(result, self.axis, 0)
        before, after = x.shape[: self.axis], x.shape[self.axis + 1 :]
        given = np.moveaxis(source.reshape(*before, indices.size, *after), self.axis, 0)
        _put(rows, (inside(indices.reshape(-1), x.shape[self.axis]),), given, self.add)
        return result


@dataclass(frozen=True, slots=True)
class PutAlong:
    """x with single elements replaced or, with ``add``, added to: the reverse of :class:`TakeAlong`.

    Operands: x, indices, source; the last two have one shape.
    """

    axis: int
    add: bool = False

    def shape(self, *operands: Shape) -> Shape:
        """x's shape."""
        x, indices, source = operands
        _require_smaller(indices, x, self.axis)
        if indices != source:
            raise ValueError(f"put along: {operands}")
        return x

    def dtype(self, *operands: str) -> str:
        """Unchanged."""
        return Scatter(self.axis).dtype(*operands)

    def evaluate(self, *operands: Array) -> Array:
        """Elements in row-major order."""
        x, indices, source = operands
        result = np.array(x)
        _put(result, _along(indices, x.shape, self.axis), source, self.add)
        return result


def _along(indices: Array, shape: Shape, axis: int) -> tuple[Array, ...]:
    at: list[Array] = [*np.indices(indices.shape, sparse=True)]
    at[axis] = inside(indices, shape[axis])
    return tuple(at)


def _put(target: Array, at: tuple[Array, ...], source: Array, add: bool) -> None:
    if add:
        np.add.at(target, at, source)
    else:
        target[at] = source


def _require_i32(dtype: str) -> None:
    if dtype != "i32":
        raise ValueError(f"indices of {dtype}")


def _require_smaller(indices: Shape, x: Shape, axis: int) -> None:
    if not 0 <= axis < len(x) == len(indices):
        raise ValueError(f"axis {axis} of {x} with indices {indices}")
    if any(indices[other] > x[other] for other in range(len(x)) if other != axis):
        raise ValueError(f"indices {indices} reach outside {x}")

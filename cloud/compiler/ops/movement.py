"""The same numbers in another order or place."""

from dataclasses import dataclass
from math import prod

import numpy as np

from cloud.compiler.ir import NUMPY, Array, Shape


@dataclass(frozen=True, slots=True)
class Reshape:
    """The same numbers, row-major, under another shape. No code: the memory plan gives both one address."""

    to: Shape

    def shape(self, *operands: Shape) -> Shape:
        """``to``, which has as many elements as the operand."""
        (x,) = operands
        if prod(x) != prod(self.to):
            raise ValueError(f"reshape: {x} and {self.to} hold different numbers of elements")
        return self.to

    def dtype(self, *operands: str) -> str:
        """Unchanged."""
        return operands[0]

    def evaluate(self, *operands: Array) -> Array:
        """numpy's reshape."""
        (x,) = operands
        return x.reshape(self.to)


@dataclass(frozen=True, slots=True)
class Permute:
    """Axis i of the result is axis ``axes[i]`` of the operand."""

    axes: tuple[int, ...]

    def shape(self, *operands: Shape) -> Shape:
        """The sizes, permuted. Raises ValueError for anything but a permutation."""
        (x,) = operands
        if sorted(self.axes) != list(range(len(x))):
            raise ValueError(f"permute: {self.axes} is no permutation of {len(x)} axes")
        return tuple(x[axis] for axis in self.axes)

    def dtype(self, *operands: str) -> str:
        """Unchanged."""
        return operands[0]

    def evaluate(self, *operands: Array) -> Array:
        """numpy's transpose."""
        (x,) = operands
        return np.array(x.transpose(self.axes), order="C")


@dataclass(frozen=True, slots=True)
class Cast:
    """Between integers of different widths, at the border: i64 and bool inputs become i32, outputs return.

    i64 -> i32 keeps the low half: indices of arrays that fit a memory of 2 GiB.
    """

    to: str

    def shape(self, *operands: Shape) -> Shape:
        """Unchanged."""
        return operands[0]

    def dtype(self, *operands: str) -> str:
        """``to``."""
        if "f32" in (self.to, *operands):
            raise ValueError(f"cast: {operands} to {self.to}; the functions to_f32 and to_i32 do this")
        return self.to

    def evaluate(self, *operands: Array) -> Array:
        """numpy's astype."""
        (x,) = operands
        return x.astype(NUMPY[self.to])


@dataclass(frozen=True, slots=True)
class Slice:
    """Positions ``start``, ``start + step``, ... before ``stop`` of one axis; all counted from the front."""

    axis: int
    start: int
    stop: int
    step: int = 1

    def shape(self, *operands: Shape) -> Shape:
        """The axis becomes shorter. Raises ValueError outside the array, and for no positions at all."""
        (x,) = operands
        if not 0 <= self.start < self.stop <= x[self.axis] or self.step < 1:
            raise ValueError(f"slice: {self} of {x}")
        size = -(-(self.stop - self.start) // self.step)
        return (*x[: self.axis], size, *x[self.axis + 1 :])

    def dtype(self, *operands: str) -> str:
        """Unchanged."""
        return operands[0]

    def evaluate(self, *operands: Array) -> Array:
        """numpy's slice."""
        (x,) = operands
        taken = [slice(None)] * x.ndim
        taken[self.axis] = slice(self.start, self.stop, self.step)
        return np.array(x[tuple(taken)], order="C")


@dataclass(frozen=True, slots=True)
class Concat:
    """Any number of arrays, one after another along an axis."""

    axis: int

    def shape(self, *operands: Shape) -> Shape:
        """Sizes along the axis add up; the others must be equal."""
        before, after = slice(self.axis), slice(self.axis + 1, None)
        if len({(one[before], one[after]) for one in operands}) != 1 or self.axis >= len(operands[0]):
            raise ValueError(f"concat: {operands} along axis {self.axis}")
        size = sum(one[self.axis] for one in operands)
        return (*operands[0][before], size, *operands[0][after])

    def dtype(self, *operands: str) -> str:
        """Of all of them."""
        if len(set(operands)) != 1:
            raise ValueError(f"concat: of {operands}")
        return operands[0]

    def evaluate(self, *operands: Array) -> Array:
        """numpy's concatenate."""
        return np.concatenate(operands, axis=self.axis)


@dataclass(frozen=True, slots=True)
class Pad:
    """``before[i]`` and ``after[i]`` positions of ``value`` around axis i."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    value: float = 0.0

    def shape(self, *operands: Shape) -> Shape:
        """Longer axes."""
        (x,) = operands
        if any(one < 0 for one in (*self.before, *self.after)):
            raise ValueError(f"pad: {self}; a negative padding is a slice")
        return tuple(sum(sizes) for sizes in zip(self.before, x, self.after, strict=True))

    def dtype(self, *operands: str) -> str:
        """Unchanged."""
        return operands[0]

    def evaluate(self, *operands: Array) -> Array:
        """The operand in the middle of ``value``."""
        (x,) = operands
        result = np.full(self.shape(x.shape), self.value, x.dtype)
        result[tuple(slice(at, at + size) for at, size in zip(self.before, x.shape, strict=True))] = x
        return result


@dataclass(frozen=True, slots=True)
class Expand:
    """Axes of size one repeat, and new axes stand in front, as numpy broadcasts."""

    to: Shape

    def shape(self, *operands: Shape) -> Shape:
        """``to``. Raises ValueError when the operand doesn't broadcast to it."""
        if np.broadcast_shapes(*operands, self.to) != self.to:
            raise ValueError(f"expand: {operands} to {self.to}")
        return self.to

    def dtype(self, *operands: str) -> str:
        """Unchanged."""
        return operands[0]

    def evaluate(self, *operands: Array) -> Array:
        """numpy's broadcast_to."""
        return np.array(np.broadcast_to(operands[0], self.to), order="C")


@dataclass(frozen=True, slots=True)
class Flip:
    """These axes run the other way."""

    axes: tuple[int, ...]

    def shape(self, *operands: Shape) -> Shape:
        """Unchanged."""
        (x,) = operands
        if any(not 0 <= axis < len(x) for axis in self.axes):
            raise ValueError(f"flip: axes {self.axes} of {x}")
        return x

    def dtype(self, *operands: str) -> str:
        """Unchanged."""
        return operands[0]

    def evaluate(self, *operands: Array) -> Array:
        """numpy's flip."""
        return np.array(np.flip(operands[0], self.axes), order="C")


@dataclass(frozen=True, slots=True)
class Strided:
    """Any regular pattern of positions: sliding windows, a diagonal.

    Element [i, j, ..] is number ``offset + i * steps[0] + j * steps[1] + ..`` of the row-major operand.
    """

    to: Shape
    steps: tuple[int, ...]
    offset: int = 0

    def shape(self, *operands: Shape) -> Shape:
        """``to``. Raises ValueError when it reaches outside the operand."""
        (x,) = operands
        last = self.offset + sum((n - 1) * step for n, step in zip(self.to, self.steps, strict=True))
        if min(self.offset, *self.steps, 0) < 0 or last >= prod(x):
            raise ValueError(f"strided: {self} of {x}")
        return self.to

    def dtype(self, *operands: str) -> str:
        """Unchanged."""
        return operands[0]

    def evaluate(self, *operands: Array) -> Array:
        """Positions by arithmetic."""
        at = np.full(self.to, self.offset)
        for axis, step in enumerate(self.steps):
            at += step * np.arange(self.to[axis]).reshape(-1, *[1] * (len(self.to) - axis - 1))
        result: Array = operands[0].reshape(-1)[at]
        return result

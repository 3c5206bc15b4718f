"""The operations of the intermediate representation, each with its numpy meaning.

An operation is a frozen dataclass: its attributes, the shape of its result, its meaning. To add one, write it
here, lower an ATen operator to it (:mod:`cloud.compiler.aten`) and give it a kernel
(:mod:`cloud.compiler.backend`); the tests then compare the three with torch.
"""

from dataclasses import dataclass
from enum import StrEnum
from math import prod

import numpy as np

from cloud.compiler.ir import Array, Shape


class Activation(StrEnum):
    """A function of one number that a kernel applies to its result before it is stored."""

    NONE = "none"
    RELU = "relu"


def activate(x: Array, activation: Activation) -> Array:
    """The meaning of an activation: NaN stays NaN and -0.0 stays -0.0, as in torch."""
    match activation:
        case Activation.NONE:
            return x
        case Activation.RELU:
            return np.where(x < 0, np.zeros_like(x), x)


@dataclass(frozen=True, slots=True)
class Linear:
    """``activation(x @ w.T + b)``: x [..., K], w [N, K], optional b [N] -> [..., N]."""

    activation: Activation = Activation.NONE

    def shape(self, *operands: Shape) -> Shape:
        """[..., K], [N, K] and perhaps [N] -> [..., N]."""
        x, w, *b = operands
        if len(w) != 2 or x[-1:] != w[1:] or any(one != w[:1] for one in b):
            raise ValueError(f"linear: {operands} do not fit together")
        return (*x[:-1], w[0])

    def evaluate(self, *operands: Array) -> Array:
        """One matrix product and one addition."""
        x, w, *b = operands
        y = x @ w.T
        return activate(y + b[0] if b else y, self.activation)


@dataclass(frozen=True, slots=True)
class Relu:
    """``max(x, 0)`` elementwise; NaN stays NaN."""

    def shape(self, *operands: Shape) -> Shape:
        """Unchanged."""
        (x,) = operands
        return x

    def evaluate(self, *operands: Array) -> Array:
        """See :func:`activate`."""
        (x,) = operands
        return activate(x, Activation.RELU)


@dataclass(frozen=True, slots=True)
class Add:
    """``x + y`` elementwise; y's shape is x's or its last dimensions (a bias), and is then repeated."""

    def shape(self, *operands: Shape) -> Shape:
        """x's shape."""
        x, y = operands
        if not y or x[-len(y) :] != y:
            raise ValueError(f"add: {y} is neither {x} nor its last dimensions")
        return x

    def evaluate(self, *operands: Array) -> Array:
        """numpy's own broadcasting."""
        x, y = operands
        return x + y


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

    def evaluate(self, *operands: Array) -> Array:
        """numpy's reshape."""
        (x,) = operands
        return x.reshape(self.to)


@dataclass(frozen=True, slots=True)
class Identity:
    """The operand itself: dropout outside training, a copy. The first pass removes it."""

    def shape(self, *operands: Shape) -> Shape:
        """Unchanged."""
        (x,) = operands
        return x

    def evaluate(self, *operands: Array) -> Array:
        """The operand."""
        (x,) = operands
        return x

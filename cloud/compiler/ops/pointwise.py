"""One expression at every position."""

from dataclasses import dataclass

import numpy as np

from cloud.compiler.expr import Expr, arity, dtype_of
from cloud.compiler.expr import evaluate as evaluate_expression
from cloud.compiler.ir import Array, Shape


@dataclass(frozen=True, slots=True)
class Pointwise:
    """``expr`` over the operands, which are broadcast to one shape as numpy does."""

    expr: Expr

    def shape(self, *operands: Shape) -> Shape:
        """The broadcast shape. Raises ValueError when there is none."""
        if arity(self.expr) > len(operands):
            raise ValueError(f"pointwise: an expression of {arity(self.expr)} operands got {len(operands)}")
        return np.broadcast_shapes(*operands)

    def dtype(self, *operands: str) -> str:
        """As the expression says."""
        return dtype_of(self.expr, operands)

    def evaluate(self, *operands: Array) -> Array:
        """numpy's own broadcasting."""
        shape = np.broadcast_shapes(*(one.shape for one in operands))
        return np.broadcast_to(evaluate_expression(self.expr, operands), shape).copy()

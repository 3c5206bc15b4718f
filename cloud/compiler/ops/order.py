"""Sorting."""

from dataclasses import dataclass

import numpy as np

from cloud.compiler.ir import Array, Shape


@dataclass(frozen=True, slots=True)
class ArgSort:
    """Positions along the last axis in the order of their numbers: equals stay in theirs, NaN is greatest."""

    descending: bool = False

    def shape(self, *operands: Shape) -> Shape:
        """Unchanged. Raises ValueError for a single number."""
        (x,) = operands
        if not x:
            raise ValueError("sort: a single number has no axis")
        return x

    def dtype(self, *_: str) -> str:
        """Positions are i32."""
        return "i32"

    def evaluate(self, *operands: Array) -> Array:
        """By rank: numpy has no descending order that leaves equals alone."""
        (x,) = operands
        _, rank = np.unique(x, return_inverse=True, equal_nan=True)
        rank = rank.reshape(x.shape)
        return np.argsort(-rank if self.descending else rank, axis=-1, kind="stable").astype(np.int32)

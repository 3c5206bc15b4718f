"""Along axes: sums, extremes, softmax, normalisation. All axes are given as non-negative numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from cloud.compiler.ir import Array, Shape


class ReduceKind(StrEnum):
    """How many numbers become one. MAX and MIN: NaN wins. ANY and ALL: truth values, of f32 or i32."""

    SUM = "sum"
    MEAN = "mean"
    MAX = "max"
    MIN = "min"
    PROD = "prod"
    ANY = "any"
    ALL = "all"


TRUTHS = frozenset({ReduceKind.ANY, ReduceKind.ALL})
EXTREMES = frozenset({ReduceKind.MAX, ReduceKind.MIN})
SCANS = frozenset({ReduceKind.SUM, ReduceKind.PROD, ReduceKind.MAX, ReduceKind.MIN})


@dataclass(frozen=True, slots=True)
class Reduce:
    """All positions along ``axes`` become one; these axes stay as size 1 (``keepdims``) or vanish."""

    kind: ReduceKind
    axes: tuple[int, ...]
    keepdims: bool = False

    def shape(self, *operands: Shape) -> Shape:
        """Without ``axes``, or with 1 in their place. Raises ValueError for axes that x has not."""
        (x,) = operands
        return _reduced(x, self.axes, self.keepdims)

    def dtype(self, *operands: str) -> str:
        """Truth values for ANY and ALL, otherwise unchanged. Raises ValueError for a mean of integers."""
        if self.kind is ReduceKind.MEAN and operands[0] != "f32":
            raise ValueError("mean: of f32 only")
        return "i32" if self.kind in TRUTHS else operands[0]

    def evaluate(self, *operands: Array) -> Array:
        """numpy's own reductions."""
        (x,) = operands
        dtype = np.dtype(np.int32) if self.kind in TRUTHS else x.dtype
        with np.errstate(all="ignore"):
            return np.asarray(_MEANINGS[self.kind](x, axis=self.axes, keepdims=self.keepdims)).astype(dtype)


@dataclass(frozen=True, slots=True)
class ArgReduce:
    """Where along ``axis`` the extreme (MAX or MIN) is found: the first of equals; the first NaN wins."""

    kind: ReduceKind
    axis: int
    keepdims: bool = False

    def shape(self, *operands: Shape) -> Shape:
        """Without ``axis``, or with 1 in its place. Raises ValueError for no axis or an empty one."""
        (x,) = operands
        if self.kind not in EXTREMES or not x or x[self.axis] == 0:
            raise ValueError(f"arg{self.kind} of {x}")
        return _reduced(x, (self.axis,), self.keepdims)

    def dtype(self, *_: str) -> str:
        """Positions are i32."""
        return "i32"

    def evaluate(self, *operands: Array) -> Array:
        """numpy's argmax and argmin do the same with ties and NaN."""
        (x,) = operands
        find = np.argmax if self.kind is ReduceKind.MAX else np.argmin
        return np.asarray(find(x, axis=self.axis, keepdims=self.keepdims)).astype(np.int32)


@dataclass(frozen=True, slots=True)
class Cumulate:
    """Running SUM, PROD, MAX or MIN along ``axis``: position i is the reduction of positions 0 to i."""

    kind: ReduceKind
    axis: int

    def shape(self, *operands: Shape) -> Shape:
        """Unchanged. Raises ValueError for an axis that x has not."""
        (x,) = operands
        if self.kind not in SCANS or not 0 <= self.axis < len(x):
            raise ValueError(f"cumulative {self.kind} of {x} along {self.axis}")
        return x

    def dtype(self, *operands: str) -> str:
        """Unchanged."""
        return operands[0]

    def evaluate(self, *operands: Array) -> Array:
        """numpy's accumulate."""
        (x,) = operands
        with np.errstate(all="ignore"):
            return np.asarray(_STEPS[self.kind].accumulate(x, axis=self.axis, dtype=x.dtype))


@dataclass(frozen=True, slots=True)
class Softmax:
    """exp(x - max) / sum along ``axis``; its logarithm if ``log``: x - max - log(sum(exp(x - max)))."""

    axis: int
    log: bool = False

    def shape(self, *operands: Shape) -> Shape:
        """Unchanged. Raises ValueError for an axis that x has not."""
        (x,) = operands
        if not 0 <= self.axis < len(x):
            raise ValueError(f"softmax of {x} along {self.axis}")
        return x

    def dtype(self, *operands: str) -> str:
        """Of f32 only."""
        return _only_f32("softmax", operands)

    def evaluate(self, *operands: Array) -> Array:
        """By the maximum, as torch does, so that nothing overflows."""
        (x,) = operands
        with np.errstate(all="ignore"):
            centred = x - x.max(self.axis, keepdims=True, initial=-np.inf)
            total = np.exp(centred).sum(self.axis, keepdims=True)
            return np.asarray(centred - np.log(total) if self.log else np.exp(centred) / total)


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last ``axes`` axes. Operands x, weight, bias.

    ``rms``: x / sqrt(mean(x * x) + eps) * weight: neither mean nor bias. Bias, or both, may be left out.
    The variance is of two passes.
    """

    axes: int
    eps: float
    rms: bool = False

    def shape(self, *operands: Shape) -> Shape:
        """That of x. Raises ValueError when weight or bias are not of the normalised shape."""
        x, *affine = operands
        if not 0 < self.axes <= len(x) or len(affine) > (1 if self.rms else 2):
            raise ValueError(f"layer norm of {operands} over {self.axes} axes")
        if any(one != x[len(x) - self.axes :] for one in affine):
            raise ValueError(f"layer norm of {x} over {self.axes} axes with {affine}")
        return x

    def dtype(self, *operands: str) -> str:
        """Of f32 only."""
        return _only_f32("layer norm", operands)

    def evaluate(self, *operands: Array) -> Array:
        """As written."""
        x, *affine = operands
        axes = tuple(range(x.ndim - self.axes, x.ndim))
        centred = x if self.rms else x - x.mean(axes, keepdims=True)
        normal = centred / np.sqrt((centred * centred).mean(axes, keepdims=True) + x.dtype.type(self.eps))
        for operand, step in zip(affine, (np.multiply, np.add), strict=False):
            normal = step(normal, operand)
        return np.asarray(normal)


def _reduced(x: Shape, axes: tuple[int, ...], keepdims: bool) -> Shape:
    if len(set(axes)) != len(axes) or not all(0 <= axis < len(x) for axis in axes):
        raise ValueError(f"reduce: {x} along {axes}")
    if keepdims:
        return tuple(1 if axis in axes else size for axis, size in enumerate(x))
    return tuple(size for axis, size in enumerate(x) if axis not in axes)


def _only_f32(what: str, operands: tuple[str, ...]) -> str:
    if set(operands) != {"f32"}:
        raise ValueError(f"{what} of {operands}")
    return "f32"


_MEANINGS: Mapping[ReduceKind, Callable[..., Array]] = {
    ReduceKind.SUM: np.sum,
    ReduceKind.MEAN: np.mean,
    ReduceKind.MAX: np.max,
    ReduceKind.MIN: np.min,
    ReduceKind.PROD: np.prod,
    ReduceKind.ANY: np.any,
    ReduceKind.ALL: np.all,
}
_STEPS: Mapping[ReduceKind, np.ufunc] = {
    ReduceKind.SUM: np.add,
    ReduceKind.PROD: np.multiply,
    ReduceKind.MAX: np.maximum,
    ReduceKind.MIN: np.minimum,
}

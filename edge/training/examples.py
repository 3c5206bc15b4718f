"""Examples of one source: checked arrays, split into those to train on and those held out."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import ShoalError
from shared.learning import Source

Array = NDArray[Any]
_KINDS = "biuf"  # truth values, integers, floating point numbers


class BadData(ShoalError):
    """Examples that can't be trained on. The message says which array, and what would do."""


@dataclass(frozen=True, slots=True)
class Examples:
    """``x``, ``y``: [n, ...] each; ``x_held``, ``y_held``: [m, ...], never trained on."""

    x: Array
    y: Array
    x_held: Array
    y_held: Array

    @property
    def counts(self) -> Source:
        """All of it that leaves the device."""
        return Source(samples=len(self.x), held_out=len(self.x_held))

    @property
    def size_bytes(self) -> int:
        """Memory that the arrays take up."""
        return sum(one.nbytes for one in (self.x, self.y, self.x_held, self.y_held))


def examples_of(arrays: Mapping[str, object], held_out_ratio: float, seed: str) -> Examples:
    """Check ``x`` and ``y``, and ``x_held`` and ``y_held`` where they are given.

    Else every example is held out with the probability ``held_out_ratio``, by ``seed`` and its index alone:
    the same ones in every round, also when more are added at the end. Raises :class:`BadData`.
    """
    x, y = _array(arrays, "x"), _array(arrays, "y")
    _check_pair(x, y, "x", "y")
    if "x_held" in arrays or "y_held" in arrays:
        x_held, y_held = _array(arrays, "x_held"), _array(arrays, "y_held")
        _check_pair(x_held, y_held, "x_held", "y_held")
        if x_held.shape[1:] != x.shape[1:] or y_held.shape[1:] != y.shape[1:]:
            raise BadData(f"x_held is {list(x_held.shape)}, x is {list(x.shape)}: the items differ in shape")
        return Examples(x, y, x_held, y_held)
    held = held_out(np.arange(len(x)), held_out_ratio, seed)
    return Examples(x[~held], y[~held], x[held], y[held])


def held_out(indexes: NDArray[np.int64], ratio: float, seed: str) -> NDArray[np.bool_]:
    """Which of these are kept for evaluation: a hash of seed and index decides (SplitMix64's mixing)."""
    start = np.uint64(int.from_bytes(sha256(seed.encode()).digest()[:8], "little"))
    z = start + (indexes.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    chosen: NDArray[np.bool_] = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53 < ratio
    return chosen


def _array(arrays: Mapping[str, object], name: str) -> Array:
    if name not in arrays:
        raise BadData(f"there is no array {name!r}; there are {', '.join(sorted(arrays)) or 'none'}")
    array = np.asarray(arrays[name])
    if array.dtype.kind not in _KINDS:
        raise BadData(f"{name} holds {array.dtype}; numbers are wanted")
    if array.ndim == 0:
        raise BadData(f"{name} is a single number; its first axis must be the examples")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BadData(f"{name} holds numbers that are not finite")
    return array


def _check_pair(x: Array, y: Array, x_name: str, y_name: str) -> None:
    if len(x) != len(y):
        raise BadData(f"{len(x)} examples in {x_name}, {len(y)} in {y_name}")

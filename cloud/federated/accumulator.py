"""The sum of a round's updates in whole numbers, so that every way to add them up gives the same bits.

    q = rint(delta * 2**24)      acc += weight * q      mean = acc / (weights * 2**24)

Integer addition commutes and never rounds. The order of arrival, partial sums of gateways, a replay after a
crash and masks that cancel therefore all end in the same model, which floats can't promise. The price is a
resolution of 2**-24 and a bound: clip * 2**24 * (sum of weights) < 2**63, checked when a job is made.

One accumulator is 8 bytes a parameter, however many clients. An addition is bound by memory, so it works in
blocks that stay in the cache. A block whose values are all below a quarter takes a short cut: ``delta +
0.75`` lies in [0.5, 1), where neighbouring float32 numbers are exactly 2**-24 apart. That one addition has
therefore rounded (half to even, like rint), and its bits, read as an integer, are q plus a constant. The
constants are counted in ``_excess`` and taken out when the sum is read; until then the arithmetic is modulo
2**64, which loses nothing. Where a block leaves [0.5, 1), it is rounded in the plain way.
"""

import numpy as np
from numpy.typing import NDArray

from shared.errors import ConfigError, LocalError
from shared.vectors import F32, Vector

FRACTION_BITS = 24
BLOCK = 1 << 18  # parameters; 3 MiB of scratch. Smaller ones cost more in calls than they save in cache
DELTA_MAX = 2.0 ** (62 - FRACTION_BITS)  # beyond this, a single number does not fit

_ONE = np.float32(2.0**FRACTION_BITS)
_HALFWAY = np.float32(0.75)
_LOW, _HIGH = 0.5, 1.0  # where float32 numbers are 2**-24 apart
_EXCESS = int(_HALFWAY.view(np.int32))

Total = NDArray[np.int64]


def check_bounds(weight_max_total: int, clip: float) -> None:
    """Raises :class:`ConfigError` when updates up to ``clip`` with so much weight in all could overflow."""
    if not 0 < clip <= DELTA_MAX:
        raise ConfigError(f"clip {clip:g}: more than 0 and at most {DELTA_MAX:g} is possible")
    if round(clip * 2**FRACTION_BITS) * weight_max_total >= 2**63:
        most = (2**63 - 1) // round(clip * 2**FRACTION_BITS)
        raise ConfigError(
            f"a clip of {clip:g} leaves room for a total weight of {most:,} and {weight_max_total:,} are "
            "possible: lower the clip, the largest number of samples or the number of clients"
        )


class Accumulator:
    """The running sum over [n_params], and what it counts for. Not for values that the gate has not seen."""

    def __init__(self, n_params: int, block: int = BLOCK) -> None:
        self.n_params = n_params
        self.weight = 0
        self.clients = 0
        self._sum: Total = np.zeros(n_params, np.int64)
        self._parts = [slice(at, min(at + block, n_params)) for at in range(0, n_params, block)]
        self._excess = [0] * len(self._parts)  # by how much each number of the part is too large
        self._rounded = np.empty(min(block, n_params), F32)
        self._wide = np.empty(min(block, n_params), np.int64)

    def add(self, delta: Vector, weight: int) -> None:
        """One client's float32 vector [n_params].

        Raises :class:`LocalError` for another shape or type or a weight below 1, and, with the sum spoiled,
        for numbers that are not finite or beyond ``DELTA_MAX``.
        """
        self._check(delta, np.dtype(F32), weight)
        scale = np.asarray(weight, np.int64)
        for index, part in enumerate(self._parts):
            numbers, excess = self._quantised(delta[part])
            wide = np.multiply(numbers, scale, out=self._wide[: numbers.size])
            np.add(self._sum[part], wide, out=self._sum[part])
            self._excess[index] += excess * weight
        self.weight += weight
        self.clients += 1

    def add_sum(self, total: Total, weight: int, clients: int) -> None:
        """A gateway's exact total [n_params] over many clients. Raises :class:`LocalError` like ``add``."""
        self._check(total, np.dtype(np.int64), weight)
        np.add(self._sum, total, out=self._sum)
        self.weight += weight
        self.clients += clients

    @property
    def total(self) -> Total:
        """The exact sum [n_params], weights times whole numbers: what a gateway sends. A view, to be read."""
        for part, excess in zip(self._parts, self._excess, strict=True):
            self._sum[part] -= _wrapped(excess)
        self._excess = [0] * len(self._parts)
        return self._sum

    def mean(self) -> Vector:
        """A new vector [n_params], the weighted mean. Raises :class:`LocalError` when nothing was added."""
        if not self.weight:
            raise LocalError("the mean of no updates")
        total, mean = self.total, np.empty(self.n_params, F32)
        for part in self._parts:
            mean[part] = total[part] / (float(self.weight) * 2.0**FRACTION_BITS)
        return mean

    def _quantised(self, values: Vector) -> tuple[NDArray[np.signedinteger], int]:
        """Scratch that holds ``rint(values * 2**24)``, and the constant by which it is too large."""
        rounded = self._rounded[: values.size]
        np.add(values, _HALFWAY, out=rounded)
        if np.minimum.reduce(rounded) >= _LOW and np.maximum.reduce(rounded) < _HIGH:
            return rounded.view(np.int32), _EXCESS
        if not np.maximum.reduce(np.abs(values)) <= DELTA_MAX:
            raise LocalError("numbers that are not finite or too large were let through to the sum")
        np.multiply(values, _ONE, out=rounded)
        np.rint(rounded, out=rounded)
        wide = self._wide[: values.size]
        np.copyto(wide, rounded, casting="unsafe")
        return wide, 0

    def _check(self, array: NDArray[np.generic], dtype: np.dtype[np.generic], weight: int) -> None:
        if array.shape != (self.n_params,) or array.dtype != dtype or weight < 1:
            raise LocalError(
                f"{array.dtype} of shape {array.shape} with weight {weight} can't be added "
                f"to {self.n_params} parameters"
            )


def _wrapped(number: int) -> np.int64:
    """The number modulo 2**64 as an int64."""
    return np.int64((number + 2**63) % 2**64 - 2**63)

"""The sum of a round's updates in whole numbers, so that every way to add them up gives the same bits.

    q = rint(delta * 2**24)      acc += weight * q      mean = acc / (weights * 2**24)

Integer addition commutes and never rounds. The order of arrival, partial sums of gateways, a replay after a
crash and masks that cancel therefore all end in the same model, which floats can't promise. The price is a
resolution of 2**-24 and a bound: clip * 2**24 * (sum of weights) < 2**63, checked when a job is made.

One accumulator is 12 bytes a parameter, however many clients. An addition is bound by memory, so it works
in blocks that stay in the cache, and does what it can in 32 bits:

    update ──+ 0.75──> bits ──x weight, modulo 2**32──> stage (int32) ──when it could overflow──> sum (int64)
                  └── a value beyond a quarter, or a weight too large for 32 bits ──────────────────^

``delta + 0.75`` lies in [0.5, 1), where neighbouring float32 numbers are exactly 2**-24 apart. That one
addition has therefore rounded (half to even, like rint), and its bits, read as an integer, are q plus a
constant. The largest |q| of the block says what the stage can hold at most; as long as that is below 2**31,
arithmetic modulo 2**32 loses nothing, and the constants, counted in ``_excess``, are taken out at the end.
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
_EXCESS = _HALFWAY.view(np.int32)
_STAGE_MAX = 2**31

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
        self._stage: NDArray[np.int32] = np.zeros(n_params, np.int32)
        self._parts = [slice(at, min(at + block, n_params)) for at in range(0, n_params, block)]
        self._excess = [0] * len(self._parts)  # by how much each number of the stage is too large
        self._most = [0] * len(self._parts)  # how large one can be without that
        self._rounded = np.empty(min(block, n_params), F32)
        self._wide = np.empty(min(block, n_params), np.int64)

    def add(self, delta: Vector, weight: int) -> None:
        """One client's float32 vector [n_params].

        Raises :class:`LocalError` for another shape or type or a weight below 1, and, with the sum spoiled,
        for numbers that are not finite or beyond ``DELTA_MAX``.
        """
        self._check(delta, np.dtype(F32), weight)
        for index, part in enumerate(self._parts):
            self._add(index, part, delta[part], weight)
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
        for index, part in enumerate(self._parts):
            self._flush(index, part)
        return self._sum

    def mean(self) -> Vector:
        """A new vector [n_params], the weighted mean. Raises :class:`LocalError` when nothing was added."""
        if not self.weight:
            raise LocalError("the mean of no updates")
        total, mean = self.total, np.empty(self.n_params, F32)
        for part in self._parts:
            mean[part] = total[part] / (float(self.weight) * 2.0**FRACTION_BITS)
        return mean

    def _add(self, index: int, part: slice, values: Vector, weight: int) -> None:
        rounded = self._rounded[: values.size]
        np.add(values, _HALFWAY, out=rounded)
        low, high = np.minimum.reduce(rounded), np.maximum.reduce(rounded)
        if not (low >= _LOW and high < _HIGH):
            self._add_wide(part, self._quantised(values, rounded), weight)
            return
        bits, most = rounded.view(np.int32), weight * int(max(high - _HALFWAY, _HALFWAY - low) * _ONE)
        if max(most, weight) >= _STAGE_MAX:
            bits -= _EXCESS
            self._add_wide(part, bits, weight)
            return
        if self._most[index] + most >= _STAGE_MAX:
            self._flush(index, part)
        np.multiply(bits, np.int32(weight), out=bits)
        np.add(self._stage[part], bits, out=self._stage[part])
        self._excess[index] += int(_EXCESS) * weight
        self._most[index] += most

    def _add_wide(self, part: slice, numbers: NDArray[np.signedinteger], weight: int) -> None:
        wide = np.multiply(numbers, np.int64(weight), out=self._wide[: numbers.size])
        np.add(self._sum[part], wide, out=self._sum[part])

    def _flush(self, index: int, part: slice) -> None:
        """From the stage to the sum."""
        if not self._excess[index]:
            return
        stage, wide = self._stage[part], self._wide[: part.stop - part.start]
        np.subtract(stage, _wrapped(self._excess[index]), out=stage)
        np.copyto(wide, stage)
        np.add(self._sum[part], wide, out=self._sum[part])
        stage[:] = 0
        self._excess[index] = self._most[index] = 0

    def _quantised(self, values: Vector, scratch: Vector) -> Total:
        """``rint(values * 2**24)``, by way of ``scratch``."""
        if not np.maximum.reduce(np.abs(values)) <= DELTA_MAX:
            raise LocalError("numbers that are not finite or too large were let through to the sum")
        np.multiply(values, _ONE, out=scratch)
        np.rint(scratch, out=scratch)
        wide = self._wide[: values.size]
        np.copyto(wide, scratch, casting="unsafe")
        return wide

    def _check(self, array: NDArray[np.generic], dtype: np.dtype[np.generic], weight: int) -> None:
        if array.shape != (self.n_params,) or array.dtype != dtype or weight < 1:
            raise LocalError(
                f"{array.dtype} of shape {array.shape} with weight {weight} can't be added "
                f"to {self.n_params} parameters"
            )


def _wrapped(number: int) -> np.int32:
    """The number modulo 2**32 as an int32."""
    return np.int32((number + 2**31) % 2**32 - 2**31)

"""The validation gate: what an update has to pass before it touches anything.

    header ──check_header──> parts ──check_bytes──> decode ──check_delta──> Norms.add, Accumulator.add
                                                        └────check_sum───> Accumulator.add_sum

Each check is a pure function that gives a reason, or None for "pass". Devices are strangers: every number
of a header is a claim. The cheap checks come first, so that nonsense costs a header and not a decompression.
A check of norms can't stop a careful attacker; the rules of ``cloud/federated/robust.py`` are for that.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite, sqrt
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cloud.federated.accumulator import FRACTION_BITS
from shared.codecs import SUM
from shared.learning import COHORT_MAX, Reject, Task, UpdateHeader
from shared.vectors import Vector

ATTEMPTS_MAX = 8  # updates of one client that are looked at in one round
METRICS_MAX = 32
METRIC_NAME_MAX = 64
STEPS_MAX = 1_000_000
NORMS_KEPT = 128
NORMS_LEAST = 3  # accepted norms, before one can be called unusual
_BLOCK = 1 << 16


class Rejection(NamedTuple):
    """Why not. ``detail`` is fit to be sent back."""

    reason: Reject
    detail: str


@dataclass(frozen=True, slots=True)
class Expected:
    """What the open round wants. ``staleness_max``: how many versions behind an update may be; 0 unless
    the job is asynchronous. ``codecs`` with "sum": gateways may send totals."""

    task: Task
    version: int
    layout_hash: str
    n_params: int
    codecs: frozenset[str]
    samples_max: int
    size_bytes_max: int
    staleness_max: int = 0


def check_client(client: str, cohort: Collection[str], attempts: int) -> Rejection | None:
    """Whether it was asked, and has not tried too often in this round."""
    if client not in cohort:
        return Rejection(Reject.NOT_ASKED, "not in the cohort of this round")
    if attempts >= ATTEMPTS_MAX:
        return Rejection(Reject.TOO_MANY, f"{attempts} updates in one round")
    return None


# The header -----------------------------------------------------------------------------------------


def check_header(header: UpdateHeader, expected: Expected) -> Rejection | None:
    """The first rule that it breaks."""
    for rule in _RULES:
        problem = rule(header, expected)
        if problem:
            return problem
    return None


def _task(header: UpdateHeader, expected: Expected) -> Rejection | None:
    if header.task != expected.task:
        return Rejection(Reject.WRONG_TASK, f"{expected.task} was asked, this is {header.task}")
    return None


def _version(header: UpdateHeader, expected: Expected) -> Rejection | None:
    if not 0 <= expected.version - header.version <= expected.staleness_max:
        return Rejection(Reject.WRONG_VERSION, f"from version {header.version} instead of {expected.version}")
    return None


def _layout(header: UpdateHeader, expected: Expected) -> Rejection | None:
    if header.layout_hash != expected.layout_hash:
        return Rejection(Reject.WRONG_LAYOUT, "the layout of another model")
    return None


def _size(header: UpdateHeader, expected: Expected) -> Rejection | None:
    if header.n_params != expected.n_params:
        return Rejection(Reject.WRONG_SIZE, f"{header.n_params} parameters instead of {expected.n_params}")
    least, most = (1, expected.size_bytes_max) if header.task is Task.TRAIN else (0, 0)
    if not least <= header.size_bytes <= most:
        return Rejection(Reject.WRONG_SIZE, f"{header.size_bytes} bytes; {least} to {most} are possible")
    return None


def _codec(header: UpdateHeader, expected: Expected) -> Rejection | None:
    if header.task is Task.TRAIN and header.codec not in expected.codecs:
        return Rejection(Reject.UNREADABLE, f"codec {header.codec[:32]!r} was not asked for")
    return None


def _members(header: UpdateHeader, _expected: Expected) -> Rejection | None:
    if header.codec == SUM:
        names = len(set(header.members))
        if not 1 <= header.clients <= COHORT_MAX or not names == len(header.members) == header.clients:
            return Rejection(Reject.WEIGHT, f"a sum of {header.clients} clients that names {names}")
    elif header.clients != 1 or header.members:
        return Rejection(Reject.WEIGHT, "only a sum has more than one client")
    return None


def _weight(header: UpdateHeader, expected: Expected) -> Rejection | None:
    most = expected.samples_max * header.clients
    if not 1 <= header.weight <= most:
        return Rejection(Reject.WEIGHT, f"{header.weight} samples; 1 to {most} are possible")
    if header.task is Task.TRAIN and not 1 <= header.steps <= STEPS_MAX:
        return Rejection(Reject.WEIGHT, f"{header.steps} steps; 1 to {STEPS_MAX} are possible")
    return None


def _metrics(header: UpdateHeader, expected: Expected) -> Rejection | None:
    metrics = header.metrics
    if len(metrics) > METRICS_MAX or any(len(name) > METRIC_NAME_MAX for name in metrics):
        return Rejection(Reject.METRICS, "too many metrics, or too long a name")
    if not all(map(isfinite, (header.train_s, *metrics.values()))) or header.train_s < 0:
        return Rejection(Reject.METRICS, "a metric is not finite")
    count, hits = metrics.get("count", 0.0), metrics.get("hits", 0.0)
    if not 0 <= hits <= count <= expected.samples_max * header.clients:
        return Rejection(Reject.METRICS, f"{hits:g} hits of {count:g} examples")
    if header.task is Task.EVALUATE and not count:
        return Rejection(Reject.METRICS, "an evaluation of no examples")
    return None


Rule = Callable[[UpdateHeader, Expected], Rejection | None]
_RULES: tuple[Rule, ...] = (_task, _version, _layout, _size, _codec, _members, _weight, _metrics)


# The content ----------------------------------------------------------------------------------------


def check_bytes(header: UpdateHeader, data: bytes) -> Rejection | None:
    """Whether the reassembled bytes are those that the header announced."""
    if len(data) != header.size_bytes:
        return Rejection(Reject.WRONG_SIZE, f"{len(data)} bytes instead of {header.size_bytes}")
    if sha256(data).hexdigest() != header.digest:
        return Rejection(Reject.WRONG_DIGEST, "the bytes have another SHA-256")
    return None


def check_delta(
    delta: Vector, norm: float, clip: float, norm_median: float | None, norm_ratio_max: float
) -> Rejection | None:
    """A decoded vector [n]: finite, every |coordinate| <= ``clip``, not much longer than what is usual.

    ``norm``: its :func:`norm_of`. ``norm_median``: of updates accepted before; None: nobody knows yet what is
    usual.
    """
    if delta.size:
        low, high = float(np.minimum.reduce(delta)), float(np.maximum.reduce(delta))
        if not (isfinite(low) and isfinite(high)):
            return Rejection(Reject.NOT_FINITE, "a coordinate is not a finite number")
        if max(-low, high) > clip:
            return Rejection(Reject.OUT_OF_RANGE, f"a coordinate of {max(-low, high):g}; clip is {clip:g}")
    if not norm_median:
        return None
    return _unusual(norm, norm_median, norm_ratio_max)


def check_sum(
    total: NDArray[np.int64], weight: int, clip: float, norm_median: float | None, norm_ratio_max: float
) -> Rejection | None:
    """A gateway's exact sum [n] of weight ``weight``: as for one device, of the mean that it stands for."""
    limit = weight * round(clip * 2**FRACTION_BITS)
    if total.size and not -limit <= int(total.min()) <= int(total.max()) <= limit:
        return Rejection(Reject.OUT_OF_RANGE, f"the mean has a coordinate beyond {clip:g}")
    if not norm_median:
        return None
    return _unusual(norm_of(total) / (weight * 2.0**FRACTION_BITS), norm_median, norm_ratio_max)


def _unusual(norm: float, norm_median: float, ratio_max: float) -> Rejection | None:
    if norm > ratio_max * norm_median:
        return Rejection(
            Reject.NORM, f"norm {norm:.3g}, more than {ratio_max:g} x the usual {norm_median:.3g}"
        )
    return None


def norm_of(vector: Vector | NDArray[np.int64]) -> float:
    """The Euclidean norm, summed in float64: the same bits each time for the same vector."""
    total = 0.0
    for start in range(0, vector.size, _BLOCK):
        total += float(np.add.reduce(np.square(vector[start : start + _BLOCK], dtype=np.float64)))
    return sqrt(total)


class Norms:
    """The running median of the norms of accepted updates: of the last ``NORMS_KEPT``.

    It lives as long as its job; ``values`` is what to store, and to start from again.
    """

    def __init__(self, values: Iterable[float] = ()) -> None:
        self._values: deque[float] = deque(values, NORMS_KEPT)

    def add(self, norm: float) -> None:
        """An update was accepted."""
        self._values.append(norm)

    @property
    def values(self) -> tuple[float, ...]:
        """Oldest first."""
        return tuple(self._values)

    @property
    def median(self) -> float | None:
        """None until ``NORMS_LEAST`` are known."""
        return median(self._values) if len(self._values) >= NORMS_LEAST else None

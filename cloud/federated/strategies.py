"""The strategies by name: what an update counts for, what becomes of the sum, how the model moves.

    sum      weight * delta is added as updates come (cloud/federated/accumulator.py); one vector of memory
    async    the same, and an update may start from an older version
    robust   updates wait on disk, and one rule reads all of them (cloud/federated/robust.py)

    update ──limited──> delta ──client_weight──> Accumulator ──mean──> finish ──> apply ──> next version
                                └───────────────> Tally ───────────────┘

Weights are whole numbers, also where a paper divides: FedNova's samples / steps and FedBuff's
1 / sqrt(1 + staleness) are rounded to a fraction of a power of two. A sum of them doesn't depend on the order
of arrival, so neither does the model.

FedProx is a matter of the device (``plan.proximal``); here it is fedavg.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite, nextafter, sqrt
from typing import Literal, NamedTuple

from cloud.federated.gate import norm_of
from cloud.federated.server import ServerStep, Stepped, adagrad, adam, descend, momentum, yogi
from shared.errors import ConfigError
from shared.learning import UpdateHeader
from shared.vectors import F32, Vector

Kind = Literal["sum", "robust", "async"]
Weighing = Literal["samples", "samples per step", "freshness"]

STEP_BITS = 10  # of samples / steps
FRESH_BITS = 16  # of 1 / sqrt(1 + staleness)


class Range(NamedTuple):
    """What an option may be, both ends included."""

    least: float
    most: float


_BELOW_1 = nextafter(1.0, 0.0)
RANGES: Mapping[str, Range] = {
    "lr": Range(1e-6, 100.0),  # of the server
    "momentum": Range(0.0, _BELOW_1),
    "beta1": Range(0.0, _BELOW_1),
    "beta2": Range(0.0, _BELOW_1),
    "tau": Range(1e-9, 1.0),  # how adaptive; larger is less
    "trim": Range(0.0, nextafter(0.5, 0.0)),  # share of clients cut off at each end
    "byzantine": Range(0.0, nextafter(0.5, 0.0)),  # share of clients that may lie
    "ratio": Range(1e-3, 1e3),  # of the usual norm, that an update is cut to
    "staleness_max": Range(0.0, 10_000.0),  # versions
}


@dataclass(frozen=True, slots=True)
class Strategy:
    """``options``: defaults in the table, the job's numbers after :func:`resolve`. ``gateways``: whether sums
    of many devices can be taken; that needs weights that are plain samples, and no look at the single
    update."""

    name: str
    kind: Kind = "sum"
    server: ServerStep = descend
    options: Mapping[str, float] = field(default_factory=lambda: {"lr": 1.0})
    weighing: Weighing = "samples"
    gateways: bool = False

    @property
    def staleness_max(self) -> int:
        """Versions that an update may be behind."""
        return int(self.options.get("staleness_max", 0))


_ADAPTIVE = {"beta1": 0.9, "beta2": 0.99, "tau": 1e-3}

STRATEGIES: Mapping[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy("fedavg", gateways=True),
        Strategy("fedavgm", server=momentum, options={"lr": 1.0, "momentum": 0.9}, gateways=True),
        Strategy("fedadagrad", server=adagrad, options={"lr": 0.1, "beta1": 0.0, "tau": 1e-3}, gateways=True),
        Strategy("fedadam", server=adam, options={"lr": 0.01, **_ADAPTIVE}, gateways=True),
        Strategy("fedyogi", server=yogi, options={"lr": 0.01, **_ADAPTIVE}, gateways=True),
        Strategy("fednova", weighing="samples per step"),
        Strategy("fedbuff", "async", options={"lr": 1.0, "staleness_max": 20.0}, weighing="freshness"),
        Strategy("trimmed-mean", "robust", options={"lr": 1.0, "trim": 0.2}),
        Strategy("median", "robust"),
        Strategy("multi-krum", "robust", options={"lr": 1.0, "byzantine": 0.2}),
        Strategy("norm-clipping", options={"lr": 1.0, "ratio": 1.0}),
    )
}


def resolve(name: str, options: Mapping[str, float]) -> Strategy:
    """The strategy with a job's numbers. Raises :class:`ConfigError`, which names what exists."""
    strategy = STRATEGIES.get(name)
    if strategy is None:
        raise ConfigError(f"no strategy {name!r}; there are {', '.join(STRATEGIES)}")
    for option, value in options.items():
        if option not in strategy.options:
            raise ConfigError(f"{name} has no option {option!r}; it has {', '.join(strategy.options)}")
        least, most = RANGES[option]
        if not (isfinite(value) and least <= value <= most):
            raise ConfigError(f"{name}: {option} is {value:g}; {least:g} to {most:g} is possible")
    return replace(strategy, options={**strategy.options, **options})


# What an update counts for ------------------------------------------------------------------------------


def client_weight(strategy: Strategy, header: UpdateHeader, staleness: int = 0) -> int:
    """The whole number that the update is multiplied by, at least 1.

    ``staleness``: versions since the one that it started from; an asynchronous strategy alone uses it.
    """
    match strategy.weighing:
        case "samples per step":
            return max(1, _rounded(header.weight << STEP_BITS, header.steps))
        case "freshness":
            return max(1, round((1 << FRESH_BITS) / sqrt(1 + staleness)))
        case _:
            return header.weight


def weight_max(strategy: Strategy, samples_max: int) -> int:
    """The most that one update can weigh: times the number of clients, it is what
    :func:`cloud.federated.accumulator.check_bounds` needs."""
    match strategy.weighing:
        case "samples per step":
            return samples_max << STEP_BITS
        case "freshness":
            return 1 << FRESH_BITS
        case _:
            return samples_max


def _rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def limited(strategy: Strategy, delta: Vector, norm_median: float | None) -> Vector:
    """The update as it is added: norm-clipping shortens it to ``ratio`` times the usual norm.

    ``norm_median``: as it was when the round opened. One that follows the updates of the round would make
    the model depend on their order.
    """
    ratio = strategy.options.get("ratio")
    if ratio is None or not norm_median:
        return delta
    norm = norm_of(delta)
    return delta if norm <= ratio * norm_median else delta * F32.type(ratio * norm_median / norm)


# What becomes of the sum --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tally:
    """What a round's updates amount to, in whole numbers: the same in any order."""

    clients: int = 0
    weight: int = 0  # of client_weight
    samples: int = 0
    sample_steps: int = 0  # samples x steps

    def plus(self, strategy: Strategy, header: UpdateHeader, staleness: int = 0) -> "Tally":
        """With one more update."""
        return Tally(
            self.clients + header.clients,
            self.weight + client_weight(strategy, header, staleness),
            self.samples + header.weight,
            self.sample_steps + header.weight * header.steps,
        )


def finish(strategy: Strategy, mean: Vector, tally: Tally) -> Vector:
    """From the accumulator's weighted mean [n] to the change that the server step takes.

    FedNova (Wang et al. 2020): ``(sum p_i steps_i) * sum p_i delta_i / steps_i`` with p_i the share of
    samples. FedBuff (Nguyen et al. 2022): the sum of ``delta / sqrt(1 + staleness)`` over the *number* of
    updates, so that a stale one counts less and its share goes to nobody. Else the mean itself.
    """
    match strategy.weighing:
        case "samples per step":
            per_step = tally.weight / (tally.samples << STEP_BITS)
            return mean * F32.type(per_step * tally.sample_steps / tally.samples)
        case "freshness":
            return mean * F32.type(tally.weight / (tally.clients << FRESH_BITS))
        case _:
            return mean


def apply(strategy: Strategy, x: Vector, delta: Vector, state: Mapping[str, Vector]) -> Stepped:
    """The next model [n] and the state to store with it, from the round's change [n]."""
    return strategy.server(strategy.options, x, delta, state)

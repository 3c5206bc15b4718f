"""What goes wrong in a simulated federation, decided by the seed alone: never by who asks first.

A *fate* is that of one device in one round, a *nature* that of one device for ever. Both are drawn from a
hash of the seed and the names, so that a change to one part of the simulation moves nothing in another.
"""

import random
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

import numpy as np

from shared.vectors import F32, Vector

DROP, DUPLICATE, LATE, POISON, SKEW_S = 0.2, 0.1, 0.1, 0.1, 5.0  # of the options without a number
HUGE, TIMES = 1e6, -10.0
DRIFT_MAX = 0.02  # of a clock that is skewed: two seconds in a hundred
STEP_S, BYTES_PER_S = 0.004, 400_000.0  # medians over the devices
SPREAD = 0.6  # of both, as sigma of a log-normal distribution: the slowest of a thousand is 6 x the median


@dataclass(frozen=True, slots=True)
class Troubles:
    """Shares, 0 to 1: ``drop`` and ``late`` of a round's devices, ``duplicate`` of deliveries, ``poison`` of
    devices. ``skew_s``: how far clocks are off. ``kill``: the coordinator, once in each round."""

    drop: float = 0.0
    duplicate: float = 0.0
    late: float = 0.0
    poison: float = 0.0
    skew_s: float = 0.0
    kill: bool = False


class Drop(StrEnum):
    """How a device is lost in a round."""

    CRASH = "crash"  # it dies, and boots again after the round
    LINK = "link"  # it lives on without a broker


class Poison(StrEnum):
    """What a liar sends in place of what it learned."""

    NAN = "nan"
    HUGE = "huge"
    FLIPPED = "flipped"  # -10 x, which looks like an update


@dataclass(frozen=True, slots=True)
class Nature:
    """``step_s``: of one training step. At time t its clock shows ``clock_s + (1 + drift) t``."""

    step_s: float
    bytes_per_s: float
    clock_s: float = 0.0
    drift: float = 0.0
    poison: Poison | None = None


@dataclass(frozen=True, slots=True)
class Fate:
    """``dropped``: lost after ``at`` (0 to 1) of the time that it would need; ``late``: its update travels
    for so many times the round's budget."""

    dropped: Drop | None = None
    at: float = 0.0
    late: float = 0.0


def chance(seed: int, *names: object) -> random.Random:
    """Numbers that depend on these words only."""
    text = "/".join(map(str, (seed, *names)))
    return random.Random(int.from_bytes(sha256(text.encode()).digest()[:8], "little"))


def natures(troubles: Troubles, seed: int, nodes: list[str]) -> dict[str, Nature]:
    """Of each device. Exactly the share that was asked for lies, and the ways to lie take turns."""
    liars = chance(seed, "liars").sample(sorted(nodes), round(troubles.poison * len(nodes)))
    ways = list(Poison)
    lies = {node: ways[number % len(ways)] for number, node in enumerate(liars)}
    return {node: _nature(troubles, chance(seed, "nature", node), lies.get(node)) for node in nodes}


def _nature(troubles: Troubles, drawn: random.Random, poison: Poison | None) -> Nature:
    step_s, bytes_per_s = drawn.lognormvariate(0, SPREAD), drawn.lognormvariate(0, SPREAD)
    skewed = troubles.skew_s > 0
    return Nature(
        STEP_S * step_s,
        BYTES_PER_S * bytes_per_s,
        drawn.uniform(0, troubles.skew_s),
        drawn.uniform(-DRIFT_MAX, DRIFT_MAX) if skewed else 0.0,
        poison,
    )


def fate(troubles: Troubles, seed: int, node: str, job: str, number: int) -> Fate:
    """What happens to this device in this round."""
    drawn = chance(seed, "fate", node, job, number)
    dropped, late = drawn.random() < troubles.drop, drawn.random() < troubles.late
    how = Drop.CRASH if drawn.random() < 0.5 else Drop.LINK
    return Fate(how if dropped else None, drawn.random(), drawn.uniform(1.0, 1.5) if late else 0.0)


def spoiled(poison: Poison | None, delta: Vector) -> Vector:
    """What is sent in place of the change ``delta`` [n]."""
    match poison:
        case Poison.NAN:
            lie = delta.copy()
            lie[:: max(1, lie.size // 7)] = np.nan
            return lie
        case Poison.HUGE:
            return delta * F32.type(HUGE)
        case Poison.FLIPPED:
            return delta * F32.type(TIMES)
        case None:
            return delta

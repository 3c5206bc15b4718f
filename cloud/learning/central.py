"""The same training with all the data in one place: what a federation is measured against.

The same package, batch size, learning rate and number of passes; only the data does not stay where it is.
It runs in WebAssembly, in this process, through the cloud's own host for training modules.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from cloud.compiler.trainer import Trainer
from shared.errors import ConfigError
from shared.learning import TrainingPlan
from shared.package import Package
from shared.parameters import decode_parameters

Array = NDArray[Any]

BUDGET_S = 300.0


class Data(msgspec.Struct, frozen=True):
    """Examples [n, ...] and their labels [n, ...]."""

    x: Array
    y: Array


class Central(msgspec.Struct, frozen=True, kw_only=True):
    """How well the central model does on the test data, and after how many passes over all the data.

    ``learned``: how well the federation's does.
    """

    accuracy: float
    passes: int
    learned: float | None = None


def gathered(shards: Sequence[Path], held_out: bool = False) -> Data:
    """What the devices train on (or hold out), in one place. Raises :class:`ConfigError`."""
    suffix = "_held" if held_out else ""
    try:
        loaded = [_arrays(path, f"x{suffix}", f"y{suffix}") for path in shards]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"the devices' data can't be read: {error}") from None
    return Data(np.concatenate([x for x, _ in loaded]), np.concatenate([y for _, y in loaded]))


def _arrays(path: Path, *names: str) -> tuple[Array, ...]:
    with np.load(path, allow_pickle=False) as file:
        return tuple(file[name] for name in names)


def train_centrally(
    package: Package,
    plan: TrainingPlan,
    rounds: int,
    data: Data,
    test: Data,
    *,
    seed: int,
    shards: int,
    stopped: Callable[[], bool] = lambda: False,
) -> Central:
    """Train for as many passes as ``rounds`` of ``plan`` are on ``shards`` devices. Blocks: use a thread.

    Ends early after ``BUDGET_S``, or when nobody wants it any more; ``passes`` then shows it.
    """
    trainer, generator = Trainer(package), np.random.default_rng(seed)
    until, done = time.monotonic() + BUDGET_S, 0
    per_round = passes_per_round(plan, len(data.x) / shards, trainer.batch_size)
    for number in range(max(1, round(rounds * per_round))):
        lr = plan.lr * plan.lr_decay ** int(number / per_round)
        order = generator.permutation(len(data.x))
        for start in range(0, len(order), trainer.batch_size):
            batch = order[start : start + trainer.batch_size]
            trainer.step(data.x[batch], data.y[batch], lr)
        done += 1
        if time.monotonic() > until or stopped():
            break
    return Central(accuracy=_accuracy(trainer, test), passes=done)


def passes_per_round(plan: TrainingPlan, samples: float, batch_size: int) -> float:
    """How often a device with so many samples sees each of them in one round."""
    return plan.steps * batch_size / samples if plan.steps else float(plan.epochs)


def accuracy_of(package: Package, learned: Package, test: Data) -> float:
    """The share of the test data that the model ``learned`` gets right, by ``package``'s ``evaluate``."""
    trainer = Trainer(package)
    trainer.set_parameters(decode_parameters(learned.parameters))
    return _accuracy(trainer, test)


def _accuracy(trainer: Trainer, test: Data) -> float:
    hits = count = 0.0
    for start in range(0, len(test.x), trainer.batch_size):
        stop = start + trainer.batch_size
        _, right, items = trainer.evaluate(test.x[start:stop], test.y[start:stop])
        hits, count = hits + right, count + items
    return hits / count if count else 0.0

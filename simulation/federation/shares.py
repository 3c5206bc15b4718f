"""What each simulated device has to learn from.

The examples of a folder are split once into those to train on and those held out, and both are dealt by the
same shares: each class by Dirichlet(alpha) (Hsu, Qi and Brown 2019). A large fleet gets copies: the pool is
repeated until there are some for everybody, and nothing that is trained on anywhere is held out elsewhere.
"""

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cloud.learning.local import Dealer
from edge.training.examples import Array, BadData, Examples
from edge.training.sources import NpzFile
from shared.errors import ConfigError

TRAINED_MIN, HELD_MIN = 20, 2  # on average over the devices
ONE_MIN = 4  # for the unluckiest device

Hands = list[NDArray[np.int64]]


def pool(folder: Path) -> tuple[Examples, Examples]:
    """All examples of a job's folder, whose ``shards.py`` is asked for the share of a fleet of one device;
    and, as held-out ones, those that the model is to be compared on. Raises :class:`ConfigError`.
    """
    dealer = Dealer(folder)
    with tempfile.TemporaryDirectory(prefix="shoal-") as name:
        paths = dealer.deal(Path(name), 1, alpha=1.0, seed=0)
        try:
            found = NpzFile(paths[0], 0.2, "pool").read()
        except BadData as error:
            raise ConfigError(f"{folder} holds no examples: {error}") from None
        test = dealer.test(paths)
    return found, Examples(found.x[:0], found.y[:0], test.x, test.y)


def deal(examples: Examples, devices: int, alpha: float, seed: int) -> list["Share"]:
    """A share for each device: indexes into the pool, so that a thousand of them are no copies of it."""
    rng = np.random.default_rng(seed)
    labels = examples.y if examples.y.ndim == 1 else np.zeros(len(examples.y), np.int64)
    held = examples.y_held if examples.y_held.ndim == 1 else np.zeros(len(examples.y_held), np.int64)
    weights = rng.dirichlet([alpha] * devices, size=int(labels.max(initial=0)) + 1)
    trained = _dealt(labels, weights, devices, TRAINED_MIN, rng)
    kept = _dealt(held, weights, devices, HELD_MIN, rng)
    return [Share(examples, *one) for one in zip(trained, kept, strict=True)]


def _dealt(labels: Array, weights: Array, devices: int, least: int, rng: np.random.Generator) -> Hands:
    copies = max(1, -(-devices * least // max(1, len(labels))))
    hands: list[list[int]] = [[] for _ in range(devices)]
    for label, shares in enumerate(weights):
        chosen = rng.permutation(np.tile(np.flatnonzero(labels == label), copies))
        ends = (np.cumsum(shares) * len(chosen)).round().astype(np.int64)
        for hand, part in zip(hands, np.split(chosen, ends[:-1]), strict=True):
            hand.extend(map(int, part))
    for hand in hands:
        while len(hand) < min(ONE_MIN, least):
            hand.append(int(rng.integers(len(labels))))
    return [rng.permutation(np.array(hand, np.int64)) for hand in hands]


class Share:
    """One device's examples, as a source (see edge/training/sources.py)."""

    def __init__(self, examples: Examples, trained: NDArray[np.int64], held: NDArray[np.int64]) -> None:
        self._pool, self._trained, self._held = examples, trained, held

    def read(self) -> Examples:
        """Copies of its examples."""
        one = self._pool
        return Examples(
            one.x[self._trained], one.y[self._trained], one.x_held[self._held], one.y_held[self._held]
        )

    def stamp(self) -> object:
        """There are never more."""
        return None

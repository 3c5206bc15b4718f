"""What each simulated device has to learn from.

The examples of a folder are split once into those to train on and those held out, and both are dealt by the
same shares: each class by Dirichlet(alpha) (Hsu, Qi and Brown 2019). A large fleet gets copies: the pool is
repeated until there are some for everybody, and nothing that is trained on anywhere is held out elsewhere.
"""

import importlib.util
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.training.examples import Array, BadData, Examples
from edge.training.sources import NpzFile
from shared.errors import ConfigError

TRAINED_MIN, HELD_MIN = 20, 2  # on average over the devices
ONE_MIN = 4  # for the unluckiest device

Hands = list[NDArray[np.int64]]


def pool(folder: Path) -> Examples:
    """All examples of a folder: ``shards.py`` as examples/digits has one is asked for the share of a fleet of
    one device; else ``data.npz`` with x and y, of which a fifth is held out.

    Raises :class:`ConfigError`.
    """
    try:
        if not (folder / "shards.py").exists():
            return NpzFile(folder / "data.npz", 0.2, "pool").read()
        with tempfile.TemporaryDirectory(prefix="shoal-") as name:
            (path,) = _module(folder / "shards.py").write_shards(Path(name), 1)
            return NpzFile(path, 0.2, "pool").read()
    except BadData as error:
        raise ConfigError(f"{folder} holds no examples: {error}") from None


def _module(path: Path) -> "_Shards":
    spec = importlib.util.spec_from_file_location("shards", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is no Python module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "write_shards"):
        raise ConfigError(f"{path} has no function write_shards(folder, devices)")
    return module  # type: ignore[return-value]


class _Shards:
    """What ``shards.py`` has."""

    @staticmethod
    def write_shards(folder: Path, devices: int) -> list[Path]:
        """One ``.npz`` a device."""
        raise NotImplementedError


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

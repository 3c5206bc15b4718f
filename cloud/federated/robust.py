"""Rules that bear a number of clients who send anything they like.

                       bears                      costs
    trimmed mean       the share cut at each end  a sort of each coordinate (Yin et al. 2018)
    median             fewer than half            the same
    multi-Krum         f of n >= 2 f + 3          all pairs of distances (Blanchard et al. 2017)

They must see all updates at once, and a thousand models don't fit into memory: updates are read in blocks of
coordinates, [clients, block] at a time. Multi-Krum reads them twice, first for the distances.

No rule looks at weights. The number of examples is a claim of the client, and a liar would claim the most.
The results don't depend on the order of the clients, except for multi-Krum's in the last bit of a float32:
give the clients in the order of their names.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import floor

import numpy as np
from numpy.typing import NDArray

from cloud.federated.strategies import Strategy
from shared.errors import LocalError, Unavailable
from shared.vectors import F32, Vector

Rows = NDArray[np.float32]  # [clients, coordinates]
ReadBlock = Callable[[int, int], Rows]  # from the first coordinate to before the second
BLOCK = 16384


def combine(
    strategy: Strategy, read_block: ReadBlock, weights: Sequence[int], n_params: int, block: int = BLOCK
) -> Vector:
    """The change [n_params] that the server step takes, from ``len(weights)`` updates.

    Raises :class:`Unavailable` when there are too few for what the options promise, and
    :class:`LocalError` for a strategy that is not robust.
    """
    rule = _RULES.get(strategy.name)
    if rule is None:
        raise LocalError(f"{strategy.name} is not a robust rule")
    return rule(strategy.options, _Updates(read_block, len(weights), n_params, block))


def byzantine_of(clients: int, share: float) -> int:
    """How many of the clients may lie: f. ``share`` 0.2 of 20 is 4, whatever floats say."""
    return floor(clients * share + 1e-9)


class _Updates:
    """All updates of a round, block by block."""

    def __init__(self, read_block: ReadBlock, clients: int, n_params: int, block: int) -> None:
        self._read, self.clients, self.n_params, self._block = read_block, clients, n_params, block

    def blocks(self) -> Iterator[tuple[slice, Rows]]:
        """Where each block lies in the vector, and its rows."""
        for start in range(0, self.n_params, self._block):
            stop = min(start + self._block, self.n_params)
            yield slice(start, stop), self._read(start, stop)


def _trimmed_mean(options: Mapping[str, float], updates: _Updates) -> Vector:
    """Of each coordinate, the mean without the ``trim`` share of smallest and of largest values."""
    cut = byzantine_of(updates.clients, options["trim"])
    return _of_sorted(updates, cut)


def _median(_options: Mapping[str, float], updates: _Updates) -> Vector:
    """Of each coordinate, the middle value, or the mean of the two in the middle."""
    return _of_sorted(updates, (updates.clients - 1) // 2)


def _of_sorted(updates: _Updates, cut: int) -> Vector:
    """The mean of what is left after ``cut`` values went at each end. Less than half may go."""
    if updates.clients < 1:
        raise Unavailable("no update to take the middle of")
    result = np.empty(updates.n_params, F32)
    for where, rows in updates.blocks():
        columns = np.sort(np.ascontiguousarray(rows.T), axis=1)  # [block, clients], ascending
        result[where] = columns[:, cut : updates.clients - cut].mean(axis=1, dtype=np.float64)
    return result


def _multi_krum(options: Mapping[str, float], updates: _Updates) -> Vector:
    """The mean of the n - f updates that are nearest to their n - f - 2 nearest others."""
    liars = byzantine_of(updates.clients, options["byzantine"])
    if updates.clients < 2 * liars + 3:
        raise Unavailable(
            f"multi-Krum with {liars} of {updates.clients} clients lying needs {2 * liars + 3} of them"
        )
    chosen = krum_choice(_distances(updates), liars)
    result = np.empty(updates.n_params, F32)
    for where, rows in updates.blocks():
        result[where] = rows[chosen].mean(axis=0, dtype=np.float64)
    return result


def krum_choice(distances: NDArray[np.float64], liars: int) -> NDArray[np.int64]:
    """Ascending indices of the n - f with the best scores, from squared distances [n, n]."""
    clients = len(distances)
    others = distances.copy()
    np.fill_diagonal(others, np.inf)
    near = np.sort(others, axis=1)[:, : clients - liars - 2]
    best = np.argsort(near.sum(axis=1), kind="stable")[: clients - liars]
    return np.sort(best)


def _distances(updates: _Updates) -> NDArray[np.float64]:
    """Squared Euclidean distances [n, n], summed over blocks.

    By ``|a|² + |b|² - 2 a b``, as one matrix product. It cancels when the distances are small beside the
    vectors, so the middle of each block is taken off first, and it is done in float64.
    """
    products = np.zeros((updates.clients, updates.clients))
    for _, rows in updates.blocks():
        centred = rows - np.median(rows, axis=0).astype(np.float64)
        products += centred @ centred.T
    squares = np.diagonal(products)
    return np.maximum(squares[:, None] + squares[None, :] - 2 * products, 0.0)


Rule = Callable[[Mapping[str, float], _Updates], Vector]
_RULES: Mapping[str, Rule] = {
    "trimmed-mean": _trimmed_mean,
    "median": _median,
    "multi-krum": _multi_krum,
}

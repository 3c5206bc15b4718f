"""What a device "learns" when the machinery around it is measured: almost nothing, at almost no cost."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCALE = 1e-3
PATTERN = 4096  # as many different numbers: drawing them all would cost more than a round


def train(vector: "NDArray[np.float32]", seed: int) -> "NDArray[np.float32]":
    """The vector [n] with a little noise, the same for the same seed."""
    noise = np.random.default_rng(seed).normal(0, SCALE, PATTERN).astype(np.float32)
    moved: NDArray[np.float32] = vector + np.resize(noise, vector.shape)
    return moved

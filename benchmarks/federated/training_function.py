"""What a device "learns" when the machinery around it is measured: almost nothing, at almost no cost."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCALE = np.float32(1e-3)


def train(vector: "NDArray[np.float32]", seed: int) -> "NDArray[np.float32]":
    """The vector [n] with a little noise, the same for the same seed: nothing that could be compressed."""
    noise = np.random.default_rng(seed).standard_normal(vector.shape, np.float32)
    moved: NDArray[np.float32] = vector + SCALE * noise
    return moved

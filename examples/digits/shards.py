"""Deal the digits to devices: each gets its own few images, and mostly of its own few classes.

    python -m examples.digits.shards --devices 8 --out DIR     # DIR/digits-1.npz ... DIR/digits-8.npz

A file has ``x`` float32 [n, 64] (pixels divided by 16), ``y`` int64 [n], and ``x_held``, ``y_held``, which
the device never trains on. What a device's configuration says of it:

    [training.sources]
    digits = "/path/to/digits-1.npz"
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
CLASSES = 10
HELD_OUT_RATIO = 0.2
SAMPLES_MIN = 5

Indexes = NDArray[np.int64]


def deal(
    labels: NDArray[np.uint8], devices: int, alpha: float, generator: np.random.Generator
) -> list[Indexes]:
    """The examples of each device: every class is split by shares drawn from Dirichlet(``alpha``) (Hsu, Qi
    and Brown 2019), and then whoever has the most gives to those that have fewer than five.

    ``alpha`` 0.5 is markedly uneven, 100 almost even. Raises ``ValueError`` when there are too few examples.
    """
    if not 1 <= devices <= len(labels) // SAMPLES_MIN:
        raise ValueError(f"{devices} devices; from 1 to {len(labels) // SAMPLES_MIN} can be given examples")
    hands: list[list[int]] = [[] for _ in range(devices)]
    for label in range(CLASSES):
        chosen = generator.permutation(np.flatnonzero(labels == label))
        ends = (np.cumsum(generator.dirichlet([alpha] * devices)) * len(chosen)).round().astype(np.int64)
        for hand, part in zip(hands, np.split(chosen, ends[:-1]), strict=True):
            hand.extend(map(int, part))
    while len(min(hands, key=len)) < SAMPLES_MIN:
        most = max(hands, key=len)
        min(hands, key=len).append(most.pop(int(generator.integers(len(most)))))
    return [generator.permutation(np.array(hand, np.int64)) for hand in hands]


def write_shards(folder: Path, devices: int, *, alpha: float = 0.5, seed: int = 0) -> list[Path]:
    """``digits-1.npz`` to ``digits-<devices>.npz``: the same for the same seed. Needs numpy only."""
    folder.mkdir(parents=True, exist_ok=True)
    with np.load(HERE / "train.npz") as arrays:
        images, labels = arrays["images"].astype(np.float32) / 16, arrays["labels"]
    paths = []
    for number, chosen in enumerate(deal(labels, devices, alpha, np.random.default_rng(seed)), 1):
        held = max(1, round(len(chosen) * HELD_OUT_RATIO))
        x, y = images[chosen], labels[chosen].astype(np.int64)
        paths.append(folder / f"digits-{number}.npz")
        np.savez(paths[-1], x=x[held:], y=y[held:], x_held=x[:held], y_held=y[:held])
    return paths


def held_out() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """``x`` and ``y`` of the 500 digits that no device ever sees: what models are compared on."""
    with np.load(HERE / "heldout.npz") as arrays:
        return arrays["images"].astype(np.float32) / 16, arrays["labels"].astype(np.int64)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Deal the digits to devices.")
    parser.add_argument("--devices", type=int, default=8, help="how many files to write (default: 8)")
    parser.add_argument("--alpha", type=float, default=0.5, help="evenness; small is uneven (default: 0.5)")
    parser.add_argument("--seed", type=int, default=0, help="another deal (default: 0)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    given = parser.parse_args()
    for path in write_shards(given.out, given.devices, alpha=given.alpha, seed=given.seed):
        with np.load(path) as arrays:
            classes = np.bincount(arrays["y"], minlength=CLASSES)
            print(f"{path}: {len(arrays['y'])} to train on, {len(arrays['y_held'])} held out; {classes}")


if __name__ == "__main__":
    main()

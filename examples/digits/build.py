"""Train a small classifier of handwritten digits and compile it: the model that the demonstrations use.

    python -m examples.digits.build            # rewrites the files beside this one
    python -m examples.digits.build --out DIR

Writes ``digits.shoal`` (the compiled model), ``digits-train.shoal`` (the same network untrained, compiled
with its backward pass: what federated learning starts from), ``train.npz`` (the 1297 images to train on),
``heldout.npz`` (500 images that training never saw, their labels, and the classes that torch predicts for
them), ``digits.sha256`` and ``README.md``. All are the same bytes on every machine: see :func:`on_grid`.
"""

import argparse
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from cloud.compiler import Compiled, compile_model
from cloud.compiler.training import Trainable, compile_training

SEED = 20240501
HELD_OUT = 500
EPOCHS = 20
BATCH = 32
BATCH_SIZES = (1, 32)
GRID_STEP = 2.0**-12
ACCURACY_MIN = 0.96

Say = Callable[[str], None]


@dataclass(frozen=True)
class Digits:
    """Images [items, 64] of uint8 0 to 16 and labels [items] of int64, split once and for all."""

    train_images: Tensor
    train_labels: Tensor
    held_out_images: Tensor
    held_out_labels: Tensor


@dataclass(frozen=True)
class Built:
    """What the build made. ``predictions``: torch's classes of the held-out images."""

    compiled: Compiled
    training: Trainable
    model: nn.Module
    digits: Digits
    predictions: Tensor

    @property
    def accuracy(self) -> float:
        """On the held-out images."""
        return float((self.predictions == self.digits.held_out_labels).double().mean())


def load(generator: torch.Generator) -> Digits:
    """The 1797 8x8 digits of scikit-learn, shuffled and split. The scale is a constant: nothing is fitted to
    the held-out part."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=generator)
    images, labels = torch.tensor(images, dtype=torch.uint8)[order], torch.tensor(labels)[order]
    return Digits(images[HELD_OUT:], labels[HELD_OUT:], images[:HELD_OUT], labels[:HELD_OUT])


def scaled(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Pixels 0 to 16 -> 0.0 to 1.0, exactly."""
    return images.to(dtype) / 16


def network() -> nn.Sequential:
    """64-128-64-10, ReLU between."""
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """He's uniform initialisation for weights, zero biases; drawn in float64 from the generator."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)


def train(digits: Digits, generator: torch.Generator, say: Say) -> nn.Sequential:
    """Stochastic gradient descent in float64."""
    model = network().double()
    initialise(model, generator)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    images, labels = scaled(digits.train_images, torch.float64), digits.train_labels
    for epoch in range(EPOCHS):
        for group in optimiser.param_groups:
            group["lr"] = 0.1 * (1 - epoch / EPOCHS)
        losses = []
        for batch in torch.randperm(len(images), generator=generator).split(BATCH):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        if epoch % 5 == 4:
            say(f"epoch {epoch + 1:3d} of {EPOCHS}: loss {sum(losses) / len(losses):.4f}")
    return model


def on_grid(model: nn.Module) -> nn.Module:
    """Round the parameters to multiples of 2^-12 and store them in float32, which holds those exactly.

    Processors sum in different orders, so two machines' float64 training runs differ: rounding errors near
    1e-16, grown by the steps of training. Measured: another instruction set ends 4e-15 away, a start changed
    by 1e-11 ends 6e-11 away. A grid step is 2.4e-4, and the parameter that lies closest to a rounding
    boundary is 4e-9 from it, a million times the difference: every machine rounds to the same grid points and
    writes the same bytes. (Trained in float32, the differences would be larger than that gap.)
    """
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter / GRID_STEP).round() * GRID_STEP)
    return model.float()


def untrained() -> Trainable:
    """The network as federated learning starts from it; its parameters have the names of the served one's.

    He's initialisation from a seed of its own, batches of 32, plain SGD: the learning rate comes with each
    step.
    """
    model = network().double()
    initialise(model, torch.Generator().manual_seed(SEED + 1))
    batch = torch.zeros(BATCH, 64), torch.zeros(BATCH, dtype=torch.int64)
    return compile_training(on_grid(model), "cross_entropy", "sgd", batch, name="digits-train")


def build(say: Say = print) -> Built:
    """Train on one thread and compile. Raises RuntimeError if the model is worse than it must be."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        generator = torch.Generator().manual_seed(SEED)
        digits = load(generator)
        model = on_grid(train(digits, generator, say))
        held_out = scaled(digits.held_out_images, torch.float32)
        with torch.inference_mode():
            predictions = model(held_out).argmax(dim=1)
    finally:
        torch.set_num_threads(threads)
    say(f"compiling for batch sizes {BATCH_SIZES}")
    compiled = compile_model(
        model,
        (held_out,),
        name="digits",
        batch_sizes=BATCH_SIZES,
        description="8x8 handwritten digits, 0 to 9",
    )
    built = Built(compiled, untrained(), model, digits, predictions)
    if built.accuracy < ACCURACY_MIN:
        raise RuntimeError(f"held-out accuracy {built.accuracy:.3f} is under {ACCURACY_MIN}")
    return built


def write(built: Built, folder: Path) -> None:
    """All the files."""
    folder.mkdir(parents=True, exist_ok=True)
    built.compiled.save(folder / "digits.shoal")
    built.training.save(folder / "digits-train.shoal")
    # np.savez stores without compression and dates every member 1980-01-01: the same arrays, the same bytes.
    np.savez(
        folder / "heldout.npz",
        images=built.digits.held_out_images.numpy(),
        labels=built.digits.held_out_labels.numpy().astype(np.uint8),
        predictions=built.predictions.numpy().astype(np.uint8),
    )
    np.savez(
        folder / "train.npz",
        images=built.digits.train_images.numpy(),
        labels=built.digits.train_labels.numpy().astype(np.uint8),
    )
    names = ("digits.shoal", "digits-train.shoal", "heldout.npz", "train.npz")
    digests = {name: digest(folder / name) for name in names}
    sums = "".join(f"{value}  {name}\n" for name, value in digests.items())
    (folder / "digits.sha256").write_text(sums)
    (folder / "README.md").write_text(readme(built, sums))


def digest(path: Path) -> str:
    """SHA-256, hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def readme(built: Built, sums: str) -> str:
    """The page beside the files."""
    parameters = sum(one.numel() for one in built.model.parameters())
    modules = ", ".join(
        f"{len(one.binary)} bytes for batch {size}" for size, one in built.compiled.modules.items()
    )
    backward = f"{len(built.training.module.binary)} bytes for batch {BATCH}"
    return f"""# The digits model

Generated by `python -m examples.digits.build`; do not edit.

A 64-128-64-10 multilayer perceptron ({parameters} parameters) that reads 8x8 handwritten digits
(scikit-learn's copy of the UCI set). Trained on {len(built.digits.train_labels)} images, {HELD_OUT} held out.
Held-out accuracy: **{built.accuracy:.3f}**.

| file | what |
|---|---|
| `digits.shoal` | the compiled model: WebAssembly ({modules}) and its parameters |
| `digits-train.shoal` | the same network untrained, with its backward pass: WebAssembly ({backward}) |
| `train.npz` | `images` uint8 [{len(built.digits.train_labels)}, 64] and `labels` to train on |
| `shards.py` | deals `train.npz` to devices |
| `learn.toml` | a job of federated learning over such devices |
| `heldout.npz` | `images` uint8 [{HELD_OUT}, 64] of 0 to 16, `labels`, `predictions` (torch's classes) |
| `digits.sha256` | for `sha256sum -c` |

Eight devices, each with an uneven share of `train.npz`, learn it together:
`shoal learn examples/digits --devices 8 --rounds 20`.

The model takes float32 [items, 64], pixels divided by 16, and gives float32 [items, 10]: one score per digit.
A rebuild with the pinned torch and wasmtime trains from scratch and gives the same bytes on every machine:

```
{sums}```
"""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Train and compile the digits model (a few seconds on one core)."
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to")
    folder = parser.parse_args().out
    built = build()
    write(built, folder)
    print(f"held-out accuracy {built.accuracy:.3f}; wrote digits.shoal and its companions to {folder}")


if __name__ == "__main__":
    main()

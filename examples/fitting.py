"""What the builds of the examples share: a training loop, the comparison with torch, and the files."""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cloud.compiler import Compiled, compile_model

BATCH_SIZES = (1, 32)
TRAINING_BATCH = 32
DIFFERENCE_MAX = 1e-5

Loss = Callable[[Tensor, Tensor], Tensor]


def fit(
    model: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss, *, epochs: int, learning_rate: float = 5e-3
) -> nn.Module:
    """AdamW on shuffled batches of 32, at a rate that rises and falls; gives the model for inference."""
    torch.set_num_threads(1)  # these layers are too small to share, and the same seed gives the same weights
    optimiser = torch.optim.AdamW(model.parameters())
    steps = epochs * -(-len(inputs) // TRAINING_BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, steps)
    model.train()
    for epoch in range(epochs):
        losses = []
        for batch in torch.randperm(len(inputs)).split(TRAINING_BATCH):
            error = loss(model(inputs[batch]), targets[batch])
            optimiser.zero_grad()
            error.backward()
            optimiser.step()
            schedule.step()
            losses.append(error.item())
        print(f"epoch {epoch + 1:2d} of {epochs}: loss {sum(losses) / len(losses):.4f}")
    return model.eval()


def compiled_like_torch(model: nn.Module, held_out: Tensor, name: str, description: str) -> Compiled:
    """Compile, and run the held-out inputs through both. Raises ``RuntimeError`` when they disagree."""
    compiled = compile_model(
        model, (held_out[:1],), name=name, batch_sizes=BATCH_SIZES, description=description
    )
    with torch.inference_mode():
        expected = _several(model(held_out))
    found = _several(compiled.load()(held_out.numpy()))
    for ours, theirs in zip(found, expected, strict=True):
        difference = float(np.abs(ours - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max())
        if not difference <= DIFFERENCE_MAX:
            raise RuntimeError(f"the module's answers are {difference:.1e} of their scale away from torch's")
    print(f"compiled: the same answers as torch for {len(held_out)} held-out inputs")
    return compiled


def _several(outputs: object) -> tuple[object, ...]:
    return tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)


def out_folder(description: str | None, default: Path) -> Path:
    """From the command line; made if it is missing."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=default, help="folder to write to")
    folder: Path = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write(folder: Path, compiled: Compiled, inputs: Tensor, **more: Tensor) -> None:
    """``<name>.shoal``, ``one.npy`` for ``shoal infer``, and ``heldout.npz``."""
    path = folder / f"{compiled.package.info.name}.shoal"
    compiled.save(path)
    np.save(folder / "one.npy", inputs[:1].numpy())
    np.savez(folder / "heldout.npz", inputs=inputs.numpy(), **{key: one.numpy() for key, one in more.items()})
    print(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB), one.npy and heldout.npz")

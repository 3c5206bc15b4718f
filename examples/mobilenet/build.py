"""Train a small MobileNetV2 to read digits in colour, and compile it.

    python -m examples.mobilenet.build            # writes examples/mobilenet/build/
    python -m examples.mobilenet.build --out DIR

The pictures are scikit-learn's handwritten digits, enlarged, in bright ink of any colour on a dark ground of
another, with noise over both. It is the network of phones (inverted residuals, depthwise filters, ReLU6), a
quarter as wide.
"""

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from examples.fitting import compiled_like_torch, fit, out_folder, write
from examples.mobilenet.network import InvertedResidual, MobileNetV2

SEED = 3
PIXELS, CLASSES = 32, 10
WIDTH, HEAD = 0.25, 256
HELD_OUT = 300
EPOCHS = 20
ACCURACY_MIN = 0.9


def network() -> MobileNetV2:
    """A narrow one, with weights that learn in less than a thousand steps.

    What is beside a shortcut begins as nothing, so the network is shallow at first (Goyal et al., "Accurate,
    large minibatch SGD", 2017, section 5.1).
    """
    model = MobileNetV2(WIDTH, CLASSES, HEAD)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        elif isinstance(layer, InvertedResidual) and layer.has_shortcut:
            nn.init.zeros_(layer.body[-1].weight)
    return model


def pictures(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """All of them, shuffled: float32 [1797, 3, pixels, pixels] about -1 to 1, and classes int64 [1797]."""
    small, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(small), generator=generator)
    strokes = torch.tensor(small, dtype=torch.float32)[order].view(-1, 1, 8, 8) / 16
    strokes = interpolate(strokes, size=(PIXELS, PIXELS), mode="bilinear")
    ground, ink = (torch.rand(len(order), 3, 1, 1, generator=generator) for _ in range(2))
    noise = 0.1 * torch.randn(len(order), 3, PIXELS, PIXELS, generator=generator)
    return (ground - 1) * (1 - strokes) + ink * strokes + noise, torch.tensor(labels)[order]


def main() -> None:
    """Raises RuntimeError if the model is worse than it must be."""
    folder = out_folder(__doc__, Path(__file__).parent / "build")
    torch.manual_seed(SEED)
    inputs, labels = pictures(torch.Generator().manual_seed(SEED))
    held_out, truth = inputs[:HELD_OUT], labels[:HELD_OUT]
    model = fit(network(), inputs[HELD_OUT:], labels[HELD_OUT:], cross_entropy, epochs=EPOCHS)
    with torch.inference_mode():
        predictions = model(held_out).argmax(dim=1)
    accuracy = float((predictions == truth).double().mean())
    print(f"held-out accuracy {accuracy:.3f}")
    if accuracy < ACCURACY_MIN:
        raise RuntimeError(f"held-out accuracy {accuracy:.3f} is under {ACCURACY_MIN}")
    compiled = compiled_like_torch(model, held_out, "mobilenet", "handwritten digits in colour, 0 to 9")
    write(folder, compiled, held_out[:64], labels=truth[:64], predictions=predictions[:64])


if __name__ == "__main__":
    main()

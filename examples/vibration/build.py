"""Train a network that hears a bearing's faults in its vibration, and compile it.

    python -m examples.vibration.build            # writes examples/vibration/build/
    python -m examples.vibration.build --out DIR

The signals are simulated: what an accelerometer on the bearing's housing shows at 12 kHz. A crack in a race
is struck by each ball that rolls over it, and each strike makes the housing ring; an unbalanced shaft shakes
at its own rate. (Randall and Antoni, "Rolling element bearing diagnostics", 2011, sections 2 and 3.)
"""

import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from examples.fitting import compiled_like_torch, fit, out_folder, write
from examples.vibration.network import CLASSES, SAMPLES, VibrationNet

SEED = 7
RATE_HZ = 12_000.0
SHAFT_HZ = (27.0, 33.0)
STRIKES_PER_TURN = {"outer race": 3.58, "inner race": 5.42}  # of a bearing with nine balls
RESONANCE_HZ = (2_700.0, 3_300.0)
DAMPING_S = 0.0012
TRAINING, HELD_OUT = 3000, 600
EPOCHS = 6
ACCURACY_MIN = 0.95


def signals(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """float32 [count, 1, samples] in units of g, and classes int64 [count]."""
    labels = torch.randint(len(CLASSES), (count,), generator=generator)
    time_s = torch.arange(SAMPLES) / RATE_HZ
    shaft_hz = uniform(SHAFT_HZ, count, generator)
    turn = 2 * math.pi * (shaft_hz * time_s + uniform((0, 1), count, generator))
    noise = uniform((0.2, 0.6), count, generator) * torch.randn(count, SAMPLES, generator=generator)
    signal = noise + 0.2 * torch.sin(turn) + 0.1 * torch.sin(2 * turn)
    unbalance = uniform((1.0, 2.0), count, generator) * torch.sin(turn)
    for label, name in enumerate(CLASSES):
        chosen = (labels == label)[:, None]
        if name in STRIKES_PER_TURN:
            rings = ringing(time_s, shaft_hz * STRIKES_PER_TURN[name], generator)
            # A crack in the inner race turns with the shaft, into the loaded zone and out of it.
            load = 1 + 0.8 * torch.sin(turn) if name == "inner race" else torch.ones(1)
            signal = signal + chosen * load * rings
        elif name == "unbalanced":
            signal = signal + chosen * unbalance
    return signal[:, None], labels


def ringing(time_s: Tensor, strike_hz: Tensor, generator: torch.Generator) -> Tensor:
    """A decaying oscillation after each strike, [count, samples]."""
    count = len(strike_hz)
    since_s = (time_s + uniform((0, 1), count, generator) / strike_hz) % (1 / strike_hz)
    tone = torch.sin(2 * math.pi * uniform(RESONANCE_HZ, count, generator) * since_s)
    return uniform((1.0, 2.5), count, generator) * torch.exp(-since_s / DAMPING_S) * tone


def uniform(between: tuple[float, float], count: int, generator: torch.Generator) -> Tensor:
    """[count, 1]."""
    low, high = between
    return low + (high - low) * torch.rand(count, 1, generator=generator)


def main() -> None:
    """Raises RuntimeError if the model is worse than it must be."""
    folder = out_folder(__doc__, Path(__file__).parent / "build")
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    inputs, labels = signals(TRAINING, generator)
    held_out, truth = signals(HELD_OUT, generator)
    model = fit(VibrationNet(), inputs, labels, cross_entropy, epochs=EPOCHS)
    with torch.inference_mode():
        predictions = model(held_out).argmax(dim=1)
    accuracy = float((predictions == truth).double().mean())
    print(f"held-out accuracy {accuracy:.3f}")
    if accuracy < ACCURACY_MIN:
        raise RuntimeError(f"held-out accuracy {accuracy:.3f} is under {ACCURACY_MIN}")
    compiled = compiled_like_torch(model, held_out, "vibration", f"bearing: {', '.join(CLASSES)}")
    write(folder, compiled, held_out, labels=truth, predictions=predictions)


if __name__ == "__main__":
    main()

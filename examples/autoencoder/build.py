"""Train an autoencoder on the sound of a healthy pump, and compile it together with its score.

    python -m examples.autoencoder.build            # writes examples/autoencoder/build/
    python -m examples.autoencoder.build --out DIR

The spectrograms are simulated: 32 bands by 32 frames, loudness from 0 to 1. A healthy pump hums in harmonics
whose pitch drifts a little. Nobody knows what its faults will sound like, so training sees none of them; the
held-out half is given two kinds, a rattle (short, all bands) and a whine (a tone that does not belong).
"""

from pathlib import Path

import torch
from torch import Tensor

from examples.autoencoder.network import BANDS, FRAMES, Autoencoder
from examples.fitting import compiled_like_torch, fit, out_folder, write

SEED = 11
TRAINING, HELD_OUT = 3000, 400
EPOCHS = 8
FALSE_ALARMS = 0.02
DETECTED_MIN = 0.9


def healthy(count: int, generator: torch.Generator) -> Tensor:
    """float32 [count, 1, bands, frames] of 0 to 1."""
    bands = torch.arange(BANDS)[None, :, None]
    frames = torch.linspace(0, 1, FRAMES)[None, None]
    pitch, drift = (draw(count, generator, *range_) for range_ in ((6.0, 8.0), (-0.5, 0.5)))
    sound = torch.zeros(count, BANDS, FRAMES)
    for harmonic, loudness in ((1, 0.8), (2, 0.6), (3, 0.4), (4, 0.3)):
        centre = harmonic * (pitch + drift * frames)
        sound += loudness * draw(count, generator, 0.8, 1.2) * torch.exp(-((bands - centre) ** 2))
    sound += 0.05 * torch.rand(count, BANDS, FRAMES, generator=generator)
    return sound.clamp(0, 1)[:, None]


def rattling(sounds: Tensor, generator: torch.Generator) -> Tensor:
    """One to three frames in which every band is loud."""
    struck = torch.rand(len(sounds), 1, 1, FRAMES, generator=generator).argsort(dim=-1) < 3
    return (sounds + 0.4 * struck).clamp(0, 1)


def whining(sounds: Tensor, generator: torch.Generator) -> Tensor:
    """A tone between the harmonics, as loud as they are."""
    bands = torch.arange(BANDS)[None, None, :, None]
    centre = draw(len(sounds), generator, 10.0, 30.0)[:, None]
    return (sounds + 0.6 * torch.exp(-2 * (bands - centre) ** 2)).clamp(0, 1)


def draw(count: int, generator: torch.Generator, low: float, high: float) -> Tensor:
    """Uniform, [count, 1, 1]."""
    return low + (high - low) * torch.rand(count, 1, 1, generator=generator)


def rebuilding(outputs: tuple[Tensor, Tensor], _: Tensor) -> Tensor:
    """The loss is the score that the model gives itself."""
    return outputs[1].mean()


def main() -> None:
    """Raises RuntimeError if it finds fewer faults than it must."""
    folder = out_folder(__doc__, Path(__file__).parent / "build")
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    sounds, normal = healthy(TRAINING, generator), healthy(HELD_OUT, generator)
    model = fit(Autoencoder(), sounds, sounds, rebuilding, epochs=EPOCHS)
    faults = torch.cat([rattling(normal[::2], generator), whining(normal[1::2], generator)])
    with torch.inference_mode():
        threshold = float(model(healthy(HELD_OUT, generator))[1].quantile(1 - FALSE_ALARMS))
        alarms, detected = (float((model(one)[1] > threshold).double().mean()) for one in (normal, faults))
    print(f"score above {threshold:.5f}: {detected:.1%} of the faults, {alarms:.1%} of the healthy sounds")
    if detected < DETECTED_MIN:
        raise RuntimeError(f"{detected:.1%} of the faults were found; it must be {DETECTED_MIN:.0%}")
    held_out = torch.cat([normal, faults])
    compiled = compiled_like_torch(model, held_out, "pump", f"anomaly score; alarm above {threshold:.5f}")
    is_fault = torch.arange(len(held_out)) >= len(normal)
    write(folder, compiled, held_out, is_fault=is_fault, threshold=torch.tensor(threshold))


if __name__ == "__main__":
    main()

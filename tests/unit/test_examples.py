"""The examples' data and networks. Training takes minutes: ``python -m examples.NAME.build``."""

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from examples import fitting
from examples.autoencoder import build as autoencoder
from examples.autoencoder.network import BANDS, FRAMES, Autoencoder
from examples.mobilenet import build as mobilenet
from examples.mobilenet.network import MobileNetV2
from examples.vibration import build as vibration
from examples.vibration.network import CLASSES, SAMPLES, VibrationNet

MAKERS = [
    lambda generator: vibration.signals(8, generator),
    mobilenet.pictures,
    lambda generator: (autoencoder.healthy(8, generator),),
]


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("make", MAKERS)
def test_one_seed_gives_the_same_data(make) -> None:
    for one, again, other in zip(make(seeded()), make(seeded()), make(seeded(2)), strict=True):
        assert one.equal(again)
        assert not one.equal(other)


def test_only_what_is_struck_rings() -> None:
    signals, labels = vibration.signals(200, seeded())
    assert signals.shape == (200, 1, SAMPLES)
    steps = signals.diff(dim=-1).abs().amax(dim=(1, 2))
    struck = torch.tensor(["race" in CLASSES[label] for label in labels])
    assert steps[struck].mean() > 1.3 * steps[~struck].mean()


def test_the_ink_is_brighter_than_the_ground() -> None:
    pictures, labels = mobilenet.pictures(seeded())
    assert pictures.shape == (len(labels), 3, mobilenet.PIXELS, mobilenet.PIXELS)
    assert labels.unique().numel() == mobilenet.CLASSES
    brightness = pictures.mean(dim=1)
    corner, ink = brightness[:, :2, :2].mean(dim=(1, 2)), brightness.flatten(1).quantile(0.95, dim=1)
    assert (ink > corner).all()


def test_faults_are_louder_and_stay_in_range() -> None:
    sounds = autoencoder.healthy(50, seeded())
    for spoil in (autoencoder.rattling, autoencoder.whining):
        spoiled = spoil(sounds, seeded())
        assert spoiled.shape == (50, 1, BANDS, FRAMES)
        assert (spoiled >= sounds).all()
        assert spoiled.max() <= 1


@pytest.mark.parametrize(
    ("network", "item"),
    [
        (VibrationNet, (1, SAMPLES)),
        (Autoencoder, (1, BANDS, FRAMES)),
        (lambda: MobileNetV2(0.25, 5, 64), (3, 32, 32)),
    ],
)
def test_an_untrained_network_compiles_to_what_torch_computes(network, item) -> None:
    torch.manual_seed(0)
    compiled = fitting.compiled_like_torch(network().eval(), torch.randn(5, *item), "example", "")
    assert sorted(compiled.package.modules) == list(fitting.BATCH_SIZES)


def test_the_score_of_the_autoencoder_is_the_error_of_what_it_rebuilt() -> None:
    x = torch.rand(3, 1, BANDS, FRAMES)
    with torch.inference_mode():
        rebuilt, score = Autoencoder()(x)
    assert score.shape == (3, 1)
    for one, other, expected in zip(x, rebuilt, score, strict=True):
        assert mse_loss(other, one).item() == pytest.approx(expected.item())


def test_fitting_makes_the_loss_small(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 3)
    model = fitting.fit(nn.Linear(3, 1), x, x.sum(1, keepdim=True), mse_loss, epochs=20, learning_rate=0.05)
    assert not model.training
    assert mse_loss(model(x), x.sum(1, keepdim=True)).item() < 0.01
    assert "epoch 20 of 20" in capsys.readouterr().out


def test_a_model_that_answers_otherwise_is_not_written() -> None:
    class Moody(nn.Module):
        """Compiled with one meaning, run with another."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * (2.0 if torch.compiler.is_exporting() else 3.0)

    with pytest.raises(RuntimeError, match="away from torch's"):
        fitting.compiled_like_torch(Moody().eval(), torch.randn(4, 3), "moody", "")

"""The models that the compiler is measured with: plain torch modules with fixed weights.

Three of them are the networks of ``examples/``. The weights are drawn under one seed, so that signals keep
their strength as in a trained model: with torch's own initial weights what a deep network answers hardly
depends on its input, and any compiler would agree. The statistics of batch normalisation are drawn too, so
that a compiler which ignored them would be caught.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from examples.autoencoder.network import BANDS, FRAMES, Autoencoder
from examples.mobilenet.network import MobileNetV2
from examples.vibration.network import SAMPLES, VibrationNet

SEED = 0


@dataclass(frozen=True, slots=True)
class ZooModel:
    """``item``: the shape of one input without its batch axis; all are float32."""

    name: str
    network: Callable[[], nn.Module]
    item: tuple[int, ...]

    def build(self) -> nn.Module:
        """The same module in evaluation mode each time, whatever was drawn before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            model = self.network()
            draw(model)
        return model.eval()

    def inputs(self, batch: int) -> Tensor:
        """The same float32 [batch, *item] each time; the items differ."""
        return torch.randn(batch, *self.item, generator=torch.Generator().manual_seed(SEED + batch))


def draw(model: nn.Module) -> None:
    """Weights of unit gain where those of torch are weaker; statistics in the place of zeros and ones."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)


def mlp() -> nn.Module:
    """The network of ``examples/digits``."""
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn() -> nn.Module:
    """Two convolutions and two dense layers on 28 x 28 grey pixels."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 14 * 14, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


class LastStep(nn.Module):
    """A recurrent layer over [items, steps, 8], and a dense one on its last output."""

    def __init__(self, recurrent: type[nn.GRU] | type[nn.LSTM]) -> None:
        super().__init__()
        self.recurrent = recurrent(8, 64, batch_first=True)
        self.head = nn.Linear(64, 8)

    def forward(self, x: Tensor) -> Tensor:
        steps, _ = self.recurrent(x)
        return self.head(steps[:, -1])


class Encoder(nn.Module):
    """Two layers of a transformer's encoder over [items, 32, 64], averaged and classified."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, nhead=4, dim_feedforward=128, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, which is projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.body(x) + self.shortcut(x))


def resnet18() -> nn.Module:
    """ResNet-18 (He et al., 2015) at full width, with ten classes; meant for 64 x 64 pixels here."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [BasicBlock(channels, outputs, stride), BasicBlock(outputs, outputs, 1)]
        channels = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


ZOO: Mapping[str, ZooModel] = {
    one.name: one
    for one in (
        ZooModel("mlp", mlp, (64,)),
        ZooModel("cnn", cnn, (1, 28, 28)),
        ZooModel("mobilenet", MobileNetV2, (3, 96, 96)),
        ZooModel("gru", lambda: LastStep(nn.GRU), (50, 8)),
        ZooModel("lstm", lambda: LastStep(nn.LSTM), (50, 8)),
        ZooModel("transformer", Encoder, (32, 64)),
        ZooModel("resnet", resnet18, (3, 64, 64)),
        ZooModel("vibration", VibrationNet, (1, SAMPLES)),
        ZooModel("autoencoder", Autoencoder, (1, BANDS, FRAMES)),
    )
}

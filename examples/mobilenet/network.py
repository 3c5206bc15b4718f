"""MobileNetV2 (Sandler et al., 2018, table 2), with its width as a parameter and a head of a few classes."""

from torch import Tensor, nn

STEM, HEAD = 32, 1280
# expansion, channels, blocks, stride of the first block
BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def scaled(channels: int, width: float) -> int:
    """The nearest multiple of eight, at least eight."""
    return max(8, int(channels * width + 4) // 8 * 8)


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size (or divides it by the stride), and its normalisation."""
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class InvertedResidual(nn.Module):
    """Expand, filter each channel by itself, project; around it a shortcut where the shapes allow one."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [*convolution(inputs, hidden, 1), nn.ReLU6()] if expansion > 1 else []
        depthwise = [*convolution(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6()]
        self.body = nn.Sequential(*expand, *depthwise, *convolution(hidden, outputs, 1))
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.has_shortcut else self.body(x)


class MobileNetV2(nn.Module):
    """float32 [items, 3, height, width] -> one score per class, float32 [items, classes]."""

    def __init__(self, width: float = 0.5, classes: int = 10, head: int = HEAD) -> None:
        super().__init__()
        channels = scaled(STEM, width)
        layers: list[nn.Module] = [*convolution(3, channels, 3, stride=2), nn.ReLU6()]
        for expansion, outputs, blocks, stride in BLOCKS:
            for block in range(blocks):
                after = scaled(outputs, width)
                layers.append(InvertedResidual(channels, after, stride if block == 0 else 1, expansion))
                channels = after
        self.features = nn.Sequential(*layers, *convolution(channels, head, 1), nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(head, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))

"""A one-dimensional convolutional network that reads the raw signal of an accelerometer."""

from torch import Tensor, nn

SAMPLES = 512
CLASSES = ("healthy", "outer race", "inner race", "unbalanced")


def stage(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    """Convolution, normalisation, activation: ``stride`` times fewer samples."""
    return nn.Sequential(
        nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm1d(outputs),
        nn.ReLU(),
    )


class VibrationNet(nn.Module):
    """float32 [items, axes, samples] in units of g -> one score per class, float32 [items, classes].

    The wide first kernel is a bank of band filters, as in Zhang et al., Sensors 17 (2017): a fault is a
    ringing at the bearing's resonance, which repeats at the fault's own rate.
    """

    def __init__(self, axes: int = 1, classes: int = len(CLASSES)) -> None:
        super().__init__()
        self.features = nn.Sequential(
            stage(axes, 16, 33, 4),
            nn.MaxPool1d(2),
            stage(16, 32, 5, 1),
            nn.MaxPool1d(2),
            stage(32, 64, 3, 1),
            stage(64, 64, 3, 2),
        )
        self.pool = nn.AdaptiveAvgPool1d(1)
        self.classifier = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pool(self.features(x)).flatten(1))

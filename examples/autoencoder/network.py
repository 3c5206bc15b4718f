"""A convolutional autoencoder that scores how strange a spectrogram is, inside the model."""

from torch import Tensor, nn

BANDS = FRAMES = 32


class Autoencoder(nn.Module):
    """float32 [items, 1, bands, frames] of 0 to 1 -> (rebuilt, same shape; score, float32 [items, 1]).

    The score is the mean square of what it could not rebuild from ``code`` numbers: a device needs no more
    than one comparison with a threshold.
    """

    def __init__(self, code: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 8 * 8, code),
        )
        self.decoder = nn.Sequential(
            nn.Linear(code, 32 * 8 * 8),
            nn.ReLU(),
            nn.Unflatten(1, (32, 8, 8)),
            nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rebuilt = self.decoder(self.encoder(x))
        return rebuilt, (x - rebuilt).square().flatten(1).mean(dim=1, keepdim=True)

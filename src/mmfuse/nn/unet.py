"""The UNet of one modality, after Ronneberger et al. 2015, and the guidance of one encoder by another.

Source: MMA-UNet 3.1; details that the paper leaves open: M5, M6, M13 of docs/decisions/0006-mma-unet.md.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfuse.nn.attention import SqueezeExcite

OUTPUTS = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "linear": nn.Identity}


class DoubleConv(nn.Sequential):
    """3x3 convolution, batch norm, ReLU, twice; (B, c, H, W) to (B, c', H, W)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )


class Encoder(nn.Module):
    """UNet encoder of five levels; level l has width * 2^(l-1) channels at 1/2^(l-1) of the resolution.

    Args:
        channels: Channels of the input image.
        width: Channels of the first level; 64 in the paper.
        guided: Whether each level is multiplied by weights taken from another encoder's level.
    """

    def __init__(self, channels: int, width: int, *, guided: bool) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        self.blocks = nn.ModuleList(DoubleConv(c, d) for c, d in zip([channels, *widths], widths, strict=False))
        # PAPER: 3.1, squeeze-and-excitation of the visible features, at each level (M5: reduction 16, no bias)
        self.guides = nn.ModuleList(SqueezeExcite(c, 16) for c in widths) if guided else None

    def forward(self, x: Tensor, guidance: list[Tensor] | None = None) -> list[Tensor]:
        """Return the features of levels 1 to 5.

        Shape: x (B, channels, H, W) with H, W multiples of 16; guidance like the result of this method.
        """
        features: list[Tensor] = []
        for level, block in enumerate(self.blocks):
            x = block(x if level == 0 else F.max_pool2d(x, 2))  # (B, width * 2^level, H / 2^level, W / 2^level)
            if self.guides is not None and guidance is not None:
                x = x * self.guides[level](guidance[level])
            features.append(x)
        return features


class Decoder(nn.Module):
    """UNet decoder: transposed convolution, concatenation, double convolution at each level."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        self.ups = nn.ModuleList(nn.ConvTranspose2d(2 * c, c, 2, stride=2) for c in reversed(widths[:-1]))
        self.blocks = nn.ModuleList(DoubleConv(2 * c, c) for c in reversed(widths[:-1]))
        self.out = nn.Conv2d(width, channels, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return the reconstructed image, (B, channels, H, W), before the output activation."""
        x = features[-1]
        for up, block, skip in zip(self.ups, self.blocks, reversed(features[:-1]), strict=True):
            x = block(torch.cat([skip, fitted(up(x), skip)], dim=1))
        return self.out(x)


def fitted(x: Tensor, skip: Tensor) -> Tensor:
    """Zero-pad to the size of a skip connection, which is larger where pooling dropped a row or a column."""
    rows, columns = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
    if not (rows or columns):
        return x
    return F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


class UNet(nn.Module):
    """The autoencoder of one modality (stage I)."""

    def __init__(self, channels: int, width: int, output: str, *, guided: bool) -> None:
        super().__init__()
        self.encoder = Encoder(channels, width, guided=guided)
        self.decoder = Decoder(channels, width)
        # M6: the published code ends in tanh although the targets are in [0, 1]
        self.activation = OUTPUTS[output]()

    def forward(self, x: Tensor, guidance: list[Tensor] | None = None) -> Tensor:
        """Reproduce the image; shapes as in `Encoder.forward`."""
        return self.activation(self.decoder(self.encoder(x, guidance)))

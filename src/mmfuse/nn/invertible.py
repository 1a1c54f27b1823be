"""Invertible blocks: affine coupling of the two halves of a feature map."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Bottleneck(nn.Sequential):
    """Inverted bottleneck: twice the channels, depthwise convolution 3x3, back; (B, c, H, W) in and out.

    Source: Sandler et al. 2018 (MobileNetV2), without batch norm and shortcut, and with GELU, which has no dead half.
    """

    def __init__(self, channels: int) -> None:
        hidden = 2 * channels
        super().__init__(
            nn.Conv2d(channels, hidden, 1),
            nn.GELU(),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, padding_mode="reflect"),
            nn.GELU(),
            nn.Conv2d(hidden, channels, 1),
        )


class InvertibleBlock(nn.Module):
    """Each half of the channels is shifted, and scaled, by a function of the other half, so that both can be undone.

    Shape: (B, c, H, W) in and out, for an even c.
    Source: SMFNet eq. 5 to 8; Dinh et al. 2017 (real NVP).

    Args:
        channels: c.
        scale_both: Whether the second half is scaled as well (eq. 8), or shifted only (eq. 6).
    """

    def __init__(self, channels: int, *, scale_both: bool) -> None:
        super().__init__()
        half = channels // 2
        # ASSUME: the paper writes one psi for all of these functions, and prints eq. 6 with the second half on both
        # sides, which could not be undone; as in the works it cites, each has its own weights and sees the other half
        self.shift_first, self.scale_first, self.shift_second = Bottleneck(half), Bottleneck(half), Bottleneck(half)
        self.scale_second = Bottleneck(half) if scale_both else None

    def forward(self, x: Tensor) -> Tensor:
        """Couple the halves (eq. 5 and 6)."""
        first, second = x.chunk(2, dim=1)
        if self.scale_second is not None:
            second = second * _factor(self.scale_second(first))
        second = second + self.shift_second(first)
        first = first * _factor(self.scale_first(second)) + self.shift_first(second)
        return _join(first, second)

    def inverse(self, x: Tensor) -> Tensor:
        """Undo `forward` (eq. 7 and 8)."""
        first, second = x.chunk(2, dim=1)
        first = (first - self.shift_first(second)) / _factor(self.scale_first(second))
        second = second - self.shift_second(first)
        if self.scale_second is not None:
            second = second / _factor(self.scale_second(first))
        return _join(first, second)


class InvertibleBlocks(nn.Module):
    """A chain of invertible blocks, to be run forwards or backwards; (B, c, H, W) in and out."""

    def __init__(self, channels: int, layers: int, *, scale_both: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(InvertibleBlock(channels, scale_both=scale_both) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """Couple the halves in every block."""
        for block in self.blocks:
            x = block(x)
        return x

    def inverse(self, x: Tensor) -> Tensor:
        """Undo `forward`."""
        for block in reversed(self.blocks):
            assert isinstance(block, InvertibleBlock)
            x = block.inverse(x)
        return x


def _factor(x: Tensor) -> Tensor:
    # ASSUME: alpha of eq. 7 is tanh. The factor stays in [1/e, e], so that rounding cannot grow on the way back
    # tanh x = 2 sigmoid(2 x) - 1, which torch does several times as fast
    return (2 * (2 * x).sigmoid() - 1).exp()


def _join(first: Tensor, second: Tensor) -> Tensor:
    return torch.cat([first, second], dim=1)

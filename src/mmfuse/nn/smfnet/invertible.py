"""Invertible blocks: affine coupling between the two halves of a feature map."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Bottleneck(nn.Sequential):
    """Inverted bottleneck: twice the channels, 3x3 depthwise convolution, back; (B, c, H, W) in and out.

    Source: Sandler et al. 2018 (MobileNetV2), without batch norm and shortcut.
    """

    def __init__(self, channels: int) -> None:
        hidden = 2 * channels
        super().__init__(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, padding_mode="reflect", bias=False),
            nn.ReLU6(inplace=True),
            nn.Conv2d(hidden, channels, 1, bias=False),
        )


class InvertibleBlock(nn.Module):
    """A 1x1 convolution, then shift the second half of the channels, then scale and shift the first half.

    Each half is changed by functions of the other half only, so that `couple` can be inverted.

    Shape: (B, c, H, W) in and out, for an even c.
    Source: SMFNet eq. 5 and 6; Dinh et al. 2017 (real NVP); Kingma and Dhariwal 2018 (Glow) for the convolution.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.mix = nn.Conv2d(channels, channels, 1)
        # the paper writes one psi for all of these functions; in the published code, each has its own weights
        self.shift_first, self.scale_first, self.shift_second = (Bottleneck(half) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Mix the channels and couple the halves."""
        return torch.cat(self.couple(*self.mix(x).chunk(2, dim=1)), dim=1)

    def couple(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Couple the halves; (B, c / 2, H, W) each."""
        second = second + self.shift_second(first)  # eq. 6; the paper prints psi of the second half itself
        first = first * self.scale_first(second).exp() + self.shift_first(second)  # eq. 5, new second half
        return first, second

    def uncouple(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Invert `couple`."""
        first = (first - self.shift_first(second)) * (-self.scale_first(second)).exp()
        second = second - self.shift_second(first)
        return first, second


class BackwardBlock(nn.Module):
    """An invertible block applied in reverse, which scales and shifts both halves.

    Shape: (B, c, H, W) in and out, for an even c.
    Source: SMFNet eq. 7 and 8.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.mix = nn.Conv2d(channels, channels, 1)
        self.shift_first, self.scale_first, self.shift_second, self.scale_second = (Bottleneck(half) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Mix the channels and uncouple the halves."""
        return torch.cat(self.uncouple(*self.mix(x).chunk(2, dim=1)), dim=1)

    def couple(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Couple the halves; (B, c / 2, H, W) each."""
        first = first * _factor(self.scale_first(second)) + self.shift_first(second)
        second = second * _factor(self.scale_second(first)) + self.shift_second(first)
        return first, second

    def uncouple(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Invert `couple`."""
        second = (second - self.shift_second(first)) / _factor(self.scale_second(first))  # eq. 8
        first = (first - self.shift_first(second)) / _factor(self.scale_first(second))  # eq. 7, new second half
        return first, second


def _factor(x: Tensor) -> Tensor:
    """Return alpha of eq. 7 and 8, between 1 / e^2 and e^2."""
    return (4 * (x.sigmoid() - 0.5)).exp()  # S8: as published

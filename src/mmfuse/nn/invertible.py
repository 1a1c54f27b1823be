"""Invertible blocks: affine coupling of the two halves of a feature map."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Bottleneck(nn.Sequential):
    """Inverted bottleneck: twice the channels, depthwise convolution 3x3, back; (B, c, H, W) in and out.

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
    """A convolution 1x1, then each half of the channels is shifted, and scaled, by a function of the other half.

    The coupling can be run forwards or backwards; each undoes the other.

    Shape: (B, c, H, W) in and out, for an even c.
    Source: SMFNet eq. 5 to 8; Dinh et al. 2017 (real NVP); Kingma and Dhariwal 2018 (Glow) for the convolution.

    Args:
        channels: c.
        scale_both: Whether the second half is scaled as well (eq. 8), or shifted only (eq. 6). S8: the factors are
            exp(4 (sigmoid(s) - 1/2)) then, in (1/e^2, e^2), and exp(s) otherwise.
    """

    def __init__(self, channels: int, *, scale_both: bool) -> None:
        super().__init__()
        half = channels // 2
        self.mix = nn.Conv2d(channels, channels, 1)
        # the paper writes one psi for all of these functions; in the published code each has its own weights
        self.shift_first, self.scale_first, self.shift_second = Bottleneck(half), Bottleneck(half), Bottleneck(half)
        self.scale_second = Bottleneck(half) if scale_both else None

    def forward(self, x: Tensor) -> Tensor:
        """Mix the channels and couple the halves."""
        return torch.cat(self.couple(*self.mix(x).chunk(2, dim=1)), dim=1)

    def backward(self, x: Tensor) -> Tensor:
        """Mix the channels and uncouple the halves."""
        return torch.cat(self.uncouple(*self.mix(x).chunk(2, dim=1)), dim=1)

    def couple(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Couple the halves (eq. 5 and 6); (B, c / 2, H, W) each."""
        if self.scale_second is not None:
            second = second * self._factor(self.scale_second(first))
        second = second + self.shift_second(first)  # eq. 6
        # the new second half: with the old one, as printed, eq. 5 and 6 could not be undone
        first = first * self._factor(self.scale_first(second)) + self.shift_first(second)  # eq. 5
        return first, second

    def uncouple(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `couple` (eq. 7 and 8); (B, c / 2, H, W) each."""
        second = second - self.shift_second(first)  # eq. 8
        if self.scale_second is not None:
            second = second / self._factor(self.scale_second(first))
        first = (first - self.shift_first(second)) / self._factor(self.scale_first(second))  # eq. 7
        return first, second

    def _factor(self, x: Tensor) -> Tensor:
        return x.exp() if self.scale_second is None else (4 * (x.sigmoid() - 0.5)).exp()

"""Attention over channels and pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SqueezeExcite(nn.Module):
    """Channel weights from the mean of a feature map; (B, c, H, W) to (B, c, 1, 1) in (0, 1).

    Source: Hu et al. 2018; MMA-UNet 3.1 (weights from visible features for infrared ones).
    """

    def __init__(self, channels: int, reduction: int, *, bias: bool = False) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.squeeze = nn.Linear(channels, hidden, bias=bias)
        self.excite = nn.Linear(hidden, channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the weight of each channel."""
        return self.of_mean(x.mean(dim=(2, 3)))

    def of_mean(self, mean: Tensor) -> Tensor:
        """Return the weight of each channel, (B, c, 1, 1), from its mean, (B, c)."""
        return torch.sigmoid(self.excite(F.relu(self.squeeze(mean))))[..., None, None]


class PooledConvAttention(nn.Module):
    """Channel attention for shallow levels: one 1-D convolution over the pooled channels (mean and maximum, added).

    Source: Wang et al. 2020 (ECA-Net), eq. 12, for the number of taps; M3 of docs/decisions/0006-mma-unet.md.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        taps = int((math.log2(channels) + 1) / 2)
        taps += 1 - taps % 2  # 5 at 128 and at 256 channels
        self.mix = nn.Conv1d(1, 1, taps, padding=taps // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted features; (B, c, H, W) in and out."""
        return self.weighted(x, x.mean(dim=(2, 3)), x.amax(dim=(2, 3)))

    def weighted(self, x: Tensor, mean: Tensor, maximum: Tensor) -> Tensor:
        """Return the features weighted by the mean and the maximum of each channel, (B, c)."""
        weight = torch.sigmoid(self.mix(mean[:, None]) + self.mix(maximum[:, None]))  # (B, 1, c)
        return x * weight[:, 0, :, None, None]


class ChannelSpatialAttention(nn.Module):
    """Attention for deep levels: the larger of channel-weighted and pixel-weighted features (reduction 2).

    Source: Roy et al. 2018 (concurrent squeeze and excitation); M3 of docs/decisions/0006-mma-unet.md.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel = SqueezeExcite(channels, 2, bias=True)
        self.spatial = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted features; (B, c, H, W) in and out."""
        return torch.maximum(x * self.channel(x), x * torch.sigmoid(self.spatial(x)))

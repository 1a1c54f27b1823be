"""Attention over channels and pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SqueezeExcite(nn.Module):
    """Channel weights from the mean of a feature map; (B, c, H, W) to (B, c, 1, 1) in (0, 1).

    Source: Hu et al. 2018; MMA-UNet 3.1 (weights of the visible features for the infrared ones).
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.squeeze = nn.Conv2d(channels, hidden, 1, bias=False)
        self.excite = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the weight of every channel."""
        return torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean(dim=(2, 3), keepdim=True)))))


class PooledConvAttention(nn.Module):
    """Channel attention for shallow levels: one 1-D convolution over the pooled channels (mean and maximum, added)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # ASSUME: neither the paper nor the facts on the code give the kernel's length
        self.mix = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted features; (B, c, H, W) in and out."""
        mean, maximum = x.mean(dim=(2, 3)), x.amax(dim=(2, 3))  # (B, c)
        weight = torch.sigmoid(self.mix(mean[:, None]) + self.mix(maximum[:, None]))  # (B, 1, c)
        return x * weight.view(-1, self.channels, 1, 1)


class ChannelSpatialAttention(nn.Module):
    """Attention for deep levels: the larger of channel-weighted and pixel-weighted features (reduction 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel = SqueezeExcite(channels, 2)
        self.spatial = nn.Conv2d(channels, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted features; (B, c, H, W) in and out."""
        return torch.maximum(x * self.channel(x), x * torch.sigmoid(self.spatial(x)))

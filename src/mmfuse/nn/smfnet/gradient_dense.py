"""Densely connected convolutions and the gradient strength."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GradientDenseBlock(nn.Module):
    """A convolution followed by densely connected convolutions, plus its gradient strength; (B, c, H, W) in and out.

    Source: Tang et al. 2022 (SeAFusion), gradient residual dense block, as in SMFNet's published code.

    Args:
        channels: c.
        train_sobel: Whether to train the gradient filters, which are initialised with Sobel filters.
    """

    def __init__(self, channels: int, *, train_sobel: bool = True) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.third = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.merge = nn.Conv2d(3 * channels, channels, 1)
        sobel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
        self.sobel_x: Tensor
        self.sobel_y: Tensor
        for name, one in (("sobel_x", sobel), ("sobel_y", sobel.T)):
            kernel = one.repeat(channels, 1, 1, 1)  # (c, 1, 3, 3)
            if train_sobel:
                self.register_parameter(name, nn.Parameter(kernel))
            else:
                self.register_buffer(name, kernel)
        self.gradient = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the enhanced features."""
        first = F.leaky_relu(self.first(x), 0.2)
        second = F.leaky_relu(self.second(first), 0.2)
        third = F.leaky_relu(self.third(torch.cat([first, second], dim=1)), 0.2)
        dense = self.merge(torch.cat([first, second, third], dim=1))  # (B, 3 c, H, W) to (B, c, H, W)
        strength = self._strength(first)
        return F.leaky_relu(dense + self.gradient(strength), 0.1)

    def _strength(self, x: Tensor) -> Tensor:
        """Return the sum of both filters' absolute responses, per channel."""
        channels = x.shape[1]
        along_x = F.conv2d(x, self.sobel_x, padding=1, groups=channels)
        along_y = F.conv2d(x, self.sobel_y, padding=1, groups=channels)
        return along_x.abs() + along_y.abs()

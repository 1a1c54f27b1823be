"""A fusion network with one input instead of two, for code that calls models that way."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PairModel(nn.Module):
    """A trained fusion network that takes both images as the two channels of one input, and returns plain tensors.

    Shape: (B, 2, H, W) with H, W >= 16; returns (B, 1, H, W).
    Range: [0, 1] in and out.
    """

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.method = method.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, pair: Tensor) -> Tensor:
        """Fuse the first channel with the second."""
        fused: Tensor = self.method(pair[:, :1], pair[:, 1:])  # (B, 1, H, W)
        return fused

"""Stretching of fused images to the full range, as some authors' test code does."""

from __future__ import annotations

from torch import Tensor, nn


class Stretch(nn.Module):
    """Stretch each image from its own minimum and maximum, over all channels, to 0 and 1; (B, C, H, W) in and out."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the stretched images."""
        return self.stretched(x, x.amin(dim=(1, 2, 3), keepdim=True), x.amax(dim=(1, 2, 3), keepdim=True))

    @staticmethod
    def stretched(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Return images stretched from the given limits, (B, 1, 1, 1) each."""
        return (x - low) / (high - low).clamp_min(1e-6)

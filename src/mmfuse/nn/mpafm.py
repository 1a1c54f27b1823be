"""Multipath adaptive fusion module (MPAFM), with which LKC-FUNet replaces the plain skip connections of a UNet.

Source: He et al., "Rethinking Normalization Strategies and Convolutional Kernels for Multimodal Image Fusion", 3.3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmfuse.errors import check_choices
from mmfuse.nn.normalisation import normalisation

CHOICES = {
    "norm": ("group", "batch", "none"),
    "sides": ("paper", "code"),
    "weighting": ("softmax", "sigmoid"),
    "recalibrated": ("decoder", "encoder"),
}


class MPAFM(nn.Module):
    """Weight encoder and decoder features, let them gate each other, and recalibrate the decoder features.

    Source: 3.3, eq. 1 to 5; L3, L4 of docs/decisions/0012-lkc-funet.md.

    Args:
        channels: Channels of both features.
        norm: group (one group), batch (published code) or none.
        sides: `paper` takes channel attention of the encoder and spatial attention of the decoder, `code` the reverse.
        weighting: Whether the two weights of a pixel add up to one (softmax) or not (sigmoid).
        residual: Whether the features are added to their weighted version (published code).
        attention: Eq. 1 to 3; without it, both features have weight 1.
        gating: Eq. 4; without it, the features are added.
        recalibration: Eq. 5; without it, the fused features are passed on unchanged.
        recalibrated: The features multiplied by the pixel attention map: decoder or encoder.
        reduction: Divisor of the channels within the channel attention.
    """

    def __init__(
        self,
        channels: int,
        *,
        norm: str = "group",
        sides: str = "paper",
        weighting: str = "softmax",
        residual: bool = True,
        attention: bool = True,
        gating: bool = True,
        recalibration: bool = True,
        recalibrated: str = "decoder",
        reduction: int = 8,
    ) -> None:
        super().__init__()
        check_choices("MPAFM", CHOICES, norm=norm, sides=sides, weighting=weighting, recalibrated=recalibrated)
        self.sides, self.weighting, self.recalibrated = sides, weighting, recalibrated
        self.residual, self.attention, self.gating, self.recalibration = residual, attention, gating, recalibration
        if attention:
            hidden = max(4, channels // reduction)  # a narrower squeeze often starts dead in narrow networks
            self.channel = nn.Sequential(  # no activation at the end: softmax comes after the sum
                nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1)
            )
            self.spatial = nn.Sequential(nn.Conv2d(2, 1, 1), normalisation(norm, 1))
            self.refine = nn.Sequential(normalisation(norm, channels), nn.Conv2d(channels, 2, 1))
        if recalibration:
            self.recalibrate = nn.Sequential(nn.Conv2d(channels, channels, 1), normalisation(norm, channels))
        self.out = nn.Conv2d(channels, 2 * channels, 1)

    def weights(self, encoder: Tensor, decoder: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 1: weights of encoder and decoder at each pixel.

        Shape: encoder, decoder (B, c, H, W); returns (B, 1, H, W) twice, for encoder and decoder.
        Range: (0, 1); both add up to 1 under softmax.
        """
        for_channels, for_pixels = (encoder, decoder) if self.sides == "paper" else (decoder, encoder)
        pooled = torch.cat([for_pixels.mean(dim=1, keepdim=True), for_pixels.amax(dim=1, keepdim=True)], dim=1)
        maps = self.refine(self.channel(for_channels) + self.spatial(pooled))  # (B, 2, H, W)
        maps = maps.softmax(dim=1) if self.weighting == "softmax" else maps.sigmoid()
        first, second = maps.chunk(2, dim=1)
        # PAPER: A for the encoder (eq. 2), B for the decoder (eq. 3); L4: the published code swaps them throughout
        return (first, second) if self.sides == "paper" else (second, first)

    def forward(self, encoder: Tensor, decoder: Tensor) -> Tensor:
        """Return the input of the next decoder block, (B, 2 c, H, W), from two feature maps (B, c, H, W)."""
        e, d = encoder, decoder
        if self.attention:
            weight_e, weight_d = self.weights(encoder, decoder)
            # L4: the published code adds the features to their weighted version; eq. 2 and 3 do not
            e = weight_e * e + e if self.residual else weight_e * e
            d = weight_d * d + d if self.residual else weight_d * d
        fused = e.sigmoid() * d + d.sigmoid() * e if self.gating else e + d  # eq. 4
        if self.recalibration:
            # PAPER: 3.3, a "pixel attention map" to "recalibrate the features of the input decoder" (eq. 5)
            fused = self.recalibrate(fused).sigmoid() * (decoder if self.recalibrated == "decoder" else encoder)
        return self.out(fused)


class Concatenation(nn.Module):
    """The plain skip connection of a UNet instead of MPAFM (ablation VI)."""

    def forward(self, encoder: Tensor, decoder: Tensor) -> Tensor:
        """Return both features, (B, 2 c, H, W)."""
        return torch.cat([encoder, decoder], dim=1)

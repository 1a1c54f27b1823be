"""Fusion of two encoders' levels of different resolution.

Level l has width * 2^(l-1) channels at 1/2^(l-1) of the resolution. Source: MMA-UNet 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmfuse.nn.attention import ChannelSpatialAttention, PooledConvAttention


class LevelFusion(nn.Module):
    """Bring a visible and an infrared level to one size, add and weight them.

    Args:
        visible_level: 1 to 5.
        infrared_level: 1 to 5; the coarser of both sets resolution and channels.
        width: Channels of level 1.
        deep: Which of the two attentions follows.
    """

    def __init__(self, visible_level: int, infrared_level: int, width: int, *, deep: bool) -> None:
        super().__init__()
        level = max(visible_level, infrared_level)
        self.visible = _to_level(visible_level, level, width)
        self.infrared = _to_level(infrared_level, level, width)
        channels = width * 2 ** (level - 1)
        self.attention = ChannelSpatialAttention(channels) if deep else PooledConvAttention(channels)

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        """Return the fused features at the coarser level."""
        return self.attention(self.visible(visible) + self.infrared(infrared))


class SoftLevelFusion(nn.Module):
    """A fused level with learned source levels: a weighted sum over all possible pairs.

    Source: ours, for the choice that MMA-UNet 5.2 leaves to future work.

    Args:
        level: 2 to 5; sets resolution and channels. A pair has this level of one image and this or a shallower level of
            the other; with a weight of 1 for one pair, this is a `LevelFusion`.
        width: Channels of level 1.
        deep: Which of the two attentions follows.
    """

    def __init__(self, level: int, width: int, *, deep: bool) -> None:
        super().__init__()
        self.pairs = [(v, i) for v in range(1, level + 1) for i in range(1, level + 1) if max(v, i) == level]
        self.choice = nn.Parameter(torch.zeros(len(self.pairs)))  # equal weights at first
        self.visible = nn.ModuleList(_to_level(source, level, width) for source in range(1, level + 1))
        self.infrared = nn.ModuleList(_to_level(source, level, width) for source in range(1, level + 1))
        channels = width * 2 ** (level - 1)
        self.attention = ChannelSpatialAttention(channels) if deep else PooledConvAttention(channels)

    def forward(self, visible: list[Tensor], infrared: list[Tensor]) -> Tensor:
        """Return the fused features of this level from all levels of both encoders."""
        levels = zip(visible, self.visible, strict=False), zip(infrared, self.infrared, strict=False)
        v, i = ([to_level(feature) for feature, to_level in side] for side in levels)
        weights = self.choice.softmax(dim=0)
        pairs = zip(weights, self.pairs, strict=True)
        return self.attention(sum(weight * (v[first - 1] + i[second - 1]) for weight, (first, second) in pairs))

    def pair_weights(self) -> dict[str, float]:
        """Return the weight of each pair VISIBLE-INFRARED of levels; the sum is 1."""
        weights = self.choice.softmax(dim=0).tolist()
        return {f"{v}-{i}": weight for (v, i), weight in zip(self.pairs, weights, strict=True)}


def _to_level(source: int, target: int, width: int) -> nn.Module:
    """Average pooling and a 1x1 convolution from one level's size to that of a coarser level."""
    if source == target:
        return nn.Identity()
    # PAPER: 3.2, "we first down-sampled the feature maps of VI"; M2: AvgPool2 + 1x1 to double the channels
    pool = nn.AvgPool2d(2 ** (target - source))
    return nn.Sequential(pool, nn.Conv2d(width * 2 ** (source - 1), width * 2 ** (target - 1), 1))

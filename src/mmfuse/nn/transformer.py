"""Transformer blocks whose attention runs between channels, so that their cost is linear in the number of pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel; (B, c, H, W) in and out."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised features."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def channel_attention(query: Tensor, key: Tensor, value: Tensor, temperature: Tensor) -> Tensor:
    """Mix the channels of `value` by the likeness of the channels of `query` and `key`, head by head.

    Shape: query, key, value (B, c, H, W), c a multiple of the heads; temperature (heads, 1, 1); returns (B, c, H, W).
    Source: Zamir et al. 2022 (Restormer), eq. 1, multi-Dconv transposed attention.
    """
    heads = len(temperature)
    q, k, v = (x.unflatten(1, (heads, -1)).flatten(3) for x in (query, key, value))  # (B, heads, c / heads, H W)
    lengths = q.norm(dim=-1)[..., :, None] * k.norm(dim=-1)[..., None, :]
    likeness = q @ k.transpose(-2, -1) / lengths.clamp_min(1e-6)  # (B, heads, c / heads, c / heads), in [-1, 1]
    return ((likeness * temperature).softmax(dim=-1) @ v).reshape(value.shape)


class LocalProjection(nn.Sequential):
    """Queries, keys and values: convolution 1x1, depthwise convolution 3x3; (B, c, H, W) to (B, 3 c, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, 3 * channels, 1, bias=False),
            nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False),
        )


class ChannelSelfAttention(nn.Module):
    """Multi-Dconv transposed attention (MDTA); (B, c, H, W) in and out.

    Source: Zamir et al. 2022 (Restormer), section 3.1.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.project = LocalProjection(channels)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended features."""
        query, key, value = self.project(x).chunk(3, dim=1)
        return self.out(channel_attention(query, key, value, self.temperature))


class CrossAttention(nn.Module):
    """Two feature maps that weight each other's channels: each keeps its keys and values and takes the other's queries.

    Source: SMFNet eq. 1 to 4.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.project = LocalProjection(channels)  # S8: one set of weights for both
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return both maps attended; (B, c, H, W) each, in and out."""
        q1, k1, v1 = self.project(first).chunk(3, dim=1)
        q2, k2, v2 = self.project(second).chunk(3, dim=1)
        # PAPER: eq. 1 and 2. ASSUME: eq. 3 and 4 print the other map's values, but name the function with its own
        return channel_attention(q2, k1, v1, self.temperature), channel_attention(q1, k2, v2, self.temperature)


class LocalFeedForward(nn.Sequential):
    """Locally enhanced feed-forward network (LeFF): wider, depthwise convolution 3x3, back; (B, c, H, W) in and out.

    Source: Wang et al. 2022 (Uformer), section 3.2.
    """

    def __init__(self, channels: int, expansion: int) -> None:
        hidden = channels * expansion
        super().__init__(
            nn.Conv2d(channels, hidden, 1),
            nn.GELU(),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
            nn.GELU(),
            nn.Conv2d(hidden, channels, 1),
        )


class TransformerBlock(nn.Module):
    """Channel attention and local feed-forward, each after a norm and beside a shortcut; (B, c, H, W) in and out."""

    def __init__(self, channels: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(ChannelNorm(channels), ChannelSelfAttention(channels, heads))
        self.feed_forward = nn.Sequential(ChannelNorm(channels), LocalFeedForward(channels, expansion))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features after one block."""
        x = x + self.attention(x)
        return x + self.feed_forward(x)


def transformer(channels: int, heads: int, expansion: int, layers: int) -> nn.Sequential:
    """Return a stack of transformer blocks."""
    return nn.Sequential(*(TransformerBlock(channels, heads, expansion) for _ in range(layers)))


class ResidualTransformer(nn.Module):
    """A stack of transformer blocks, a convolution, and a shortcut past all of them; (B, c, H, W) in and out.

    Source: SMFNet eq. 9 and 10.
    """

    def __init__(self, channels: int, heads: int, expansion: int, layers: int) -> None:
        super().__init__()
        self.layers = transformer(channels, heads, expansion, layers)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features after all blocks."""
        return self.conv(self.layers(x)) + x

"""Transformer blocks with attention between channels, whose cost is linear in the number of pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel; (B, c, H, W) in and out."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised features."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def channel_attention(query: Tensor, key: Tensor, value: Tensor, temperature: Tensor) -> Tensor:
    """Mix the channels of `value` by the similarity of the channels of `query` and `key`, separately for each head.

    Shape: query, key, value (B, c, H, W), c a multiple of the heads; temperature (heads, 1, 1); returns (B, c, H, W).
    Source: Zamir et al. 2022 (Restormer), eq. 1, multi-Dconv transposed attention.
    """
    q, k = by_head(query, temperature), by_head(key, temperature)
    return mixed(value, q @ k.transpose(-2, -1), q.norm(dim=-1), k.norm(dim=-1), temperature)


def by_head(x: Tensor, temperature: Tensor) -> Tensor:
    """Return features (B, c, H, W) as (B, heads, c / heads, H W)."""
    return x.unflatten(1, (len(temperature), -1)).flatten(3)


def mixed(value: Tensor, products: Tensor, query_length: Tensor, key_length: Tensor, temperature: Tensor) -> Tensor:
    """Mix channels by products of queries and keys, (B, heads, c / heads, c / heads), and their lengths."""
    lengths = query_length.clamp_min(1e-12)[..., :, None] * key_length.clamp_min(1e-12)[..., None, :]
    likeness = products / lengths  # in [-1, 1]
    return ((likeness * temperature).softmax(dim=-1) @ by_head(value, temperature)).reshape(value.shape)


def _projection(channels: int, to: int, *, dense: bool = False, bias: bool = False) -> nn.Sequential:
    """Return a 1x1 convolution and a 3x3 convolution, depthwise or dense; (B, channels, H, W) to (B, to, H, W)."""
    return nn.Sequential(
        nn.Conv2d(channels, to, 1, bias=bias),
        nn.Conv2d(to, to, 3, padding=1, groups=1 if dense else to, bias=bias),
    )


class ChannelSelfAttention(nn.Module):
    """Multi-Dconv transposed attention (MDTA); (B, c, H, W) in and out.

    Source: Zamir et al. 2022 (Restormer), section 3.1.

    Args:
        channels: c.
        heads: Number of groups of channels, mixed separately.
        dense: Whether the 3x3 convolution of queries, keys and values is dense.
    """

    attend = staticmethod(channel_attention)

    def __init__(self, channels: int, heads: int, *, dense: bool = False) -> None:
        super().__init__()
        self.project = _projection(channels, 3 * channels, dense=dense)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended features."""
        query, key, value = self.project(x).chunk(3, dim=1)
        return self.out(self.attend(query, key, value, self.temperature))


class CrossAttention(nn.Module):
    """Cross attention of two feature maps over channels: each keeps its keys and values and takes the other's queries.

    Source: SMFNet eq. 1 to 4.
    """

    attend = staticmethod(channel_attention)

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        # S8: one set of weights for both maps
        self.query = _projection(channels, channels, bias=True)
        self.key_value = _projection(channels, 2 * channels, bias=True)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return both attended maps; (B, c, H, W) each, in and out."""
        # PAPER: eq. 1 and 2, as in the published code; eq. 3 and 4 use the other map's values
        return self._attend(second, first), self._attend(first, second)

    def _attend(self, asking: Tensor, asked: Tensor) -> Tensor:
        key, value = self.key_value(asked).chunk(2, dim=1)
        return self.out(self.attend(self.query(asking), key, value, self.temperature))


class LocalFeedForward(nn.Sequential):
    """Locally enhanced feed-forward network (LeFF) with a shortcut; (B, c, H, W) in and out.

    Source: Wang et al. 2022 (Uformer), section 3.2; S16: last GELU and shortcut as in SMFNet's published code.
    """

    def __init__(self, channels: int, expansion: int) -> None:
        hidden = channels * expansion
        super().__init__(
            nn.Conv2d(channels, hidden, 1),
            nn.GELU(),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden),
            nn.GELU(),
            nn.Conv2d(hidden, channels, 1),
            nn.GELU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the new features."""
        return super().forward(x) + x


class FeedForward(nn.Sequential):
    """Pointwise feed-forward network with twice the channels inside; (B, c, H, W) in and out."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, 2 * channels, 1, bias=False),
            nn.GELU(),
            nn.Conv2d(2 * channels, channels, 1, bias=False),
        )


class TransformerBlock(nn.Module):
    """Channel attention and a feed-forward network, each with a norm and a shortcut; (B, c, H, W) in and out.

    Args:
        channels: c.
        heads: Number of attention heads.
        expansion: Widening factor of the feed-forward network.
    """

    def __init__(self, channels: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(ChannelNorm(channels), ChannelSelfAttention(channels, heads))
        self.feed_forward = nn.Sequential(ChannelNorm(channels), LocalFeedForward(channels, expansion))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features after one block."""
        x = x + self.attention(x)
        return x + self.feed_forward(x)


class DenseTransformerBlock(nn.Module):
    """`TransformerBlock` with a dense 3x3 convolution in the attention and none in the feed-forward network.

    Shape: (B, c, H, W) in and out.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(ChannelNorm(channels), ChannelSelfAttention(channels, heads, dense=True))
        self.feed_forward = nn.Sequential(ChannelNorm(channels), FeedForward(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features after one block."""
        x = x + self.attention(x)
        return x + self.feed_forward(x)


def transformer(channels: int, heads: int, expansion: int, layers: int) -> nn.Sequential:
    """Return a stack of transformer blocks."""
    return nn.Sequential(*(TransformerBlock(channels, heads, expansion) for _ in range(layers)))


class TransformerGroup(nn.Module):
    """Alternating blocks of both kinds, three convolutions, and a shortcut around them; (B, c, H, W) in and out.

    Source: SMFNet eq. 9 and 10.

    Args:
        channels: c.
        heads: Number of heads of each attention.
        expansion: Widening factor of the feed-forward network in the first kind of block.
        pairs: Number of pairs of blocks.
        residual: Whether to include the convolutions and the shortcut (eq. 10).
    """

    def __init__(self, channels: int, heads: int, expansion: int, pairs: int, *, residual: bool) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(TransformerBlock(channels, heads, expansion), DenseTransformerBlock(channels, heads))
                for _ in range(pairs)
            )
        )
        self.conv = narrow_convolutions(channels) if residual else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the features after all blocks."""
        deep = self.blocks(x)  # eq. 9
        return deep if self.conv is None else self.conv(deep) + x  # eq. 10


def narrow_convolutions(channels: int) -> nn.Sequential:
    """Return 3x3, 1x1 and 3x3 convolutions with a quarter of the channels inside; (B, c, H, W) in and out."""
    hidden = channels // 4
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(hidden, hidden, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(hidden, channels, 3, padding=1),
    )


class BaseBranch(nn.Module):
    """A convolution and groups of transformer blocks; (B, c, H, W) in and out.

    Source: SMFNet 2.2.2; the published code puts the convolution first.
    """

    def __init__(self, channels: int, heads: int, expansion: int, groups: int, pairs: int, *, residual: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.groups = nn.Sequential(
            *(TransformerGroup(channels, heads, expansion, pairs, residual=residual) for _ in range(groups))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the base features."""
        return self.groups(self.conv(x))

"""Components of SMFNet, built from its blocks: encoder, graph, fusion layers, decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmfuse.nn.smfnet.gradient_dense import GradientDenseBlock
from mmfuse.nn.smfnet.graph import GraphReasoning
from mmfuse.nn.smfnet.invertible import BackwardBlock, InvertibleBlock
from mmfuse.nn.smfnet.transformer import CrossAttention


class Features(NamedTuple):
    """Inputs of the decoder, (B, dim, H, W) each; `graph` is None in a network without a graph."""

    base: Tensor
    detail: Tensor
    graph: Tensor | None


class DetailBranch(nn.Module):
    """Gradient dense block, cross attention between the halves of the channels, invertible blocks.

    Shape: (B, dim, H, W) in and out.
    Source: SMFNet 2.2.1 (CAI); the published code puts the gradient dense block first.
    """

    def __init__(self, dim: int, heads: int, layers: int, *, cross_attention: bool, train_sobel: bool) -> None:
        super().__init__()
        self.dense = GradientDenseBlock(dim, train_sobel=train_sobel)
        self.cross = CrossAttention(dim // 2, heads) if cross_attention else None
        self.blocks = nn.Sequential(*(InvertibleBlock(dim) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the detail features."""
        x = self.dense(x)
        if self.cross is not None:
            x = torch.cat(self.cross(*x.chunk(2, dim=1)), dim=1)  # eq. 1 to 4
        return self.blocks(x)  # eq. 5 and 6


class Encoder(nn.Module):
    """Shallow features of one image, and the base and detail features computed from them."""

    def __init__(self, shallow: nn.Sequential, base: nn.Module, detail: nn.Module) -> None:
        super().__init__()
        self.shallow, self.base, self.detail = shallow, base, detail

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return shallow, base and detail features; (B, 1, H, W) to (B, dim, H, W) each."""
        shallow = self.shallow(image)
        return shallow, self.base(shallow), self.detail(shallow)


class Graph(nn.Module):
    """Reasoning between both images' shallow features, and the layers that merge the results for fusion."""

    def __init__(self, dim: int, scales: Sequence[int], iterations: int, nodes: str, reasoning: str) -> None:
        super().__init__()
        self.reasoning = GraphReasoning(dim, scales, iterations, nodes, reasoning)
        self.join = nn.Conv2d(2 * dim, dim, 1)


class Decoder(nn.Module):
    """Image from base, detail and graph features: transformer, three convolutions, sigmoid."""

    def __init__(self, dim: int, branches: int, layers: nn.Sequential, join: str) -> None:
        super().__init__()
        # S9: the published code adds the features; the paper's text concatenates them
        self.join = nn.Conv2d(branches * dim, dim, 1) if join == "concat" else None
        self.layers = layers
        self.out = nn.Sequential(
            nn.Conv2d(dim, dim // 2, 3, padding=1, bias=False),
            nn.LeakyReLU(0.01),
            nn.Conv2d(dim // 2, dim // 4, 3, padding=1, bias=False),
            nn.LeakyReLU(0.01),
            nn.Conv2d(dim // 4, 1, 3, padding=1, bias=False),
        )

    def forward(self, features: Features) -> Tensor:
        """Return the image, (B, 1, H, W) in (0, 1)."""
        parts = [part for part in features if part is not None]
        x = sum(parts[1:], start=parts[0]) if self.join is None else self.join(torch.cat(parts, dim=1))
        return torch.sigmoid(self.out(self.layers(x)))


class DetailFusion(nn.Module):
    """Gradient dense block, then reversed invertible blocks; (B, dim, H, W) in and out.

    Source: SMFNet eq. 7 and 8.
    """

    def __init__(self, dim: int, layers: int, *, train_sobel: bool) -> None:
        super().__init__()
        self.dense = GradientDenseBlock(dim, train_sobel=train_sobel)
        self.blocks = nn.Sequential(*(BackwardBlock(dim) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the fused detail features."""
        return self.blocks(self.dense(x))


def labeller(dim: int, classes: int) -> nn.Module:
    """Return a small network that classifies the pixels of a restored image; used only in training.

    ASSUME: the paper compares the one-channel restoration itself with labels, which allows at most two classes.
    """
    return nn.Sequential(
        nn.Conv2d(1, dim, 3, padding=1),
        nn.LeakyReLU(inplace=True),
        nn.Conv2d(dim, dim, 3, padding=2, dilation=2),
        nn.LeakyReLU(inplace=True),
        nn.Conv2d(dim, classes, 3, padding=4, dilation=4),
    )

"""Graph reasoning between two modalities: nodes are feature maps, one for each modality and scale."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PooledNode(nn.Module):
    """Mean pooling over cells of `scale` pixels, convolution 3x3, batch norm, and back to the size of the input."""

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.embed = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return the node; (B, c, H, W) in and out."""
        height, width = x.shape[-2:]
        cells = (math.ceil(height / self.scale), math.ceil(width / self.scale))
        x = self.embed(F.adaptive_avg_pool2d(x, cells))  # (B, c, H / scale, W / scale)
        return F.interpolate(x, (height, width), mode="bilinear", align_corners=False)


class DilatedNode(nn.Sequential):
    """Convolution 3x3 with holes of `scale` pixels, batch norm; (B, c, H, W) in and out."""

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 3, padding=scale, dilation=scale, bias=False), nn.BatchNorm2d(channels)
        )


NODES = {"dilated": DilatedNode, "pooled": PooledNode}


class Delivery(nn.Module):
    """Messages from neighbours to a node, and the node after them.

    Source: SMFNet eq. 12 to 16.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.edge = nn.Conv2d(channels, channels, 1)
        self.gates = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.candidate = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, node: Tensor, neighbours: Sequence[Tensor]) -> Tensor:
        """Return the updated node; all (B, c, H, W)."""
        messages = (torch.sigmoid(self.edge(node - other)) * other for other in neighbours)
        return self._update(node, sum(messages, start=torch.zeros_like(node)))

    def _update(self, node: Tensor, message: Tensor) -> Tensor:
        """Gated recurrent unit with 1x1 convolutions."""
        update, reset = torch.sigmoid(self.gates(torch.cat([message, node], dim=1))).chunk(2, dim=1)
        candidate = torch.tanh(self.candidate(torch.cat([message, reset * node], dim=1)))
        return node + update * (candidate - node)


class GraphReasoning(nn.Module):
    """Feature maps of two modalities that learn from each other at several scales.

    The modalities share all weights: exchanging the inputs exchanges the outputs.

    Source: SMFNet 2.2.3, eq. 11 to 16.

    Args:
        channels: Channels of the feature maps.
        scales: One node a modality for each.
        iterations: How often messages are delivered.
        nodes: How a node is made: dilated (published code) or pooled (eq. 11).
    """

    def __init__(self, channels: int, scales: Sequence[int], iterations: int, nodes: str) -> None:
        super().__init__()
        self.iterations = iterations
        self.nodes = nn.ModuleList(NODES[nodes](channels, scale) for scale in scales)
        self.across = Delivery(channels)  # S7: one set of gates for all scales and iterations
        self.within = Delivery(channels)
        self.gamma = nn.Parameter(torch.zeros(1))  # S7: what comes from other scales fades in from nothing
        self.merge = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reasoned features of both modalities; (B, c, H, W) each, in and out."""
        both = torch.cat([first, second])  # (2 B, c, H, W)
        nodes = [node(both) for node in self.nodes]
        for _ in range(self.iterations):
            # PAPER: the same scale in the other modality, then the other scales in the same modality
            nodes = [self.across(node, [node.roll(len(first), dims=0)]) for node in nodes]
            nodes = [self._from_other_scales(nodes, number) for number in range(len(nodes))]
        # ASSUME: S7 merges 128 channels to 64 and does not say which; here the features and the mean of their nodes
        merged = self.merge(torch.cat([both, sum(nodes[1:], start=nodes[0]) / len(nodes)], dim=1))
        return merged[: len(first)], merged[len(first) :]

    def _from_other_scales(self, nodes: list[Tensor], number: int) -> Tensor:
        # ASSUME: gamma blends the node with its update; at one this is eq. 16
        others = [node for k, node in enumerate(nodes) if k != number]
        return nodes[number] + self.gamma * (self.within(nodes[number], others) - nodes[number])

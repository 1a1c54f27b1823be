"""Graph reasoning between two modalities: the nodes are feature maps, several for each modality."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

REASONING = ("published", "printed")


class DilatedNode(nn.Sequential):
    """3x3 convolution with dilation `scale`, batch norm, ReLU; (B, c, H, W) in and out."""

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 3, padding=scale, dilation=scale, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )


class PooledNode(nn.Module):
    """Mean pooling over cells of `scale` pixels, 3x3 convolution, upsampling to the size of the input.

    Shape: (B, c, H, W) in and out.
    Source: SMFNet eq. 11.
    """

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.embed = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the node."""
        height, width = x.shape[-2:]
        # ASSUME: the paper names the operations of eq. 11, but neither the sizes nor the upsampling
        cells = (math.ceil(height / self.scale), math.ceil(width / self.scale))
        x = self.embed(F.adaptive_avg_pool2d(x, cells))  # (B, c, H / scale, W / scale)
        return F.interpolate(x, (height, width), mode="bilinear", align_corners=False)  # (B, c, H, W)


NODES = {"dilated": DilatedNode, "pooled": PooledNode}


class GatedUpdate(nn.Module):
    """Gated recurrent unit with 1x1 convolutions; takes message and node (B, c, H, W), returns the new node.

    Source: SMFNet eq. 16.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gates = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.candidate = nn.Conv2d(2 * channels, channels, 1)
        for layer in (self.gates, self.candidate):
            nn.init.normal_(layer.weight, std=0.01)

    def forward(self, message: Tensor, node: Tensor) -> Tensor:
        """Return the updated node."""
        reset, update = torch.sigmoid(self.gates(torch.cat([message, node], dim=1))).chunk(2, dim=1)
        candidate = torch.tanh(self.candidate(torch.cat([message, reset * node], dim=1)))
        return (1 - update) * node + update * candidate


class AcrossModalities(nn.Module):
    """Messages between the nodes of both modalities at one scale; (B, c, H, W) twice, in and out.

    Source: SMFNet eq. 12 to 16; S7 for the published code.

    Args:
        channels: c.
        printed: Whether gates have c channels and a GRU updates the nodes (the paper's equations), or gates have one
            channel and messages are added (the published code).
    """

    def __init__(self, channels: int, *, printed: bool = False) -> None:
        super().__init__()
        gate = channels if printed else 1
        self.to_infrared, self.to_visible = (nn.Conv2d(channels, gate, 1, bias=False) for _ in range(2))
        self.updates = nn.ModuleList(GatedUpdate(channels) for _ in range(2)) if printed else None

    def forward(self, infrared: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Return both nodes, each updated from the previous ones."""
        for_visible = infrared * torch.sigmoid(self.to_visible(infrared - visible))  # eq. 12, 13, 15
        for_infrared = visible * torch.sigmoid(self.to_infrared(visible - infrared))
        if self.updates is None:
            return infrared + for_infrared, visible + for_visible
        update_infrared, update_visible = self.updates
        return update_infrared(for_infrared, infrared), update_visible(for_visible, visible)


class WithinModality(nn.Module):
    """Messages between all nodes of one modality; a list of (B, c, H, W), in and out.

    Source: SMFNet eq. 12 to 16; S7 for the published code.

    Args:
        channels: c.
        nodes: Number of nodes.
        printed: Whether each neighbour has a gate of c channels and the GRU's output replaces the nodes (the paper's
            equations), or each neighbour has a gate of one channel, the gates alternate over the channels, and the
            GRU's output is added with a factor that starts at 0 (the published code).
    """

    def __init__(self, channels: int, nodes: int, *, printed: bool = False) -> None:
        super().__init__()
        neighbours = nodes - 1
        width = channels if printed else 1
        self.edges = nn.Conv2d(neighbours * channels, neighbours * width, 1, groups=neighbours, bias=False)
        self.update = GatedUpdate(channels)
        self.gamma = None if printed else nn.Parameter(torch.zeros(1))

    def forward(self, nodes: Sequence[Tensor]) -> list[Tensor]:
        """Return all nodes, each updated from the previous ones."""
        return [self._updated(node, [other for other in nodes if other is not node]) for node in nodes]

    def _updated(self, node: Tensor, neighbours: list[Tensor]) -> Tensor:
        channels = node.shape[1]
        differences = torch.cat([node - other for other in neighbours], dim=1)  # (B, n c, H, W), eq. 13
        gates = torch.sigmoid(self.edges(differences))  # eq. 12; (B, n c, H, W) as printed, (B, n, H, W) as published
        if self.gamma is not None:
            # S7: channel k of the joined neighbours gets gate k mod n, regardless of its neighbour
            gates = gates.repeat(1, channels, 1, 1)  # (B, n c, H, W)
        messages = (gates * torch.cat(neighbours, dim=1)).unflatten(1, (-1, channels))  # (B, n, c, H, W)
        updated = self.update(messages.sum(dim=1), node)  # eq. 15 and 16
        return updated if self.gamma is None else node + self.gamma * updated


class GraphReasoning(nn.Module):
    """Graph reasoning between the feature maps of two modalities at several scales.

    Source: SMFNet 2.2.3, eq. 11 to 16.

    Args:
        channels: Channels of the feature maps.
        scales: One node per modality for each; at least two.
        iterations: Rounds of messages between modalities, and then within them.
        nodes: Construction of a node: dilated (published code) or pooled (eq. 11).
        reasoning: Construction of messages and update of nodes: published or printed (eq. 12 to 16).
    """

    def __init__(
        self,
        channels: int,
        scales: Sequence[int],
        iterations: int,
        nodes: str = "dilated",
        reasoning: str = "published",
    ) -> None:
        super().__init__()
        self.iterations = iterations
        printed = reasoning == "printed"
        # S7: separate weights for each modality, infrared first
        self.nodes = nn.ModuleList(nn.ModuleList(NODES[nodes](channels, scale) for scale in scales) for _ in range(2))
        self.across = AcrossModalities(channels, printed=printed)
        self.within = nn.ModuleList(WithinModality(channels, len(scales), printed=printed) for _ in range(2))
        self.merge = nn.ModuleList(merging(channels, len(scales)) for _ in range(2))

    def forward(self, infrared: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reasoned features of both modalities; (B, c, H, W) each, in and out."""
        images = (infrared, visible)
        both = [[node(image) for node in nodes.children()] for image, nodes in zip(images, self.nodes, strict=True)]
        for _ in range(self.iterations):  # PAPER: the same scale in the other modality
            pairs = [self.across(*pair) for pair in zip(*both, strict=True)]
            both = [list(nodes) for nodes in zip(*pairs, strict=True)]
        for _ in range(self.iterations):  # PAPER: the other scales in the same modality
            both = [within(nodes) for within, nodes in zip(self.within, both, strict=True)]
        merged = [merge(torch.cat(nodes, dim=1)) for merge, nodes in zip(self.merge, both, strict=True)]
        return merged[0], merged[1]


def merging(channels: int, nodes: int) -> nn.Sequential:
    """Return layers that merge joined nodes into one feature map; (B, nodes c, H, W) to (B, c, H, W)."""
    return nn.Sequential(
        nn.Conv2d(nodes * channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
    )

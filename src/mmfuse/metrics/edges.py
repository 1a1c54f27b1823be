"""Preservation of the sources' edges in the fused image, and the strength of its edges."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mmfuse.metrics.card import MetricCard, metric
from mmfuse.metrics.elementary import atan_
from mmfuse.metrics.grey import grey_levels
from mmfuse.metrics.sobel import sobel, strength

_RAJALINGAM_2018 = (
    "Rajalingam, Priya: Hybrid multimodality medical image fusion technique for feature enhancement in medical "
    "diagnosis, Int. J. Engineering Science Invention 2 (2018) 52"
)
_STRONGEST = 255 * math.sqrt(20)  # over all 3x3 patches of 8-bit levels


class Edges(NamedTuple):
    """Strength and orientation of the edge at each pixel, (B, 1, H, W) each."""

    strength: Tensor
    orientation: Tensor  # -pi/2..pi/2


def _sobel(levels: Tensor) -> Edges:
    """Return the Sobel edges with zeros around the image; a vertical or absent edge direction is pi/2."""
    horizontal, downwards = sobel(levels, "constant")
    # ASSUME: upwards positive. The sign determines the distance of a vertical gradient (always +pi/2) from a steep one.
    vertical = -downwards
    upright = horizontal == 0
    slope = vertical / torch.where(upright, 1.0, horizontal)
    return Edges(strength(levels, "constant"), atan_(slope).masked_fill_(upright, math.pi / 2))


def _preserved(source: Edges, fused: Edges) -> Tensor:
    """Return how well strength and orientation of each of the source's edges are preserved, 0..0.987."""
    weaker = torch.minimum(source.strength, fused.strength)
    stronger = torch.maximum(source.strength, fused.strength)
    # Equal strengths give the strength itself, not 1, in every published evaluator: flat areas count as lost.
    strength = weaker / torch.where(weaker == stronger, 1.0, stronger)
    turn = (source.orientation - fused.orientation).abs_().div_(math.pi / 2)
    kept_strength = strength.sub_(0.5).mul_(15).sigmoid_()
    kept_orientation = (1 - turn).sub_(0.8).mul_(22).sigmoid_()
    return kept_strength.mul_(kept_orientation).mul_(0.9994 * 0.9879)


@metric(
    MetricCard(
        better="higher",
        range=(0, 0.9994 * 0.9879),
        source="Xydeas, Petrovic: Objective image fusion performance measure, Electronics Letters 36 (2000) 308",
        used_by="the evaluators of LKC-FUNet, SMFNet, CDDFuse; IVIF_ZOO; VIFB; Tang (MATLAB); the table of SMFNet",
        directed=True,
    )
)
def qabf(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Share of the sources' edges that the fused image preserves, weighted by their strength.

    Shape: three (B, 1, H, W) to (B,), H and W at least 3.
    Range: images in [0, 1]; the value is in 0..0.987. Two black sources have no edges: 0. (Any other constant
    source has edges at the zero border.)

    Raises:
        UserError: not a valid batch of images.
    """
    edges_fused, *edges_sources = (_sobel(levels) for levels in grey_levels(fused, a, b, smallest=3))
    kept = torch.stack([_preserved(s, edges_fused).mul_(s.strength).sum(dim=(1, 2, 3)) for s in edges_sources])
    offered = torch.stack([s.strength.sum(dim=(1, 2, 3)) for s in edges_sources]).sum(dim=0)
    return kept.sum(dim=0) / torch.where(offered == 0, 1.0, offered)


@metric(MetricCard(better="higher", range=(0, _STRONGEST), source=_RAJALINGAM_2018, used_by="VIFB (MATLAB)"))
def ei_vifb(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Edge intensity: the mean Sobel magnitude of the fused image, with replicated borders.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value is in 0..1140.4, and 0 for a constant image.

    Raises:
        UserError: not a valid batch of images.
    """
    return strength(grey_levels(fused, a, b)[0], "replicate").mean(dim=(1, 2, 3))


@metric(MetricCard(better="higher", range=(0, _STRONGEST), source=_RAJALINGAM_2018, used_by="IVIF_ZOO"))
def ei_ivif_zoo(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Edge intensity: the mean Sobel magnitude of the fused image, with zeros outside.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value is in 0..1140.4. A constant image has edges at the zero border.

    Raises:
        UserError: not a valid batch of images.
    """
    return strength(grey_levels(fused, a, b)[0], "constant").mean(dim=(1, 2, 3))

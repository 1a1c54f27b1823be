"""Share of the fused image's edges that come from neither source: Nabf."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmfuse.metrics.card import MetricCard, metric
from mmfuse.metrics.edges import Edges
from mmfuse.metrics.grey import grey_levels
from mmfuse.metrics.sharing import shared
from mmfuse.metrics.sobel import Border, sobel, strength

_KUMAR_2013 = (
    "Kumar: Multifocus and multispectral image fusion based on pixel significance using discrete cosine harmonic "
    "wavelet transform, Signal, Image and Video Processing 7 (2013) 1125"
)
_VISIBLE = 2.0  # edges below this strength have almost no weight
_SMALLEST = 3


def _edges(levels: Tensor, border: Border, scale: float) -> Edges:
    """Return strength and orientation, -pi..pi, of the Sobel gradient times `scale`."""
    horizontal, vertical = sobel(levels, border)
    return Edges(strength(levels, border) * scale, torch.atan2(vertical, horizontal))


@shared
def _lines(levels: Tensor) -> Edges:
    """Return the edges of Sobel / 8 with mirrored borders, with orientations as lines in -pi/2..pi/2."""
    edges = _edges(levels, "reflect", 1 / 8)
    # the metric uses the distance of the difference from pi/2, so pi/2 and -pi/2 are the same line
    return Edges(edges.strength, edges.orientation - math.pi * (edges.orientation / math.pi).round_())


def _kept(source: Edges, fused: Edges) -> Tensor:
    """Return how well the source's edges are preserved, 0..1."""
    weaker = torch.minimum(source.strength, fused.strength)
    stronger = torch.maximum(source.strength, fused.strength)
    ratio = weaker.div_(stronger.masked_fill_(stronger == 0, 1))
    orientation = (source.orientation - fused.orientation).abs_().sub_(math.pi / 2).abs_().mul_(2 / math.pi)
    kept_strength = ratio.sub_(0.5).mul_(19).sigmoid_().mul_(0.9999)
    kept_orientation = orientation.sub_(0.5).mul_(22).sigmoid_().mul_(0.9995)
    return kept_strength.mul_(kept_orientation).sqrt_()


def _weight(edges: Edges, faint: float) -> Tensor:
    """Return the weight of edges: their strength to the power 3/2, and `faint` for invisible edges."""
    seen = (edges.strength >= _VISIBLE).to(edges.strength.dtype)  # multiplying by 0 and 1 is faster than torch.where
    return edges.strength.sqrt().mul_(edges.strength).mul_(seen).add_((1 - seen).mul_(faint))


def _share(artefact: Tensor, lost: Tensor, weight: Tensor) -> Tensor:
    """Return the sum of the loss where there is an artefact, divided by the sum of the weights, (B,)."""
    total = weight.sum(dim=(1, 2, 3))
    return (artefact * lost).sum(dim=(1, 2, 3)) / torch.where(total == 0, 1.0, total)


def _nabf_of_lines(fused: Tensor, a: Tensor, b: Tensor, *, faint: float, flat: float) -> Tensor:
    """Return Nabf with mirrored borders and with orientations as lines, (B,).

    Args:
        fused: The fused images.
        a: The first sources.
        b: The second sources.
        faint: The weight of edges below a strength of 2.
        flat: The orientation where there is no edge.
    """
    edges_f, *edges_s = (
        Edges(lines.strength, torch.where(lines.strength == 0, flat, lines.orientation))
        for lines in map(_lines, grey_levels(fused, a, b, smallest=_SMALLEST))
    )
    lost = torch.zeros_like(edges_f.strength)
    weights = torch.zeros_like(lost)
    for edges in edges_s:
        weight = _weight(edges, faint)
        lost += (1 - _kept(edges, edges_f)).mul_(weight)
        weights += weight
    artefact = (edges_f.strength > edges_s[0].strength) & (edges_f.strength > edges_s[1].strength)
    return _share(artefact, lost, weights)


@metric(MetricCard(better="lower", range=(0, 1), source=_KUMAR_2013, used_by="Tang (MATLAB)", directed=True))
def nabf_tang(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Share of artefacts: edges stronger than in both sources; faint edges have a weight of 0.001.

    Shape: three (B, 1, H, W) to (B,), H and W at least 3.
    Range: images in [0, 1]; the value is in 0..1, and 0 for a constant fused image.

    Raises:
        UserError: not a valid batch of images.
    """
    return _nabf_of_lines(fused, a, b, faint=0.001, flat=math.pi / 2)


@metric(MetricCard(better="lower", range=(0, 1), source=_KUMAR_2013, used_by="IVIF_ZOO"))
def nabf_ivif_zoo(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Share of artefacts: edges stronger than in both sources; faint edges have no weight.

    Shape: three (B, 1, H, W) to (B,), H and W at least 3.
    Range: images in [0, 1]; the value is in 0..1, and 0 for a constant fused image. Two sources without any
    edge of a strength of 2 give 0, regardless of what the fused image adds.

    Raises:
        UserError: not a valid batch of images.
    """
    return _nabf_of_lines(fused, a, b, faint=0.0, flat=0.0)


@metric(
    MetricCard(
        better="lower", range=(0, 1), source=_KUMAR_2013, used_by="the evaluator of SMFNet", ordered=True, directed=True
    )
)
def nabf_smfnet(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Share of artefacts: edges stronger than in a alone, directions over the full circle, gradients not divided by 8.

    The artefact test ignores b, so the order of the sources matters; one to two times `nabf_tang`, or much more.

    Shape: three (B, 1, H, W) to (B,), H and W at least 3.
    Range: images in [0, 1]; the value is in 0..1, and 0 for a constant fused image.

    Raises:
        UserError: not a valid batch of images.
    """
    edges_f, *edges_s = (_edges(levels, "replicate", 1) for levels in grey_levels(fused, a, b, smallest=_SMALLEST))
    lost = torch.zeros_like(edges_f.strength)
    weights = torch.zeros_like(lost)
    for edges in edges_s:
        weight = 0.001 * _weight(edges, 1.0)
        lost += (1 - _kept(edges, edges_f)).mul_(weight)
        weights += weight
    return _share(edges_f.strength > edges_s[0].strength, lost, weights)

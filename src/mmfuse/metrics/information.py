"""Entropy and mutual information, from histograms of whole grey levels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmfuse.metrics.card import Card, metric
from mmfuse.metrics.grey import grey_levels

_QU_2002 = "Qu, Zhang, Yan: Information measure for performance of image fusion, Electronics Letters 38 (2002) 313"


def _whole(levels: Tensor) -> Tensor:
    """Round to whole grey levels: (B, 1, H, W) to (B, H * W) integers."""
    return levels.round().long().flatten(1)


def _entropy(cells: Tensor, count: int) -> Tensor:
    """Return the entropy in nats of the relative frequencies of `count` cells: (B, N) integers to (B,)."""
    batch, pixels = cells.shape
    first = torch.arange(batch, device=cells.device)[:, None] * count
    histogram = torch.bincount((cells + first).flatten(), minlength=batch * count).view(batch, count)
    # adding zero turns the -0 of a constant image into 0
    return torch.special.entr(histogram / torch.tensor(pixels, dtype=torch.float64)).sum(dim=1) + 0.0


def _mutual_information(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return MI(a, fused) + MI(b, fused) in nats, (B,)."""
    fused, a, b = (_whole(levels) for levels in grey_levels(fused, a, b))
    entropy_fused = _entropy(fused, 256)
    total = torch.zeros_like(entropy_fused)
    for source in (a, b):
        joint = _entropy(256 * source + fused, 256 * 256)
        # never negative by definition; the difference of entropies may be, by rounding
        total += (_entropy(source, 256) + entropy_fused - joint).clamp(min=0)
    return total


@metric(
    Card(
        better="higher",
        range=(0, 8),
        source="Roberts, van Aardt, Ahmed: Assessment of image fusion procedures using entropy, J. Applied Remote "
        "Sensing 2 (2008) 023522",
        used_by="the evaluators of LKC-FUNet, SMFNet, CDDFuse; VIFB",
    )
)
def en(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Entropy of the fused image's 256 grey levels, in bits.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value lies in 0..8, and is 0 for a constant image.

    Raises:
        UserError: no legal batch of images.
    """
    levels, _, _ = grey_levels(fused, a, b)
    return _entropy(_whole(levels), 256) / math.log(2)


@metric(
    Card(
        better="higher",
        range=(0, 2 * math.log(256)),
        source=_QU_2002,
        used_by="the evaluators of LKC-FUNet, SMFNet, CDDFuse; the table of SMFNet",
    )
)
def mi_nats_sum(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mutual information of the fused image with a plus that with b, in nats.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value lies in 0..11.09, and is 0 where the fused image or both sources are constant.

    Raises:
        UserError: no legal batch of images.
    """
    return _mutual_information(fused, a, b)


@metric(Card(better="higher", range=(0, 16), source=_QU_2002, used_by="IVIF_ZOO"))
def mi_bits_sum(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mutual information of the fused image with a plus that with b, in bits.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value lies in 0..16, and is 0 where the fused image or both sources are constant.

    Raises:
        UserError: no legal batch of images.
    """
    return _mutual_information(fused, a, b) / math.log(2)

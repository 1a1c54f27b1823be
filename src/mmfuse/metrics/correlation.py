"""Linear correlation of the fused image with its sources."""

from __future__ import annotations

import torch
from torch import Tensor

from mmfuse.metrics.card import MetricCard, metric
from mmfuse.metrics.grey import grey_levels
from mmfuse.metrics.sharing import shared

# A standard deviation below this many grey levels is rounding error: one pixel in a million that is off by one level
# gives 1e-3; the rounding of a constant image gives 1e-13.
_CONSTANT = 1e-9


@shared
def _centred(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return an image (B, 1, H, W) without its mean, and its standard deviation, (B,)."""
    centred = image - image.mean(dim=(1, 2, 3), keepdim=True)
    return centred, centred.square().mean(dim=(1, 2, 3)).sqrt()


def _pearson(x: Tensor, y: Tensor) -> Tensor:
    """Return Pearson's correlation of two batches (B, 1, H, W) as (B,), 0 where either image is constant."""
    (x, deviation_x), (y, deviation_y) = _centred(x), _centred(y)
    constant = (deviation_x < _CONSTANT) | (deviation_y < _CONSTANT)
    product = torch.where(constant, 1.0, deviation_x * deviation_y)
    return torch.where(constant, 0.0, (x * y).mean(dim=(1, 2, 3)) / product)


@metric(
    MetricCard(
        better="higher",
        range=(-1, 1),
        source="Deshmukh, Bhosale: Image fusion and image quality assessment of fused images, Int. J. Image "
        "Processing 4 (2010) 484",
        used_by="the evaluators of LKC-FUNet, SMFNet, CDDFuse; IVIF_ZOO",
    )
)
def cc_mean(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mean of the correlations of the fused image with a and with b.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value is in -1..1. The correlation with a constant image counts as 0.

    Raises:
        UserError: not a valid batch of images.
    """
    fused, a, b = grey_levels(fused, a, b)
    return (_pearson(a, fused) + _pearson(b, fused)) / 2


@metric(
    MetricCard(
        better="higher",
        range=(-2, 2),
        source="Aslantas, Bendes: A new image quality metric for image fusion, the sum of the correlations of "
        "differences, AEU Int. J. Electronics and Communications 69 (2015) 1890",
        used_by="the evaluators of LKC-FUNet, SMFNet, CDDFuse; IVIF_ZOO; Tang (MATLAB); the table of LKC-FUNet",
    )
)
def scd(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Sum of the correlations of differences: that of fused - b with a, plus that of fused - a with b.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value is in -2..2. The correlation with a constant image or a constant
    difference counts as 0.

    Raises:
        UserError: not a valid batch of images.
    """
    fused, a, b = grey_levels(fused, a, b)
    return _pearson(fused - b, a) + _pearson(fused - a, b)

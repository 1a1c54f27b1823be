"""Perceived quality: local contrast (Qcb) and visible errors (Qcv), with a model of contrast sensitivity."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmfuse.metrics.card import MetricCard, metric
from mmfuse.metrics.grey import grey_levels, stretched, stretched_whole
from mmfuse.metrics.sobel import strength
from mmfuse.metrics.windows import Window, filter_same

_CHEN_BLUM_2009 = (
    "Chen, Blum: A new automated quality assessment algorithm for image fusion, Image and Vision Computing 27 (2009) "
    "1421"
)
_CHEN_VARSHNEY_2007 = (
    "Chen, Varshney: A human perception inspired quality metric for image fusion based on regional information, "
    "Information Fusion 8 (2007) 193"
)
_BLOCK = 16
_TINY = 1e-300  # keeps quotients of zeros finite


def _gaussian(sigma: float) -> Window:
    """Return 31 weights of a Gaussian whose weights on an infinite grid would sum to one."""
    return tuple(math.exp(-((i - 15) ** 2) / (2 * sigma**2)) / (math.sqrt(2 * math.pi) * sigma) for i in range(31))


_CENTRE, _SURROUND = _gaussian(2), _gaussian(4)


def _filter_by_frequency(images: Tensor, step: float, sensitivity: Callable[[Tensor], Tensor]) -> Tensor:
    """Multiply the spectrum by a sensitivity to radial frequency.

    Shape: (B, C, H, W), in and out.

    Args:
        images: The images.
        step: The frequency of one cycle per height, and of one per width.
        sensitivity: The factor for each frequency.
    """
    height, width = images.shape[-2:]
    options = {"dtype": images.dtype, "device": images.device}
    vertical = torch.fft.fftfreq(height, 1 / height, **options) * step
    horizontal = torch.fft.rfftfreq(width, 1 / width, **options) * step
    factor = sensitivity(torch.hypot(vertical[:, None], horizontal))  # (H, W // 2 + 1)
    return torch.fft.irfft2(torch.fft.rfft2(images).mul_(factor), s=(height, width))


def _difference_of_gaussians(frequency: Tensor) -> Tensor:
    return torch.exp(-((frequency / 15.3870) ** 2)) - 0.7622 * torch.exp(-((frequency / 1.3456) ** 2))


def _mannos_sakrison(frequency: Tensor) -> Tensor:
    return 2.6 * (0.0192 + 0.144 * frequency) * torch.exp(-((0.144 * frequency) ** 1.1))


def _qcb(images: Tensor, step: float, guard: float) -> Tensor:
    """Return the Chen-Blum quality of stretched images fused, a, b, (B, 3, H, W) to (B,).

    Args:
        images: The stretched images.
        step: See `_filter_by_frequency`.
        guard: Added to the denominators.
    """
    seen = _filter_by_frequency(images, step, _difference_of_gaussians)
    surround = filter_same(seen, _SURROUND).add_(guard)
    contrast = filter_same(seen, _CENTRE).div_(torch.where(surround == 0, 1.0, surround)).sub_(1).abs_()
    squared = contrast.square()
    masked = contrast.mul_(squared).div_(squared.add_(0.0001))
    fused, sources = masked[:, :1], masked[:, 1:]
    stronger = torch.maximum(fused, sources).clamp_(min=_TINY)
    kept = torch.minimum(fused, sources).div_(stronger)  # (B, 2, H, W)
    weight = sources.square()
    total = weight.sum(dim=1, keepdim=True).add_(guard).clamp_(min=_TINY)
    return weight.div_(total).mul_(kept).sum(dim=1).mean(dim=(1, 2))


@metric(MetricCard(better="higher", range=(0, 1), source=_CHEN_BLUM_2009, used_by="VIFB and Liu (MATLAB)"))
def qcb_liu(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Similarity of local contrast, after stretching each image to whole levels 0..255 and filtering it like the eye.

    In large areas of a single level, such as the background of medical images, contrast consists only of rounding
    errors, so the value is not reproducible.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value is in 0..1. A constant image has contrast 1 everywhere.

    Raises:
        UserError: not a valid batch of images.
    """
    images = torch.cat([stretched_whole(levels) for levels in grey_levels(fused, a, b)], dim=1)
    return _qcb(images, 2 / 30, 0.0)


@metric(MetricCard(better="higher", range=(0, 1), source=_CHEN_BLUM_2009, used_by="IVIF_ZOO"))
def qcb_ivif_zoo(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Similarity of local contrast like `qcb_liu`, but stretched to 0..1 without rounding, with half the frequencies.

    In large areas of a single level, such as the background of medical images, contrast consists only of rounding
    errors, so the value is not reproducible.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value is in 0..1. A constant image has contrast 1 everywhere.

    Raises:
        UserError: not a valid batch of images.
    """
    images = torch.cat([stretched(levels) / 255 for levels in grey_levels(fused, a, b)], dim=1)
    return _qcb(images, 1 / 30, 1e-10)


def _blocks(images: Tensor) -> Tensor:
    """Cut into zero-padded blocks of 16x16: (B, C, H, W) to (B, C, rows, columns, 16, 16)."""
    height, width = images.shape[-2:]
    filled = pad(images, (0, -width % _BLOCK, 0, -height % _BLOCK))
    return filled.unfold(-2, _BLOCK, _BLOCK).unfold(-2, _BLOCK, _BLOCK)


@metric(
    MetricCard(better="lower", range=(0, float("inf")), source=_CHEN_VARSHNEY_2007, used_by="VIFB and Liu (MATLAB)")
)
def qcv(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Visible error of the fused image against each source, in 16x16 blocks weighted by the source's edges.

    Each image is first stretched to whole levels 0..255; a block's weight is the sum of the fifth powers of its
    Sobel magnitudes.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; at least 0, the value for three equal images. Two constant sources (stretched: black)
    have no edges, so all blocks have the same weight.

    Raises:
        UserError: not a valid batch of images.
    """
    fused, a, b = (stretched_whole(levels) for levels in grey_levels(fused, a, b))
    sources = torch.cat([a, b], dim=1)  # (B, 2, H, W)
    edges = torch.cat([strength(a, "constant"), strength(b, "constant")], dim=1)
    weight = _blocks(edges.square().square_().mul_(edges)).sum(dim=(-2, -1))  # multiplications are faster than a power
    visible = _filter_by_frequency(sources - fused, 2 / 8, _mannos_sakrison)
    error = _blocks(visible.square()).mean(dim=(-2, -1))  # (B, 2, rows, columns)
    weight = torch.where(weight.sum(dim=(1, 2, 3), keepdim=True) == 0, 1.0, weight)
    return (weight * error).sum(dim=(1, 2, 3)) / weight.sum(dim=(1, 2, 3))

"""Multi-scale structural similarity (MS-SSIM) of the fused image with its sources."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from mmfuse.metrics.card import MetricCard, metric
from mmfuse.metrics.grey import grey_levels, together
from mmfuse.metrics.sharing import shared
from mmfuse.metrics.windows import GAUSS, Moments, filter_valid, gauss_moments, local_moments

_WANG_2003 = (
    "Wang, Simoncelli, Bovik: Multiscale structural similarity for image quality assessment, Asilomar Conference on "
    "Signals, Systems and Computers 2003, 1398"
)
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the five scales, from fine to coarse
_FLAT = 1e-9  # a smaller variance is the rounding error of a flat patch
_TINY = 1e-12  # keeps the quotients of flat patches finite
_COARSEST = len(_WEIGHTS) - 1
_MEF_CONSTANT = (0.03 * 255) ** 2
_MEF_LARGEST_POWER = 10
_SMALLEST_MEF = 41  # leaves 11x11 pixels, one window, at the third scale
_SMALLEST_VALID = 161  # leaves 11x11 pixels, one window, at the fifth scale
_SMALLEST_MIRRORED = 96  # leaves 6x6 pixels, enough to mirror five pixels, at the fifth scale


def _mean_term(local: Moments, peak: float, *, with_luminance: bool) -> Tensor:
    """Return the mean of SSIM, or of only its contrast and structure terms, with each of the S sources, (B, S).

    A negative mean has no real power; it counts as 0.
    """
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    term = (2 * local.covariance).add_(c2).div_((local.variance_f + local.variance_s).add_(c2))
    if with_luminance:
        term *= (2 * local.mean_f * local.mean_s + c1) / (local.mean_f.square() + local.mean_s.square() + c1)
    return term.mean(dim=(2, 3)).clamp(min=0)


def _halved(images: Tensor) -> Tensor:
    """Halve the resolution by 2x2 means; an odd side is zero-padded at both ends, and the zeros enter the means."""
    return avg_pool2d(images, 2, padding=[side % 2 for side in images.shape[-2:]])


@shared
def _scales(images: Tensor) -> tuple[Moments, ...]:
    """Return the local moments where the window fits, at five scales, fine to coarse."""
    scales = [gauss_moments(images).cropped(len(GAUSS) // 2)]
    for _ in _WEIGHTS[1:]:
        images = _halved(images)
        scales.append(local_moments(images, GAUSS))
    return tuple(scales)


def _both(fused: Tensor, a: Tensor, b: Tensor, peak: float) -> Tensor:
    """Return MS-SSIM with a and with b where the window fits, (B, 2)."""
    images = together(*grey_levels(fused, a, b, smallest=_SMALLEST_VALID))  # (B, 3, H, W)
    values = images.new_ones(len(images), 2)
    for scale, (local, weight) in enumerate(zip(_scales(images), _WEIGHTS, strict=True)):
        values *= _mean_term(local, peak, with_luminance=scale == _COARSEST) ** weight
    return values


@metric(MetricCard(better="higher", range=(0, 2), source=_WANG_2003, used_by="no published table known to us"))
def ms_ssim_sum_l255(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """MS-SSIM with a plus MS-SSIM with b; five scales, 11x11 Gaussian window of sigma 1.5, range 255.

    Shape: three (B, 1, H, W) to (B,), H and W at least 161.
    Range: images in [0, 1]; the value is in 0..2. A negative mean of a scale counts as 0.

    Raises:
        UserError: not a valid batch of images.
    """
    return _both(fused, a, b, 255).sum(dim=1)


@metric(MetricCard(better="higher", range=(0, 2), source=_WANG_2003, used_by="IVIF_ZOO, there in single precision"))
def ms_ssim_ivif_zoo(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """MS-SSIM with a plus MS-SSIM with b, like `ms_ssim_sum_l255` with a range of 1 on grey levels 0..255.

    IVIF_ZOO computes it in single precision, which changes it by up to half a per cent.

    Shape: three (B, 1, H, W) to (B,), H and W at least 161.
    Range: images in [0, 1]; the value is in 0..2. A negative mean of a scale counts as 0.

    Raises:
        UserError: not a valid batch of images.
    """
    return _both(fused, a, b, 1).sum(dim=1)


@metric(MetricCard(better="higher", range=(0, 1), source=_WANG_2003, used_by="the evaluator of SMFNet", ordered=True))
def ms_ssim_smfnet(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """MS-SSIM with a only: the evaluator of SMFNet drops the term of b, so the order of the sources matters.

    Five scales, 11x11 Gaussian window of sigma 1.5, mirrored borders, range 255, halving by bilinear resizing to a side
    rounded down.

    Shape: three (B, 1, H, W) to (B,), H and W at least 96.
    Range: images in [0, 1]; the value is in 0..1. A negative mean of a scale counts as 0; the evaluator returns NaN
    there.

    Raises:
        UserError: not a valid batch of images.
    """
    images = together(*grey_levels(fused, a, b, smallest=_SMALLEST_MIRRORED))  # (B, 3, H, W)
    value = images.new_ones(len(images))
    for scale, weight in enumerate(_WEIGHTS):
        value *= _mean_term(gauss_moments(images), 255, with_luminance=scale == _COARSEST)[:, 0] ** weight
        height, width = images.shape[-2:]
        half = (height // 2, width // 2)
        images = interpolate(images[:, :2], size=half, mode="bilinear", align_corners=False)  # without b
    return value


def _ideal_similarity(images: Tensor, local: Moments) -> Tensor:
    """Return the mean similarity of the fused image to the patches of an ideal fusion, (B,).

    Such a patch has the contrast of the source with more contrast, and the mean of both sources' structures, in which
    the weight of the stronger one grows with their agreement.

    Shape: images (B, 3, H, W), with their moments where the window fits.
    """
    a, b = images[:, 1:2], images[:, 2:]
    common = filter_valid(a * b, GAUSS) - local.mean_s[:, :1] * local.mean_s[:, 1:]  # (B, 1, h, w)
    contrast = local.variance_s.masked_fill(local.variance_s < _FLAT, 0).sqrt_()  # (B, 2, h, w)
    total = contrast.sum(dim=1, keepdim=True)
    strongest = contrast.amax(dim=1, keepdim=True)
    of_sum = (contrast.square().sum(dim=1, keepdim=True) + 2 * common).clamp(min=0).sqrt()
    agreement = (of_sum / total.clamp(min=_TINY)).clamp(max=1)
    power = torch.tan(agreement * (math.pi / 2)).clamp(0, _MEF_LARGEST_POWER)  # the tangent of pi/2 overflows
    weight = (contrast / strongest.clamp(min=_TINY)) ** power  # (B, 2, h, w)
    share = weight / contrast.clamp(min=_TINY)  # share of a source's patch in the structure
    structure = weight.square().sum(dim=1, keepdim=True) + 2 * share[:, :1] * share[:, 1:] * common
    scale = strongest / structure.clamp(min=_TINY).sqrt()
    covariance = scale * (share * local.covariance).sum(dim=1, keepdim=True)
    similarity = (2 * covariance + _MEF_CONSTANT) / (strongest.square() + local.variance_f + _MEF_CONSTANT)
    return similarity.mean(dim=(1, 2, 3))


@metric(
    MetricCard(
        better="higher",
        range=(0, 1),
        source="Ma, Zeng, Wang: Perceptual quality assessment for multi-exposure image fusion, IEEE Trans. Image "
        "Processing 24 (2015) 3345",
        used_by="Tang (MATLAB), there called MS-SSIM",
    )
)
def ms_ssim_mef(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Similarity of the fused image to an ideal fusion of both sources, patch by patch, at three scales (MEF-SSIM).

    It measures contrast and structure, not brightness. Powers of the agreement are at most 10.

    Shape: three (B, 1, H, W) to (B,), H and W at least 41.
    Range: images in [0, 1]; the value is in 0..1, and 1 for three equal images. A negative mean of a scale counts
    as 0.

    Raises:
        UserError: not a valid batch of images.
    """
    images = together(*grey_levels(fused, a, b, smallest=_SMALLEST_MEF))  # (B, 3, H, W)
    value = images.new_ones(len(images))
    for scale, weight in enumerate(_WEIGHTS[:3]):
        # ASSUME: the window of SSIM; the patch size is unknown
        local = local_moments(images, GAUSS) if scale else gauss_moments(images).cropped(len(GAUSS) // 2)
        value *= _ideal_similarity(images, local).clamp(min=0) ** (weight / sum(_WEIGHTS[:3]))
        # ASSUME: for an odd side, the mean of the existing pixels
        images = avg_pool2d(images, 2, ceil_mode=True, count_include_pad=False)
    return value

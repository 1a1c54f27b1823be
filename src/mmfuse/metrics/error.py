"""Pixel-wise error against both sources."""

from __future__ import annotations

import math

from torch import Tensor

from mmfuse.metrics.card import MetricCard, metric
from mmfuse.metrics.grey import grey_levels
from mmfuse.metrics.sharing import shared

_JAGALINGAM_2015 = (
    "Jagalingam, Hegde: A review of quality metrics for fused image, Aquatic Procedia 4 (2015) 133, section on PSNR"
)
_ZHANG_2020 = "Zhang, Ye, Xiao: VIFB, a visible and infrared image fusion benchmark, CVPR Workshops 2020, 468"
# Infinity would make every mean in a table infinite. 8-bit images below five gigapixels have no smaller error than
# this, except equal images, which therefore get 148.13 dB.
_SMALLEST_MSE = 1e-10
_LARGEST_PSNR = 148.130803609
_DECIBELS_OF_255 = 20 * math.log10(255)


@shared
def _squared_error(source: Tensor, fused: Tensor) -> Tensor:
    """Return the sum of the squared errors in squared grey levels, (B,)."""
    return (source - fused).square_().sum(dim=(1, 2, 3))


def _mean_squared_error(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return the mean squared error, averaged over both sources, in squared grey levels, (B,)."""
    return (_squared_error(a, fused) + _squared_error(b, fused)) / 2 / (fused.shape[-2] * fused.shape[-1])


@metric(
    MetricCard(
        better="higher",
        range=(-48.14, _LARGEST_PSNR),
        source=_JAGALINGAM_2015,
        used_by="the evaluators of LKC-FUNet, SMFNet, CDDFuse",
    )
)
def psnr_peak_fused(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB for the mean error of both sources; the peak is the fused image's maximum.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value is in -48.14..148.13. Three equal images get an error of 1e-10 (at most
    148.13 dB) instead of infinity; a black fused image gets a peak of one grey level instead of minus infinity.

    Raises:
        UserError: not a valid batch of images.
    """
    fused, a, b = grey_levels(fused, a, b)
    peak = fused.amax(dim=(1, 2, 3)).clamp(min=1)
    return 10 * (peak.square() / _mean_squared_error(fused, a, b).clamp(min=_SMALLEST_MSE)).log10()


@metric(
    MetricCard(
        better="higher",
        range=(0, _LARGEST_PSNR),
        source=_JAGALINGAM_2015,
        used_by="the textbook definition for 8-bit images; 48.13 dB below IVIF_ZOO",
    )
)
def psnr_255(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB for the mean error of both sources; the peak is 255.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value is in 0..148.13. Three equal images get an error of 1e-10 (148.13 dB)
    instead of infinity.

    Raises:
        UserError: not a valid batch of images.
    """
    fused, a, b = grey_levels(fused, a, b)
    return 10 * (255**2 / _mean_squared_error(fused, a, b).clamp(min=_SMALLEST_MSE)).log10()


@metric(
    MetricCard(
        better="higher",
        range=(_DECIBELS_OF_255 - 1e-9, _LARGEST_PSNR + _DECIBELS_OF_255),
        source=_JAGALINGAM_2015,
        used_by="IVIF_ZOO; Tang (MATLAB)",
    )
)
def psnr_ivif_zoo(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB with a peak of 255 and an error on the scale 0..1: 48.13 dB above `psnr_255`.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value is in 48.13..196.26. Three equal images get an error of 1e-10 squared grey
    levels instead of infinity.

    Raises:
        UserError: not a valid batch of images.
    """
    return psnr_255(fused, a, b) + _DECIBELS_OF_255


@metric(
    MetricCard(
        better="lower",
        range=(0, 255**2),
        source=_JAGALINGAM_2015,
        used_by="the evaluators of LKC-FUNet, SMFNet, CDDFuse",
    )
)
def mse_255(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error in squared grey levels, the mean over both sources.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value is in 0..65025, and 0 for three equal images.

    Raises:
        UserError: not a valid batch of images.
    """
    return _mean_squared_error(*grey_levels(fused, a, b))


@metric(MetricCard(better="lower", range=(0, 1), source=_JAGALINGAM_2015, used_by="IVIF_ZOO; Tang (MATLAB)"))
def mse_01(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error on the scale 0..1, the mean over both sources.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value is in 0..1, and 0 for three equal images.

    Raises:
        UserError: not a valid batch of images.
    """
    return _mean_squared_error(*grey_levels(fused, a, b)) / 255**2


def _root_error_vifb(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return the root of the summed squares divided by the number of pixels, averaged over both sources, (B,)."""
    fused, a, b = grey_levels(fused, a, b)
    return (_squared_error(a, fused).sqrt() + _squared_error(b, fused).sqrt()) / 2 / (fused.shape[-2] * fused.shape[-1])


@metric(MetricCard(better="lower", range=(0, 255), source=_ZHANG_2020, used_by="VIFB (MATLAB)"))
def rmse_vifb(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Error of VIFB: the root of the sum of squares, divided by the number of pixels; the mean over both sources.

    Not a root mean square: the number of pixels is outside the root, so larger images have smaller values.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value is in 0..255 / sqrt(H W), and 0 for three equal images.

    Raises:
        UserError: not a valid batch of images.
    """
    return _root_error_vifb(fused, a, b)


@metric(MetricCard(better="higher", range=(24.06, _LARGEST_PSNR), source=_ZHANG_2020, used_by="VIFB (MATLAB)"))
def psnr_vifb(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB with a peak of 255 for the root of `rmse_vifb` (which is not a mean square).

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value is in 24.06..148.13. Three equal images get an error of 1e-10 (148.13 dB)
    instead of infinity.

    Raises:
        UserError: not a valid batch of images.
    """
    return 10 * (255**2 / _root_error_vifb(fused, a, b).clamp(min=_SMALLEST_MSE)).log10()

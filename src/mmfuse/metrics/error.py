"""Pixel-wise error against both sources."""

from __future__ import annotations

from torch import Tensor

from mmfuse.metrics.card import Card, metric
from mmfuse.metrics.grey import grey_levels

_JAGALINGAM_2015 = (
    "Jagalingam, Hegde: A review of quality metrics for fused image, Aquatic Procedia 4 (2015) 133, section on PSNR"
)
# Infinity would make every mean of a table infinite. No 8-bit images below five gigapixels have a smaller error than
# this, except equal ones, which so get 148.13 dB.
_SMALLEST_MSE = 1e-10
_LARGEST_PSNR = 148.130803609


def _mean_squared_error(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return the mean of both sources' mean squared errors in squared grey levels, (B,)."""
    error_a, error_b = ((source - fused).square().mean(dim=(1, 2, 3)) for source in (a, b))
    return ((error_a + error_b) / 2).clamp(min=_SMALLEST_MSE)


@metric(
    Card(
        better="higher",
        range=(-48.14, _LARGEST_PSNR),
        source=_JAGALINGAM_2015,
        used_by="the evaluators of LKC-FUNet, SMFNet, CDDFuse",
    )
)
def psnr_peak_fused(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB over the mean error of both sources; the peak is the fused image's maximum.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value lies in -48.14..148.13. Three equal images get an error of 1e-10 (at most
    148.13 dB) instead of infinity; a black fused image gets a peak of one grey level instead of minus infinity.

    Raises:
        UserError: no legal batch of images.
    """
    fused, a, b = grey_levels(fused, a, b)
    peak = fused.amax(dim=(1, 2, 3)).clamp(min=1)
    return 10 * (peak.square() / _mean_squared_error(fused, a, b)).log10()


@metric(
    Card(
        better="higher",
        range=(0, _LARGEST_PSNR),
        source=_JAGALINGAM_2015,
        used_by="the textbook definition for 8-bit images; 48.13 dB below IVIF_ZOO",
    )
)
def psnr_255(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB over the mean error of both sources; the peak is 255.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value lies in 0..148.13. Three equal images get an error of 1e-10 (148.13 dB)
    instead of infinity.

    Raises:
        UserError: no legal batch of images.
    """
    fused, a, b = grey_levels(fused, a, b)
    return 10 * (255**2 / _mean_squared_error(fused, a, b)).log10()

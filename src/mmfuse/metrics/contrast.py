"""Variation of the fused image's grey levels: standard deviation, spatial frequency, average gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmfuse.metrics.card import MetricCard, metric
from mmfuse.metrics.grey import grey_levels
from mmfuse.metrics.sharing import shared

_ESKICIOGLU_1995 = (
    "Eskicioglu, Fisher: Image quality measures and their performance, IEEE Trans. Communications 43 (1995) 2959"
)
_CUI_2015 = (
    "Cui, Feng, Xu, Li, Chen: Detail preserved fusion of visible and infrared images, Optics Communications 341 "
    "(2015) 199"
)


@metric(
    MetricCard(
        better="higher",
        range=(0, 127.5),
        source="Ma, Ma, Li: Infrared and visible image fusion methods and applications, Information Fusion 45 (2019) "
        "153, section on metrics",
        used_by="the evaluators of LKC-FUNet, SMFNet, CDDFuse; IVIF_ZOO; VIFB; the tables of LKC-FUNet and SMFNet",
    )
)
def sd(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Standard deviation of the fused image's grey levels (divided by the number of pixels N, not N - 1).

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value is in 0..127.5, and 0 for a constant image.

    Raises:
        UserError: not a valid batch of images.
    """
    levels, _, _ = grey_levels(fused, a, b)
    # in two passes: torch's one-pass std is a thousand times less accurate
    return (levels - levels.mean(dim=(1, 2, 3), keepdim=True)).square().mean(dim=(1, 2, 3)).sqrt()


@shared
def _squared_differences(levels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums of squared differences between neighbours in rows, and in columns, (B,) each."""
    across, down = levels.diff(dim=-1), levels.diff(dim=-2)  # (B, 1, H, W - 1), (B, 1, H - 1, W)
    return across.square_().sum(dim=(1, 2, 3)), down.square_().sum(dim=(1, 2, 3))


@metric(
    MetricCard(
        better="higher",
        range=(0, 255 * math.sqrt(2)),
        source=_ESKICIOGLU_1995,
        used_by="the evaluators of LKC-FUNet, SMFNet, CDDFuse; IVIF_ZOO; Tang (MATLAB); the table of SMFNet",
    )
)
def sf_mean(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Spatial frequency, each direction averaged over its own number of differences.

    Shape: three (B, 1, H, W) to (B,), H and W at least 2.
    Range: images in [0, 1]; the value is in 0..360.6, and 0 for a constant image.

    Raises:
        UserError: not a valid batch of images.
    """
    levels, _, _ = grey_levels(fused, a, b, smallest=2)
    height, width = levels.shape[-2:]
    across, down = _squared_differences(levels)
    return (across / (height * (width - 1)) + down / ((height - 1) * width)).sqrt()


@metric(
    MetricCard(
        better="higher",
        range=(0, 255 * math.sqrt(2)),
        source=_ESKICIOGLU_1995,
        used_by="VIFB (MATLAB); the table of LKC-FUNet",
    )
)
def sf_vifb(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Spatial frequency, both directions divided by the number of pixels.

    Shape: three (B, 1, H, W) to (B,), H and W at least 2.
    Range: images in [0, 1]; the value is in 0..360.6, and 0 for a constant image.

    Raises:
        UserError: not a valid batch of images.
    """
    levels, _, _ = grey_levels(fused, a, b, smallest=2)
    across, down = _squared_differences(levels)
    return ((across + down) / (levels.shape[-2] * levels.shape[-1])).sqrt()


@shared
def _mean_gradient(levels: Tensor) -> Tensor:
    """Return the mean length of the gradient, (B,): central differences, one-sided at the borders."""
    vertical, horizontal = torch.gradient(levels, dim=(-2, -1))  # (B, 1, H, W)
    return vertical.square_().add_(horizontal.square_()).sqrt_().mean(dim=(1, 2, 3))


@metric(
    MetricCard(
        better="higher",
        range=(0, 255),
        source=_CUI_2015,
        used_by="the evaluators of LKC-FUNet and CDDFuse; IVIF_ZOO",
    )
)
def ag_mean(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Average gradient: the mean of sqrt((gx^2 + gy^2) / 2) over all pixels.

    Shape: three (B, 1, H, W) to (B,), H and W at least 2.
    Range: images in [0, 1]; the value is in 0..255, and 0 for a constant image.

    Raises:
        UserError: not a valid batch of images.
    """
    levels, _, _ = grey_levels(fused, a, b, smallest=2)
    return _mean_gradient(levels) / math.sqrt(2)


@metric(
    MetricCard(
        better="higher",
        range=(0, 1020),  # the number of pixels is four times the divisor at 2x2, and approaches it for large images
        source=_CUI_2015,
        used_by="VIFB and Tang (MATLAB); the table of LKC-FUNet",
    )
)
def ag_matlab(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Average gradient: the sum of sqrt((gx^2 + gy^2) / 2) over all pixels, divided by (H - 1)(W - 1).

    Shape: three (B, 1, H, W) to (B,), H and W at least 2.
    Range: images in [0, 1]; the value is in 0..1020 (0..255 for large images), and 0 for a constant image.

    Raises:
        UserError: not a valid batch of images.
    """
    levels, _, _ = grey_levels(fused, a, b, smallest=2)
    height, width = levels.shape[-2:]
    return _mean_gradient(levels) / math.sqrt(2) * (height * width) / ((height - 1) * (width - 1))


@metric(
    MetricCard(
        better="higher",
        range=(0, 255 * math.sqrt(2)),
        source=_CUI_2015,
        used_by="AG1 of the evaluator of SMFNet; table 1 of SMFNet",
    )
)
def ag_no_half(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Average gradient without the factor 1/2: the mean of sqrt(gx^2 + gy^2) over all pixels.

    Shape: three (B, 1, H, W) to (B,), H and W at least 2.
    Range: images in [0, 1]; the value is in 0..360.6, and 0 for a constant image.

    Raises:
        UserError: not a valid batch of images.
    """
    levels, _, _ = grey_levels(fused, a, b, smallest=2)
    return _mean_gradient(levels)


@metric(
    MetricCard(
        better="higher",
        range=(0, math.sqrt(2)),
        source=_ESKICIOGLU_1995,
        used_by="the published table of Tang, whose images are in 0..1",
    )
)
def sf_mean_01(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Spatial frequency, each direction averaged over its own number of differences, on the scale 0..1.

    Shape: three (B, 1, H, W) to (B,), H and W at least 2.
    Range: images in [0, 1]; the value is in 0..1.41, and 0 for a constant image.

    Raises:
        UserError: not a valid batch of images.
    """
    return sf_mean(fused, a, b) / 255

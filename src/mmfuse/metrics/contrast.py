"""How much the grey levels of the fused image vary: standard deviation, spatial frequency, average gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmfuse.metrics.card import Card, metric
from mmfuse.metrics.grey import grey_levels

_ESKICIOGLU_1995 = (
    "Eskicioglu, Fisher: Image quality measures and their performance, IEEE Trans. Communications 43 (1995) 2959"
)
_CUI_2015 = (
    "Cui, Feng, Xu, Li, Chen: Detail preserved fusion of visible and infrared images, Optics Communications 341 "
    "(2015) 199"
)


@metric(
    Card(
        better="higher",
        range=(0, 127.5),
        source="Ma, Ma, Li: Infrared and visible image fusion methods and applications, Information Fusion 45 (2019) "
        "153, section on metrics",
        used_by="the evaluators of LKC-FUNet, SMFNet, CDDFuse; IVIF_ZOO; VIFB; the tables of LKC-FUNet and SMFNet",
    )
)
def sd(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Standard deviation of the fused image's grey levels (divided by the number of pixels, not by one less).

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value lies in 0..127.5, and is 0 for a constant image.

    Raises:
        UserError: no legal batch of images.
    """
    levels, _, _ = grey_levels(fused, a, b)
    # in two passes: torch's one-pass std is a thousand times less exact
    return (levels - levels.mean(dim=(1, 2, 3), keepdim=True)).square().mean(dim=(1, 2, 3)).sqrt()


def _squared_differences(fused: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the squared differences of neighbours in a row, (B, 1, H, W - 1), and in a column, (B, 1, H - 1, W)."""
    levels, _, _ = grey_levels(fused, a, b, smallest=2)
    return levels.diff(dim=-1).square(), levels.diff(dim=-2).square()


@metric(
    Card(
        better="higher",
        range=(0, 255 * math.sqrt(2)),
        source=_ESKICIOGLU_1995,
        used_by="the evaluators of LKC-FUNet, SMFNet, CDDFuse; IVIF_ZOO; Tang (MATLAB); the table of SMFNet",
    )
)
def sf_mean(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Spatial frequency, each direction averaged over its own number of differences.

    Shape: three (B, 1, H, W) to (B,), H and W at least 2.
    Range: images in [0, 1]; the value lies in 0..360.6, and is 0 for a constant image.

    Raises:
        UserError: no legal batch of images.
    """
    rows, columns = _squared_differences(fused, a, b)
    return (rows.mean(dim=(1, 2, 3)) + columns.mean(dim=(1, 2, 3))).sqrt()


@metric(
    Card(
        better="higher",
        range=(0, 255 * math.sqrt(2)),
        source=_ESKICIOGLU_1995,
        used_by="VIFB (MATLAB); the table of LKC-FUNet",
    )
)
def sf_vifb(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Spatial frequency, both directions divided by the number of pixels.

    Shape: three (B, 1, H, W) to (B,), H and W at least 2.
    Range: images in [0, 1]; the value lies in 0..360.6, and is 0 for a constant image.

    Raises:
        UserError: no legal batch of images.
    """
    rows, columns = _squared_differences(fused, a, b)
    pixels = fused.shape[-2] * fused.shape[-1]
    return ((rows.sum(dim=(1, 2, 3)) + columns.sum(dim=(1, 2, 3))) / pixels).sqrt()


def _gradient_squared(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return the squared gradient, (B, 1, H, W): central differences, one-sided at the edges."""
    levels, _, _ = grey_levels(fused, a, b, smallest=2)
    vertical, horizontal = torch.gradient(levels, dim=(-2, -1))
    return vertical.square() + horizontal.square()


@metric(
    Card(
        better="higher",
        range=(0, 255),
        source=_CUI_2015,
        used_by="the evaluators of LKC-FUNet and CDDFuse; IVIF_ZOO",
    )
)
def ag_mean(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Average gradient: the mean of sqrt((gx^2 + gy^2) / 2) over all pixels.

    Shape: three (B, 1, H, W) to (B,), H and W at least 2.
    Range: images in [0, 1]; the value lies in 0..255, and is 0 for a constant image.

    Raises:
        UserError: no legal batch of images.
    """
    return (_gradient_squared(fused, a, b) / 2).sqrt().mean(dim=(1, 2, 3))


@metric(
    Card(
        better="higher",
        range=(0, 1020),  # the count of pixels is four times the divisor at 2x2, and falls to once
        source=_CUI_2015,
        used_by="VIFB and Tang (MATLAB); the table of LKC-FUNet",
    )
)
def ag_matlab(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Average gradient: the sum of sqrt((gx^2 + gy^2) / 2) over all pixels, divided by (H - 1)(W - 1).

    Shape: three (B, 1, H, W) to (B,), H and W at least 2.
    Range: images in [0, 1]; the value lies in 0..1020 (0..255 for large images), and is 0 for a constant image.

    Raises:
        UserError: no legal batch of images.
    """
    height, width = fused.shape[-2:]
    total = (_gradient_squared(fused, a, b) / 2).sqrt().sum(dim=(1, 2, 3))
    return total / ((height - 1) * (width - 1))


@metric(
    Card(
        better="higher",
        range=(0, 255 * math.sqrt(2)),
        source=_CUI_2015,
        used_by="AG1 of the evaluator of SMFNet; table 1 of SMFNet",
    )
)
def ag_no_half(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Average gradient without the halving: the mean of sqrt(gx^2 + gy^2) over all pixels.

    Shape: three (B, 1, H, W) to (B,), H and W at least 2.
    Range: images in [0, 1]; the value lies in 0..360.6, and is 0 for a constant image.

    Raises:
        UserError: no legal batch of images.
    """
    return _gradient_squared(fused, a, b).sqrt().mean(dim=(1, 2, 3))


@metric(
    Card(
        better="higher",
        range=(0, math.sqrt(2)),
        source=_ESKICIOGLU_1995,
        used_by="the published table of Tang, whose images lie in 0..1",
    )
)
def sf_mean_01(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Spatial frequency, each direction averaged over its own number of differences, on the scale 0..1.

    Shape: three (B, 1, H, W) to (B,), H and W at least 2.
    Range: images in [0, 1]; the value lies in 0..1.41, and is 0 for a constant image.

    Raises:
        UserError: no legal batch of images.
    """
    return sf_mean(fused, a, b) / 255

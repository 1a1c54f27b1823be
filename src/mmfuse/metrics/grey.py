"""Conversion of images in [0, 1] to grey levels 0..255, the scale of the definitions."""

from __future__ import annotations

import torch
from torch import Tensor

from mmfuse.errors import UserError
from mmfuse.metrics.sharing import shared


def grey_levels(fused: Tensor, a: Tensor, b: Tensor, *, smallest: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Check three batches and return them as float64 grey levels 0..255.

    A value that is as close to a whole level as its number format allows becomes that level: k/255 in single precision
    is level k again, so the format of the input does not change a result (ties of gradients in Qabf!).

    Shape: three times (B, 1, H, W), in and out.

    Args:
        fused: The fused images.
        a: The first sources.
        b: The second sources.
        smallest: The smallest height and width that the metric is defined for.

    Raises:
        UserError: wrong shape, unequal shapes, not a floating-point format, values outside [0, 1], or too small.
    """
    for name, image in (("fused", fused), ("a", a), ("b", b)):
        if image.ndim != 4 or image.shape[1] != 1 or image.numel() == 0:
            raise UserError(
                f"Cannot measure {name}.", expected="a batch of grey images, (B, 1, H, W)", found=tuple(image.shape)
            )
        if image.shape != fused.shape:
            raise UserError(
                f"The fused images and {name} differ in size.", expected=tuple(fused.shape), found=tuple(image.shape)
            )
    height, width = fused.shape[-2:]
    if min(height, width) < smallest:
        raise UserError(
            "The image is too small for this metric.",
            expected=f"at least {smallest}x{smallest} pixels",
            found=f"{height}x{width}",
            fix="remove this metric or measure larger images",
        )
    return _levels("fused", fused), _levels("a", a), _levels("b", b)


@shared
def _levels(name: str, image: Tensor) -> Tensor:
    if not image.is_floating_point():
        raise UserError(
            f"Cannot measure {name}.",
            expected="floating-point values in [0, 1]",
            found=image.dtype,
            fix="divide by 255",
        )
    low, high = (value.item() for value in torch.aminmax(image))
    if not 0 <= low <= high <= 1:  # also true for NaN
        raise UserError(
            f"Cannot measure {name}.",
            expected="values in [0, 1]",
            found=f"values from {low:g} to {high:g}",
            fix="divide 8-bit values by 255, clip the output of a network, and check for NaN",
        )
    levels = image.detach().double() * 255
    whole = levels.round()
    rounding = 2 * 255 * torch.finfo(image.dtype).eps
    return torch.where((levels - whole).abs() <= rounding, whole, levels)


@shared
def together(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return three batches (B, 1, H, W) as one, (B, 3, H, W)."""
    return torch.cat([fused, a, b], dim=1)


def stretched(levels: Tensor) -> Tensor:
    """Stretch each image from its own minimum and maximum to 0 and 255; a constant image becomes 0.

    Shape: (B, 1, H, W), in and out; not rounded.
    """
    low, high = (reduce(levels, dim=(1, 2, 3), keepdim=True) for reduce in (torch.amin, torch.amax))
    return 255 * (levels - low) / torch.where(high == low, 1.0, high - low)


@shared
def stretched_whole(levels: Tensor) -> Tensor:
    """Stretch like `stretched` and round half up, like MATLAB.

    Shape: (B, 1, H, W), in and out.
    """
    return (stretched(levels) + 0.5).floor()

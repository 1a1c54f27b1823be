"""Images of any size for networks that halve the resolution: reflect-pad, run, crop back."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def pad_to_multiple(image: Tensor, multiple: int, mode: str = "reflect") -> Tensor:
    """Extend an image at the bottom and right until both sides are divisible by `multiple`.

    Args:
        image: The image.
        multiple: The divisor of both sides.
        mode: reflect (edge pixels are repeated if the image is too small for it), replicate or constant.

    Shape: (B, C, H, W) to (B, C, H', W') with H' - H and W' - W in [0, multiple).
    """
    height, width = image.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if not (bottom or right):
        return image
    if mode == "reflect" and (bottom >= height or right >= width):
        mode = "replicate"
    return F.pad(image, (0, right, 0, bottom), mode=mode)

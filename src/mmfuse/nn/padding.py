"""Any image size for networks that halve the resolution: reflect-pad, run, crop back."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Extend an image at the bottom and right until both sides divide by `multiple`.

    Reflects where the image is large enough for it, else repeats the edge.

    Shape: (B, C, H, W) to (B, C, H', W') with H' - H and W' - W in [0, multiple).
    """
    height, width = image.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if not (bottom or right):
        return image
    mode = "reflect" if bottom < height and right < width else "replicate"
    return F.pad(image, (0, right, 0, bottom), mode=mode)

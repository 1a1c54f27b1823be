"""Laplacian pyramid: the stronger detail at each scale, the mean at the coarsest."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmfuse.methods.base import FusionMethod


class Laplacian(FusionMethod):
    """Fuse the Laplacian pyramids of both images and collapse the result.

    Source: Burt and Adelson 1983, "The Laplacian pyramid as a compact image code"; choose-max rule of Burt 1984.

    Args:
        levels: Detail levels above the coarse rest; fewer for small images.
    """

    summary = "Laplacian pyramid: stronger detail at every scale, mean of the coarse rest"
    source = "Burt and Adelson 1983"

    def __init__(self, levels: int = 4) -> None:
        super().__init__()
        self.levels, self.multiple = levels, 2**levels

    def reach(self) -> int:
        """See `FusionMethod.reach`: two pixels of each level, down and up."""
        return 4 * (self.multiple - 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """See `FusionMethod.forward`."""
        # reflection of two pixels needs three, so stop before the coarse rest becomes smaller
        levels = max(0, min(self.levels, int(min(a.shape[-2:]) // 3).bit_length() - 1))
        details = []
        for _ in range(levels):
            (coarse_a, detail_a), (coarse_b, detail_b) = _split(a), _split(b)
            details.append(torch.where(detail_a.abs() >= detail_b.abs(), detail_a, detail_b))
            a, b = coarse_a, coarse_b
        fused = (a + b) / 2
        for detail in reversed(details):
            fused = _expand(fused, detail.shape[-2:]) + detail
        return fused.clamp(0, 1)


def _filter(image: Tensor, weight: float) -> Tensor:
    """Binomial 5x5 filter (sum = weight^2) with reflected border; (B, 1, H, W) in and out."""
    taps = image.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) * (weight / 16)
    image = F.pad(image, (2, 2, 2, 2), mode="reflect")
    return F.conv2d(F.conv2d(image, taps.view(1, 1, 1, 5)), taps.view(1, 1, 5, 1))


def _expand(coarse: Tensor, shape: torch.Size) -> Tensor:
    """Double the resolution to `shape`: zeros between the samples, then the filter with gain four."""
    fine = coarse.new_zeros(*coarse.shape[:2], *shape)
    fine[..., ::2, ::2] = coarse
    return _filter(fine, 2.0)


def _split(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the half-resolution image and the detail it lacks."""
    coarse = _filter(image, 1.0)[..., ::2, ::2]
    return coarse, image - _expand(coarse, image.shape[-2:])


METHOD = Laplacian

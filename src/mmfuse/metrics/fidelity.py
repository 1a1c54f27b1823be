"""Visual information fidelity (VIF) of the fused image with both sources, in the pixel domain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mmfuse.metrics.card import Card, metric
from mmfuse.metrics.grey import grey_levels
from mmfuse.metrics.windows import filter_valid, gaussian_window, local_moments

_LENGTHS = (17, 9, 5, 3)  # of the Gaussian windows, one a scale, with sigma = length / 5
_SMALLEST = 41  # leaves 3x3 pixels, one window, at the fourth scale
_NOISE = 2.0  # variance of the noise of the visual system
_TINY = 1e-10


class Channel(NamedTuple):
    """The model fused = gain * source + noise under every window of one scale, for both sources; (B, 2, h, w)."""

    gain: Tensor
    noise: Tensor
    variance: Tensor  # of the source


def _channels(fused: Tensor, a: Tensor, b: Tensor) -> Iterator[Channel]:
    """Yield the model at four scales, each half as fine as the one before."""
    images = torch.cat([fused, a, b], dim=1)  # (B, 3, H, W)
    for length in _LENGTHS:
        window = gaussian_window(length, length / 5)
        if length != _LENGTHS[0]:
            images = filter_valid(images, window)[..., ::2, ::2]
        local = local_moments(images, window)
        source, distorted = local.variance_s.clamp(min=0), local.variance_f.clamp(min=0)
        gain = local.covariance / (source + _TINY)
        noise = distorted - gain * local.covariance
        # a flat source explains nothing; a flat fused image holds nothing; a negative gain counts as noise alone
        unexplained = (source < _TINY) | (gain < 0)
        flat = distorted < _TINY
        noise = torch.where(flat, 0.0, torch.where(unexplained, distorted, noise)).clamp(min=_TINY)
        gain = torch.where(flat | unexplained, 0.0, gain)
        yield Channel(gain, noise, torch.where(source < _TINY, 0.0, source))


@metric(
    Card(
        better="higher",
        range=(0, float("inf")),
        source="Sheikh, Bovik: Image information and visual quality, IEEE Trans. Image Processing 15 (2006) 430; the "
        "authors' pixel-domain version",
        used_by="the evaluators of LKC-FUNet, SMFNet, CDDFuse (there VIFF); the tables of CDDFuse and SMFNet",
    )
)
def vif_sum(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Visual information fidelity against a plus that against b; pixel domain, four scales, noise variance 2.

    Shape: three (B, 1, H, W) to (B,), H and W at least 41.
    Range: images in [0, 1]; 0 without any common structure, 2 for three equal images, above 2 for raised contrast.
    A constant source has no information that could get lost and counts as 1, as in the evaluators.

    Raises:
        UserError: no legal batch of images.
    """
    fused, a, b = grey_levels(fused, a, b, smallest=_SMALLEST)
    kept = fused.new_zeros(len(fused), 2)
    offered = fused.new_zeros(len(fused), 2)
    for gain, noise, variance in _channels(fused, a, b):
        kept += (1 + gain.square() * variance / (noise + _NOISE)).log10().sum(dim=(2, 3))
        offered += (1 + variance / _NOISE).log10().sum(dim=(2, 3))
    nothing = offered == 0
    return torch.where(nothing, 1.0, kept / torch.where(nothing, 1.0, offered)).sum(dim=1)

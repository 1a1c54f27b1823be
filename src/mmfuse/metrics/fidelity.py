"""Visual information fidelity (VIF) of the fused image with both sources, in the pixel domain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmfuse.metrics.card import MetricCard, metric
from mmfuse.metrics.grey import grey_levels, together
from mmfuse.metrics.sharing import shared
from mmfuse.metrics.windows import Window, filter_valid, gaussian_window, local_moments

_LENGTHS = (17, 9, 5, 3)  # of the Gaussian windows, one per scale, with sigma = length / 5
_SMALLEST = 41  # leaves 3x3 pixels, one window, at the fourth scale
_WINDOWS = tuple(gaussian_window(length, length / 5) for length in _LENGTHS)
_NOISE = 2.0  # variance of the noise of the visual system
_TINY = 1e-10
_SHEIKH_2006 = (
    "Sheikh, Bovik: Image information and visual quality, IEEE Trans. Image Processing 15 (2006) 430; the authors' "
    "pixel-domain version"
)
# Fusion VIF has its own noise variance and scale weights
_HAN_NOISE = 0.005 * 255**2
_HAN_WEIGHTS = (1 / 2.15, 0.0, 0.15 / 2.15, 1 / 2.15)
_HAN_GUARD = 1e-7


class Channel(NamedTuple):
    """The model fused = gain * source + noise in each window of one scale, for both sources; (B, 2, h, w)."""

    gain: Tensor
    noise: Tensor
    variance: Tensor  # variance of the source


@shared
def _channels(images: Tensor, windows: tuple[Window, ...], border: bool) -> tuple[Channel, ...]:
    """Return the model at four scales, each at half the resolution of the previous one.

    Args:
        images: Grey levels of fused, a, b as (B, 3, H, W).
        windows: One per scale.
        border: Whether to surround the images with zeros before each filter, so that they keep their size.
    """
    channels = []
    for scale, window in enumerate(windows):
        frame = (len(window) // 2,) * 4 if border else (0,) * 4
        if scale > 0:
            images = filter_valid(pad(images, frame), window, step=2)
        local = local_moments(pad(images, frame), window)
        source, distorted = local.variance_s.clamp_(min=0), local.variance_f.clamp_(min=0)
        # a flat source explains nothing; a flat fused image contains nothing; a negative gain counts as noise only
        flat = source < _TINY
        gain = (local.covariance / (source + _TINY)).clamp_(min=0).masked_fill_(flat | (distorted < _TINY), 0)
        noise = torch.addcmul(distorted, gain, local.covariance, value=-1).clamp_(min=_TINY)
        channels.append(Channel(gain, noise, source.masked_fill_(flat, 0)))
    return tuple(channels)


def _vif(channels: Sequence[Channel]) -> Tensor:
    """Return VIF with a plus VIF with b, (B,)."""
    kept = offered = torch.zeros(())
    for gain, noise, variance in channels:
        # the base of the logarithms cancels
        kept = kept + gain.square().mul_(variance).div_(noise + _NOISE).log1p_().sum(dim=(2, 3))  # (B, 2)
        offered = offered + (variance / _NOISE).log1p_().sum(dim=(2, 3))
    nothing = offered == 0
    return torch.where(nothing, 1.0, kept / torch.where(nothing, 1.0, offered)).sum(dim=1)


@metric(
    MetricCard(
        better="higher",
        range=(0, float("inf")),
        source=_SHEIKH_2006,
        used_by="the evaluators of LKC-FUNet, SMFNet, CDDFuse (there VIFF); the tables of CDDFuse and SMFNet",
        directed=True,
    )
)
def vif_sum(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Visual information fidelity against a plus that against b; pixel domain, four scales, noise variance 2.

    Shape: three (B, 1, H, W) to (B,), H and W at least 41.
    Range: images in [0, 1]; 0 without any common structure, 2 for three equal images, above 2 for raised contrast.
    A constant source has no information to lose and counts as 1, as in the evaluators.

    Raises:
        UserError: not a valid batch of images.
    """
    images = together(*grey_levels(fused, a, b, smallest=_SMALLEST))  # (B, 3, H, W)
    return _vif(_channels(images, _WINDOWS, False))


def _uneven_window(length: int) -> Window:
    """Return the off-centre window of IVIF_ZOO: positions spread evenly from -(n + 1) / 2 to (n - 1) / 2."""
    places = [i * length / (length - 1) - (length + 1) / 2 for i in range(length)]
    weights = [math.exp(-(place**2) / (2 * (length / 5) ** 2)) for place in places]
    return tuple(weight / sum(weights) for weight in weights)


_UNEVEN_WINDOWS = tuple(_uneven_window(length) for length in _LENGTHS)


@metric(
    MetricCard(
        better="higher",
        range=(0, float("inf")),
        source=_SHEIKH_2006,
        used_by="IVIF_ZOO, there in single precision",
        directed=True,
    )
)
def vif_ivif_zoo(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """VIF against a plus that against b like `vif_sum`, with zeros outside the image and off-centre windows.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; 0 without any common structure, 2 for three equal images, above 2 for raised contrast.
    A black source has no information to lose and counts as 1. (Any other constant source has some, at the zero
    border.)

    Raises:
        UserError: not a valid batch of images.
    """
    images = together(*grey_levels(fused, a, b))  # (B, 3, H, W)
    return _vif(_channels(images, _UNEVEN_WINDOWS, True))


@metric(
    MetricCard(
        better="higher",
        range=(0, float("inf")),
        source="Han, Cai, Cao, Xu: A new image fusion performance metric based on visual information fidelity, "
        "Information Fusion 14 (2013) 127",
        used_by="the authors' MATLAB code; the table of LKC-FUNet",
        ordered=True,
        directed=True,
    )
)
def viff_han(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Visual information fidelity for fusion: at each position, against the source that explains less of the image.

    Noise variance 325.125; the scales have the weights 1, 0, 0.15 and 1 from fine to coarse. Where both sources explain
    the same, b is used, as in the authors' code. For colour images, the definition uses their L* (Lab); this is the
    grey version.

    Shape: three (B, 1, H, W) to (B,), H and W at least 41.
    Range: images in [0, 1]; near 0 without any common structure, 1 for three equal images, above 1 for raised
    contrast. Where the sources have no information, nothing is lost: the value is 1.

    Raises:
        UserError: not a valid batch of images.
    """
    images = together(*grey_levels(fused, a, b, smallest=_SMALLEST))  # (B, 3, H, W)
    value = images.new_zeros(len(images))
    for weight, channel in zip(_HAN_WEIGHTS, _channels(images, _WINDOWS, False), strict=True):
        if weight == 0:
            continue
        from_a = (channel.gain[:, :1] < channel.gain[:, 1:]).to(images.dtype)  # (B, 1, h, w)
        choice = torch.cat([from_a, 1 - from_a], dim=1)  # multiplying by 0 and 1 is faster than torch.where
        gain, noise, variance = ((choice * x).sum(dim=1) for x in channel)  # (B, h, w) each
        kept = gain.square_().mul_(variance).div_(noise + _HAN_NOISE).log1p_().sum(dim=(1, 2))
        offered = (variance / _HAN_NOISE).log1p_().sum(dim=(1, 2))
        guard = (
            _HAN_GUARD * math.log(10) * variance[0].numel()
        )  # of each pixel; the definition has logarithms to base 10
        value += weight * (kept + guard) / (offered + guard)
    return value

"""Multi-scale structural similarity (MS-SSIM) of the fused image with its sources."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from mmfuse.metrics.card import Card, metric
from mmfuse.metrics.grey import grey_levels
from mmfuse.metrics.windows import gaussian_window, local_moments

_WANG_2003 = (
    "Wang, Simoncelli, Bovik: Multiscale structural similarity for image quality assessment, Asilomar Conference on "
    "Signals, Systems and Computers 2003, 1398"
)
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of five scales, from fine to coarse
_COARSEST = len(_WEIGHTS) - 1
_GAUSS = gaussian_window(11, 1.5)
_SMALLEST_VALID = 161  # leaves 11x11 pixels, one window, at the fifth scale
_SMALLEST_MIRRORED = 96  # leaves 6x6 pixels, enough to mirror five of them, at the fifth scale


def _mean_term(images: Tensor, peak: float, *, with_luminance: bool) -> Tensor:
    """Return the mean of SSIM, or of its contrast and structure terms alone: fused, a, b (B, 3, H, W) to (B, 2).

    A negative mean has no real power; it counts as 0.
    """
    local = local_moments(images, _GAUSS)
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    term = (2 * local.covariance + c2) / (local.variance_f + local.variance_s + c2)
    if with_luminance:
        term *= (2 * local.mean_f * local.mean_s + c1) / (local.mean_f.square() + local.mean_s.square() + c1)
    return term.mean(dim=(2, 3)).clamp(min=0)


def _both(fused: Tensor, a: Tensor, b: Tensor, peak: float) -> Tensor:
    """Return MS-SSIM with a and with b where the window fits, halving by means of 2x2 pixels, (B, 2)."""
    images = torch.cat(grey_levels(fused, a, b, smallest=_SMALLEST_VALID), dim=1)  # (B, 3, H, W)
    values = images.new_ones(len(images), 2)
    for scale, weight in enumerate(_WEIGHTS):
        values *= _mean_term(images, peak, with_luminance=scale == _COARSEST) ** weight
        # an odd side gets zeros at both ends, which count in the means
        images = avg_pool2d(images, 2, padding=[side % 2 for side in images.shape[-2:]])
    return values


@metric(Card(better="higher", range=(0, 2), source=_WANG_2003, used_by="no published table that we know"))
def ms_ssim_sum_l255(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """MS-SSIM with a plus MS-SSIM with b; five scales, 11x11 Gaussian window of sigma 1.5, range 255.

    Shape: three (B, 1, H, W) to (B,), H and W at least 161.
    Range: images in [0, 1]; the value lies in 0..2. A negative mean of a scale counts as 0.

    Raises:
        UserError: no legal batch of images.
    """
    return _both(fused, a, b, 255).sum(dim=1)


@metric(Card(better="higher", range=(0, 2), source=_WANG_2003, used_by="IVIF_ZOO, there in single precision"))
def ms_ssim_ivif_zoo(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """MS-SSIM with a plus MS-SSIM with b, as `ms_ssim_sum_l255` with a range of 1 on grey levels 0..255.

    IVIF_ZOO computes it in single precision, which moves it by up to half a per cent.

    Shape: three (B, 1, H, W) to (B,), H and W at least 161.
    Range: images in [0, 1]; the value lies in 0..2. A negative mean of a scale counts as 0.

    Raises:
        UserError: no legal batch of images.
    """
    return _both(fused, a, b, 1).sum(dim=1)


@metric(Card(better="higher", range=(0, 1), source=_WANG_2003, used_by="the evaluator of SMFNet"))
def ms_ssim_smfnet(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """MS-SSIM with a alone: the evaluator of SMFNet loses the term of b, so the order of the sources matters.

    Five scales, 11x11 Gaussian window of sigma 1.5, the image mirrored outside, range 255, halving by bilinear
    resizing to a side rounded down.

    Shape: three (B, 1, H, W) to (B,), H and W at least 96.
    Range: images in [0, 1]; the value lies in 0..1. A negative mean of a scale counts as 0, where the evaluator
    gives no number.

    Raises:
        UserError: no legal batch of images.
    """
    fused, a, b = grey_levels(fused, a, b, smallest=_SMALLEST_MIRRORED)
    images = torch.cat([fused, a, b], dim=1)  # (B, 3, H, W)
    value = images.new_ones(len(images))
    border = (len(_GAUSS) // 2,) * 4
    for scale, weight in enumerate(_WEIGHTS):
        framed = pad(images, border, mode="reflect")
        value *= _mean_term(framed, 255, with_luminance=scale == _COARSEST)[:, 0] ** weight
        height, width = images.shape[-2:]
        images = interpolate(images, size=(height // 2, width // 2), mode="bilinear", align_corners=False)
    return value

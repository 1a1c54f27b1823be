"""Structural similarity (SSIM) of the fused image with both sources."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmfuse.metrics.card import MetricCard, metric
from mmfuse.metrics.grey import grey_levels, together
from mmfuse.metrics.sharing import shared
from mmfuse.metrics.windows import GAUSS, Moments, gauss_moments, local_moments, uniform_window

_WANG_2004 = (
    "Wang, Bovik, Sheikh, Simoncelli: Image quality assessment, from error visibility to structural similarity, IEEE "
    "Trans. Image Processing 13 (2004) 600, eq. (13)"
)
_UNIFORM = uniform_window(7)
_SAMPLE = 49 / 48  # from population to sample (co)variance in a 7x7 window


@shared
def _uniform_moments(images: Tensor) -> Moments:
    return local_moments(images, _UNIFORM)


@shared
def _uniform_similarities(images: Tensor, peak: float) -> Tensor:
    """Return the mean SSIM in the uniform window, with the sample covariance: (B, 3, H, W) to (B, 2)."""
    return _mean_similarities(_uniform_moments(images), peak, _SAMPLE)


@shared
def _gauss_similarities(images: Tensor, peak: float) -> Tensor:
    """Return the mean SSIM in the Gaussian window where it fits: (B, 3, H, W) to (B, 2)."""
    return _mean_similarities(gauss_moments(images).cropped(len(GAUSS) // 2), peak)


def _uniform(fused: Tensor, a: Tensor, b: Tensor, peak: float) -> Tensor:
    return _uniform_similarities(together(*grey_levels(fused, a, b, smallest=len(_UNIFORM))), peak)


def _gaussian(fused: Tensor, a: Tensor, b: Tensor, peak: float) -> Tensor:
    return _gauss_similarities(together(*grey_levels(fused, a, b, smallest=len(GAUSS))), peak)


def _mean_similarities(local: Moments, peak: float, correction: float = 1) -> Tensor:
    """Return the mean SSIM of the fused image with both sources from their local moments, (B, 2)."""
    c1, c2 = (local.covariance.new_tensor(c) for c in ((0.01 * peak) ** 2, (0.03 * peak) ** 2))
    alike = torch.addcmul(c1, local.mean_f, local.mean_s, value=2)  # (B, 2, h, w)
    alike *= torch.add(c2, local.covariance, alpha=2 * correction)
    unlike = torch.addcmul(torch.addcmul(c1, local.mean_f, local.mean_f), local.mean_s, local.mean_s)
    unlike *= torch.add(torch.add(c2, local.variance_f, alpha=correction), local.variance_s, alpha=correction)
    return alike.div_(unlike).mean(dim=(2, 3))  # (B, 2)


@metric(
    MetricCard(
        better="higher",
        range=(-2, 2),
        source=_WANG_2004,
        used_by="the evaluator of LKC-FUNet; the current evaluator of SMFNet",
    )
)
def ssim_uniform_sum_l255(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """SSIM with a plus SSIM with b; 7x7 uniform window, sample covariance, range 255 (scikit-image's default).

    Shape: three (B, 1, H, W) to (B,), H and W at least 7.
    Range: images in [0, 1]; the value is in -2..2. Constant images are no special case.

    Raises:
        UserError: not a valid batch of images.
    """
    return _uniform(fused, a, b, 255).sum(dim=1)


@metric(
    MetricCard(
        better="higher",
        range=(-1, 1),
        source=_WANG_2004,
        used_by="possibly the table of LKC-FUNet (a mean of two; its window is unknown)",
    )
)
def ssim_uniform_mean_l255(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mean of SSIM with a and SSIM with b; 7x7 uniform window, sample covariance, range 255.

    Shape: three (B, 1, H, W) to (B,), H and W at least 7.
    Range: images in [0, 1]; the value is in -1..1. Constant images are no special case.

    Raises:
        UserError: not a valid batch of images.
    """
    return _uniform(fused, a, b, 255).mean(dim=1)


@metric(
    MetricCard(
        better="higher",
        range=(-2, 2),
        source=_WANG_2004,
        used_by="the evaluator of CDDFuse with scikit-image 0.19 or older; the table of SMFNet",
    )
)
def ssim_uniform_sum_l2(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """SSIM with a plus SSIM with b; 7x7 uniform window, sample covariance, range 2 on grey levels 0..255.

    Old versions of scikit-image used the range 2 for floating-point images regardless of their values.

    Shape: three (B, 1, H, W) to (B,), H and W at least 7.
    Range: images in [0, 1]; the value is in -2..2. Constant images are no special case.

    Raises:
        UserError: not a valid batch of images.
    """
    return _uniform(fused, a, b, 2).sum(dim=1)


@metric(MetricCard(better="higher", range=(-2, 2), source=_WANG_2004, used_by="VIFB (MATLAB)"))
def ssim_gauss_sum_l255(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """SSIM with a plus SSIM with b; 11x11 Gaussian window of sigma 1.5, population covariance, range 255.

    Shape: three (B, 1, H, W) to (B,), H and W at least 11.
    Range: images in [0, 1]; the value is in -2..2. Constant images are no special case.

    Raises:
        UserError: not a valid batch of images.
    """
    return _gaussian(fused, a, b, 255).sum(dim=1)


@metric(
    MetricCard(
        better="higher",
        range=(-1, 1),
        source=_WANG_2004,
        used_by="possibly the table of LKC-FUNet (a mean of two; its window is unknown)",
    )
)
def ssim_gauss_mean_l255(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mean of SSIM with a and SSIM with b; 11x11 Gaussian window of sigma 1.5, population covariance, range 255.

    Shape: three (B, 1, H, W) to (B,), H and W at least 11.
    Range: images in [0, 1]; the value is in -1..1. Constant images are no special case.

    Raises:
        UserError: not a valid batch of images.
    """
    return _gaussian(fused, a, b, 255).mean(dim=1)


@metric(MetricCard(better="higher", range=(-2, 2), source=_WANG_2004, used_by="IVIF_ZOO, there in single precision"))
def ssim_gauss_sum_l1(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """SSIM with a plus SSIM with b; 11x11 Gaussian window of sigma 1.5, range 1 on grey levels 0..255.

    IVIF_ZOO computes it in single precision, which changes it by up to a fifth on images with large saturated areas.

    Shape: three (B, 1, H, W) to (B,), H and W at least 11.
    Range: images in [0, 1]; the value is in -2..2. Constant images are no special case.

    Raises:
        UserError: not a valid batch of images.
    """
    return _gaussian(fused, a, b, 1).sum(dim=1)


@metric(MetricCard(better="higher", range=(-1, 1), source=_WANG_2004, used_by="Tang (MATLAB)"))
def ssim_tang(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mean of SSIM with a and with b; 11x11 Gaussian window, replicated borders, range 1 on levels 0..255.

    MATLAB uses the range 1 for floating-point images regardless of their values.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value is in -1..1. Constant images are no special case.

    Raises:
        UserError: not a valid batch of images.
    """
    framed = pad(together(*grey_levels(fused, a, b)), (len(GAUSS) // 2,) * 4, mode="replicate")
    return _mean_similarities(local_moments(framed, GAUSS), 1).mean(dim=1)

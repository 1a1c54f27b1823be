"""Losses that the three papers have in common: structural similarity, gradients."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def gaussian_window(length: int, sigma: float, like: Tensor) -> Tensor:
    """Return a normalised 1-D Gaussian of `length` taps with the dtype and device of `like`."""
    offset = torch.arange(length, dtype=like.dtype, device=like.device) - (length - 1) / 2
    weights = torch.exp(-(offset**2) / (2 * sigma**2))
    return weights / weights.sum()


def _blur(image: Tensor, window: Tensor) -> Tensor:
    """Filter every channel with a separable window; the border is reflected, the size stays."""
    channels, reach = image.shape[1], len(window) // 2
    image = F.pad(image, (reach, reach, reach, reach), mode="reflect")
    image = F.conv2d(image, window.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(image, window.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def ssim_map(x: Tensor, y: Tensor, *, length: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity at every pixel, for images in [0, 1].

    Shape: x, y (B, C, H, W) with H, W > length // 2; returns the same shape.
    Range: [-1, 1].
    Source: Wang et al. 2004; MMA-UNet eq. 2.
    """
    c1, c2 = 0.01**2, 0.03**2
    window = gaussian_window(length, sigma, x)
    mean_x, mean_y = _blur(x, window), _blur(y, window)
    var_x = _blur(x * x, window) - mean_x**2
    var_y = _blur(y * y, window) - mean_y**2
    cov = _blur(x * y, window) - mean_x * mean_y
    return ((2 * mean_x * mean_y + c1) * (2 * cov + c2)) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))


def ssim_loss(x: Tensor, y: Tensor) -> Tensor:
    """Mean dissimilarity max(0, 1 - SSIM) / 2: the form that the published codes of MMA-UNet and SMFNet use.

    Range: [0, 1/2]; no gradient where the similarity is negative enough to be clamped (SSIM < 0).
    """
    return (1 - ssim_map(x, y)).clamp(0, 1).mean() / 2


def two_source_ssim_loss(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """One minus the mean similarity to both sources.

    Range: [0, 2].
    Source: LKC-FUNet eq. 6 (L9: the published code takes the mean of both similarities).
    """
    return 1 - (ssim_map(fused, a).mean() + ssim_map(fused, b).mean()) / 2


def strongest_intensity_loss(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference to the brighter source at each pixel.

    Source: LKC-FUNet eq. 7.
    """
    return F.l1_loss(fused, torch.maximum(a, b))


def strongest_gradient_loss(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of the gradient strength to the stronger source's at each pixel.

    Source: LKC-FUNet eq. 8.
    """
    return F.l1_loss(sobel_magnitude(fused), torch.maximum(sobel_magnitude(a), sobel_magnitude(b)))


def sobel_magnitude(image: Tensor) -> Tensor:
    """Gradient strength |gx| + |gy| with 3x3 Sobel filters, border repeated.

    Shape: (B, C, H, W) in and out.
    Range: [0, 8] for images in [0, 1].
    """
    channels = image.shape[1]
    smooth = image.new_tensor([1.0, 2.0, 1.0]).view(1, 1, -1, 1)
    differ = image.new_tensor([-1.0, 0.0, 1.0]).view(1, 1, 1, -1)
    kernel = torch.cat([smooth * differ, (smooth * differ).transpose(-1, -2)]).repeat(channels, 1, 1, 1)
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    gradients = F.conv2d(padded, kernel, groups=channels).unflatten(1, (channels, 2))  # (B, C, 2, H, W)
    return gradients.abs().sum(dim=2)

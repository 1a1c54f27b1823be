"""Sliding windows: separable filters over the valid region, and the local moments that SSIM and VIF are made of."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

Window = tuple[float, ...]


def gaussian_window(length: int, sigma: float) -> Window:
    """Return a Gaussian of odd length whose weights sum to one."""
    weights = [math.exp(-((i - length // 2) ** 2) / (2 * sigma**2)) for i in range(length)]
    return tuple(weight / sum(weights) for weight in weights)


def uniform_window(length: int) -> Window:
    """Return equal weights that sum to one."""
    return (1 / length,) * length


def filter_valid(images: Tensor, window: Window) -> Tensor:
    """Filter rows and columns with one window, only where it lies wholly inside the image.

    Shape: (..., H, W) to (..., H - n + 1, W - n + 1) for a window of n weights.
    """
    # A sum of shifted copies: in float64 on a processor twelve times as fast as the convolution of torch.
    for axis in (-2, -1):
        extent = images.shape[axis] - len(window) + 1
        total = images.narrow(axis, 0, extent) * window[0]
        for shift, weight in enumerate(window[1:], start=1):
            total.add_(images.narrow(axis, shift, extent), alpha=weight)
        images = total
    return images


def filter_same(images: Tensor, window: Window) -> Tensor:
    """Filter rows and columns with one window of odd length, zeros outside the image.

    Shape: (B, C, H, W), in and out.
    """
    return filter_valid(pad(images, (len(window) // 2,) * 4), window)


class Moments(NamedTuple):
    """Local means, population variances and covariances of the fused image (f) and of both sources (s)."""

    mean_f: Tensor  # (B, 1, h, w)
    mean_s: Tensor  # (B, 2, h, w)
    variance_f: Tensor  # (B, 1, h, w)
    variance_s: Tensor  # (B, 2, h, w)
    covariance: Tensor  # (B, 2, h, w), fused image with each source


def local_moments(images: Tensor, window: Window) -> Moments:
    """Return the moments under a window at every place where it fits.

    Shape: images (B, 3, H, W) as fused, a, b.
    """
    fused, sources = images[:, :1], images[:, 1:]
    mean = filter_valid(images, window)  # (B, 3, h, w)
    products = filter_valid(torch.cat([images.square(), fused * sources], dim=1), window)  # (B, 5, h, w)
    variance = products[:, :3] - mean.square()
    covariance = products[:, 3:] - mean[:, :1] * mean[:, 1:]
    return Moments(mean[:, :1], mean[:, 1:], variance[:, :1], variance[:, 1:], covariance)

"""Sliding windows: separable filters over the valid region, and the local moments behind SSIM and VIF."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmfuse.metrics.sharing import shared

Window = tuple[float, ...]


def gaussian_window(length: int, sigma: float) -> Window:
    """Return a Gaussian of odd length whose weights sum to one."""
    weights = [math.exp(-((i - length // 2) ** 2) / (2 * sigma**2)) for i in range(length)]
    return tuple(weight / sum(weights) for weight in weights)


def uniform_window(length: int) -> Window:
    """Return equal weights that sum to one."""
    return (1 / length,) * length


GAUSS = gaussian_window(11, 1.5)  # the window of SSIM


def filter_valid(images: Tensor, window: Window, *, step: int = 1) -> Tensor:
    """Filter rows and columns with one window, only where it is entirely inside the image.

    Shape: (..., H, W) to (..., H - n + 1, W - n + 1) for a window of n weights; a step of 2 returns every second row
    and column of that, from the first.
    """
    planes = images.reshape(-1, *images.shape[-2:])
    height, width = (side - len(window) + 1 for side in planes.shape[-2:])
    filtered = planes.new_empty(len(planes), -(-height // step), -(-width // step))
    # A sum of shifted copies: in float64 on a CPU, twelve times as fast as torch's convolution. Processing one plane at
    # a time keeps it in the CPU cache, which halves the time again.
    at_once = 1 if images.device.type == "cpu" else len(planes)
    for some, result in zip(planes.split(at_once), filtered.split(at_once), strict=True):
        columns = some[:, :height:step] * window[0]
        for shift, weight in enumerate(window[1:], start=1):
            columns.add_(some[:, shift : shift + height : step], alpha=weight)
        torch.mul(columns[..., :width:step], window[0], out=result)
        for shift, weight in enumerate(window[1:], start=1):
            result.add_(columns[..., shift : shift + width : step], alpha=weight)
    return filtered.view(*images.shape[:-2], *filtered.shape[-2:])


def filter_same(images: Tensor, window: Window) -> Tensor:
    """Filter rows and columns with one window of odd length, with zeros outside the image.

    Shape: (B, C, H, W), in and out.
    """
    return filter_valid(pad(images, (len(window) // 2,) * 4), window)


class Moments(NamedTuple):
    """Local means, population variances and covariances of the fused image (f) and of its S sources (s)."""

    mean_f: Tensor  # (B, 1, h, w)
    mean_s: Tensor  # (B, S, h, w)
    variance_f: Tensor  # (B, 1, h, w)
    variance_s: Tensor  # (B, S, h, w)
    covariance: Tensor  # (B, S, h, w), fused image with each source

    def cropped(self, border: int) -> Moments:
        """Return the moments without those of the outermost pixels."""
        inner = slice(border, -border)
        return Moments(*(values[..., inner, inner] for values in self))


def local_moments(images: Tensor, window: Window) -> Moments:
    """Return the moments in a window at each position where it fits.

    Shape: images (B, 1 + S, H, W), the fused image first.
    """
    fused, sources = images[:, :1], images[:, 1:]
    mean = filter_valid(images, window)  # (B, 1 + S, h, w)
    products = filter_valid(torch.cat([images.square(), fused * sources], dim=1), window)  # (B, 1 + 2 S, h, w)
    variance, covariance = products.split([images.shape[1], images.shape[1] - 1], dim=1)
    variance -= mean.square()
    covariance -= mean[:, :1] * mean[:, 1:]
    return Moments(mean[:, :1], mean[:, 1:], variance[:, :1], variance[:, 1:], covariance)


@shared
def gauss_moments(images: Tensor) -> Moments:
    """Return the moments in SSIM's Gaussian window around each pixel, with mirrored borders.

    Cropped by half a window, they are those where it fits, so one computation serves both kinds of metrics.

    Shape: images (B, 1 + S, H, W), the fused image first, H and W at least 6; the moments have the same height and
    width.
    """
    return local_moments(pad(images, (len(GAUSS) // 2,) * 4, mode="reflect"), GAUSS)

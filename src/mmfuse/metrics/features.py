"""Feature mutual information (FMI): how much information about the sources' features the fused image has.

Features are edges, the coefficients of the cosine transform, or those of a wavelet transform. They are compared in
each window of 3x3 coefficients, see `frechet`. A window's value is 1 where it is the same in both images.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmfuse.metrics.card import MetricCard, metric
from mmfuse.metrics.frechet import CELLS, describe, normalised_information
from mmfuse.metrics.grey import grey_levels, together
from mmfuse.metrics.sobel import sobel

_HAGHIGHAT_2014 = (
    "Haghighat, Razian: Fast-FMI, non-reference image fusion metric, IEEE Int. Conf. Application of Information and "
    "Communication Technologies 2014, 1"
)
_SIDE = 3  # side of a window
_AT_ONCE = {"cpu": 8192}  # windows of each image; more would not fit into a CPU cache
_STEP = 2.0**-23  # quantisation of coefficients, in grey levels: above rounding errors, below any relevant difference
_TAPS = 102  # length of the wavelet's filters
_BLOCK = 64  # coefficients of one kind computed at once


def _views(features: Tensor) -> list[Tensor]:
    """Return the nine cells of all windows, column by column: (..., h, w) to nine times (..., h - 2, w - 2)."""
    height, width = (side - _SIDE + 1 for side in features.shape[-2:])
    return [features[..., y : y + height, x : x + width] for x in range(_SIDE) for y in range(_SIDE)]


def _information(features: Tensor) -> Tensor:
    """Return the mean normalised information of all windows of fused, a, b: features (B, 3, h, w) to (B,)."""
    at_once = _AT_ONCE.get(features.device.type, 2**18)
    height, width = features.shape[-2:]
    # Pixel by pixel, so that all blocks have equal length: some windows contain the end of a row and the start of the
    # next one, and are excluded.
    lines = features.flatten(2)  # (B, 3, h * w)
    places = [x + y * width for x in range(_SIDE) for y in range(_SIDE)]  # offsets of the cells, column by column
    windows = lines.shape[-1] - places[-1]
    means = []
    for line in lines:
        values = line.new_empty(2, (height - _SIDE + 1) * width)
        for start in range(0, windows, at_once):
            end = min(start + at_once, windows)
            described = describe(torch.stack([line[:, start + place : end + place] for place in places]))
            values[:, start:end] = normalised_information(described.of(1, 2), described.of(0, 0))
        inside = values.view(2, -1, width)[..., : width - _SIDE + 1]
        means.append(inside.mean())
    return torch.stack(means)


def _edges(levels: Tensor) -> Tensor:
    """Return a mask of edges, (B, C, H, W) booleans: thinned Sobel gradients, as in MATLAB's `edge`.

    An edge is more than twice as strong as the root mean square, and stronger than its neighbours in the row or in the
    column, whichever the gradient is closer to; of two equal neighbours, the right or lower one wins.

    Source: the documentation of MATLAB's `edge`: method Sobel, default threshold, thinning.
    """
    horizontal, vertical = (gradient / 8 for gradient in sobel(levels, "replicate"))
    squared = horizontal.square() + vertical.square()
    strong = squared > 4 * squared.mean(dim=(2, 3), keepdim=True)
    inner = squared[..., 1:-1, 1:-1]
    in_row = (squared[..., 1:-1, :-2] <= inner) & (inner > squared[..., 1:-1, 2:])
    in_column = (squared[..., :-2, 1:-1] <= inner) & (inner > squared[..., 2:, 1:-1])
    across, down = horizontal[..., 1:-1, 1:-1].abs(), vertical[..., 1:-1, 1:-1].abs()
    # ASSUME: no edges along the border, where a neighbour is missing
    thin = pad((in_row & (across >= down)) | (in_column & (down >= across)), (1, 1, 1, 1))
    return strong & thin


@metric(MetricCard(better="higher", range=(0, 1), source=_HAGHIGHAT_2014, used_by="Tang (MATLAB)", directed=True))
def fmi_pixel(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Feature mutual information of edges, the mean over both sources.

    Shape: three (B, 1, H, W) to (B,), H and W at least 3.
    Range: images in [0, 1]; the value is in 0..1, and 1 for three images without edges, such as constant ones.

    Raises:
        UserError: not a valid batch of images.
    """
    edges = _edges(together(*grey_levels(fused, a, b, smallest=_SIDE))).long()  # (B, 3, H, W)
    codes = torch.zeros_like(edges[..., 2:, 2:])  # each window as a number: cell k is bit k
    for number, cell in enumerate(_views(edges)):
        codes += cell << number
    means = []
    for of_fused, of_a, of_b in codes.flatten(2):  # (n,) each
        means.append((_edge_information(of_a, of_fused) + _edge_information(of_b, of_fused)) / 2)
    return torch.stack(means)


def _edge_information(source: Tensor, fused: Tensor) -> Tensor:
    """Return the mean normalised information of the windows of two edge maps from their codes (n,), a scalar."""
    # there are only 512 windows of nine bits, so each pair that occurs is computed once
    counts = torch.bincount(source * 2**CELLS + fused, minlength=4**CELLS)
    pairs = counts.nonzero()[:, 0]
    bits = torch.arange(CELLS, device=pairs.device)[:, None, None]
    cells = (torch.stack([pairs >> CELLS, pairs]) >> bits & 1).double()  # (9, 2, m)
    values = normalised_information(describe(cells[:, :1]), describe(cells[:, 1:]))[0]
    return (values * counts[pairs]).sum() / len(source)


def _cosine_transform(images: Tensor) -> Tensor:
    """Return the orthonormal cosine transform (type II) along the last dimension.

    Source: Makhoul: A fast cosine transform in one and two dimensions, IEEE Trans. Acoustics, Speech and Signal
    Processing 28 (1980) 27.
    """
    length = images.shape[-1]
    spectrum = torch.fft.fft(torch.cat([images[..., ::2], images[..., 1::2].flip(-1)], dim=-1))
    angle = torch.arange(length, dtype=images.dtype, device=images.device) * (-math.pi / (2 * length))
    scale = torch.full_like(angle, math.sqrt(2 / length))
    scale[0] = math.sqrt(1 / length)
    return (spectrum * torch.polar(scale, angle)).real


def _transformed(images: Tensor, transform: Callable[[Tensor], Tensor]) -> Tensor:
    """Transform rows and columns of images (B, 3, H, W)."""
    coefficients = transform(transform(images).transpose(-1, -2)).transpose(-1, -2)
    # Drop the last digits, which are rounding errors: stretched windows would show nothing else.
    return coefficients.div_(_STEP).round_().mul_(_STEP)


@metric(MetricCard(better="higher", range=(0, 1), source=_HAGHIGHAT_2014, used_by="Tang (MATLAB)", directed=True))
def fmi_dct(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Feature mutual information of the coefficients of the whole image's cosine transform, the mean over both sources.

    Shape: three (B, 1, H, W) to (B,), H and W at least 3.
    Range: images in [0, 1]; the value is in 0..1. Constant images differ in only one coefficient, so their value
    is near 1.

    Raises:
        UserError: not a valid batch of images.
    """
    return _information(_transformed(together(*grey_levels(fused, a, b, smallest=_SIDE)), _cosine_transform))


@functools.cache
def _meyer_filter() -> tuple[float, ...]:
    """Return the low-pass filter of Meyer's wavelet at -50..50.

    Source: Daubechies: Ten lectures on wavelets, SIAM 1992, section 4.2.
    """
    # The filter decays with the fifth power of the distance, so this many samples of its spectrum are exact.
    samples = 2**14
    frequency = torch.arange(samples // 2 + 1, dtype=torch.float64) / (samples // 2)  # 1 is the highest frequency
    x = (3 * frequency - 1).clamp(0, 1)
    smooth = x**4 * (35 - 84 * x + 70 * x**2 - 20 * x**3)
    spectrum = math.sqrt(2) * torch.cos(math.pi / 2 * smooth)  # 0 above two thirds
    half = torch.fft.irfft(spectrum)[: _TAPS // 2].tolist()
    return (*reversed(half[1:]), *half)


def _meyer_transform(images: Tensor) -> Tensor:
    """Return approximations, then details, along the last dimension, with mirrored borders.

    This is MATLAB's `dwt`. ASSUME: its filters 'dmey', of 102 coefficients, are this filter with one zero in front.

    Shape: (..., N) to (..., 2 K) with K = (N + 101) // 2.
    """
    parts = [images[..., pixels] @ weights.to(images) for pixels, weights in _meyer_blocks(images.shape[-1])]
    return torch.cat(parts, dim=-1)


@functools.lru_cache(maxsize=8)
def _meyer_blocks(length: int) -> list[tuple[slice, Tensor]]:
    """Return the transform of a line of pixels as matrices: for each block of coefficients, its pixels and weights.

    The transform is split into blocks, so that the cost of the matrix products is linear in the number of pixels.
    """
    taps = torch.tensor(_meyer_filter(), dtype=torch.float64)
    count = (length + _TAPS - 1) // 2
    blocks = []
    for detail in (False, True):
        place = 2 * torch.arange(count)[:, None] - torch.arange(len(taps)) + detail  # (count, taps)
        # the mirror filter: alternating signs, shifted by one pixel
        weights = torch.where(place % 2 == 1, -taps, taps) if detail else taps.expand_as(place)
        mirrored = place % (2 * length)
        pixel = torch.minimum(mirrored, 2 * length - 1 - mirrored)
        matrix = taps.new_zeros(count, length).scatter_add_(1, pixel, weights)
        for rows in matrix.split(_BLOCK):
            used = rows.any(dim=0).nonzero()
            pixels = slice(int(used[0]), int(used[-1]) + 1)
            blocks.append((pixels, rows[:, pixels].T.contiguous()))
    return blocks


@metric(MetricCard(better="higher", range=(0, 1), source=_HAGHIGHAT_2014, used_by="Tang (MATLAB)", directed=True))
def fmi_wavelet(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Feature mutual information of the coefficients of a discrete Meyer wavelet transform, the mean over both sources.

    One level. The four parts form one image of coefficients, and windows cross their seams: approximations at the top
    left, details across the columns at the right, across the rows at the bottom. A side of N pixels gives
    2 * ((N + 101) // 2) coefficients.

    Shape: three (B, 1, H, W) to (B,), H and W at least 3.
    Range: images in [0, 1]; the value is in 0..1.

    Raises:
        UserError: not a valid batch of images.
    """
    return _information(_transformed(together(*grey_levels(fused, a, b, smallest=_SIDE)), _meyer_transform))

"""Exact convolution with 3x3 kernels and many channels in a quarter or a fifth of the multiplications (Winograd).

The image is cut into tiles of `tile` x `tile` outputs, each of which needs `tile` + 2 inputs in both directions. Inputs
and kernel are evaluated as polynomials at `tile` + 1 points and at infinity. There, at each pair of points, convolution
multiplies the channels of all tiles by one real matrix. Everything consists of matrix products, in the steps and
layouts of `mmfuse.fastconv.overlap_save`: down the columns for each row of tiles; then, point by point, along the
rows, over the channels, and back along the rows; finally back down the columns. The data of one point stay in the CPU
cache.

Source: Lavin and Gray 2016, "Fast algorithms for convolutional neural networks"; Winograd 1980.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mmfuse.fastconv.tiles import Tiles
from mmfuse.fastconv.workspace import LIMITS, buffer

KERNEL = 3
TILES = (4, 6)
# small numbers and their reciprocals have the smallest rounding errors
_POINTS = (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)
_ONE = 1  # index of the point 1, at which a constant output is a constant product
_TILES_AT_ONCE = 384  # few enough for a cache, many enough for a fast matrix product


class Bases(NamedTuple):
    """Matrices for tiles of m outputs, from N = m + 2 inputs."""

    image: Tensor  # (N, N): points from positions
    kernel: Tensor  # (N, 3): points from positions
    back: Tensor  # (m, N): positions from points


@lru_cache(maxsize=8)
def bases(tile: int, dtype: torch.dtype) -> Bases:
    """Return the matrices for one tile size."""
    length = tile + KERNEL - 1
    with torch.inference_mode(False):
        points = torch.tensor(_POINTS[: length - 1], dtype=torch.float64)

        def powers(count: int) -> Tensor:
            at_infinity = torch.eye(count, dtype=torch.float64)[-1:]
            return torch.cat([points[:, None] ** torch.arange(count), at_infinity])  # (N, count)

        # a product of polynomials is evaluation, multiplication and interpolation; a filter is its transpose
        image = torch.linalg.inv(powers(length)).T
        size = image.norm(dim=1, keepdim=True)  # equal sizes at all points minimise rounding errors
        matrices = image / size, powers(KERNEL) * size, powers(tile).T
        return Bases(*(matrix.to(dtype).contiguous() for matrix in matrices))


@dataclass(frozen=True)
class Tiling(Tiles):
    """The output of a 3x3 convolution in tiles; `padding` is the number of zeros around the image, 0 or 1."""

    padding: int = 1

    def bands(self, channels: int, itemsize: int) -> Iterator[range]:
        """Return the rows of tiles in groups that suit the caches and fit into the workspace.

        Args:
            channels: Input and output channels together.
            itemsize: Bytes of a number.
        """
        row_bytes = itemsize * channels * self.length * (3 * self.tile + KERNEL) * self.across
        return self.groups(min(_TILES_AT_ONCE // self.across, int(LIMITS.workspace * 2**20 / row_bytes)))


def convolve(image: Tensor, weight: Tensor, bias: Tensor | None, tiling: Tiling, kept: Tensor | None = None) -> Tensor:
    """Convolve with zero padding, stride 1.

    Args:
        image: (B, H', W', in), contiguous.
        weight: (out, in, 3, 3).
        bias: (out,).
        tiling: Tiling of the output.
        kept: Result of `kernel_spectra` for this weight and tile size, if it was kept.

    Returns:
        (B, H, W, out), contiguous.
    """
    kernel = (lambda point: kept[point]) if kept is not None else _streamed(weight, tiling.tile)
    channels = weight.shape[0]
    basis = bases(tiling.tile, image.dtype)
    out = image.new_empty(tiling.batch, tiling.height, tiling.width, channels)
    for band in tiling.bands(sum(weight.shape[:2]), image.element_size()):
        rows_in = _rows_in(image, tiling, band)  # (N, rows, wide, in)
        shape = (tiling.length, len(band), tiling.across, tiling.tile, channels)
        rows_out = buffer("rows out", shape, image.dtype)
        for point in range(tiling.length):
            spectrum = _along_rows(rows_in[point], tiling)  # (N, tiles, in)
            products = buffer("products", (*spectrum.shape[:2], channels), image.dtype)
            torch.bmm(spectrum, kernel(point), out=products)
            if bias is not None and point == _ONE:
                products[_ONE] += bias
            back = buffer("back", (tiling.tile, products[0].numel()), image.dtype)
            torch.mm(basis.back, products.flatten(1), out=back)
            rows_out[point].copy_(back.view(tiling.tile, *shape[1:3], channels).permute(1, 2, 0, 3))
        for place, row in enumerate(band):
            number, down = divmod(row, tiling.down)
            target = out[number, down * tiling.tile : (down + 1) * tiling.tile].flatten(1)  # (up to m, W * out)
            torch.mm(basis.back[: len(target)], rows_out[:, place].flatten(1)[:, : target.shape[1]], out=target)
    return out


def _rows_in(image: Tensor, tiling: Tiling, band: range) -> Tensor:
    """Transform the rows of tiles of a band down the columns.

    Shape: image (B, H', W', C); returns (N, rows, across * m + 2, C).
    """
    _, height, width, channels = image.shape
    basis = bases(tiling.tile, image.dtype).image
    shape = (tiling.length, len(band), tiling.across * tiling.tile + KERNEL - 1, channels)
    out = buffer("rows in", shape, image.dtype)
    out[:, :, : tiling.padding] = 0
    out[:, :, tiling.padding + width :] = 0
    for place, row in enumerate(band):
        number, down = divmod(row, tiling.down)
        top = down * tiling.tile - tiling.padding
        first, last = max(0, top), min(height, top + tiling.length)  # zeros above and below need no product
        target = out[:, place, tiling.padding : tiling.padding + width].flatten(1)
        torch.mm(basis[:, first - top : last - top], image[number, first:last].flatten(1), out=target)
    return out


def _along_rows(row: Tensor, tiling: Tiling) -> Tensor:
    """Transform all tiles of one point along the rows.

    Shape: row (rows, wide, C) contiguous; returns (N, rows * across, C).
    """
    rows, wide, channels = row.shape
    strides = (channels, wide * channels, tiling.tile * channels, 1)
    cut = buffer("cut", (tiling.length, rows, tiling.across, channels), row.dtype)
    cut.copy_(row.as_strided(cut.shape, strides, row.storage_offset()))
    out = buffer("spectrum", (tiling.length, rows * tiling.across, channels), row.dtype)
    torch.mm(bases(tiling.tile, row.dtype).image, cut.flatten(1), out=out.flatten(1))
    return out


def _streamed(weight: Tensor, tile: int) -> Callable[[int], Tensor]:
    """Return a function that computes the spectra of one point, (N, in, out), in a buffer."""
    out, channels, _, _ = weight.shape
    basis = bases(tile, weight.dtype).kernel
    positions = weight.permute(2, 3, 1, 0).reshape(KERNEL, -1)  # (3, 3 * in * out)
    rows = buffer("kernel rows", (len(basis), positions.shape[1]), weight.dtype)
    torch.mm(basis, positions, out=rows)

    def make(point: int) -> Tensor:
        spectra = buffer("kernel", (len(basis), channels, out), weight.dtype)
        torch.mm(basis, rows[point].view(KERNEL, -1), out=spectra.flatten(1))
        return spectra

    return make


def kernel_spectra(weight: Tensor, tile: int) -> Tensor:
    """Return the weight at all pairs of points, (N, N, in, out), to be kept."""
    streamed = _streamed(weight, tile)
    kept = torch.empty(spectra_shape(weight, tile), dtype=weight.dtype)
    for point, spectra in enumerate(kept):
        spectra.copy_(streamed(point))
    return kept


def spectra_shape(weight: Tensor, tile: int) -> tuple[int, ...]:
    """Return the shape of `kernel_spectra` without computing them."""
    length = tile + KERNEL - 1
    return (length, length, weight.shape[1], weight.shape[0])

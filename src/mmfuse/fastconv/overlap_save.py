"""Exact convolution with large dense kernels through Fourier transforms of tiles (overlap-save).

The image is cut into tiles of `tile` x `tile` outputs. Each needs `length` = tile + kernel - 1 inputs in both
The image is cut into tiles of `tile` x `tile` outputs. Each needs `length` = tile + kernel - 1 inputs in both
directions. In the Fourier domain of length x length, convolution multiplies, at each frequency, the channels of all
tiles by one complex matrix. Everything consists of matrix products, which are the fastest operations on a CPU:

1. rows: real DFT down the columns of the image, one product for each row of tiles;
2. for each row frequency: DFT along the rows, one product for all tiles;
3. channels: one product for each frequency; a complex product is three real ones,
   (a + ib)(c + id) = P0 - P2 + i (P0 + P1) with P0 = (a + b) c, P1 = a (d - c), P2 = b (c + d);
4. inverse DFT along the rows, one product; its matrix includes the sums and signs of step 3;
5. after all row frequencies: inverse DFT down the columns, which writes the output.

Layouts end in (tiles, channels), so that no step needs a transposition. There is no FFT, so any length works. The
gradients are convolutions too and are computed in the same way.

Source: overlap-save: Oppenheim and Schafer, "Discrete-Time Signal Processing", 8.7; three products: Gauss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mmfuse.fastconv.tiles import Tiles
from mmfuse.fastconv.workspace import LIMITS, buffer

KernelSpectra = Callable[[int], Tensor]


class Bases(NamedTuple):
    """Cosines and sines for DFT length N, with M = N // 2 + 1 row frequencies."""

    rows: Tensor  # (M, 2, N): cosine and sine parts of a real signal
    image_columns: Tensor  # (2, N, 2, N): (real, imaginary) x frequency from (cosine, sine) x position
    kernel_columns: Tensor  # the same, conjugated
    back_columns: Tensor  # (2, N, 3, N): (real, imaginary) x position from the three products x frequency
    back_rows: Tensor  # (N, M, 2): position from row frequency x (real, imaginary)


@lru_cache(maxsize=64)
def bases(length: int, dtype: torch.dtype) -> Bases:
    """Return the matrices for one DFT length."""
    with torch.inference_mode(False):
        position = torch.arange(length, dtype=torch.float64)
        angle = 2 * math.pi / length * position[:, None] * position
        c, s = angle.cos(), angle.sin()
        half = length // 2 + 1
        # x̂ = (cos part - i sin part)(c - i s)
        image = torch.stack([torch.stack([c, -s], 1), torch.stack([-s, -c], 1)])
        kernel = torch.stack([torch.stack([c, -s], 1), torch.stack([s, c], 1)])
        back = torch.stack([torch.stack([c - s, -s, -c], 1), torch.stack([s + c, c, -s], 1)])
        # the omitted frequencies are the conjugates of the others
        weight = torch.full((half,), 2.0, dtype=torch.float64)
        weight[0] = 1
        if length % 2 == 0:
            weight[-1] = 1
        back_rows = torch.stack([c[:, :half], -s[:, :half]], 2) * weight[:, None] / length**2
        return Bases(*(m.to(dtype) for m in (torch.stack([c[:half], s[:half]], 1), image, kernel, back, back_rows)))


@dataclass(frozen=True)
class Tiling(Tiles):
    """Tiles and their spectra; a tile has as many inputs as the DFT has points."""

    @property
    def half(self) -> int:
        """Number of row frequencies of a real signal."""
        return self.length // 2 + 1

    def row_numbers(self, channels: int) -> int:
        """Size of the buffers for one row of tiles, for input and output channels together."""
        wide = self.across * self.tile + self.kernel - 1
        return channels * (2 * self.half * wide + self.across * (5 * self.length + 2 * self.tile))

    def bands(self, channels: int, itemsize: int) -> Iterator[range]:
        """Return the rows of tiles in groups whose buffers fit into the workspace."""
        return self.groups(int(LIMITS.workspace * 2**20 / (itemsize * self.row_numbers(channels))))


def _row_transform(image: Tensor, tiling: Tiling, band: range, name: str, *, halo: bool) -> Tensor:
    """Transform the rows of tiles of a band down the columns.

    Shape: image (B, H, W, C) contiguous; returns (M, 2, rows, width, C), where the width is that of all tiles, plus a
    margin for the first and last tile if `halo`.
    """
    _, height, width, channels = image.shape
    reach = tiling.kernel // 2 if halo else 0
    support = tiling.length if halo else tiling.tile
    wide = tiling.across * tiling.tile + 2 * reach
    basis = bases(tiling.length, image.dtype).rows.flatten(0, 1)  # (2M, N)
    out = buffer(name, (2 * tiling.half, len(band), wide, channels), image.dtype)
    out[:, :, :reach] = 0
    out[:, :, reach + width :] = 0
    for place, row in enumerate(band):
        number, down = divmod(row, tiling.down)
        top = down * tiling.tile - reach
        first, last = max(0, top), min(height, top + support)  # zeros above and below need no product
        target = out[:, place, reach : reach + width].view(2 * tiling.half, -1)
        torch.mm(basis[:, first - top : last - top], image[number, first:last].view(last - first, -1), out=target)
    return out.view(tiling.half, 2, len(band), wide, channels)


def _column_transform(row: Tensor, tiling: Tiling, name: str, *, of_kernel: bool) -> Tensor:
    """Transform all tiles of one row frequency along the rows, and add the terms of the three products.

    Shape: row (2, rows, width, C) contiguous; returns (3, N, rows * across, C).
    """
    _, rows, wide, channels = row.shape
    support, length = tiling.tile if of_kernel else tiling.length, tiling.length
    strides = (rows * wide * channels, channels, wide * channels, tiling.tile * channels, 1)
    cut = buffer("cut", (2, support, rows, tiling.across, channels), row.dtype)
    cut.copy_(row.as_strided(cut.shape, strides, row.storage_offset()))
    return _spectrum(cut.view(2, support, -1), length, name, of_kernel=of_kernel).unflatten(-1, (-1, channels))


def _spectrum(parts: Tensor, length: int, name: str, *, of_kernel: bool, flip: bool = False) -> Tensor:
    """Finish the transform of signals that are at most as long as the DFT.

    Shape: parts (2, support, n), cosine and sine parts of one row frequency; returns (3, N, n).
    """
    basis = bases(length, parts.dtype)
    support = parts.shape[1]
    columns = (basis.kernel_columns if of_kernel else basis.image_columns)[..., :support]
    columns = (columns.flip(-1) if flip else columns).reshape(2 * length, 2 * support)
    out = buffer(name, (3, length, parts.shape[2]), parts.dtype)
    if of_kernel:  # c, d - c, c + d
        torch.mm(columns, parts.view(2 * support, -1), out=out[:2].view(2 * length, -1))
        torch.add(out[0], out[1], out=out[2])
        out[1] -= out[0]
    else:  # a + b, a, b
        torch.mm(columns, parts.view(2 * support, -1), out=out[1:].view(2 * length, -1))
        torch.add(out[1], out[2], out=out[0])
    return out


def _kernel_rows(weight: Tensor, tiling: Tiling, *, flip: bool) -> Tensor:
    """Transform kernels down their columns; (K, K, a, b) contiguous to (M, 2, K, a * b)."""
    kernel = tiling.kernel
    basis = bases(tiling.length, weight.dtype).rows[..., :kernel]
    basis = (basis.flip(-1) if flip else basis).reshape(-1, kernel)
    out = buffer("kernel rows", (basis.shape[0], kernel * weight[0, 0].numel()), weight.dtype)
    torch.mm(basis, weight.view(kernel, -1), out=out)
    return out.view(tiling.half, 2, kernel, -1)


def _streamed(weight: Tensor, tiling: Tiling, *, flip: bool = False) -> KernelSpectra:
    """Return a function that computes the spectra of one row frequency, (3 N, a, b), on demand."""
    rows = _kernel_rows(weight, tiling, flip=flip)
    shape = (-1, *weight.shape[2:])
    return lambda v: _spectrum(rows[v], tiling.length, "kernel", of_kernel=True, flip=flip).view(shape)


def positions_first(weight: Tensor) -> Tensor:
    """Permute (out, in, K, K) to (K, K, out, in)."""
    out, channels, kernel, _ = weight.shape
    return weight.reshape(out * channels, kernel * kernel).t().contiguous().view(kernel, kernel, out, channels)


def kernel_spectra(weight: Tensor, tiling: Tiling) -> Tensor:
    """Return the spectra of all frequencies, to be kept; (out, in, K, K) to (M, 3 N, in, out)."""
    streamed = _streamed(positions_first(weight).mT.contiguous(), tiling)
    with torch.inference_mode(False):
        kept = torch.empty(spectra_shape(weight, tiling), dtype=weight.dtype)
    for v in range(tiling.half):
        kept[v] = streamed(v)
    return kept


def spectra_shape(weight: Tensor, tiling: Tiling) -> tuple[int, ...]:
    """Return the shape of `kernel_spectra` without computing them."""
    return (tiling.half, 3 * tiling.length, weight.shape[1], weight.shape[0])


def _back_columns(products: Tensor, tiling: Tiling, support: int, *, flip: bool = False) -> Tensor:
    """Undo the transform along the rows for the first positions; (3 N, n) to (2, support, n)."""
    basis = bases(tiling.length, products.dtype).back_columns[:, :support]
    basis = (basis.flip(1) if flip else basis).reshape(2 * support, 3 * tiling.length)
    out = buffer("back", (2 * support, products.shape[1]), products.dtype)
    return torch.mm(basis, products, out=out).view(2, support, -1)


class _Output:
    """An output in progress: row frequencies are added one by one, then written for a band of tiles."""

    def __init__(self, tiling: Tiling, channels: int, dtype: torch.dtype) -> None:
        self.tiling = tiling
        with torch.inference_mode(torch.is_inference_mode_enabled()):
            self.image = torch.empty(tiling.batch, tiling.height, tiling.width, channels, dtype=dtype)

    def begin(self, band: range) -> None:
        wide = self.tiling.across * self.tiling.tile
        shape = (self.tiling.half, 2, len(band), wide, self.image.shape[3])
        self.band, self.rows = band, buffer("rows out", shape, self.image.dtype)

    def put(self, v: int, spectrum: Tensor, kernel: Tensor) -> None:
        """Multiply the channels at one row frequency, (3 N, n, a) by (3 N, a, b), and undo the row transform."""
        tiling, channels = self.tiling, self.image.shape[3]
        products = buffer("products", (*spectrum.shape[:2], channels), self.image.dtype)
        torch.bmm(spectrum, kernel, out=products)
        back = _back_columns(products.flatten(1), tiling, tiling.tile)  # (2, tile, rows * across * C)
        shape = (2, tiling.tile, len(self.band), tiling.across, channels)
        self.rows[v].view(2, len(self.band), tiling.across, tiling.tile, channels).copy_(
            back.view(shape).permute(0, 2, 3, 1, 4)
        )

    def add_bias(self, bias: Tensor) -> None:
        """Add a bias to each channel: it is part of the mean, the first number of the first frequency."""
        self.rows[0, 0] += bias * self.tiling.length**2

    def write(self) -> None:
        tiling = self.tiling
        basis = bases(tiling.length, self.image.dtype).back_rows.flatten(1)  # (N, 2M)
        rows = self.rows.flatten(0, 1)[:, :, : tiling.width]  # (2M, rows, W, C)
        for place, row in enumerate(self.band):
            number, down = divmod(row, tiling.down)
            target = self.image[number, down * tiling.tile : (down + 1) * tiling.tile].flatten(1)
            torch.mm(basis[: target.shape[0]], rows[:, place].flatten(1), out=target)


def convolve(image: Tensor, weight: Tensor, bias: Tensor | None, tiling: Tiling, kept: Tensor | None = None) -> Tensor:
    """Convolve with zero padding to the same size, stride 1.

    Args:
        image: (B, H, W, in), contiguous.
        weight: (out, in, K, K).
        bias: (out,).
        tiling: Tiling of this image.
        kept: Result of `kernel_spectra` for this weight and tiling, if it was kept.

    Returns:
        (B, H, W, out), contiguous.
    """
    kernel = (lambda v: kept[v]) if kept is not None else _streamed(positions_first(weight).mT.contiguous(), tiling)
    out = _Output(tiling, weight.shape[0], image.dtype)
    for band in tiling.bands(weight.shape[0] + weight.shape[1], image.element_size()):
        rows = _row_transform(image, tiling, band, "rows in", halo=True)
        out.begin(band)
        for v in range(tiling.half):
            spectrum = _column_transform(rows[v], tiling, "spectrum", of_kernel=False)  # (3, N, tiles, in)
            out.put(v, spectrum.flatten(0, 1), kernel(v))
        if bias is not None:
            out.add_bias(bias)
        out.write()
    return out.image


def gradients(
    image: Tensor, gradient: Tensor, weight: Tensor, tiling: Tiling, *, of_image: bool, of_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of `convolve` with respect to image and weight.

    Both need the spectrum of the output's gradient. The image gradient is its convolution with the flipped kernel. The
    weight gradient is, at each frequency, its product with the image's tiles, summed over the tiles.

    Args:
        image: (B, H, W, in), contiguous.
        gradient: Gradient of the output, (B, H, W, out), contiguous.
        weight: (out, in, K, K).
        tiling: Tiling of this image.
        of_image: Whether the image gradient is needed, (B, H, W, in).
        of_weight: Whether the weight gradient is needed, (out, in, K, K).
    """
    count_out, count_in, kernel, _ = weight.shape
    out = _Output(tiling, count_in, image.dtype) if of_image else None
    flipped = _streamed(positions_first(weight), tiling, flip=True) if of_image else None
    sums = buffer("weight rows", (tiling.half, 2, kernel, count_out * count_in), image.dtype) if of_weight else None
    if sums is not None:
        sums.zero_()
    for band in tiling.bands(2 * count_out + count_in, image.element_size()):
        gradient_rows = _row_transform(gradient, tiling, band, "rows in", halo=True)
        image_rows = _row_transform(image, tiling, band, "rows of image", halo=False) if of_weight else None
        if out is not None:
            out.begin(band)
        for v in range(tiling.half):
            spectrum = _column_transform(gradient_rows[v], tiling, "spectrum", of_kernel=False).flatten(0, 1)
            if out is not None and flipped is not None:
                out.put(v, spectrum, flipped(v))
            if sums is not None and image_rows is not None:
                tiles = _column_transform(image_rows[v], tiling, "tiles", of_kernel=True).flatten(0, 1)
                products = buffer("weight products", (len(spectrum), count_out, count_in), image.dtype)
                torch.bmm(spectrum.mT, tiles, out=products)  # sums over all tiles of the band
                sums[v] += _back_columns(products.flatten(1), tiling, kernel, flip=True)
        if out is not None:
            out.write()
    return None if out is None else out.image, None if sums is None else _weight_gradient(sums, weight, tiling)


def _weight_gradient(sums: Tensor, weight: Tensor, tiling: Tiling) -> Tensor:
    """Undo the transform down the columns; (M, 2, K, out * in) to (out, in, K, K)."""
    kernel = tiling.kernel
    basis = bases(tiling.length, sums.dtype).back_rows[:kernel].flip(0).reshape(kernel, -1)
    positions = torch.mm(basis, sums.view(basis.shape[1], -1)).view(kernel * kernel, -1)  # (K K, out * in)
    return positions.t().contiguous().view(weight.shape)

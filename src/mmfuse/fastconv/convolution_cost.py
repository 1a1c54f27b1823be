"""Estimated cost of a dense convolution, direct and tiled, to choose the cheaper method without timing it.

A choice from timings would depend on their noise, and with it the last digits of every result. Here the choice depends
only on shapes and the number of threads, so a resumed training makes the same choice as an uninterrupted one. The rates
were measured once, on an AMD EPYC with AVX-512; `mmfuse benchmark convolution` measures them again and shows how much
the choice saves.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from functools import lru_cache

from mmfuse.fastconv import winograd
from mmfuse.fastconv.overlap_save import Tiling

# Larger tiles are hardly faster, and their spectra take too much memory.
TILES = tuple(range(6, 33, 2))
# Smaller tiles take less memory: use the smallest that costs hardly more than the best.
HARDLY_MORE = 1.05
# The estimates are accurate to a fifth.
MARGIN = 0.8
# those for Winograd tiles are more accurate
MARGIN_WINOGRAD = 0.9


@dataclass(frozen=True)
class Work:
    """Amounts of work of each kind in one evaluation."""

    dft: float = 0.0
    channels: float = 0.0
    moved: float = 0.0
    made: float = 0.0
    read: float = 0.0
    calls: float = 0.0

    def __add__(self, other: Work) -> Work:
        """Add the amounts of each kind."""
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Rates:
    """Work of each kind that one thread does in a second.

    Args:
        dft: Operations in products with DFT matrices.
        channels: Operations in matrix products over channels.
        moved: Numbers copied or added between the products.
        made: Numbers of the weight's spectra computed.
        read: Numbers of the weight's spectra read, if they are kept.
        calls: Calls of a tensor function; threads do not share this.
        direct: Operations of direct convolution; the same for its image gradient.
        direct_weight: Operations of its weight gradient, for kernels up to 13.
        direct_weight_large: The same for larger kernels.
    """

    dft: float = 70e9
    channels: float = 75e9
    moved: float = 3.6e9
    made: float = 2.1e9
    read: float = 3.4e9
    calls: float = 1.2e5
    direct: float = 120e9
    direct_weight: float = 100e9
    direct_weight_large: float = 50e9

    def seconds(self, work: Work, threads: int) -> float:
        """Return the time that the work takes."""
        shared = (
            work.dft / self.dft
            + work.channels / self.channels
            + work.moved / self.moved
            + work.made / self.made
            + work.read / self.read
        )
        return shared / threads + work.calls / self.calls


RATES = Rates()


@dataclass(frozen=True)
class LayerUse:
    """One use of a layer.

    Args:
        batch: Number of images.
        height: Height of an image.
        width: Width of an image.
        kernel: Side of the kernel.
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        kept: Whether the weight's spectra are kept between calls.
        of_image: Whether the image gradient is needed.
        of_weight: Whether the weight gradient is needed.
    """

    batch: int
    height: int
    width: int
    kernel: int
    channels_in: int
    channels_out: int
    kept: bool = False
    of_image: bool = False
    of_weight: bool = False


def work_of_tiles(use: LayerUse, tile: int) -> Work:
    """Count the work of a tiled convolution, with the gradients that are needed."""
    tiling = Tiling(use.batch, use.height, use.width, use.kernel, tile)
    n = tiling.rows * tiling.across
    half, length, kernel = tiling.half, tiling.length, tiling.kernel
    weights = use.channels_in * use.channels_out
    wide = tiling.across * tile + kernel - 1

    def transform(channels: int, support: int) -> Work:
        rows = 4 * half * support * tiling.rows * wide * channels
        columns = 8 * half * length * support * n * channels
        return Work(dft=rows + columns, moved=half * (4 * support + 3 * length) * n * channels, calls=5 * half)

    def multiply(channels: int) -> Work:
        dft = 12 * half * tile * length * n * channels + 4 * tile * half * n * tile * channels
        moved = half * (3 * length + 4 * tile) * n * channels + n * tile * tile * channels
        return Work(dft, 6 * half * length * n * weights, moved, calls=4 * half)

    made = 3 * half * length * weights
    make = Work(dft=(4 * kernel + 8 * length) * half * kernel * weights, made=made, calls=3 * half)
    per_row = Work(calls=2 * tiling.rows)
    total = transform(use.channels_in, length) + multiply(use.channels_out) + per_row
    total += Work(read=made) if use.kept else make
    if use.of_image or use.of_weight:
        total += transform(use.channels_out, length) + per_row
    if use.of_image:
        total += multiply(use.channels_in) + make
    if use.of_weight:
        total += transform(use.channels_in, tile) + make
        total += Work(dft=make.dft / 2, channels=6 * half * length * n * weights, calls=4 * half)
    return total


def seconds_direct(use: LayerUse, threads: int) -> float:
    """Estimate the time of a direct convolution, with the gradients that are needed."""
    pixels = use.batch * use.height * use.width
    # it works on blocks of 16 channels
    channels = (-(-use.channels_in // 16) * 16) * (-(-use.channels_out // 16) * 16)
    operations = 2 * use.kernel**2 * channels * pixels
    seconds = operations / RATES.direct * (1 + use.of_image)
    if use.of_weight:
        seconds += operations / (RATES.direct_weight if use.kernel < 15 else RATES.direct_weight_large)
    return seconds / threads


@lru_cache(maxsize=4096)
def best_tiling(use: LayerUse, threads: int) -> Tiling | None:
    """Return the tiling for a single-precision convolution on the CPU, or None for the direct method."""
    smallest = max(TILES[0], use.kernel // 2)
    largest = max(use.height, use.width)
    tiles = [tile for tile in TILES if smallest <= tile <= largest] or [smallest]
    seconds = {tile: RATES.seconds(work_of_tiles(use, tile), threads) for tile in tiles}
    tile = next(tile for tile in tiles if seconds[tile] <= HARDLY_MORE * min(seconds.values()))
    if seconds[tile] > MARGIN * seconds_direct(use, threads):
        return None
    return Tiling(use.batch, use.height, use.width, use.kernel, tile)


def work_of_winograd(use: LayerUse, tile: int) -> Work:
    """Count the work of a 3x3 Winograd convolution, without gradients."""
    tiling = winograd.Tiling(use.batch, use.height, use.width, winograd.KERNEL, tile)
    n, length = tiling.rows * tiling.across, tiling.length
    bands = len(list(tiling.bands(use.channels_in + use.channels_out, 4)))
    weights = use.channels_in * use.channels_out
    # products with such small matrices run at half the rate of the others
    dft = 4 * length * n * (use.channels_in * (length + tile) * length + use.channels_out * 2 * tile * (tile + 1))
    # each tile is cut out and put back at each point, and images are read from memory
    moved = n * (use.channels_in * (length**2 + 2 * tile**2) + use.channels_out * tile * (length + tile))
    calls = bands * 5 * length + 2 * tiling.rows
    # the weight's positions are adjacent in memory: a transposition, which takes longer than the product
    kernel = Work(read=length**2 * weights) if use.kept else Work(made=3 * length**2 * weights)
    return kernel + Work(dft=dft, channels=2 * length**2 * n * weights, moved=moved, calls=calls)


@lru_cache(maxsize=4096)
def best_winograd_tile(use: LayerUse, threads: int) -> int | None:
    """Return the tile for a 3x3 convolution on the CPU, or None for the direct method."""
    seconds = {tile: RATES.seconds(work_of_winograd(use, tile), threads) for tile in winograd.TILES}
    tile = next(tile for tile in winograd.TILES if seconds[tile] <= HARDLY_MORE * min(seconds.values()))
    return tile if seconds[tile] <= MARGIN_WINOGRAD * seconds_direct(use, threads) else None

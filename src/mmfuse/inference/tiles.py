"""Fusion of images that are too large for the memory: tile by tile, with as much around each tile as its pixels see.

What a network computes from the whole image (means of norms, attention between channels) is gathered from all tiles,
in one pass over them for each layer that needs it (`mmfuse.inference.streamed`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmfuse.errors import UserError
from mmfuse.inference.half_precision import Fuse
from mmfuse.inference.memory import Limit, Need, as_text, need
from mmfuse.inference.streamed import Enough, Tile, streamed
from mmfuse.methods.base import FusionMethod
from mmfuse.progress import progress

# no network needs more bytes for a pixel: images that fit anyway are not measured
_LARGEST_NEED = 2**15
_SMALLEST = 16  # pixels that every network takes

Part = tuple[slice, slice]
Source = Callable[[slice, slice], Tensor]  # rows and columns to luminance in [0, 1], (1, 1, h, w)


@dataclass(frozen=True)
class Axis:
    """Tiles along one axis of an image.

    Attributes:
        length: Pixels of the image.
        tile: Pixels of a tile, except perhaps the last one.
        halo: Pixels on both sides that a window has in addition, within the image.
    """

    length: int
    tile: int
    halo: int

    @property
    def window(self) -> int:
        """The largest window."""
        return min(self.length, self.tile + 2 * self.halo)

    @property
    def computed(self) -> int:
        """Pixels of all windows."""
        return sum(window.stop - window.start for _, window in self)

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        """Yield each tile and its window."""
        for first in range(0, self.length, self.tile):
            last = min(self.length, first + self.tile)
            yield slice(first, last), slice(max(0, first - self.halo), min(self.length, last + self.halo))


@dataclass(frozen=True)
class Grid:
    """Tiles of an image: those of its rows, and those of its columns."""

    down: Axis
    across: Axis

    @property
    def count(self) -> int:
        """Number of tiles."""
        return -(-self.down.length // self.down.tile) * -(-self.across.length // self.across.tile)

    @property
    def computed(self) -> int:
        """Pixels of all windows."""
        return self.down.computed * self.across.computed

    def __iter__(self) -> Iterator[tuple[Part, Part]]:
        """Yield the rows and columns of each tile, and those of its window."""
        for rows, window_rows in self.down:
            for columns, window_columns in self.across:
                yield (rows, columns), (window_rows, window_columns)


def grid_for(fuse: Fuse, height: int, width: int, *, room: int, limit: Limit, device: torch.device) -> Grid | None:
    """Return the tiles of an image that is too large to be fused as a whole; None for other images.

    Args:
        fuse: What fuses the images: tiles need an inference copy of a method.
        height: Height of the image.
        width: Width of the image.
        room: Bytes that the network may use on a CPU, from `Limit.room`.
        limit: How much memory the process may use; on a GPU, the limit of the network's memory there.
        device: Where the network computes.

    Raises:
        UserError: the limit is too low; or a user set it, and what fuses the images cannot work in tiles.
    """
    if height * width * _LARGEST_NEED <= limit.most:
        return None
    tileable = isinstance(fuse, FusionMethod) and fuse.reach() is not None
    if not tileable and not limit.asked:
        return None
    if device.type == "cuda":
        room = min(limit.most, torch.cuda.mem_get_info(device)[0])
    needed = need(fuse, device)
    if needed.of(height * width) <= room:
        return None
    return _tiles(fuse, height, width, needed, room, limit)


def _tiles(fuse: Fuse, height: int, width: int, needed: Need, room: float, limit: Limit) -> Grid:
    """Return the tiles whose windows fit into some memory.

    Raises:
        UserError: there are none.
    """
    reach = fuse.reach() if isinstance(fuse, FusionMethod) else None
    if not isinstance(fuse, FusionMethod) or reach is None:
        raise UserError(
            f"The image of {height}x{width} pixels does not fit into the memory, and cannot be fused in tiles.",
            expected="the backend torch, and a method that says how far its pixels see (`FusionMethod.reach`)",
            found=f"about {as_text(needed.of(height * width))} needed, {as_text(max(0.0, room))} left",
            fix="give it more memory, use another method, or reduce the image",
        )
    grid = best_grid(height, width, reach=reach, multiple=fuse.multiple, pixels=needed.pixels(room))
    if grid is None:
        side = 2 * reach + 3 * max(16, fuse.multiple)
        least = limit.most - room + needed.of(side**2)
        raise UserError(
            "The memory is too small, even for one tile.", expected=f"about {as_text(least)} or more",
            found=as_text(limit.most), fix="raise the memory limit, or use a network that needs less",
        )  # fmt: skip
    tiles, windows = (
        f"{x}x{y}" for x, y in ((grid.down.tile, grid.across.tile), (grid.down.window, grid.across.window))
    )
    limit.say(f"{height}x{width} pixels are fused in {grid.count} tiles of {tiles}, each seen in a window of {windows}")
    return grid


def best_grid(height: int, width: int, *, reach: int, multiple: int, pixels: int) -> Grid | None:
    """Return the tiles with the fewest pixels in all windows together; None if no tile is possible.

    Args:
        height: Height of the image.
        width: Width of the image.
        reach: See `FusionMethod.reach`.
        multiple: Tiles and windows begin at multiples of it.
        pixels: Largest number of pixels of a window.
    """
    halo = _rounded_up(max(reach, _SMALLEST), multiple) if reach else 0
    smallest = _rounded_up(_SMALLEST, multiple)
    found: list[Grid] = []
    for count in range(1, -(-height // smallest) + 1):
        down = Axis(height, _rounded_up(-(-height // count), smallest), halo)
        room = pixels // down.window
        tile = width if room >= width else (room - 2 * halo) // smallest * smallest
        if tile > 0:
            # as many tiles as this, but of equal width
            tile = _rounded_up(-(-width // -(-width // tile)), smallest)
            found.append(Grid(down, Axis(width, tile, halo)))
        if found and down.window < 3 * halo:
            break  # thinner tiles only add halos
    return min(found, key=lambda grid: (grid.computed, grid.count), default=None)


def _rounded_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


@torch.inference_mode()
def fuse_in_tiles(network: FusionMethod, a: Source, b: Source, grid: Grid) -> NDArray[np.float32]:
    """Fuse two images tile by tile.

    Args:
        network: An inference copy (`for_inference`) of a method with a `reach`.
        a: First image.
        b: Second image.
        grid: The tiles, from `best_grid` for this network.

    Returns:
        (H, W) in [0, 1].
    """
    made, tile = streamed(network)
    small = min(64, grid.down.length), min(64, grid.across.length)
    part = slice(0, small[0]), slice(0, small[1])
    _fuse_one(made, tile, a, b, part, part)
    passes = tile.place + 1  # one for each layer that needs numbers of the whole image, and the last one
    tile.gathering = True
    fused = np.zeros((grid.down.length, grid.across.length), np.float32)
    with progress(what="fuse in tiles", total=passes * grid.count, unit="tiles") as bar:
        while True:
            for own, window in grid:
                with contextlib.suppress(Enough):
                    fused[own] = _fuse_one(made, tile, a, b, own, window)
                bar.update()
            if not tile.end_pass():
                return fused


def _fuse_one(network: FusionMethod, tile: Tile, a: Source, b: Source, own: Part, window: Part) -> NDArray[np.float32]:
    rows, columns = (
        (part.start - around.start, part.stop - around.start) for part, around in zip(own, window, strict=True)
    )
    size = tuple(around.stop - around.start for around in window)
    tile.see((size[0], size[1]), rows, columns)
    fused = network(a(*window), b(*window))
    return fused[0, 0, slice(*rows), slice(*columns)].float().cpu().numpy()

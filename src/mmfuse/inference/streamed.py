"""Layers that need numbers of the whole image, such as its mean, in a network that sees one tile of it at a time.

Such a network runs over all tiles several times. In the first pass, its first such layer gathers its numbers from all
tiles, each pixel once: halos do not count. In the second pass, this layer uses them, so that the second one can gather
its own, and so on. Each pass ends at the layer that gathers. The numbers are those of the whole image up to rounding.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mmfuse.fastconv.group_norm import StableGroupNorm
from mmfuse.inference.smfnet_blocks import BandedTransformerBlock
from mmfuse.nn.attention import PooledConvAttention, SqueezeExcite
from mmfuse.nn.smfnet.transformer import ChannelSelfAttention, CrossAttention, by_head, mixed
from mmfuse.nn.stretch import Stretch

Network = TypeVar("Network", bound=nn.Module)


class Enough(Exception):  # noqa: N818 - no error
    """A layer has gathered its numbers from the window, and nothing behind it can be computed yet."""


@dataclass
class Tile:
    """The window that a network sees now, the part of it that counts, and the numbers of the whole image.

    A network calls its layers in the same order for each window, so that numbers are found by their place in it.

    Attributes:
        size: Height and width of the window.
        rows: First row that counts, and the one after the last.
        columns: The same for columns.
        known: The numbers of the first calls, for the whole image.
        gathering: Whether the first call without known numbers gathers them; otherwise each such call uses those of its
            window, as if this were the image.
        new: What has been gathered in this pass.
        pixels: From how many pixels.
        place: Number of calls so far for this window.
    """

    size: tuple[int, int] = (0, 0)
    rows: tuple[int, int] = (0, 0)
    columns: tuple[int, int] = (0, 0)
    known: list[Tensor] = field(default_factory=list)
    gathering: bool = False
    new: Tensor | None = None
    pixels: int = 0
    place: int = 0

    def see(self, size: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]) -> None:
        """Set the window and the part that counts."""
        self.size, self.rows, self.columns, self.place = size, rows, columns, 0

    def end_pass(self) -> bool:
        """Keep what this pass has gathered; return whether it has gathered anything."""
        if self.new is None:
            return False
        self.known.append(self.new)
        self.new, self.pixels = None, 0
        return True

    def own(self, x: Tensor) -> Tensor:
        """Return the part of features that counts, (B, C, h, w) of any resolution 1 / 2^n."""
        down, across = self.slices(x.shape[-2], x.shape[-1])
        return x[..., down, across]

    def slices(self, height: int, width: int) -> tuple[slice, slice]:
        """Return the rows and columns of features that count."""
        return _scaled(height, self.size[0], self.rows), _scaled(width, self.size[1], self.columns)

    def of_image(self, find: Callable[[], Tensor], pixels: int = 1, kind: str = "mean") -> Tensor:
        """Return numbers of the whole image, in double precision.

        Args:
            find: Returns those of the part that counts, of any shape.
            pixels: The number of pixels that a mean is made of.
            kind: mean, max or min.

        Raises:
            Enough: they are not known yet.
        """
        self.place += 1
        if self.place <= len(self.known):
            return self.known[self.place - 1]
        found = find().double()
        if not self.gathering:
            return found
        self.pixels += pixels
        if self.new is None:
            self.new = found
        elif kind == "mean":
            self.new = self.new + (found - self.new) * (pixels / self.pixels)
        else:
            self.new = (torch.maximum if kind == "max" else torch.minimum)(self.new, found)
        raise Enough


def _scaled(length: int, window: int, part: tuple[int, int]) -> slice:
    """Return a part of an axis of the window at the resolution of features; what pads the end belongs to the end."""
    scale = 2 ** round(math.log2(window / length))  # padding makes it not quite a power of two
    first, last = part
    return slice(first // scale, length if last == window else last // scale)


class StreamedNorm(nn.Module):
    """Group norm with the mean and variance of the whole image; (B, C, H, W) in and out."""

    def __init__(self, norm: nn.GroupNorm | nn.InstanceNorm2d, tile: Tile) -> None:
        super().__init__()
        self.groups = norm.num_groups if isinstance(norm, nn.GroupNorm) else norm.num_features
        self.weight, self.bias, self.eps, self.tile = norm.weight, norm.bias, norm.eps, tile

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised features."""
        own = self.tile.own(x)

        def find() -> Tensor:
            variance, mean = (one.double() for one in torch.var_mean(own, dim=(2, 3), correction=0))  # (B, C)
            return torch.stack([mean, variance + mean.square()])

        moments = self.tile.of_image(find, own.shape[2] * own.shape[3])
        mean, square = moments.unflatten(2, (self.groups, -1)).mean(dim=3)  # (B, G)
        scale = (square - mean.square()).clamp_min(0).add(self.eps).rsqrt()
        each = x.shape[1] // self.groups
        scale, shift = (one.repeat_interleave(each, dim=1) for one in (scale, -mean * scale))  # (B, C)
        if self.weight is not None:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        scale, shift = (one.to(x.dtype)[..., None, None] for one in (scale, shift))
        return torch.addcmul(shift, x, scale)


class StreamedPool(nn.Module):
    """Mean or maximum of each channel over the whole image; (B, C, H, W) to (B, C, 1, 1)."""

    def __init__(self, tile: Tile, kind: str) -> None:
        super().__init__()
        self.tile, self.kind = tile, kind

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled features."""
        own = self.tile.own(x)
        pool = torch.mean if self.kind == "mean" else torch.amax
        pixels = own.shape[2] * own.shape[3]
        return self.tile.of_image(lambda: pool(own, dim=(2, 3), keepdim=True), pixels, self.kind).to(x.dtype)


class StreamedExcite(nn.Module):
    """`SqueezeExcite` from the mean of the whole image."""

    def __init__(self, layer: SqueezeExcite, tile: Tile) -> None:
        super().__init__()
        self.layer, self.mean = layer, StreamedPool(tile, "mean")

    def forward(self, x: Tensor) -> Tensor:
        """Return the weight of each channel."""
        return self.layer.of_mean(self.mean(x).flatten(1))


class StreamedPooledConv(nn.Module):
    """`PooledConvAttention` from the mean and maximum of the whole image."""

    def __init__(self, layer: PooledConvAttention, tile: Tile) -> None:
        super().__init__()
        self.layer, self.mean, self.maximum = layer, StreamedPool(tile, "mean"), StreamedPool(tile, "max")

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted features."""
        return self.layer.weighted(x, self.mean(x).flatten(1), self.maximum(x).flatten(1))


class StreamedStretch(nn.Module):
    """`Stretch` from the minimum and maximum of the whole image."""

    def __init__(self, tile: Tile) -> None:
        super().__init__()
        self.tile = tile

    def forward(self, x: Tensor) -> Tensor:
        """Return the stretched images."""
        own = self.tile.own(x)
        low = self.tile.of_image(lambda: own.amin(dim=(1, 2, 3), keepdim=True), kind="min")
        high = self.tile.of_image(lambda: own.amax(dim=(1, 2, 3), keepdim=True), kind="max")
        return Stretch.stretched(x, low.to(x.dtype), high.to(x.dtype))


class StreamedBandedBlock(BandedTransformerBlock):
    """`BandedTransformerBlock` with attention between the channels of the whole image."""

    def __init__(self, block: BandedTransformerBlock, tile: Tile) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(block.__dict__)
        self.tile, self.pixels = tile, 0

    def counted(self, projected: Tensor, rows: slice, height: int) -> Tensor:
        """Return the pixels of a band that count."""
        down, across = self.tile.slices(height, projected.shape[1])
        first, last = (min(max(row, rows.start), rows.stop) - rows.start for row in (down.start, down.stop))
        self.pixels += (last - first) * (across.stop - across.start)
        return projected[first:last, across]

    def of_image(self, products: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums over the image, divided by its pixels: only their ratio matters."""
        pixels, self.pixels = self.pixels, 0
        sums = torch.cat([products.flatten(), squares]) / pixels
        means = self.tile.of_image(lambda: sums, pixels).to(sums.dtype)
        return means[: products.numel()].view_as(products), means[products.numel() :]


def _attention(tile: Tile) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return `channel_attention` between the channels of the whole image."""

    def attend(query: Tensor, key: Tensor, value: Tensor, temperature: Tensor) -> Tensor:
        q, k = (by_head(tile.own(x), temperature) for x in (query, key))

        def find() -> Tensor:
            squares = (x.square().sum(dim=-1, keepdim=True) for x in (q, k))
            return torch.cat([q @ k.transpose(-2, -1), *squares], dim=-1) / q.shape[-1]

        sums = tile.of_image(find, q.shape[-1]).to(value.dtype)  # (B, heads, c / heads, c / heads + 2)
        query_length, key_length = (sums[..., place].sqrt() for place in (-2, -1))
        return mixed(value, sums[..., :-2], query_length, key_length, temperature)

    return attend


LAYERS: dict[type[nn.Module], Callable[[Any, Tile], nn.Module]] = {
    nn.GroupNorm: StreamedNorm,
    StableGroupNorm: StreamedNorm,
    nn.InstanceNorm2d: lambda layer, tile: layer if layer.track_running_stats else StreamedNorm(layer, tile),
    nn.AdaptiveAvgPool2d: lambda layer, tile: StreamedPool(tile, "mean") if _to_one(layer) else layer,
    nn.AdaptiveMaxPool2d: lambda layer, tile: StreamedPool(tile, "max") if _to_one(layer) else layer,
    SqueezeExcite: StreamedExcite,
    PooledConvAttention: StreamedPooledConv,
    Stretch: lambda _, tile: StreamedStretch(tile),
    BandedTransformerBlock: StreamedBandedBlock,
}


def _to_one(layer: nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d) -> bool:
    return layer.output_size in {1, (1, 1)}


def streamed(network: Network) -> tuple[Network, Tile]:
    """Return a copy of an inference copy (`for_inference`) for tiles, and the tile that all its layers know."""
    tile, made = Tile(), copy.deepcopy(network)
    _replace(made, tile)
    return made, tile


def _replace(network: nn.Module, tile: Tile) -> None:
    for name, module in network.named_children():
        if type(module) in LAYERS:
            setattr(network, name, LAYERS[type(module)](module, tile))
        else:
            if isinstance(module, ChannelSelfAttention | CrossAttention):
                module.attend = _attention(tile)  # type: ignore[assignment]
            _replace(module, tile)

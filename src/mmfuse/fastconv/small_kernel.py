"""Convolution with 3x3 kernels and many channels for inference on a CPU; see `mmfuse.fastconv.winograd`."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfuse.fastconv.convolution_cost import LayerUse, best_winograd_tile
from mmfuse.fastconv.spectra import KeptSpectra
from mmfuse.fastconv.winograd import KERNEL, Tiling, convolve, kernel_spectra, spectra_shape


class SmallKernelConv2d(nn.Conv2d):
    """The convolution of another layer, with the same weights and without gradients; shapes alone choose the method.

    Transformed weights are kept between calls within `workspace.set_limits`. The output's channels are last in memory
    (`torch.channels_last`).

    Shape: (B, in_channels, H, W) to (B, out_channels, H', W').
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(layer.__dict__)
        self._spectra = KeptSpectra()

    @staticmethod
    def fits(layer: nn.Conv2d) -> bool:
        """Say whether a layer is supported: dense, 3x3, stride 1, on a CPU, border as wide as the kernel's reach."""
        return (
            layer.kernel_size == (3, 3)
            and layer.stride == (1, 1)
            and layer.groups == 1
            and layer.dilation[0] == layer.dilation[1]
            and layer.padding in {(0, 0), layer.dilation}
            and layer.weight.device.type == "cpu"
            and layer.weight.dtype in {torch.float32, torch.float64}
        )

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in nn.Conv2d
        """Convolve a batch of images."""
        if input.ndim != 4 or input.dtype != self.weight.dtype or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        reach, holes = int(self.padding[0]), self.dilation[0]
        batch, _, height, width = input.shape
        height, width = height + 2 * (reach - holes), width + 2 * (reach - holes)  # size of the output
        down, across = -(-height // holes), -(-width // holes)
        if min(down, across) < 1:
            return super().forward(input)
        use = LayerUse(batch * holes**2, down, across, KERNEL, self.in_channels, self.out_channels)
        tile, keep = self._plan(use)
        if tile is None:
            return super().forward(input)
        if reach and self.padding_mode != "zeros":
            input, reach = F.pad(input, [reach] * 4, self.padding_mode), 0  # noqa: A001
        phases = _apart(input.permute(0, 2, 3, 1), holes)  # (B holes^2, H / holes, W / holes, in)
        tiling = Tiling(len(phases), down, across, KERNEL, tile, reach // holes)
        kept = self._spectra.get(self.weight, tile, lambda: kernel_spectra(self.weight, tile)) if keep else None
        out = convolve(phases, self.weight, self.bias, tiling, kept)
        return _together(out, batch, holes)[:, :height, :width].permute(0, 3, 1, 2)

    def _plan(self, use: LayerUse) -> tuple[int | None, bool]:
        """Return the tile, or None for the direct method, and whether to keep the weight's spectra."""
        threads = torch.get_num_threads()
        # tensors created in inference mode do not track changes
        if not self.weight.is_inference():
            tile = best_winograd_tile(replace(use, kept=True), threads)
            if tile is None:
                return None, False
            size = math.prod(spectra_shape(self.weight, tile)) * self.weight.element_size()
            if self._spectra.has_room(size):
                return tile, True
        return best_winograd_tile(use, threads), False


def _apart(image: Tensor, holes: int) -> Tensor:
    """Make each phase of a dilated kernel an image of its own; (B, H, W, C)."""
    if holes == 1:
        return image.contiguous()
    batch, height, width, channels = image.shape
    down, across = -(-height // holes), -(-width // holes)
    phases = image.new_zeros(batch, holes, holes, down, across, channels)
    for y in range(min(holes, height)):
        for x in range(min(holes, width)):
            phase = image[:, y::holes, x::holes]
            phases[:, y, x, : phase.shape[1], : phase.shape[2]] = phase
    return phases.flatten(0, 2)


def _together(phases: Tensor, batch: int, holes: int) -> Tensor:
    """Undo `_apart`, except for the rows and columns that it added."""
    if holes == 1:
        return phases
    _, down, across, channels = phases.shape
    apart = phases.view(batch, holes, holes, down, across, channels).permute(0, 3, 1, 4, 2, 5)
    return apart.reshape(batch, down * holes, across * holes, channels)

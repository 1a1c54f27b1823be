"""Inference in bf16: convolutions read and write bf16, everything else stays in fp32.

A processor or a GPU with bf16 in hardware multiplies twice as many bf16 numbers as fp32 numbers. bf16 has 8 significant
bits, so the images themselves, normalisations, activations, sums and the last layers must not be rounded to it: a grey
level near white would be rounded to an even one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Network = TypeVar("Network", bound=nn.Module)
Fuse = Callable[[Tensor, Tensor], Tensor]

LEAST_PSNR, LEAST_SHARE = 50.0, 0.999  # what bf16 must reach, in dB and as a share of the pixels
_SIDE, _SCALES = 128, (4, 16, 64, 128)  # side of the images of the check, and sizes of the noise in them
_FEWEST = 8  # layers with fewer channels read or write images, or maps of weights
_LARGEST = 5  # on a CPU, larger dense kernels take less time in fp32, as tiles (docs/decisions/0015-large-kernels.md)


class HalfConv2d(nn.Conv2d):
    """The convolution of another layer with weights rounded to bf16; fp32 in and out, bias in fp32.

    Shape: (B, in_channels, H, W) to (B, out_channels, H', W').
    """

    rounded: Tensor

    def __init__(self, layer: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(layer.__dict__)
        self._buffers = dict(layer._buffers)
        # in the weight's memory format, which sets that of the output
        self.register_buffer("rounded", layer.weight.detach().bfloat16(), persistent=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Convolve a batch of images."""
        out = self._conv_forward(input.bfloat16(), self.rounded, None)
        return out.float() if self.bias is None else out + self.bias[:, None, None]  # the sum is in fp32


def in_bf16(network: Network) -> Network:
    """Return a copy of an inference copy (`for_inference`) that convolves in bf16."""
    half = copy.deepcopy(network)
    _replace(half)
    return half


def _replace(network: nn.Module) -> None:
    for name, module in network.named_children():
        if isinstance(module, nn.Conv2d) and _gains(module):
            setattr(network, name, HalfConv2d(module))
        else:
            _replace(module)


def _gains(layer: nn.Conv2d) -> bool:
    """Say whether a layer is dense, has enough channels, and is faster in bf16."""
    small = layer.weight.device.type != "cpu" or max(layer.kernel_size) <= _LARGEST
    return layer.groups == 1 and min(layer.in_channels, layer.out_channels) >= _FEWEST and small


class Agreement(NamedTuple):
    """How closely images from bf16 and fp32 agree: PSNR in dB, and the share of pixels within one grey level of 255."""

    psnr: float
    within_one: float

    @property
    def good(self) -> bool:
        """Whether bf16 stays within the bound."""
        return self.psnr >= LEAST_PSNR and self.within_one >= LEAST_SHARE


def agreement(single: Tensor, half: Tensor) -> Agreement:
    """Compare fused images of one shape, in [0, 1]; zeros if values are not finite."""
    error = float((single.double() - half.double()).square().mean())
    if not math.isfinite(error):
        return Agreement(0.0, 0.0)  # finite, because it goes into run.json
    levels = (torch.round(255 * single) - torch.round(255 * half)).abs()
    return Agreement(-10 * math.log10(max(error, 1e-20)), float((levels <= 1).double().mean()))


def noise_pair(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return two fixed images of noise at several scales, as in natural images; (1, 1, H, W) in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(2, 1, height, width)
    for side in _SCALES:
        noise = torch.rand(2, 1, side, side, generator=generator)
        images += F.interpolate(noise, (height, width), mode="bilinear")
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    first, second = ((images - low) / (high - low)).split(1)
    return first, second


@torch.inference_mode()
def check(single: Fuse, half: Fuse, device: torch.device) -> Agreement:
    """Fuse a fixed small pair with two functions and compare the results."""
    a, b = (image.to(device) for image in noise_pair(_SIDE, _SIDE))
    return agreement(single(a, b), half(a, b))


def has_bf16(device: torch.device) -> bool:
    """Say whether a device multiplies bf16 in hardware: a processor with AVX512_BF16 or AMX, most recent GPUs."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))

"""Convolution with large kernels, dense or depthwise, at a fraction of the usual cost on a CPU.

`LargeKernelConv2d` differs from `nn.Conv2d` only in speed: same weights, same initial values, same result up to
rounding (1e-5 of the result's size in single precision). `overlap_save` and `depthwise` contain the methods;
`convolution_cost` and docs/decisions/0015-large-kernels.md explain the choice between them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mmfuse.errors import UserError
from mmfuse.fastconv.convolution_cost import LayerUse, best_tiling
from mmfuse.fastconv.depthwise import convolve_depthwise, learn_depthwise
from mmfuse.fastconv.overlap_save import Tiling, convolve, gradients, kernel_spectra, spectra_shape
from mmfuse.fastconv.spectra import KeptSpectra

Network = TypeVar("Network", bound=nn.Module)
LARGEST = 31


class LargeKernelConv2d(nn.Conv2d):
    """A convolution with stride 1 and zero padding to the same size, optimised for large kernels.

    In eval mode, the transformed weights are kept between calls within `workspace.set_limits`; they are recomputed
    after the weight changes. The output's channels may be last in memory (`torch.channels_last`).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Side of the kernel, odd, up to 31.
        groups: 1 for a dense convolution, `in_channels` for a depthwise one.
        bias: Whether to add a bias to each channel.

    Shape: (B, in_channels, H, W) to (B, out_channels, H, W).

    Raises:
        UserError: the kernel or the number of groups is not supported.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, groups: int = 1, bias: bool = True) -> None:
        if kernel % 2 == 0 or not 1 <= kernel <= LARGEST:
            raise UserError(f"A kernel of side {kernel} is not supported.", expected=f"an odd number, 1 to {LARGEST}")
        if groups != 1 and not groups == in_channels == out_channels:
            raise UserError(
                f"{groups} groups of {in_channels} to {out_channels} channels are not supported.",
                expected="1, or the number of channels",
            )
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2, groups=groups, bias=bias)
        self._spectra = KeptSpectra()

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as in nn.Conv2d
        """Convolve a batch of images."""
        tensors = (input, self.weight) if self.bias is None else (input, self.weight, self.bias)
        learning = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        if not self._is_ours(input):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            image = input.to(self.weight.dtype)
            if self.groups > 1:
                way = learn_depthwise if learning else convolve_depthwise
                return way(image, self.weight, self.bias)
            tiling, keep = self._plan(image, learning=learning)
            if tiling is not None:
                if learning:
                    return TiledConvolution.apply(image, self.weight, self.bias, tiling)
                last = image.permute(0, 2, 3, 1).contiguous()
                kept = self._kept(tiling) if keep else None
                return convolve(last, self.weight, self.bias, tiling, kept).permute(0, 3, 1, 2)
        return super().forward(input)

    def _is_ours(self, image: Tensor) -> bool:
        """Say whether this code is faster: not on a GPU, whose own library is faster, and not in half precision.

        Under autocast, an image in half precision is convolved in single precision.
        """
        autocast = torch.is_autocast_enabled("cpu")
        return (
            image.device.type == self.weight.device.type == "cpu"
            and image.ndim == 4
            and image.numel() > 0
            and image.shape[1] == self.in_channels
            and self.weight.dtype in {torch.float32, torch.float64}
            and (image.dtype == self.weight.dtype or autocast)
        )

    def _plan(self, image: Tensor, *, learning: bool) -> tuple[Tiling | None, bool]:
        """Return the tiling, or None for the direct method, and whether to keep the weight's spectra."""
        batch, _, height, width = image.shape
        use = LayerUse(batch, height, width, self.weight.shape[-1], self.in_channels, self.out_channels)
        if learning:
            use = replace(use, of_image=image.requires_grad, of_weight=self.weight.requires_grad)
        # tensors created in inference mode do not track changes
        elif not self.training and not self.weight.is_inference():
            tiling = best_tiling(replace(use, kept=True), torch.get_num_threads())
            if tiling is None or self._spectra.has_room(self._spectra_bytes(tiling)):
                return tiling, True
        return best_tiling(use, torch.get_num_threads()), False

    def _spectra_bytes(self, tiling: Tiling) -> int:
        return math.prod(spectra_shape(self.weight, tiling)) * self.weight.element_size()

    def _kept(self, tiling: Tiling) -> Tensor | None:
        return self._spectra.get(self.weight, tiling.length, lambda: kernel_spectra(self.weight, tiling))

    def train(self, mode: bool = True) -> LargeKernelConv2d:
        """Switch between training and eval mode; spectra are not kept in training."""
        if mode:
            self._spectra.forget()
        return super().train(mode)


class TiledConvolution(torch.autograd.Function):
    """`overlap_save.convolve` with its gradients, channels first."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, bias: Tensor | None, tiling: Tiling) -> Tensor:
        """Convolve; image (B, in, H, W), weight (out, in, K, K), bias (out,)."""
        last = image.permute(0, 2, 3, 1).contiguous()
        ctx.save_for_backward(last, weight)
        ctx.tiling = tiling
        return convolve(last, weight, bias, tiling).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of image, weight and bias."""
        last, weight = ctx.saved_tensors
        of_image, of_weight, of_bias, _ = ctx.needs_input_grad
        channels_last = gradient.permute(0, 2, 3, 1).contiguous()
        with torch.autocast("cpu", enabled=False):
            for_image, for_weight = gradients(
                last, channels_last, weight, ctx.tiling, of_image=of_image, of_weight=of_weight
            )
        return (
            None if for_image is None else for_image.permute(0, 3, 1, 2),
            for_weight,
            channels_last.sum(dim=(0, 1, 2)) if of_bias else None,
            None,
        )


def plain(network: Network) -> Network:
    """Replace each `LargeKernelConv2d` with an `nn.Conv2d` with the same parameters, for comparisons."""
    for name, module in network.named_children():
        if isinstance(module, LargeKernelConv2d):
            layer = nn.Conv2d(
                module.in_channels,
                module.out_channels,
                module.weight.shape[-1],
                padding=module.weight.shape[-1] // 2,
                groups=module.groups,
                bias=module.bias is not None,
            )
            layer.weight, layer.bias = module.weight, module.bias
            setattr(network, name, layer.train(module.training))
        else:
            plain(module)
    return network

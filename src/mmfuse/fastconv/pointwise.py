"""Convolution with 1x1 kernels for inference on a CPU.

With a single thread, torch uses its own matrix product for them; oneDNN, which it uses with several, is faster.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PointwiseConv2d(nn.Conv2d):
    """The 1x1 convolution of another layer, with the same weights and without gradients.

    Shape: (B, in_channels, H, W) to (B, out_channels, H, W).
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(layer.__dict__)

    @staticmethod
    def fits(layer: nn.Conv2d) -> bool:
        """Say whether a layer is supported: dense, 1x1, stride 1, no border, single precision on a CPU."""
        return (
            layer.kernel_size == layer.stride == (1, 1)
            and layer.padding == (0, 0)
            and layer.groups == 1
            and layer.weight.device.type == "cpu"
            and layer.weight.dtype == torch.float32
        )

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Convolve a batch of images."""
        ours = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
        single = input.ndim == 4 and input.dtype == torch.float32 and input.numel() > 0
        if not ours or not single or torch.is_autocast_enabled("cpu") or torch.is_grad_enabled():
            return super().forward(input)
        return torch.mkldnn_convolution(input, self.weight, self.bias, [0, 0], [1, 1], [1, 1], 1)

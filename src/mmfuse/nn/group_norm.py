"""Group norm for inference on a CPU, where channels are last in memory.

Torch's own takes the variance as the mean of the squares less the square of the mean there. On an image whose mean is
ten times its standard deviation three digits are left of single precision. Here the variance is that of differences
from the mean, of one block of pixels at a time, so that the second look at a block finds it in the cache.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmfuse.nn.workspace import buffer

_BLOCK_BYTES = 2**18


class StableGroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` with the parameters of another one; (B, C, H, W) in and out.

    What is not single precision on a CPU with channels last goes torch's way.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__(norm.num_groups, norm.num_channels, norm.eps, norm.affine)
        self.weight, self.bias = norm.weight, norm.bias
        self.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Normalise each group of channels of each image.

        Source: the blocks' means and variances are joined as in Chan, Golub and LeVeque, 1983.
        """
        last = input.ndim == 4 and not input.is_contiguous() and input.is_contiguous(memory_format=torch.channels_last)
        if not last or not self.affine or input.dtype != torch.float32 or input.device.type != "cpu":
            return super().forward(input)
        pixels = input.permute(0, 2, 3, 1).flatten(1, 2)  # (B, H W, C)
        out = torch.empty_like(pixels)
        for image, target in zip(pixels, out, strict=True):
            scale, shift = self._scale_and_shift(image)
            torch.addcmul(shift, image, scale, out=target)
        return out.unflatten(1, input.shape[2:]).permute(0, 3, 1, 2)

    def _scale_and_shift(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return what each channel of an image (n, C) is multiplied by and what is added, (C,) each."""
        block = max(1, _BLOCK_BYTES // (4 * self.num_channels))
        centred = buffer("centred", (block, self.num_channels), image.dtype)
        means, squares, counts = [], [], []
        for pixels in image.split(block):
            mean = pixels.mean(dim=0)
            difference = torch.sub(pixels, mean, out=centred[: len(pixels)])
            squares.append(difference.square_().sum(dim=0))
            means.append(mean)
            counts.append(len(pixels))
        count = torch.tensor(counts, dtype=torch.float64)[:, None, None]
        mean, square = (torch.stack(v).double().view(len(counts), self.num_groups, -1) for v in (means, squares))
        total = len(image) * mean.shape[2]
        whole = (count * mean).sum(dim=(0, 2)) / total  # (G,)
        variance = (square + count * (mean - whole[:, None]).square()).sum(dim=(0, 2)) / total
        scale = (variance + self.eps).rsqrt()[:, None] * self.weight.double().view(self.num_groups, -1)
        shift = self.bias.double().view(scale.shape) - whole[:, None] * scale
        return scale.flatten().float(), shift.flatten().float()

"""Group norm for inference on a CPU with channels last in memory.

There, torch computes the variance as the mean square minus the squared mean. If the mean of an image is ten times its
standard deviation, only three digits of single precision remain. Here the variance comes from differences from the
mean, one block of pixels at a time, so that their squares are summed in the cache.

Several adjacent pixels form one row of a block, as if they were separate channels, because sums over short rows are
slow. There are few blocks, because the threads synchronise at every step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmfuse.fastconv.workspace import buffer

_BLOCK_BYTES, _ROW = 2**22, 1024  # size of one block, and numbers in one of its rows


class StableGroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` with the parameters of another one; (B, C, H, W) in and out.

    Everything except single precision on a CPU with channels last uses torch's implementation.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__(norm.num_groups, norm.num_channels, norm.eps, norm.affine)
        self.weight, self.bias = norm.weight, norm.bias
        self.train(norm.training)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Normalise each group of channels of each image.

        Source: Chan, Golub and LeVeque, 1983, for the combination of the columns' means and variances.
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
        """Return the scale and shift of each channel of an image (n, C), (C,) each."""
        beside = max(1, _ROW // self.num_channels)  # pixels in a row
        whole = len(image) // beside * beside
        groups = (-1, self.num_groups, self.num_channels // self.num_groups)
        means, squares, counts = [], [], []
        for rows in (image[:whole].view(-1, beside * self.num_channels), image[whole:]):
            if len(rows):
                mean, square = self._mean_and_square(rows)
                means.append(mean.double().view(groups))
                squares.append(square.view(groups))
                counts.append(torch.full_like(means[-1], len(rows)))
        # each column is a sample of one channel: (columns, G, C / G)
        mean, square, count = map(torch.cat, (means, squares, counts))
        total = count.sum(dim=(0, 2))  # (G,)
        centre = (count * mean).sum(dim=(0, 2)) / total
        variance = (square + count * (mean - centre[:, None]).square()).sum(dim=(0, 2)) / total
        scale = (variance + self.eps).rsqrt()[:, None] * self.weight.double().view(self.num_groups, -1)
        shift = self.bias.double().view(scale.shape) - centre[:, None] * scale
        return scale.flatten().float(), shift.flatten().float()

    @staticmethod
    def _mean_and_square(rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean of each column of (n, columns) and the sum of squared differences from it, in double."""
        mean, square = rows.mean(dim=0), torch.zeros(rows.shape[1], dtype=torch.float64)
        for block in rows.split(max(1, _BLOCK_BYTES // (4 * rows.shape[1]))):
            difference = torch.sub(block, mean, out=buffer("centred", tuple(block.shape), rows.dtype))
            square += difference.square_().sum(dim=0)
        return mean, square

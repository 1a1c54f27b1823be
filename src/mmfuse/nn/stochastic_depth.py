"""Stochastic depth (Huang et al., Deep Networks with Stochastic Depth, ECCV 2016, Section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Drop a residual branch for some images of a batch, in training only; (B, ...) to (B, ...).

    Kept branches are divided by the probability of keeping them, so that the mean does not change and inference needs
    no factor. torchvision has the same layer, but importing it would take a third of the CPU time of fusing a few
    images.

    Args:
        drop: Probability of dropping an image's branch, in [0, 1).
    """

    def __init__(self, drop: float) -> None:
        super().__init__()
        self.drop = drop

    def forward(self, branch: Tensor) -> Tensor:
        """Return the branch, scaled, or zeros."""
        if not self.training or self.drop == 0:
            return branch
        keep = 1 - self.drop
        shape = (len(branch), *[1] * (branch.ndim - 1))
        return branch * torch.empty(shape, dtype=branch.dtype, device=branch.device).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        """Return the probability, for printing."""
        return f"drop={self.drop}"

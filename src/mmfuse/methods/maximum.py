"""Maximum: the brighter of both images at each pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from mmfuse.methods.base import FusionMethod


class Maximum(FusionMethod):
    """F = max(A, B)."""

    summary = "brighter of both images at each pixel"
    source = "folklore baseline"

    def reach(self) -> int:
        """See `FusionMethod.reach`."""
        return 0

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """See `FusionMethod.forward`."""
        return torch.maximum(a, b)


METHOD = Maximum

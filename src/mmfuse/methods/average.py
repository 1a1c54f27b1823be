"""Average: the mean of both images, the weakest sensible baseline."""

from __future__ import annotations

from torch import Tensor

from mmfuse.methods.base import FusionMethod


class Average(FusionMethod):
    """F = (A + B) / 2."""

    summary = "mean of both images"
    source = "folklore baseline"

    def reach(self) -> int:
        """See `FusionMethod.reach`."""
        return 0

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """See `FusionMethod.forward`."""
        return (a + b) / 2


METHOD = Average

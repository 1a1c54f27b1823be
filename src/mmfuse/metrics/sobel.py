"""Sobel gradients with the different borders in the definitions of edge metrics."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import pad

from mmfuse.metrics.sharing import shared

Border = Literal["constant", "replicate", "reflect"]  # zeros; replicated edge; mirrored without the edge


@shared
def sobel(levels: Tensor, border: Border) -> tuple[Tensor, Tensor]:
    """Return the horizontal and vertical gradient, positive to the right and downwards, weights 1 2 1.

    Shape: (B, 1, H, W) to twice the same.
    """
    framed = pad(levels, (1, 1, 1, 1), mode=border)
    rows = (framed[..., :-2, :] + framed[..., 2:, :]).add_(framed[..., 1:-1, :], alpha=2)  # (B, 1, H, W + 2)
    columns = (framed[..., :-2] + framed[..., 2:]).add_(framed[..., 1:-1], alpha=2)  # (B, 1, H + 2, W)
    return rows[..., 2:] - rows[..., :-2], columns[..., 2:, :] - columns[..., :-2, :]


@shared
def strength(levels: Tensor, border: Border) -> Tensor:
    """Return the magnitude of the Sobel gradient.

    Shape: (B, 1, H, W), in and out.
    """
    horizontal, vertical = sobel(levels, border)
    return horizontal.square().add_(vertical.square()).sqrt_()

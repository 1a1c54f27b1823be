"""Loss terms beyond the papers' own, which any part that fuses can weight beside its method's.

Each compares a fused image with both sources; the papers' losses leave open what these ask for
(docs/decisions/0022-shipped-networks.md).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mmfuse.nn.losses import correlation, spatial_gradient, ssim_map


def signed_gradient_loss(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of the gradient to that of the source whose gradient is stronger at each pixel.

    The papers' gradient losses compare strengths |gx| + |gy| alone, so that an edge may turn round or change direction.

    Shape: (B, 1, H, W) three times; returns a scalar.
    Range: [0, 16] for images in [0, 1] (Sobel filters, not normalised).
    """
    of_fused, of_a, of_b = (8 * spatial_gradient(image) for image in (fused, a, b))  # (B, 1, 2, H, W)
    stronger = of_a.abs().sum(dim=2, keepdim=True) >= of_b.abs().sum(dim=2, keepdim=True)
    return (of_fused - torch.where(stronger, of_a, of_b)).abs().sum(dim=2).mean()


def difference_correlation_loss(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """One minus the mean correlation of what each source adds: of F - B with A and of F - A with B, image by image.

    Shape: (B, 1, H, W) three times; returns a scalar.
    Range: [0, 2].
    Source: after the sum of the correlations of differences (SCD), Aslantas and Bendes 2015.
    """
    fused, a, b = fused.flatten(1), a.flatten(1), b.flatten(1)
    return 1 - (correlation(fused - b, a) + correlation(fused - a, b)).mean() / 2


def source_similarity_loss(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """One minus the mean structural similarity to both sources, with replicated borders.

    Shape: (B, 1, H, W) three times; returns a scalar.
    Range: [0, 2].
    Source: LKC-FUNet eq. 6, for methods without such a term.
    """
    return 1 - torch.stack([ssim_map(fused, source, border="replicate").mean() for source in (a, b)]).mean()


def mean_intensity_loss(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference to the mean of both sources.

    Shape: (B, 1, H, W) three times; returns a scalar.
    Range: [0, 1] for images in [0, 1].
    """
    return F.l1_loss(fused, (a + b) / 2)


def greater_intensity_loss(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference to the brighter source at each pixel.

    Shape: (B, 1, H, W) three times; returns a scalar.
    Range: [0, 1] for images in [0, 1].
    Source: LKC-FUNet eq. 7, for methods without such a term.
    """
    return F.l1_loss(fused, torch.maximum(a, b))


TERMS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "signed_gradient": signed_gradient_loss,
    "difference_correlation": difference_correlation_loss,
    "source_similarity": source_similarity_loss,
    "mean_intensity": mean_intensity_loss,
    "greater_intensity": greater_intensity_loss,
}

"""Loss terms beyond the papers' own. Any part with a fused image can use them in addition to its method's terms.

Each compares a fused image with both sources (docs/decisions/0022-shipped-networks.md). Two are LKC-FUNet's own terms,
for methods that lack them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from mmfuse.nn.losses import (
    blur,
    correlation,
    gaussian_window,
    spatial_gradient,
    strongest_intensity_loss,
    two_source_ssim_loss,
)
from mmfuse.nn.precision import in_full_precision

_LENGTHS = (9, 5)  # of the Gaussian windows, one per scale, with sigma = length / 5
_NOISE = 2.0  # variance of the noise of the visual system, in grey levels squared
_TINY = 1e-6


def signed_gradient_loss(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference to the gradient of the source whose gradient is stronger at each pixel.

    The papers' gradient losses compare only the strengths |gx| + |gy|, so an edge may reverse or change direction.

    Shape: (B, 1, H, W) three times; returns a scalar.
    Range: [0, 16] for images in [0, 1] (Sobel filters, not normalised).
    """
    of_fused, of_a, of_b = (8 * spatial_gradient(image) for image in (fused, a, b))  # (B, 1, 2, H, W)
    stronger = of_a.abs().sum(dim=2, keepdim=True) >= of_b.abs().sum(dim=2, keepdim=True)
    return (of_fused - torch.where(stronger, of_a, of_b)).abs().sum(dim=2).mean()


def difference_correlation_loss(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """One minus the mean correlation of F - B with A and of F - A with B, per image: what each source contributes.

    Shape: (B, 1, H, W) three times; returns a scalar.
    Range: [0, 2].
    Source: after the sum of the correlations of differences (SCD), Aslantas and Bendes 2015.
    """
    fused, a, b = fused.flatten(1), a.flatten(1), b.flatten(1)
    return 1 - (correlation(fused - b, a) + correlation(fused - a, b)).mean() / 2


def information_loss(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """One minus the mean share of both sources' visual information that the fused image preserves, over the batch.

    Pixel-domain VIF at two scales, with windows of 9 and 5 pixels, which fit into crops.

    Shape: (B, 1, H, W) three times, H and W at least 10; returns a scalar.
    Range: up to 1; below 0 where contrast is raised.
    Source: Sheikh and Bovik 2006.
    """
    return 1 - torch.stack([_kept_information(fused, source) for source in (a, b)]).mean()


@in_full_precision
def _kept_information(fused: Tensor, source: Tensor) -> Tensor:
    """Return the source's information that the fused images preserve, divided by all of it; a scalar."""
    fused, source = 255 * fused, 255 * source
    kept = offered = fused.new_zeros(())
    for scale, length in enumerate(_LENGTHS):
        window = gaussian_window(length, length / 5, fused)
        if scale:
            fused, source = (blur(image, window, "reflect")[..., ::2, ::2] for image in (fused, source))
        mean_f, mean_s = (blur(image, window, "reflect") for image in (fused, source))
        of_fused = (blur(fused * fused, window, "reflect") - mean_f**2).clamp_min(0)
        of_source = (blur(source * source, window, "reflect") - mean_s**2).clamp_min(0)
        covariance = blur(fused * source, window, "reflect") - mean_f * mean_s
        gain = (covariance / (of_source + _TINY)).clamp_min(0)
        noise = (of_fused - gain * covariance).clamp_min(_TINY)
        kept = kept + (gain**2 * of_source / (noise + _NOISE)).log1p().sum()
        offered = offered + (of_source / _NOISE).log1p().sum()
    return kept / (offered + _TINY)


def mean_intensity_loss(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference to the mean of both sources.

    Shape: (B, 1, H, W) three times; returns a scalar.
    Range: [0, 1] for images in [0, 1].
    """
    return F.l1_loss(fused, (a + b) / 2)


def outside_range_loss(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:  # noqa: ARG001 - signature of all terms
    """Mean distance of the pixels from [0, 1]; clipping would lose their detail.

    Shape: (B, 1, H, W) three times; returns a scalar.
    Range: from 0.
    """
    return F.l1_loss(fused, fused.detach().clamp(0, 1))


TERMS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "signed_gradient": signed_gradient_loss,
    "difference_correlation": difference_correlation_loss,
    "source_similarity": partial(two_source_ssim_loss, border="replicate"),
    "information": information_loss,
    "mean_intensity": mean_intensity_loss,
    "greater_intensity": strongest_intensity_loss,
    "outside_range": outside_range_loss,
}

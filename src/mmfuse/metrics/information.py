"""Entropy and mutual information, from histograms of whole grey levels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmfuse.metrics.card import MetricCard, metric
from mmfuse.metrics.grey import grey_levels, stretched_whole
from mmfuse.metrics.sharing import shared

_ROBERTS_2008 = (
    "Roberts, van Aardt, Ahmed: Assessment of image fusion procedures using entropy, J. Applied Remote Sensing 2 "
    "(2008) 023522"
)
_QU_2002 = "Qu, Zhang, Yan: Information measure for performance of image fusion, Electronics Letters 38 (2002) 313"


@shared
def _whole(levels: Tensor) -> Tensor:
    """Round to whole grey levels: (B, 1, H, W) to (B, H * W) integers."""
    return levels.round().long().flatten(1)


def _all_whole(fused: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Check three batches and return their whole grey levels, (B, H * W) integers each."""
    fused, a, b = grey_levels(fused, a, b)
    return _whole(fused), _whole(a), _whole(b)


def _counts(cells: Tensor, count: int) -> Tensor:
    """Return the number of occurrences of each of `count` cells: (B, N) integers to (B, count)."""
    batch = len(cells)
    if batch > 1:
        cells = cells + torch.arange(batch, device=cells.device)[:, None] * count
    return torch.bincount(cells.flatten(), minlength=batch * count).view(batch, count)


@shared
def _pair_counts(source: Tensor, fused: Tensor) -> Tensor:
    """Return the number of occurrences of each pair of levels, source first: (B, N) to (B, 256, 256)."""
    return _counts(256 * source + fused, 256 * 256).unflatten(1, (256, 256))


@shared
def _frequencies(levels: Tensor) -> Tensor:
    """Return the relative frequencies of the levels: (B, N) to (B, 256)."""
    return _counts(levels, 256) / torch.tensor(levels.shape[1], dtype=torch.float64)


def _entropy(frequencies: Tensor) -> Tensor:
    """Return the entropy in nats of relative frequencies: (B, ...) to (B,)."""
    # adding zero turns the -0 of a constant image into 0
    return torch.special.entr(frequencies).flatten(1).sum(dim=1) + 0.0


def _information(source: Tensor, fused: Tensor, pairs: Tensor) -> Tensor:
    """Return the mutual information in nats of whole levels (B, N), from the counts of pairs (B, 256, 256), as (B,)."""
    joint = _entropy(pairs / torch.tensor(source.shape[1], dtype=torch.float64))
    # non-negative by definition, but rounding may make the difference of entropies negative
    return (_entropy(_frequencies(source)) + _entropy(_frequencies(fused)) - joint).clamp(min=0)


@shared
def _mutual_information(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return MI(a, fused) + MI(b, fused) in nats, whole levels (B, N) to (B,)."""
    return _information(a, fused, _pair_counts(a, fused)) + _information(b, fused, _pair_counts(b, fused))


@metric(
    MetricCard(
        better="higher",
        range=(0, 8),
        source=_ROBERTS_2008,
        used_by="the evaluators of LKC-FUNet, SMFNet, CDDFuse; VIFB",
    )
)
def en(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Entropy of the fused image's 256 grey levels, in bits.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value is in 0..8, and 0 for a constant image.

    Raises:
        UserError: not a valid batch of images.
    """
    levels, _, _ = grey_levels(fused, a, b)
    return _entropy(_frequencies(_whole(levels))) / math.log(2)


@metric(
    MetricCard(
        better="higher",
        range=(0, 2 * math.log(256)),
        source=_QU_2002,
        used_by="the evaluators of LKC-FUNet, SMFNet, CDDFuse; the table of SMFNet",
    )
)
def mi_nats_sum(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mutual information of the fused image with a plus that with b, in nats.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value is in 0..11.09, and 0 where the fused image or both sources are constant.

    Raises:
        UserError: not a valid batch of images.
    """
    return _mutual_information(*_all_whole(fused, a, b))


@metric(MetricCard(better="higher", range=(0, 16), source=_QU_2002, used_by="IVIF_ZOO"))
def mi_bits_sum(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mutual information of the fused image with a plus that with b, in bits.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value is in 0..16, and 0 where the fused image or both sources are constant.

    Raises:
        UserError: not a valid batch of images.
    """
    return _mutual_information(*_all_whole(fused, a, b)) / math.log(2)


@metric(MetricCard(better="higher", range=(0, 2 * math.log(256)), source=_QU_2002, used_by="VIFB (MATLAB)"))
def mi_vifb(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mutual information of the fused image with a plus that with b, in nats, after stretching each image to 0..255.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value is in 0..11.09, and 0 where the fused image or both sources are constant.

    Raises:
        UserError: not a valid batch of images.
    """
    fused, a, b = (_whole(stretched_whole(levels)) for levels in grey_levels(fused, a, b))
    return _mutual_information(fused, a, b)


@metric(MetricCard(better="higher", range=(0, 18), source=_QU_2002, used_by="Tang (MATLAB)"))
def mi_tang(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mutual information of the fused image with a plus that with b, in bits; the joint histogram has only 255 levels.

    In it, 254 and 255 share a cell (an 8-bit index that overflows), but not in the entropies of the single images.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value is in 0..18, and at least `mi_bits_sum`.

    Raises:
        UserError: not a valid batch of images.
    """
    fused, a, b = _all_whole(fused, a, b)
    total = torch.zeros(len(fused), dtype=torch.float64, device=fused.device)
    for source in (a, b):
        pairs = _pair_counts(source, fused).clone()
        for of_source_or_fused in (pairs, pairs.transpose(1, 2)):
            of_source_or_fused[:, 254] += of_source_or_fused[:, 255]
            of_source_or_fused[:, 255] = 0
        total += _information(source, fused, pairs)
    return total / math.log(2)


@metric(
    MetricCard(
        better="higher",
        range=(0, 2),
        source="Hossny, Nahavandi, Creighton: Comments on information measure for performance of image fusion, "
        "Electronics Letters 44 (2008) 1066 (there with the entropies of each pair)",
        used_by="IVIF_ZOO",
    )
)
def nmi_ivif_zoo(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Twice the mutual information of the fused image with both sources, divided by the sum of the sources' entropies.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value is in 0..2. It is 0 for two constant sources.

    Raises:
        UserError: not a valid batch of images.
    """
    fused, a, b = _all_whole(fused, a, b)
    offered = _entropy(_frequencies(a)) + _entropy(_frequencies(b))
    nothing = offered == 0
    return torch.where(nothing, 0.0, 2 * _mutual_information(fused, a, b) / torch.where(nothing, 1.0, offered))


@metric(MetricCard(better="higher", range=(-1.5e-7, 8), source=_ROBERTS_2008, used_by="IVIF_ZOO"))
def en_ivif_zoo(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Entropy of the fused image's 256 grey levels, in bits, with 1e-7 added to each frequency inside the logarithm.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value is in -1.5e-7..8, a little below `en`.

    Raises:
        UserError: not a valid batch of images.
    """
    frequencies = _frequencies(_all_whole(fused, a, b)[0])
    return -(frequencies * (frequencies + 1e-7).log2()).sum(dim=1)


@metric(
    MetricCard(
        better="lower",
        range=(-0.54, float("inf")),
        source="Bulanon, Burks, Alchanatis: Image fusion of visible and thermal images for fruit detection, "
        "Biosystems Engineering 103 (2009) 12",
        used_by="VIFB (MATLAB)",
    )
)
def ce_vifb(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Relative entropy of a source's grey levels to those of the fused image, in bits, averaged over both sources.

    Only levels that occur in both images count, so the value can be slightly below 0, and is 0 without a common level.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; at least -0.54, and 0 for three equal images.

    Raises:
        UserError: not a valid batch of images.
    """
    in_fused, *in_sources = (_frequencies(levels) for levels in _all_whole(fused, a, b))
    total = torch.zeros_like(in_fused[:, 0])
    for in_source in in_sources:
        common = (in_source > 0) & (in_fused > 0)
        ratio = torch.where(common, in_source, 1.0) / torch.where(common, in_fused, 1.0)
        total += (in_source * ratio.log2()).sum(dim=1)
    return total / 2


@metric(
    MetricCard(
        better="lower",
        range=(0, 15.95),
        source="the code of IVIF_ZOO; no publication is known",
        used_by="IVIF_ZOO",
    )
)
def ce_ivif_zoo(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Binary cross-entropy in nats between the sigmoids of a source's and the fused image's levels; mean over both.

    In the single precision of the original, the sigmoid of any level above 15 is 1, so only the darkest pixels matter.

    Shape: three (B, 1, H, W) to (B,).
    Range: images in [0, 1]; the value is in 0..15.95.

    Raises:
        UserError: not a valid batch of images.
    """
    precision = torch.finfo(torch.float32).eps  # the original's limits, 1e-7 and 1 - 1e-7, round to this
    probability, wanted_a, wanted_b = (
        levels.sigmoid().clamp_(precision, 1 - precision) for levels in grey_levels(fused, a, b)
    )  # (B, 1, H, W)
    wanted = (wanted_a + wanted_b) / 2
    return -(wanted * probability.log() + (1 - wanted) * (1 - probability).log()).mean(dim=(1, 2, 3))

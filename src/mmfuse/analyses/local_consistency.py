"""Similarity of the features within small regions after LKC-FUNet's InitBlock, as in the paper's Figure 3.

Source: LKC-FUNet 3.2 and Figure 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mmfuse.analyses.base import AnalysisCard, Drawing
from mmfuse.data.images import from_png_text, luminance, png_text
from mmfuse.data.packs import Pack
from mmfuse.errors import UserError
from mmfuse.progress import progress
from mmfuse.study.plan import System
from mmfuse.words import number_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
CARD = AnalysisCard(
    title="Local consistency of the first features",
    source="LKC-FUNet 3.2 and Figure 3; the measure is this project's reading of it",
    words="The feature map after the InitBlock is cut into square chunks. The consistency of a chunk is the mean "
    "cosine between the feature vectors of all pairs of its pixels: 1 where all pixels agree, so that the "
    "features are redundant there. Plain and structured chunks are the halves of an image's chunks where the "
    "sources vary less and more (by the larger of their standard deviations). Intervals: 95 % of the bootstrap over "
    "test images, each averaged over the seeds.",
    methods=("lkc_funet",),
)
KINDS = {"all": "all chunks", "plain": "plain", "structured": "structured"}
DIGITS = 4  # further ones depend on the number of CPU threads
_RESAMPLES = 2000


def consistency(features: Tensor, chunk: int) -> Tensor:
    """Return the mean cosine between the feature vectors of all pairs of pixels of each chunk.

    PAPER: 3.2, "we compute the feature map consistency in chunks. This reflects the redundancy within the region".
    ASSUME: it names neither the measure nor the chunk. Cosine, because the following norms and convolutions respond to
    directions; no mean is subtracted from the map first, so a large constant part of all features counts as consistent.
    ASSUME: an incomplete chunk at the right or lower border is left out.

    Shape: features (C, H, W); returns (H // chunk, W // chunk), float64.
    Range: [-1 / (chunk^2 - 1), 1]; pixels with all-zero features count as dissimilar to everything.
    """
    count = chunk * chunk
    directions = F.normalize(features.double(), dim=0)
    sums = F.avg_pool2d(directions[None], chunk)[0] * count  # (C, H // chunk, W // chunk)
    own = F.avg_pool2d(directions.square().sum(dim=0)[None, None], chunk)[0, 0] * count  # 1 a pixel, 0 without features
    return (sums.square().sum(dim=0) - own) / (count * (count - 1))


def structure(sources: Tensor, chunk: int) -> Tensor:
    """Return the larger of the sources' standard deviations in each chunk.

    Shape: sources (2, H, W); returns (H // chunk, W // chunk), float64.
    """
    values = sources.double()[None]
    spread = F.avg_pool2d(values.square(), chunk) - F.avg_pool2d(values, chunk).square()
    return spread.clamp(min=0).sqrt()[0].amax(dim=0)


def halves(found: Tensor, structured: Tensor) -> tuple[float, float]:
    """Return the means over the chunks with less structure than the median, and over the rest; ties by position."""
    order = structured.flatten().argsort(stable=True)
    plain, rest = order.tensor_split([len(order) // 2])
    values = found.flatten()
    return values[plain].mean().item(), values[rest].mean().item()


@torch.no_grad()
def analyse(network: Any, pack: Pack, *, chunk: int) -> dict[str, Any]:
    """Return the consistency of each test image, and the map of one of them.

    Args:
        network: A trained LKC-FUNet in eval mode.
        pack: The test pairs.
        chunk: Side of a chunk in pixels, at least 2; each image must contain at least two chunks.

    Raises:
        UserError: the chunk is too small, or too large for an image.
    """
    device, chosen = next(network.parameters()).device, len(pack) // 2  # volumes begin and end with empty slices
    values: dict[str, list[float]] = {kind: [] for kind in KINDS}
    shown: dict[str, Any] = {}
    for number, sample in enumerate(progress(pack, "compare pixels", unit="pairs")):
        greys = [luminance(sample[key]) for key in ("a", "b")]
        height, width = greys[0].shape
        if chunk < 2 or (height // chunk) * (width // chunk) < 2:
            raise UserError(
                "Local consistency cannot be computed with this chunk.",
                expected=f"a side of at least 2 pixels, and two chunks in an image of {height} x {width} pixels",
                found=chunk,
                fix="correct analyse.local_consistency.options in params.yaml",
            )
        sources = torch.from_numpy(np.stack(greys)).float().to(device) / 255
        _, features = network.net.init(network.stacked(*sources[:, None, None]))  # (1, channels, H', W')
        found = consistency(features[0, :, :height, :width], chunk).cpu()
        means = (found.mean().item(), *halves(found, structure(sources, chunk).cpu()))
        for kind, mean in zip(KINDS, means, strict=True):
            values[kind].append(round(mean, DIGITS))
        if number == chosen:
            shown = {"name": sample["name"], "map": np.round(found.numpy(), DIGITS).tolist()}
            shown |= {"sources": [png_text(grey) for grey in greys]}
    summary = {f"consistency/{kind}": round(float(np.mean(series)), DIGITS) for kind, series in values.items()}
    return {"chunk": chunk, "values": values, "shown": shown, "summary": summary}


def interval(values: Array) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean over images, (images,) values; equal values give equal ends."""
    drawn = np.random.default_rng(0).integers(0, values.size, (_RESAMPLES, values.size))
    low, high = np.quantile(values[drawn].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def over_seeds(results: Mapping[System, dict[str, Any]]) -> dict[str, dict[str, Array]]:
    """Return, for each variant and kind of chunk, the images' values averaged over the seeds."""
    found: dict[str, list[dict[str, list[float]]]] = {}
    for system, result in results.items():
        found.setdefault(system.variant, []).append(result["values"])
    return {
        variant: {kind: np.mean([values[kind] for values in seeds], axis=0) for kind in KINDS}
        for variant, seeds in found.items()
    }


def draw(results: Mapping[System, dict[str, Any]]) -> list[Drawing]:
    """Return the maps of one pair, for the first seed of each variant, and the values of all variants."""
    first: dict[str, dict[str, Any]] = {}
    for system, result in results.items():
        first.setdefault(system.variant, result)
    values = over_seeds(results)
    some = next(iter(first.values()))
    words = (
        f"Sources and consistency of {some['shown']['name']} in chunks of {some['chunk']} x {some['chunk']} pixels, "
    )
    words += "first seed of each variant, on one scale from the smallest to the largest value shown."
    numbers = []
    for variant, kinds in values.items():
        told = []
        for kind, series in kinds.items():
            low, high = interval(series)
            told.append(f"{KINDS[kind]} {series.mean():.3f} [{low:.3f}, {high:.3f}]")
        numbers.append(f"{variant}: {', '.join(told)}")
    images = len(some["values"]["all"])
    caption = f"Mean over {number_of(images, 'test image')} with its 95 % interval. {'; '.join(numbers)}."
    return [
        Drawing("Maps of the consistency", words, 2.2 * (2 + len(first)) + 0.6, 2.5, partial(_maps, first)),
        Drawing("Consistency of plain and structured chunks", caption, 6.0, 1.2 + 0.5 * len(values),
                partial(_numbers, values)),
    ]  # fmt: skip


def _maps(first: Mapping[str, dict[str, Any]], figure: Figure) -> None:

    grid = figure.subplots(1, 2 + len(first))
    maps = {variant: np.array(result["shown"]["map"]) for variant, result in first.items()}
    low, high = (float(edge([edge(one) for one in maps.values()])) for edge in (np.min, np.max))
    for axes, name, text in zip(grid, "ab", next(iter(first.values()))["shown"]["sources"], strict=False):
        axes.imshow(from_png_text(text), cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"source {name}")
    image: Any = None
    for axes, (variant, one) in zip(grid[2:], maps.items(), strict=True):
        image = axes.imshow(one, cmap="viridis", vmin=low, vmax=high)
        axes.set_title(variant)
    for axes in grid:
        axes.grid(visible=False)
        axes.set(xticks=[], yticks=[])
    figure.colorbar(image, ax=grid[2:], shrink=0.8)


def _numbers(values: Mapping[str, Mapping[str, Array]], figure: Figure) -> None:
    axes = figure.subplots()
    for number, (kind, marker, colour) in enumerate(
        zip(KINDS, ("o", "s", "^"), ("#333333", "#0072B2", "#D55E00"), strict=True)
    ):
        series = [kinds[kind] for kinds in values.values()]
        means = np.array([one.mean() for one in series])
        ends = np.array([interval(one) for one in series]).T
        bars = np.maximum(np.stack([means - ends[0], ends[1] - means]), 0)
        places = np.arange(len(series)) + 0.18 * (number - 1)
        axes.errorbar(means, places, xerr=bars, fmt=marker, color=colour, capsize=3, markersize=5, label=KINDS[kind])
    axes.set_yticks(range(len(values)), list(values))
    axes.set(xlabel="consistency (1: all pixels of a chunk equal)", ylim=(len(values) - 0.5, -0.5))
    figure.legend(loc="outside upper left", ncols=3, fontsize=8)

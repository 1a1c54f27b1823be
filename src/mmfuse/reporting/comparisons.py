"""Figures that compare the images of both modalities, and the variants along an option."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mmfuse.data.images import luminance
from mmfuse.data.packs import Sample
from mmfuse.reporting import statistics
from mmfuse.reporting.figures import arrow
from mmfuse.reporting.pictures import PALETTE
from mmfuse.reporting.scores import Array, Column, Group, average
from mmfuse.reporting.style import LINES, MARKERS, Album, Shown
from mmfuse.study.settings import place
from mmfuse.study.types import Parameters
from mmfuse.words import number_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BIN = 4  # grey levels in one bar of a histogram


@dataclass(frozen=True)
class Greys:
    """The luminance of one modality: number of pixels for each of 256 grey levels, and the deviation of each image."""

    counts: Array
    deviations: Array


def greys(samples: Iterable[Sample], key: str) -> Greys:
    """Count the grey levels of one image (`a` or `b`) of all pairs; deviations are divided by n."""
    counts, deviations = np.zeros(256), []
    for sample in samples:
        levels = luminance(sample[key])  # type: ignore[literal-required]
        counts += np.bincount(levels.ravel(), minlength=256)
        deviations.append(float(levels.std(dtype=np.float64)))
    return Greys(counts, np.array(deviations))


def modalities(album: Album, dataset: str, samples: Iterable[Sample], roles: tuple[str, str]) -> Shown:
    """Show the distribution of the grey levels of both modalities.

    Source: after LKC-FUNet, Figure 1a.
    """
    pairs = list(samples)
    found = {f"{role} ({key})": greys(pairs, key) for role, key in zip(roles, "ab", strict=True)}
    told = [f"{name} {g.deviations.mean():.1f} ± {g.deviations.std():.1f}" for name, g in found.items()]
    words = (
        f"Luminance of all pixels of the {number_of(len(pairs), 'test pair')}, {_BIN} grey levels per bar, log scale. "
    )
    words += "Standard "
    words += f"deviation within an image (SD), mean ± standard deviation over the images: {'; '.join(told)}."
    return album.draw(dataset, "grey_levels", "Grey levels", words, (6.4, 2.6), partial(_modalities, found))


def _modalities(found: Mapping[str, Greys], figure: Figure) -> None:
    axes = figure.subplots()
    edges = np.arange(0, 257, _BIN)
    for (name, one), ink, line in zip(found.items(), (PALETTE[0], PALETTE[3]), ("-", "--"), strict=True):
        share = one.counts.reshape(-1, _BIN).sum(axis=1) / one.counts.sum()
        label = f"{name}, SD {one.deviations.mean():.1f}"
        axes.stairs(share, edges, color=ink, linestyle=line, linewidth=1.4, label=label)
        axes.stairs(share, edges, color=ink, alpha=0.15, fill=True)
    axes.set(yscale="log", xlim=(0, 256), xlabel="grey level", ylabel="share of pixels")
    axes.legend(loc="upper right", fontsize=8)


def sweep(
    album: Album,
    dataset: str,
    parameters: Parameters,
    number: int,
    groups: Sequence[Group],
) -> Shown | None:
    """Show the means of variants of one method along an option, one line for each series of variants.

    None if the dataset lacks one of the variants or all of the metrics.

    Args:
        album: Receives the figure.
        dataset: The dataset.
        parameters: The study's parameters.
        number: Index of the entry in `report.sweeps`.
        groups: The systems of the dataset.

    Source: after LKC-FUNet, Figure 1b.
    """
    entry = parameters["report"]["sweeps"][number]
    known = {group.variant: group for group in groups if group.method == entry["method"]}
    if not all(variant in known for variants in entry["lines"].values() for variant in variants):
        return None
    lines = {
        label: [(place(parameters, entry["method"], v, entry["x"]), known[v]) for v in variants]
        for label, variants in entry["lines"].items()
    }
    columns = [column for column in groups[0].members[0].metrics if column.name in entry["metrics"]]
    columns.sort(key=lambda column: entry["metrics"].index(column.name))
    if not columns:
        return None
    told = "; ".join(f"{label}: {', '.join(variants)}" for label, variants in entry["lines"].items())
    seeds = max(len(group.members) for line in lines.values() for _, group in line)
    words = f"{entry['method']}, variants along {entry['x']} (if it has several numbers, the largest). {told}. "
    words += "Bars: 95 % bootstrap interval of the mean over the test images"
    words += f"; crosses: the means of the {seeds} seeds." if seeds > 1 else "."
    across = min(4, len(columns))
    rows = -(-len(columns) // across)
    paint = partial(_sweep, lines, columns, entry["x"], across)
    size = (2.7 * across, 2.4 * rows + 0.4)
    return album.draw(dataset, f"sweep_{number + 1}", f"{entry['title']}, {dataset}", words, size, paint)


def _sweep(
    lines: Mapping[str, Sequence[tuple[float, Group]]],
    columns: Sequence[Column],
    option: str,
    across: int,
    figure: Figure,
) -> None:
    grid = figure.subplots(-(-len(columns) // across), across, squeeze=False)
    for axes, column in zip(grid.flat, columns, strict=False):
        for number, (label, points) in enumerate(lines.items()):
            _line(axes, column, label, points, number)
        axes.set_title(column.name + arrow(column))
        axes.set_xlabel(option)
        axes.set_xticks(sorted({x for points in lines.values() for x, _ in points}))
    for axes in grid.flat[len(columns) :]:
        axes.set_visible(False)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=4, fontsize=8)


def _line(axes: Axes, column: Column, label: str, points: Sequence[tuple[float, Group]], number: int) -> None:
    """Draw one line of a sweep: means with intervals, and the seeds' means as crosses."""
    row = points[0][1].members[0].metrics.index(column)
    ink = PALETTE[number % len(PALETTE)]
    values = np.stack([group.values[row] for _, group in points])  # (variants, images)
    means, ends = np.array([average(series) for series in values]), statistics.interval(values)
    bars = np.maximum(np.stack([means - ends[:, 0], ends[:, 1] - means]), 0)
    marker = MARKERS[number % len(MARKERS)]
    places = [x for x, _ in points]
    style: dict[str, Any] = {"color": ink, "linestyle": LINES[number % len(LINES)], "marker": marker, "label": label}
    axes.errorbar(places, means, yerr=bars, markersize=5, capsize=3, linewidth=1.2, **style)
    for x, group in points:
        seeds = [average(member.values[row]) for member in group.members]
        if len(seeds) > 1:
            axes.plot([x] * len(seeds), seeds, linestyle="", marker="x", markersize=4, color=ink)

"""Figures that compare: the images of both modalities, variants along an option, ranks against time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mmfuse import plan
from mmfuse.images import luminance
from mmfuse.packs import Sample
from mmfuse.reporting import figures, statistics
from mmfuse.reporting.pictures import PALETTE
from mmfuse.reporting.provenance import Run, machine_of
from mmfuse.reporting.scores import Array, Column, Group, average

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BIN = 4  # grey levels in a bar of a histogram
_MARKERS = "osD^vPX*<>"


@dataclass(frozen=True)
class Shown:
    """A figure of the page: its heading, its data URI and what it shows in words."""

    title: str
    figure: str
    words: str


@dataclass(frozen=True)
class Greys:
    """The luminance of one modality: how many pixels have each of 256 grey levels, and each image's deviation."""

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


def modalities(samples: Iterable[Sample], roles: tuple[str, str]) -> Shown:
    """Show how the grey levels of both modalities are distributed.

    Source: after LKC-FUNet, Figure 1a.
    """
    pairs = list(samples)
    found = {f"{role} ({key})": greys(pairs, key) for role, key in zip(roles, "ab", strict=True)}
    told = [f"{name} {g.deviations.mean():.1f} ± {g.deviations.std():.1f}" for name, g in found.items()]
    words = f"Luminance of all pixels of the {len(pairs)} test pairs, {_BIN} grey levels a bar, logarithmic. Standard "
    words += f"deviation within an image (SD), mean ± standard deviation over the images: {'; '.join(told)}."
    return Shown("Grey levels", figures.drawn(partial(_modalities, found), 6.4, 2.6), words)


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


def sweep(parameters: Mapping[str, Any], entry: Mapping[str, Any], groups: Sequence[Group]) -> Shown | None:
    """Show the means of variants of one method along an option, a line for each series of variants.

    None where the dataset lacks one of the variants or all of the metrics.

    Args:
        parameters: The study's parameters.
        entry: One of `report.sweeps`.
        groups: The systems of the dataset.

    Source: after LKC-FUNet, Figure 1b.
    """
    known = {group.variant: group for group in groups if group.method == entry["method"]}
    if not all(variant in known for variants in entry["lines"].values() for variant in variants):
        return None
    lines = {
        label: [(plan.place(parameters, entry["method"], v, entry["x"]), known[v]) for v in variants]
        for label, variants in entry["lines"].items()
    }
    columns = [column for column in groups[0].members[0].metrics if column.name in entry["metrics"]]
    columns.sort(key=lambda column: entry["metrics"].index(column.name))
    if not columns:
        return None
    told = "; ".join(f"{label}: {', '.join(variants)}" for label, variants in entry["lines"].items())
    seeds = max(len(group.members) for line in lines.values() for _, group in line)
    words = f"{entry['method']}, variants along {entry['x']} (the largest number where there are several). {told}. "
    words += "Bars: 95 % bootstrap interval of the mean over the test images"
    words += f"; crosses: the means of the {seeds} seeds." if seeds > 1 else "."
    across = min(4, len(columns))
    rows = -(-len(columns) // across)
    paint = partial(_sweep, lines, columns, entry["x"], across)
    return Shown(entry["title"], figures.drawn(paint, 2.7 * across, 2.4 * rows + 0.4), words)


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
        axes.set_title(column.name + {1: " ↑", -1: " ↓", 0: ""}[column.sign])
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
    marker = _MARKERS[number % len(_MARKERS)]
    places = [x for x, _ in points]
    axes.errorbar(
        places, means, yerr=bars, color=ink, marker=marker, markersize=5, capsize=3, linewidth=1.2, label=label
    )
    for x, group in points:
        seeds = [average(member.values[row]) for member in group.members]
        if len(seeds) > 1:
            axes.plot([x] * len(seeds), seeds, linestyle="", marker="x", markersize=4, color=ink)


@dataclass(frozen=True)
class Cost:
    """What a system costs: seconds an image (mean over its seeds), numbers in its network, machines it ran on."""

    seconds: float
    parameters: int
    machines: tuple[str, ...]


def cost(runs: Sequence[Run]) -> Cost | None:
    """Return what the runs of `fuse` of one system measured; None where one of them measured nothing."""
    measured = [run.record.get("measured") for run in runs]
    known = [one for one in measured if one]
    if not known or len(known) < len(measured):
        return None
    seconds = float(np.mean([one["seconds_per_image"] for one in known]))
    return Cost(seconds, int(known[0]["parameters"]), tuple(dict.fromkeys(machine_of(run) for run in runs)))


def times(groups: Sequence[Group], ranks: Array, costs: Sequence[Cost | None]) -> Shown | None:
    """Show the mean rank over the metrics against the seconds an image; None where no system has a time.

    Source: after LKC-FUNet, Figure 7.
    """
    points = [(g.label, float(r), c) for g, r, c in zip(groups, ranks, costs, strict=True) if c is not None]
    if not points:
        return None
    machines: dict[str, list[str]] = {}
    for label, _, found in points:
        machines.setdefault("; ".join(found.machines), []).append(label)
    where = [machine + (f" ({', '.join(labels)})" if len(machines) > 1 else "") for machine, labels in machines.items()]
    numbers = [
        f"{label} {found.seconds:.3g} s, {_counted(found.parameters)}, rank {rank:.2f}" for label, rank, found in points
    ]
    without = [group.label for group, found in zip(groups, costs, strict=True) if found is None]
    words = (
        "Mean rank over the metrics of the table (1 is best, above) against the time of an image, from its pixels to "
    )
    words += "the fused ones: the median over the test images, the mean over seeds. Times differ from run to run and "
    words += f"between machines; measured on {' and '.join(where)}. {'; '.join(numbers)}."
    words += f" Without a measured time, and left out: {', '.join(without)}." if without else ""
    height = 2.8 + 0.2 * -(-len(points) // 3)
    return Shown("Time and quality", figures.drawn(partial(_times, points, len(groups)), 7.2, height), words)


def _counted(count: int) -> str:
    for unit, name in ((1_000_000, " M"), (1_000, " k")):
        if count >= unit:
            return f"{count / unit:.3g}{name} parameters"
    return f"{count} parameters"


def _times(points: Sequence[tuple[str, float, Cost]], systems: int, figure: Figure) -> None:
    axes = figure.subplots()
    methods = list(dict.fromkeys(label.partition(".")[0] for label, _, _ in points))
    for number, (label, rank, found) in enumerate(points):
        ink = PALETTE[methods.index(label.partition(".")[0]) % len(PALETTE)]
        name = f"{label} ({_counted(found.parameters)})"
        axes.plot(
            found.seconds, rank, linestyle="", marker=_MARKERS[number % len(_MARKERS)], markersize=7, color=ink,
            markeredgecolor="#333333", markeredgewidth=0.8, label=name,
        )  # fmt: skip
    axes.set(xscale="log", ylim=(systems + 0.2, 0.8), xlabel="seconds an image", ylabel="mean rank (1 is best)")
    axes.margins(x=0.15)
    figure.legend(loc="outside upper left", ncols=3, fontsize=8)

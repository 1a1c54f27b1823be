"""Figures of one dataset's scores and of trainings: distributions, ranks, radar, losses with bands over the seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmfuse.files.reading import damaged, read_table
from mmfuse.reporting.pictures import PALETTE
from mmfuse.reporting.ranking import Ranking
from mmfuse.reporting.scores import Array, Column, Group
from mmfuse.reporting.statistics import cliques
from mmfuse.reporting.style import INK, LINES, MARKERS, Album, Shown, inks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BOX = 0.62  # height of a box; the distance of two boxes is 1
_POINTS = 300  # ASSUME: more points than this are indistinguishable at the figure's width


@dataclass(frozen=True)
class History:
    """The losses of one training part: steps and totals; validation has fewer points."""

    part: str
    steps: Array
    train: Array
    val_steps: Array
    val: Array


def read_history(path: Path, part: str) -> History:
    """Read the table of losses written by the training (cells are empty, or a column missing, without a value)."""
    fix = "run the stage `train` for it again"
    rows = read_table(path, ("step", "train/total"), fix=fix)

    def column(name: str) -> tuple[Array, Array]:
        try:
            pairs = [(float(r["step"]), float(r[name])) for r in rows if r.get(name, "").strip()]
        except ValueError as error:
            raise damaged(path, "numbers", error, fix) from error
        found = np.array([p for p in pairs if math.isfinite(p[1])], dtype=np.float64).reshape(-1, 2)
        return found[:, 0], found[:, 1]

    return History(part, *column("train/total"), *column("val/total"))


def _thinned(steps: Array, values: Array) -> tuple[Array, Array]:
    """Return means over blocks of steps, so that at most `_POINTS` remain."""
    block = math.ceil(len(steps) / _POINTS)
    if block <= 1:
        return steps, values
    starts = np.arange(0, len(steps), block)
    counts = np.diff(np.append(starts, len(steps)))
    return np.add.reduceat(steps, starts) / counts, np.add.reduceat(values, starts) / counts


def banded(series: Sequence[tuple[Array, Array]]) -> tuple[Array, Array, Array, Array]:
    """Return steps, mean, lowest and highest of several seeds' values, at the steps that all of them have."""
    steps = series[0][0]
    for other, _ in series[1:]:
        steps = np.intersect1d(steps, other)
    values = np.stack([found[np.isin(where, steps)] for where, found in series])  # (seeds, steps)
    return steps, values.mean(0), values.min(0), values.max(0)


def curves(album: Album, group: str, name: str, title: str, words: str, parts: Sequence[Sequence[History]]) -> Shown:
    """Draw the training and validation totals of a system, one panel per part; each part has one history per seed."""
    across = min(3, len(parts))
    size = (4.2 * across, 2.7 * math.ceil(len(parts) / across))
    alt = f"{title}: training and validation loss over steps of {', '.join(seeds[0].part for seeds in parts)}"
    return album.draw(group, name, title, words, size, partial(_curves, parts, across), alt)


def _curves(parts: Sequence[Sequence[History]], across: int, figure: Figure) -> None:
    grid = figure.subplots(math.ceil(len(parts) / across), across, squeeze=False)
    for axes, seeds in zip(grid.flat, parts, strict=False):
        lines = [
            ("training", PALETTE[0], "-", "", [_thinned(one.steps, one.train) for one in seeds]),
            ("validation", PALETTE[3], "--", "o", [(one.val_steps, one.val) for one in seeds]),
        ]
        shown = [0.0]
        for label, ink, line, marker, series in lines:
            steps, middle, low, high = banded(series)
            if steps.size:
                axes.plot(steps, middle, line, color=ink, marker=marker, markersize=3, linewidth=1.2, label=label)
                axes.fill_between(steps, low, high, color=ink, alpha=0.2, linewidth=0)
                shown = [*shown[1:], low.min(), high.max()] if shown == [0.0] else [*shown, low.min(), high.max()]
        for number, one in enumerate(seeds):
            if one.val.size:
                lowest = one.val_steps[int(one.val.argmin())]
                label = "lowest validation" if number == 0 else "_"
                axes.axvline(lowest, color=INK, linewidth=0.8, linestyle=":", label=label)
        if min(shown) > 0 and max(shown) > 20 * min(shown):
            axes.set_yscale("log")
        axes.set(title=seeds[0].part, xlabel="step", ylabel="total loss")
        axes.legend(loc="upper right", fontsize=8)
    _hide(grid.flat[len(parts) :])


def boxes(album: Album, dataset: str, groups: Sequence[Group], columns: Sequence[Column]) -> Shown:
    """Draw each metric's distribution over the images, one box for each method."""
    across = min(4, len(columns))
    margin = 0.07 * max(len(g.label) for g in groups)
    size = (2.7 * across + margin, (0.7 + 0.27 * len(groups)) * math.ceil(len(columns) / across))
    words = "Box: the middle half of the images; line: median; whiskers: the furthest image within 1.5 times the box; "
    words += "dots: images beyond. ↑ larger is better, ↓ smaller is better. Each method has its own colour."
    alt = f"Box plots of {', '.join(c.name for c in columns)} over the test images of {dataset} for "
    alt += f"{', '.join(g.label for g in groups)}; the means are in the table of scores"
    paint = partial(_boxes, groups, columns, across)
    return album.draw(dataset, "distributions", "Distribution over the images", words, size, paint, alt)


def _boxes(groups: Sequence[Group], columns: Sequence[Column], across: int, figure: Figure) -> None:
    labels = [g.label for g in groups]
    grid = figure.subplots(math.ceil(len(columns) / across), across, squeeze=False, sharey=True)
    for axes, column in zip(grid.flat, columns, strict=False):
        number = groups[0].members[0].metrics.index(column)
        _box_each(axes, [g.values[number][np.isfinite(g.values[number])] for g in groups], inks(groups))
        axes.set_yticks(range(1, len(labels) + 1), labels)
        axes.set_title(f"{column.name}{arrow(column)}")
        axes.grid(visible=False, axis="y")
    grid[0, 0].set_ylim(len(labels) + 0.5, 0.5)
    _hide(grid.flat[len(columns) :])


def _box_each(axes: Axes, series: Sequence[Array], colours: Sequence[str]) -> None:
    """Draw a horizontal box plot of each series at 1, 2, ...; one artist for all lines of a kind draws much faster."""
    from matplotlib.cbook import boxplot_stats
    from matplotlib.collections import LineCollection, PolyCollection

    drawn = [
        (y, colour, boxplot_stats(values)[0])
        for y, (values, colour) in enumerate(zip(series, colours, strict=True), start=1)
        if values.size
    ]
    corners: list[list[tuple[float, float]]] = []
    lines: list[list[tuple[float, float]]] = []
    medians: list[list[tuple[float, float]]] = []
    for y, _, box in drawn:
        low, q1, middle, q3, high = (box[name] for name in ("whislo", "q1", "med", "q3", "whishi"))
        bottom, top = y - _BOX / 2, y + _BOX / 2
        corners.append([(q1, bottom), (q3, bottom), (q3, top), (q1, top)])
        lines += [[(low, y), (q1, y)], [(q3, y), (high, y)]]
        lines += [[(end, y - _BOX / 4), (end, y + _BOX / 4)] for end in (low, high)]
        medians.append([(middle, bottom), (middle, top)])
    filled = [colour for _, colour, _ in drawn]
    axes.add_collection(PolyCollection(corners, facecolors=filled, edgecolors=INK, linewidths=0.8, alpha=0.75))
    axes.add_collection(LineCollection(lines, colors=INK, linewidths=1.0, capstyle="projecting", zorder=2))
    axes.add_collection(LineCollection(medians, colors="#000000", linewidths=1.2, capstyle="butt", zorder=3))
    beyond = [(x, y) for y, _, box in drawn for x in box["fliers"]]
    style: dict[str, Any] = {"marker": ".", "markersize": 2.5, "markeredgecolor": INK, "markerfacecolor": "none"}
    axes.plot(*np.reshape(beyond, (-1, 2)).T, linestyle="", **style)
    axes.autoscale_view()


def arrow(column: Column) -> str:
    """Return the arrow after a metric's name that shows which direction is better."""
    return {1: " ↑", -1: " ↓", 0: ""}[column.sign]


def _hide(left: Iterable[Axes]) -> None:
    for axes in left:
        axes.set_visible(False)


def ranks(album: Album, dataset: str, groups: Sequence[Group], ranked: Ranking) -> Shown:
    """Draw the average ranks, one line for each metric, with bars over systems within the critical difference.

    Source: after Demsar, Statistical comparisons of classifiers over multiple data sets, JMLR 2006, figure 1.
    """
    size = (9.5, 1.2 + 0.22 * math.ceil(len(groups) / 6) + 0.38 * (1 + len(ranked.counted)))
    words = "Average rank over the images, 1 is best. Systems with a common bar differ by no more than the critical "
    words += f"difference of {ranked.critical:.2f} (Nemenyi's test of all pairs, level 0.05), so they are not "
    words += "significantly different. For all metrics together, the critical difference is an upper bound."
    alt = f"Average ranks of {', '.join(g.label for g in groups)} over the test images of {dataset}, over all metrics "
    alt += f"and for {', '.join(s.column.name for s in ranked.counted)}; the numbers are in tables/{dataset}.csv"
    title = "Ranks and their critical difference"
    return album.draw(dataset, "ranks", title, words, size, partial(_ranks, groups, ranked), alt)


def _ranks(groups: Sequence[Group], ranked: Ranking, figure: Figure) -> None:
    names = ["all metrics", *(s.column.name for s in ranked.counted)]
    lines = [ranked.ranks, *(s.ranks for s in ranked.counted)]
    axes, count = figure.subplots(), len(groups)
    _bar(axes, 1, 1 + ranked.critical, -1, ends=True)
    for y, line in enumerate(lines):
        levels: list[float] = []  # the ends of this line's bars; bars on one level follow each other
        for clique in cliques(line, ranked.critical):
            low, high = line[clique[0]], line[clique[-1]]
            level = next((n for n, end in enumerate(levels) if end < low), len(levels))
            levels[level : level + 1] = [high]
            _bar(axes, low - 0.03, high + 0.03, y + 0.22 + 0.09 * level)
    for number, (group, ink) in enumerate(zip(groups, inks(groups), strict=True)):
        axes.plot(
            [line[number] for line in lines],
            range(len(lines)),
            linestyle="",
            marker=MARKERS[number % len(MARKERS)],
            markersize=7,
            color=ink,
            markeredgecolor=INK,
            markeredgewidth=0.8,
            label=group.label,
        )
    axes.set_yticks(range(-1, len(lines)), [f"critical difference {ranked.critical:.2f}", *names])
    axes.axhline(0.55, color=INK, linewidth=0.6)
    axes.set(xlim=(0.8, count + 0.2), ylim=(len(lines) - 0.4, -1.5), xlabel="average rank (1 is best)")
    axes.set_xticks(range(1, count + 1))
    figure.legend(loc="outside upper left", ncols=min(6, count), fontsize=8)


def _bar(axes: Axes, low: float, high: float, y: float, *, ends: bool = False) -> None:
    axes.plot([low, high], [y, y], color=INK, linewidth=2.2, marker="|" if ends else "", solid_capstyle="butt")


@dataclass(frozen=True)
class Polygons:
    """The radar of one dataset: a line for each method, a corner for each metric; `shares` (methods, metrics), 0..1."""

    labels: Sequence[str]
    columns: Sequence[Column]
    shares: Array


def shares(ranked: Ranking, groups: Sequence[int]) -> Array:
    """Scale the means of some groups from the worst (0) to the best (1) of them on each counted metric.

    Shape: (groups, metrics); 1 where all are equal.
    """
    means = np.stack([s.column.sign * s.means[list(groups)] for s in ranked.counted], axis=1)
    low, high = means.min(0), means.max(0)
    return np.where(high > low, (means - low) / np.where(high > low, high - low, 1), 1.0)


def radar(album: Album, sets: Mapping[str, Polygons]) -> Shown:
    """Draw each method's means on all metrics as a polygon, one panel for each dataset.

    Source: after SMFNet, Figure 1.
    """
    across = min(3, len(sets))
    size = (3.9 * across, 3.6 * math.ceil(len(sets) / across) + 0.5)
    words = "Means over the test images. Each axis runs from the worst method of the panel (inner ring) to the best "
    words += "(outer ring). The axes have no common unit, and even small differences fill them: see the tables for "
    words += "values and intervals. The methods are shown with their variant base, and those with given weights."
    return album.draw("overview", "radar", "All metrics at a glance", words, size, partial(_radar, sets, across))


def _radar(sets: Mapping[str, Polygons], across: int, figure: Figure) -> None:
    grid = figure.subplots(math.ceil(len(sets) / across), across, squeeze=False, subplot_kw={"projection": "polar"})
    methods = list(dict.fromkeys(label for one in sets.values() for label in one.labels))
    handles = {}
    for axes, (dataset, one) in zip(grid.flat, sets.items(), strict=False):
        angles = np.linspace(0, 2 * np.pi, len(one.columns), endpoint=False)
        for label, line in zip(one.labels, 0.25 + 0.75 * one.shares, strict=True):
            number = methods.index(label)
            (handles[label],) = axes.plot(
                [*angles, angles[0]],
                [*line, line[0]],
                LINES[number % len(LINES)],
                color=PALETTE[number % len(PALETTE)],
                marker=MARKERS[number % len(MARKERS)],
                markersize=3.5,
                linewidth=1.3,
            )
        axes.set_xticks(angles, [f"{c.plain}{arrow(c)}" for c in one.columns], fontsize=8)
        for angle, text in zip(angles, axes.get_xticklabels(), strict=True):  # starts outside the ring, not across it
            side = round(math.sin(angle), 3)
            text.set_horizontalalignment("center" if side == 0 else ("right" if side > 0 else "left"))
        axes.set(yticks=[0.25, 0.625, 1.0], yticklabels=[], ylim=(0, 1.04))
        axes.set_theta_zero_location("N")
        axes.set_title(dataset, y=1.13)  # above the labels of the axes
    _hide(grid.flat[len(sets) :])
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(4, len(methods)), fontsize=8)

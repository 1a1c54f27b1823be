"""Figures as SVG with equal bytes for equal numbers: training curves, distributions over images, ranks."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmfuse.errors import UserError
from mmfuse.plain import read_table
from mmfuse.reporting.pictures import PALETTE
from mmfuse.reporting.scores import Array, Column, Group
from mmfuse.reporting.standing import Ranking
from mmfuse.reporting.statistics import cliques

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#333333"
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "mmfuse",
    "svg.fonttype": "path",
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _INK,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "path.simplify": True,
}
_MARKERS = "osD^vPX*<>"  # shapes as well as colours: variants of a method share its colour
_POINTS = 300  # ASSUME: more points than this cannot be told apart at the figure's width


@dataclass(frozen=True)
class History:
    """The losses of one training part: steps and totals; the validation has fewer points."""

    part: str
    steps: Array
    train: Array
    val_steps: Array
    val: Array


def read_history(path: Path, part: str) -> History:
    """Read the table of losses that the training wrote (empty cells where nothing was measured)."""
    fix = "run the stage `train` for it again"
    rows = read_table(path, ("step", "train/total", "val/total"), fix=fix)

    def column(name: str) -> tuple[Array, Array]:
        try:
            pairs = [(float(r["step"]), float(r[name])) for r in rows if r[name].strip()]
        except ValueError as error:
            raise UserError(f"Damaged file: {path}", expected="numbers", found=error, fix=fix) from error
        found = np.array([p for p in pairs if math.isfinite(p[1])], dtype=np.float64).reshape(-1, 2)
        return found[:, 0], found[:, 1]

    return History(part, *column("train/total"), *column("val/total"))


def _svg(figure: Figure) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _thinned(steps: Array, values: Array) -> tuple[Array, Array]:
    """Return means over blocks of steps, so that at most `_POINTS` remain."""
    block = math.ceil(len(steps) / _POINTS)
    if block <= 1:
        return steps, values
    starts = np.arange(0, len(steps), block)
    counts = np.diff(np.append(starts, len(steps)))
    return np.add.reduceat(steps, starts) / counts, np.add.reduceat(values, starts) / counts


def curves(histories: Sequence[History]) -> str:
    """Draw the training and validation totals of a system's parts side by side; returns a data URI."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        across = min(3, len(histories))
        lines = math.ceil(len(histories) / across)
        figure = Figure(figsize=(4.2 * across, 2.7 * lines), layout="constrained")
        grid = figure.subplots(lines, across, squeeze=False)
        for axes, history in zip(grid.flat, histories, strict=False):
            axes.plot(*_thinned(history.steps, history.train), color=PALETTE[0], linewidth=1.2, label="training")
            if history.val.size:
                axes.plot(
                    history.val_steps, history.val, color=PALETTE[3], marker="o", markersize=3, label="validation"
                )
                lowest = int(history.val.argmin())
                axes.axvline(
                    history.val_steps[lowest], color=_INK, linewidth=0.8, linestyle=":", label="lowest validation"
                )
            shown = np.concatenate([history.train, history.val])
            if shown.size and shown.min() > 0 and shown.max() > 20 * shown.min():
                axes.set_yscale("log")
            axes.set(title=history.part, xlabel="step", ylabel="total loss")
            axes.legend(loc="upper right", fontsize=8)
        for axes in grid.flat[len(histories) :]:
            axes.set_visible(False)
        return _svg(figure)


def _inks(groups: Sequence[Group]) -> list[str]:
    """Return one colour a method."""
    methods = list(dict.fromkeys(g.method for g in groups))
    return [PALETTE[methods.index(g.method) % len(PALETTE)] for g in groups]


def boxes(groups: Sequence[Group], columns: Sequence[Column]) -> str:
    """Draw each metric's distribution over the images, one box a method; returns a data URI."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    labels, inks = [g.label for g in groups], _inks(groups)
    across = min(4, len(columns))
    lines = math.ceil(len(columns) / across)
    with mpl.rc_context(_STYLE):
        height = 0.7 + 0.27 * len(groups)
        margin = 0.07 * max(len(name) for name in labels)
        figure = Figure(figsize=(2.7 * across + margin, height * lines), layout="constrained")
        grid = figure.subplots(lines, across, squeeze=False, sharey=True)
        for axes, column in zip(grid.flat, columns, strict=False):
            number = groups[0].members[0].metrics.index(column)
            series = [g.values[number][np.isfinite(g.values[number])] for g in groups]
            drawn = axes.boxplot(
                series,
                orientation="horizontal",
                widths=0.62,
                patch_artist=True,
                medianprops={"color": "#000000", "linewidth": 1.2},
                flierprops={"marker": ".", "markersize": 2.5, "markeredgecolor": _INK},
                whiskerprops={"color": _INK},
                capprops={"color": _INK},
            )
            for box, ink in zip(drawn["boxes"], inks, strict=True):
                box.set(facecolor=ink, edgecolor=_INK, linewidth=0.8, alpha=0.75)
            axes.set_yticks(range(1, len(labels) + 1), labels)
            arrow = {1: " ↑", -1: " ↓", 0: ""}[column.sign]
            axes.set_title(f"{column.name}{arrow}")
            axes.grid(visible=False, axis="y")
        grid[0, 0].invert_yaxis()
        for axes in grid.flat[len(columns) :]:
            axes.set_visible(False)
        return _svg(figure)


def ranks(groups: Sequence[Group], ranked: Ranking) -> str:
    """Draw the average ranks, a line a metric, with bars over what the critical difference does not part; a data URI.

    Source: after Demsar, Statistical comparisons of classifiers over multiple data sets, JMLR 2006, figure 1.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    names = ["all metrics", *(s.column.name for s in ranked.counted)]
    lines = [ranked.ranks, *(s.ranks for s in ranked.counted)]
    count, inks = len(groups), _inks(groups)
    with mpl.rc_context(_STYLE):
        beside = math.ceil(count / 6)
        figure = Figure(figsize=(9.5, 1.2 + 0.22 * beside + 0.38 * len(lines)), layout="constrained")
        axes = figure.subplots()
        _bar(axes, 1, 1 + ranked.critical, -1, ends=True)
        for y, line in enumerate(lines):
            levels: list[float] = []  # where the bars of this line end, one bar after the other at each level
            for clique in cliques(line, ranked.critical):
                low, high = line[clique[0]], line[clique[-1]]
                level = next((n for n, end in enumerate(levels) if end < low), len(levels))
                levels[level : level + 1] = [high]
                _bar(axes, low - 0.03, high + 0.03, y + 0.22 + 0.09 * level)
        for number, (group, ink) in enumerate(zip(groups, inks, strict=True)):
            axes.plot(
                [line[number] for line in lines],
                range(len(lines)),
                linestyle="",
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=7,
                color=ink,
                markeredgecolor=_INK,
                markeredgewidth=0.8,
                label=group.label,
            )
        axes.set_yticks(range(-1, len(lines)), [f"critical difference {ranked.critical:.2f}", *names])
        axes.axhline(0.55, color=_INK, linewidth=0.6)
        axes.set(xlim=(0.8, count + 0.2), ylim=(len(lines) - 0.4, -1.5), xlabel="average rank (1 is best)")
        axes.set_xticks(range(1, count + 1))
        figure.legend(loc="outside upper left", ncols=min(6, count), fontsize=8)
        return _svg(figure)


def _bar(axes: Axes, low: float, high: float, y: float, *, ends: bool = False) -> None:
    axes.plot([low, high], [y, y], color=_INK, linewidth=2.2, marker="|" if ends else "", solid_capstyle="butt")


def drawn(paint: Callable[[Figure], None], width: float, height: float) -> str:
    """Let somebody else paint a figure of a width and a height in inches, in the report's style; returns a data URI."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure)
        return _svg(figure)

"""The page of the cost of fusing: time, memory, parameters and multiply-adds, beside the ranks by the metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mmfuse.files.writing import sheet_text
from mmfuse.reporting import latex, tables
from mmfuse.reporting.latex import Head
from mmfuse.reporting.pictures import PALETTE
from mmfuse.reporting.provenance import RecordedJob, machine_of
from mmfuse.reporting.ranking import Ranking
from mmfuse.reporting.scores import Array, Group
from mmfuse.reporting.study import Page, Study
from mmfuse.reporting.style import INK, MARKERS, Album, Shown, seconds
from mmfuse.words import number_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# from dark to light, so that the order is also visible in grey
_PLACES = ("#08306b", "#2f7ebc", "#94c4df", "#d9d9d9", "#f5f5f5")


@dataclass(frozen=True)
class Cost:
    """The cost of fusing one pair with a system.

    Attributes:
        seconds: Time per image, averaged over the seeds.
        parameters: Number of parameters of the network.
        side: Width × height of the pair for the count; empty in records of an earlier version, as are the next two.
        multiply_adds: Multiply-adds for that pair.
        peak_mib: The largest memory, over the seeds.
        machines: The machines of the measurements.
        anchor: The anchor of the first seed's run in the page.
    """

    seconds: float
    parameters: int
    side: str
    multiply_adds: int | None
    peak_mib: float | None
    machines: tuple[str, ...]
    anchor: str


def cost(runs: Sequence[RecordedJob]) -> Cost | None:
    """Return the measurements of one system's `fuse` runs; None if one of them measured nothing."""
    measured = [{name: v for name, v in run.record["measured"].items() if not isinstance(v, str)} for run in runs]
    known = [one for one in measured if {"seconds_per_image", "parameters"} <= one.keys()]
    if not known or len(known) < len(measured):
        return None
    first = known[0]
    peaks = [one["peak_mib"] for one in known if "peak_mib" in one]
    return Cost(
        float(np.mean([one["seconds_per_image"] for one in known])),
        int(first["parameters"]),
        f"{first['width']}×{first['height']}" if {"width", "height"} <= first.keys() else "",
        first.get("multiply_adds"),
        max(peaks) if peaks else None,
        tuple(dict.fromkeys(machine_of(run) for run in runs)),
        runs[0].anchor,
    )


def pages(study: Study) -> list[Page]:
    """Return the page of the costs, if any system was timed."""
    parts, lines, rows = [], [], []
    for dataset, groups in study.groups.items():
        costs = [cost([study.fuse_run(dataset, member.system) for member in group.members]) for group in groups]
        if not any(costs):
            continue
        ranked = study.boards[dataset].ranking
        known = [(group, one) for group, one in zip(groups, costs, strict=True) if one]
        figures: list[Shown] = []
        if ranked:
            figures = [
                histogram(study.album, dataset, groups, ranked, costs),
                times(study.album, dataset, groups, ranked.ranks, costs),
            ]
        shown = [(group.label, printed(one), one.anchor) for group, one in known]
        parts.append({"dataset": dataset, "rows": shown, "figures": figures})
        lines += [_line(dataset, group, one) for group, one in known]
        rows += [[latex.escape(text) for text in (dataset, group.label, *printed(one))] for group, one in known]
    if not parts:
        return []
    heads = ["dataset", "method", "variant", "width x height", "parameters", "multiply-adds", "seconds per image"]
    study.sheets["efficiency.csv"] = sheet_text([[*heads, "peak MiB", "machine"], *lines])
    names = ("Dataset", "Method", "Size", "Parameters", "Multiply-adds", "Seconds per image", "Memory")
    caption = "The cost of fusing one pair. Times and memory were measured on the machine that ran the study."
    head = [Head(name) for name in names]
    study.sheets["efficiency.tex"] = latex.table(caption, "tab:efficiency", [head], rows, left=2)
    return [Page("efficiency", "Efficiency", "efficiency.html.jinja", {"parts": parts})]


def _line(dataset: str, group: Group, one: Cost) -> list[Any]:
    known = ["" if value is None else value for value in (one.multiply_adds, one.peak_mib)]
    start = [dataset, group.method, group.variant, one.side.replace("×", "x"), one.parameters]
    return [*start, known[0], repr(one.seconds), known[1], "; ".join(one.machines)]


def printed(one: Cost) -> tuple[str, str, str, str, str]:
    """Return size, parameters, multiply-adds, seconds and memory as printed."""
    return (
        one.side or tables.UNDEFINED,
        counted(one.parameters),
        tables.UNDEFINED if one.multiply_adds is None else counted(one.multiply_adds),
        f"{one.seconds:.3g}",
        tables.UNDEFINED if one.peak_mib is None else f"{one.peak_mib:.0f} MiB",
    )


def counted(count: int) -> str:
    """Return a number with three digits and its prefix: k, M or G."""
    for unit, name in ((1_000_000_000, " G"), (1_000_000, " M"), (1_000, " k")):
        if count >= unit:
            return f"{count / unit:.3g}{name}"
    return str(count)


def places(ranked: Ranking) -> Array:
    """Return the number of metrics on which each group is first, second, ... by its average rank over the images.

    Groups with equal ranks share the better place.

    Shape: (groups, groups).
    """
    count = len(ranked.ranks)
    found = np.zeros((count, count))
    for standing in ranked.counted:
        order = (standing.ranks[:, None] > standing.ranks[None] + 1e-9).sum(1)
        found[np.arange(count), order] += 1
    return found


def histogram(
    album: Album, dataset: str, groups: Sequence[Group], ranked: Ranking, costs: Sequence[Cost | None]
) -> Shown:
    """Draw how often each system is first, second, ..., beside its time; the best mean rank is on top.

    Source: after LKC-FUNet, Figure 7.
    """
    words = f"Left: number of the {number_of(len(ranked.counted), 'metric')} on which a system is first, second, "
    words += "third, fourth or behind, by its average rank over the images; systems are in the order of the mean rank. "
    words += "Right: seconds per image, where measured."
    size = (8.4, 1.3 + 0.34 * len(groups))
    title = f"Places on the metrics, and time, {dataset}"
    return album.draw(dataset, "places", title, words, size, partial(_histogram, groups, ranked, costs))


def _histogram(groups: Sequence[Group], ranked: Ranking, costs: Sequence[Cost | None], figure: Figure) -> None:
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2.2, 1))
    order = np.argsort(ranked.ranks, kind="stable")
    counts = places(ranked)[order]
    names = ("first", "second", "third", "fourth", "behind")[: len(groups)]
    start = np.zeros(len(groups))
    for number, (name, ink) in enumerate(zip(names, _PLACES, strict=False)):
        share = counts[:, number] if number < 4 else counts[:, 4:].sum(1)
        left.barh(range(len(order)), share, left=start, color=ink, edgecolor=INK, linewidth=0.6, label=name)
        for y, (begin, width) in enumerate(zip(start, share, strict=True)):
            if width:
                light = "#ffffff" if number < 2 else "#000000"
                left.text(begin + width / 2, y, f"{width:.0f}", ha="center", va="center", fontsize=8, color=light)
        start += share
    left.set_yticks(range(len(order)), [f"{groups[i].label} ({ranked.ranks[i]:.2f})" for i in order])
    left.set(xlabel="metrics", xlim=(0, len(ranked.counted)))
    left.grid(visible=False)
    found = [(y, costs[i]) for y, i in enumerate(order)]
    timed = [(y, one.seconds) for y, one in found if one]
    right.barh([y for y, _ in timed], [value for _, value in timed], color="#bbbbbb", edgecolor=INK, linewidth=0.6)
    seconds(right, [value for _, value in timed])
    left.invert_yaxis()
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=5, fontsize=8)


def times(album: Album, dataset: str, groups: Sequence[Group], ranks: Array, costs: Sequence[Cost | None]) -> Shown:
    """Show the mean rank over the metrics against the seconds per image.

    Source: after LKC-FUNet, Figure 7.
    """
    points = [(g.label, float(r), c) for g, r, c in zip(groups, ranks, costs, strict=True) if c is not None]
    machines: dict[str, list[str]] = {}
    for label, _, found in points:
        machines.setdefault("; ".join(found.machines), []).append(label)
    where = [machine + (f" ({', '.join(labels)})" if len(machines) > 1 else "") for machine, labels in machines.items()]
    without = [group.label for group, found in zip(groups, costs, strict=True) if found is None]
    words = "Mean rank over the metrics of the table (1 is best, at the top) against the time per image, from the "
    words += "pixels of a pair to the fused ones: median over the test images, mean over the seeds. Times differ from "
    words += f"run to run and between machines; measured on {' and '.join(where)}."
    words += f" Left out, because their time was not measured: {', '.join(without)}." if without else ""
    size = (7.2, 2.8 + 0.2 * -(-len(points) // 3))
    paint = partial(_times, points, len(groups))
    return album.draw(dataset, "times", f"Time and quality, {dataset}", words, size, paint)


def _times(points: Sequence[tuple[str, float, Cost]], systems: int, figure: Figure) -> None:
    axes = figure.subplots()
    methods = list(dict.fromkeys(label.partition(".")[0] for label, _, _ in points))
    for number, (label, rank, found) in enumerate(points):
        axes.plot(
            found.seconds,
            rank,
            linestyle="",
            marker=MARKERS[number % len(MARKERS)],
            markersize=7,
            color=PALETTE[methods.index(label.partition(".")[0]) % len(PALETTE)],
            markeredgecolor=INK,
            markeredgewidth=0.8,
            label=f"{label} ({counted(found.parameters)})",
        )
    seconds(axes, [found.seconds for _, _, found in points])
    axes.set(ylim=(systems + 0.2, 0.8), ylabel="mean rank (1 is best)")
    axes.margins(x=0.15)
    figure.legend(
        loc="outside upper left", ncols=3, fontsize=8, title="system (parameters of its network)", alignment="left"
    )

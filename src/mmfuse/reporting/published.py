"""The numbers printed in the papers beside those measured in the study: the papers' tables in their own layout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from mmfuse.errors import UserError
from mmfuse.files.reading import read_table
from mmfuse.files.writing import sheet_text
from mmfuse.reporting import latex, statistics
from mmfuse.reporting.latex import Head
from mmfuse.reporting.scores import Array, Group, Scores, average
from mmfuse.reporting.tables import UNDEFINED, digits, printed

Printed = dict[str, dict[str, str]]  # row of a table -> metric -> number as printed
TITLES = {"lkc_funet": "LKC-FUNet", "mma_unet": "MMA-UNet", "smfnet": "SMFNet"}
_MEASURES = {"AP50": "AP@0.5", "AP50-95": "AP@[0.5:0.95]", "IoU": "IoU"}
_MEANS = {"mAP50": ("AP@0.5", "mAP"), "mAP50-95": ("AP@[0.5:0.95]", "mAP"), "mIoU": ("IoU", "mIoU")}


@dataclass(frozen=True)
class Measured:
    """One metric of one system over all images of a row: mean, 95 % interval, and standard deviation between seeds."""

    mean: float
    low: float
    high: float
    seeds: float


@dataclass(frozen=True)
class Line:
    """One row of a paper's table: its name there, our system or image set (or nothing), both numbers of each metric."""

    name: str
    system: str
    cells: tuple[tuple[str, Measured | None], ...]


@dataclass(frozen=True)
class Beside:
    """One table of a paper with our numbers.

    Attributes:
        paper: The paper's name in data/published.csv.
        table: The table's number there.
        of: The table's dataset there.
        datasets: Our corresponding datasets.
        convention: The definition of our metrics: a convention, or the protocol of detectors or segmenters.
        metrics: Its columns.
        lines: Its rows.
        images: Number of test images behind our numbers.
        seeds: Number of seeds over which our numbers are averaged.
        missing: Columns that this study cannot measure, with the reason.
        note: Why the numbers may differ.
    """

    paper: str
    table: str
    of: str
    datasets: tuple[str, ...]
    convention: str
    metrics: tuple[str, ...]
    lines: tuple[Line, ...]
    images: int
    seeds: int
    missing: Mapping[str, str]
    note: str

    @property
    def title(self) -> str:
        """The heading in the report."""
        return f"{TITLES.get(self.paper, self.paper)}, Table {self.table}, {self.of}"

    @property
    def columns(self) -> list[tuple[str, str]]:
        """The columns as printed: the measure of their group (or nothing), and the name below."""
        return [_column(metric) for metric in self.metrics]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The measure that neighbouring columns share, and the number of these columns."""
        return [(name, len(list(alike))) for name, alike in groupby(group for group, _ in self.columns)]


def _column(metric: str) -> tuple[str, str]:
    """Return the group of a column and its name within the group: `AP50 Car` is the car under AP@0.5."""
    if metric in _MEANS:
        return _MEANS[metric]
    measure, _, kind = metric.partition(" ")
    return (_MEASURES[measure], kind) if kind and measure in _MEASURES else ("", metric)


def read(path: Path, paper: str, table: str, of: str) -> Printed:
    """Return one printed table, with its order of rows and metrics.

    Raises:
        UserError: there is no such table.
    """
    columns = ("paper", "table", "dataset", "method", "metric", "value")
    rows = read_table(path, columns, fix="correct the row given above")
    found: Printed = {}
    for row in rows:
        if (row["paper"], row["table"], row["dataset"]) == (paper, table, of):
            found.setdefault(row["method"], {})[row["metric"]] = row["value"]
    if not found:
        known = dict.fromkeys(f"{r['paper']} {r['table']} {r['dataset']}" for r in rows)
        raise UserError(
            f"report.published names a table that {path} does not have.",
            expected="; ".join(known),
            found=f"{paper} {table} {of}",
        )
    return found


def asked(entry: Mapping[str, Any], path: Path) -> Printed:
    """Return the printed table that an entry of `report.published` names.

    Raises:
        UserError: the table or one of its rows does not exist.
    """
    table = read(path, entry["paper"], entry["table"], entry["of"])
    unknown = next((name for name in entry["rows"] if name not in table), None)
    if unknown is not None:
        raise UserError(
            f"report.published: Table {entry['table']} of {entry['paper']} has no row {unknown!r}.",
            expected=", ".join(table),
            found=unknown,
        )
    return table


def metrics_of(table: Printed) -> tuple[str, ...]:
    """Return the columns of a printed table in their order."""
    return tuple(dict.fromkeys(metric for row in table.values() for metric in row))


def build(entry: Mapping[str, Any], path: Path, groups: Mapping[str, Sequence[Group]]) -> Beside:
    """Put our numbers beside the printed ones.

    Our mean is taken over the images of all the entry's datasets together, with each image's score averaged over the
    seeds, by the paper's own convention if the study measures it.

    Args:
        entry: An entry of `report.published`.
        path: The printed tables.
        groups: The systems of each dataset.

    Raises:
        UserError: the table or one of its rows does not exist.
    """
    table = asked(entry, path)
    metrics = metrics_of(table)
    lines, members = [], [groups[entry["datasets"][0]][0].members]
    for name, row in table.items():
        system = entry["rows"].get(name, "")
        ours = [group_of(groups[dataset], system) for dataset in entry["datasets"]] if system else []
        members += [ours[0].members] if ours else []
        cells = ((row.get(m, ""), measure(ours, m, entry["paper"]) if ours else None) for m in metrics)
        lines.append(Line(name, system, tuple(cells)))
    return Beside(
        entry["paper"],
        entry["table"],
        entry["of"],
        tuple(entry["datasets"]),
        _convention(members[0][0], entry["paper"]),
        metrics,
        tuple(lines),
        sum(groups[dataset][0].values.shape[1] for dataset in entry["datasets"]),
        max(len(seeds) for seeds in members[1:] or members),
        _unmeasured(metrics, lines),
        entry["note"],
    )


def _unmeasured(metrics: Sequence[str], lines: Sequence[Line]) -> dict[str, str]:
    """Return the columns that none of our rows has."""
    known = {metric for line in lines for metric, (_, ours) in zip(metrics, line.cells, strict=True) if ours}
    return {metric: "not among evaluate.metrics" for metric in metrics if metric not in known}


def group_of(groups: Sequence[Group], system: str) -> Group:
    """Return the group of METHOD.VARIANT."""
    return next(group for group in groups if f"{group.method}.{group.variant}" == system)


def _convention(scores: Scores, paper: str) -> str:
    """Return the convention for the comparison: the paper's own if the study measures it, else the study's main one."""
    return paper if any(column.convention == paper for column in scores.metrics) else scores.convention


def places_of(groups: Sequence[Group], metric: str, paper: str) -> list[int] | None:
    """Return the index of a metric among those of each group; None if it is not measured."""
    places = []
    for group in groups:
        first = group.members[0]
        known = {(column.plain, column.convention): n for n, column in enumerate(first.metrics)}
        place = known.get((metric, _convention(first, paper)))
        if place is None:
            return None
        places.append(place)
    return places


def measure(groups: Sequence[Group], metric: str, paper: str) -> Measured | None:
    """Return one metric of one system over the images of several datasets; None if it is not measured."""
    places = places_of(groups, metric, paper)
    if places is None:
        return None
    whole: Array = np.concatenate([group.values[place] for group, place in zip(groups, places, strict=True)])
    low, high = statistics.interval(whole[None])[0]
    means = [
        average(np.concatenate([member.values[place] for member, place in zip(alike, places, strict=True)]))
        for alike in zip(*(group.members for group in groups), strict=True)
    ]
    return Measured(average(whole), low, high, float(np.std(means, ddof=1)) if len(means) > 1 else math.nan)


def beside(number: str, found: Measured | None) -> tuple[str, ...]:
    """Return our mean with the decimals of the printed number, its interval, and the deviation between seeds."""
    if found is None:
        return ()
    places = len(number.partition(".")[2]) or 3
    words = [printed(found.mean, places)]
    if math.isfinite(found.low):
        words.append(f"[{printed(found.low, places)}, {printed(found.high, places)}]")
    if math.isfinite(found.seeds):
        words.append(f"seeds ± {printed(found.seeds, places)}")
    return tuple(words) if words[0] != UNDEFINED else (UNDEFINED,)


def as_csv(tables: Sequence[Beside]) -> str:
    """Return the tables with all digits: one line for each row of the paper and metric, in the paper's unit."""
    names = ["paper", "table", "dataset", "row", "metric", "printed", "system", "measured on", "convention"]
    rows = [[*names, "images", "mean", "low", "high", "seeds", "seeds std", "not measured"]]
    for table in tables:
        for line in table.lines:
            for metric, (number, found) in zip(table.metrics, line.cells, strict=True):
                start = [table.paper, table.table, table.of, line.name, metric, number]
                if found is None:
                    reason = table.missing.get(metric, "") if line.system else "a row that the study does not measure"
                    rows.append([*start, *[""] * 9, reason])
                    continue
                ours = [line.system, " ".join(table.datasets), table.convention, str(table.images)]
                mean, *others = digits((found.mean, found.low, found.high, found.seeds))
                rows.append([*start, *ours, mean, *others[:2], str(table.seeds), others[2], ""])
    return sheet_text(rows)


def ending(table: Beside) -> str:
    """Return the end of a caption: what is not measured and why, and why the numbers may differ."""
    reasons: dict[str, list[str]] = {}
    for metric, reason in table.missing.items():
        reasons.setdefault(reason, []).append(metric)
    said = "; ".join(f"{', '.join(metrics)} ({reason})" for reason, metrics in reasons.items())
    return (f"Not measured by this study: {said}. " if said else "") + f"Why they may differ: {table.note}"


def as_latex(table: Beside, caption: str, label: str) -> str:
    """Return one table as in the report: the paper's rows, with ours below those that are measured."""
    first = [Head(""), *(Head(name, span) for name, span in table.groups)]
    heads = [first] if any(name for name, _ in table.groups) else []
    heads.append([Head("Method"), *(Head(name) for _, name in table.columns)])
    rows = []
    for line in table.lines:
        rows.append([latex.escape(line.name), *(latex.escape(number) for number, _ in line.cells)])
        if line.system:
            ours = [beside(number, found) for number, found in line.cells]
            rows.append([latex.marked("measured", "below"), *(latex.escape("".join(words[:1])) for words in ours)])
            rows += [["", *(latex.marked("".join(words[k : k + 1]), "small") for words in ours)] for k in (1, 2)]
    return latex.table(caption, f"tab:{label}", heads, [row for row in rows if any(row)])

"""What the papers print beside what the study measured: their tables in their own layout."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfuse import plan
from mmfuse.errors import UserError
from mmfuse.plain import read_table
from mmfuse.reporting import latex, statistics
from mmfuse.reporting.latex import Head
from mmfuse.reporting.scores import Array, Group, Scores, average
from mmfuse.reporting.study import Page, Study
from mmfuse.reporting.tables import UNDEFINED, printed

Printed = dict[str, dict[str, str]]  # row of a table -> metric -> number as printed
TITLES = {"lkc_funet": "LKC-FUNet", "mma_unet": "MMA-UNet", "smfnet": "SMFNet"}


@dataclass(frozen=True)
class Measured:
    """One metric of one system over all images of a row: mean, 95 % interval, and the deviation between seeds."""

    mean: float
    low: float
    high: float
    seeds: float


@dataclass(frozen=True)
class Line:
    """One row of a paper's table: its name there, our system (or nothing), and a pair of numbers a metric."""

    name: str
    system: str
    cells: tuple[tuple[str, Measured | None], ...]


@dataclass(frozen=True)
class Beside:
    """One table of a paper with our numbers; `images` and `seeds` tell what ours are the mean of."""

    paper: str
    table: str
    of: str
    datasets: tuple[str, ...]
    convention: str
    metrics: tuple[str, ...]
    lines: tuple[Line, ...]
    images: int
    seeds: int
    note: str

    @property
    def title(self) -> str:
        """The heading in the report."""
        return f"{TITLES.get(self.paper, self.paper)}, Table {self.table}, {self.of}"


def read(path: Path, paper: str, table: str, of: str) -> Printed:
    """Return one printed table, rows and metrics in its order.

    Raises:
        UserError: there is no such table among the printed ones.
    """
    columns = ("paper", "table", "dataset", "method", "metric", "value")
    rows = read_table(path, columns, fix="correct the row that it names")
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


def build(entry: Mapping[str, Any], path: Path, groups: Mapping[str, Sequence[Group]]) -> Beside:
    """Put our numbers beside the printed ones.

    Our mean is taken over the images of all the entry's datasets together, each image's score averaged over the seeds,
    by the paper's own convention if the study measures that one too.

    Args:
        entry: One of `report.published`.
        path: The printed tables.
        groups: The systems of each dataset.

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
    metrics = tuple(dict.fromkeys(metric for row in table.values() for metric in row))
    lines, members = [], [groups[entry["datasets"][0]][0].members]
    for name, row in table.items():
        system = entry["rows"].get(name, "")
        ours = [_group(groups[dataset], system) for dataset in entry["datasets"]] if system else []
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
        entry["note"],
    )


def _group(groups: Sequence[Group], system: str) -> Group:
    return next(group for group in groups if f"{group.method}.{group.variant}" == system)


def _convention(scores: Scores, paper: str) -> str:
    """Return the convention to compare by: the paper's own if the study measures it, else the study's first one."""
    return paper if any(column.convention == paper for column in scores.metrics) else scores.convention


def measure(groups: Sequence[Group], metric: str, paper: str) -> Measured | None:
    """Return one metric of one system over the images of several datasets; None if it is not measured."""
    places = []
    for group in groups:
        first = group.members[0]
        known = {(column.plain, column.convention): n for n, column in enumerate(first.metrics)}
        place = known.get((metric, _convention(first, paper)))
        if place is None:
            return None
        places.append(place)
    whole: Array = np.concatenate([group.values[place] for group, place in zip(groups, places, strict=True)])
    low, high = statistics.interval(whole[None])[0]
    means = [
        average(np.concatenate([member.values[place] for member, place in zip(alike, places, strict=True)]))
        for alike in zip(*(group.members for group in groups), strict=True)
    ]
    return Measured(average(whole), low, high, float(np.std(means, ddof=1)) if len(means) > 1 else math.nan)


def beside(number: str, found: Measured | None) -> tuple[str, ...]:
    """Return our mean with as many decimals as the printed number, its interval, and the deviation between seeds."""
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
    """Return the tables with all digits: one line a row of the paper and metric."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ["paper", "table", "dataset", "row", "metric", "printed", "system", "measured on", "convention"]
    writer.writerow([*names, "images", "mean", "low", "high", "seeds", "seeds std"])
    for table in tables:
        for line in table.lines:
            for metric, (number, found) in zip(table.metrics, line.cells, strict=True):
                start = [table.paper, table.table, table.of, line.name, metric, number]
                if found is None:
                    writer.writerow([*start, *[""] * 9])
                    continue
                digits = [repr(v) if math.isfinite(v) else "" for v in (found.mean, found.low, found.high)]
                spread = repr(found.seeds) if math.isfinite(found.seeds) else ""
                ours = [line.system, " ".join(table.datasets), table.convention, table.images]
                writer.writerow([*start, *ours, *digits, table.seeds, spread])
    return text.getvalue()


def pages(study: Study) -> list[Page]:
    """Return a page for each paper of which the study re-makes a table."""
    entries = study.settings.get("published", [])
    tables = [build(entry, study.printed, study.groups) for entry in entries]
    study.sheets["published.csv"] = as_csv(tables)
    found = []
    for paper in dict.fromkeys(table.paper for table in tables):
        own = []
        for table in (table for table in tables if table.paper == paper):
            name = f"published.{paper}.{table.table}.{re.sub('[^a-z0-9]+', '_', table.of.lower()).strip('_')}"
            caption = _caption(study, table)
            study.sheets[f"{name}.tex"] = as_latex(table, caption, name)
            study.sheets[f"{name}.csv"] = as_csv([table])
            own.append({"table": table, "file": name, "caption": caption})
        shown = {"paper": TITLES.get(paper, paper), "tables": own, "beside": beside}
        title = f"Paper: {TITLES.get(paper, paper)}"
        found.append(Page(f"paper-{paper}", title, "paper.html.jinja", shown))
    return found


def _caption(study: Study, table: Beside) -> str:
    """Say what a table holds, on what ours was measured and trained, and why it may differ from the printed one."""
    parts = []
    for name in table.datasets:
        count = study.groups[name][0].values.shape[1]
        whole = study.catalog[name].pairs.get("test")
        parts.append(f"{count}{f' of the {whole}' if whole and whole != count else ''} test pairs of {name}")
    seeds = f", mean over {table.seeds} training seeds" if table.seeds > 1 else ", one training seed"
    task = plan.task_of(study.parameters, table.datasets[0])
    trained = ", ".join(study.parameters["study"]["tasks"][task]["train"])
    text = f"{table.title}. Paper: as printed there. Measured: by this study on {' and '.join(parts)}, trained on "
    text += f"{trained}{seeds}; metrics by the convention "
    text += f"{table.convention}; in brackets the 95 % bootstrap interval of the mean over the images. "
    missing = [m for n, m in enumerate(table.metrics) if all(line.cells[n][1] is None for line in table.lines)]
    text += f"Not measured by this study: {', '.join(missing)}. " if missing else ""
    return f"{text}Why they may differ: {table.note}"


def as_latex(table: Beside, caption: str, label: str) -> str:
    """Return one table as printed in the report: for each metric the paper's number and ours."""
    first = [Head(""), *(Head(metric, 2) for metric in table.metrics)]
    second = [Head("Method"), *(Head(text) for _ in table.metrics for text in ("paper", "measured"))]
    rows = []
    for line in table.lines:
        cells = [
            (latex.escape(number), *(latex.escape(words) for words in beside(number, ours)[:1] or ("",)))
            for number, ours in line.cells
        ]
        rows.append([latex.escape(line.name), *(text for pair in cells for text in pair)])
        if line.system:
            ends = [("", latex.marked(" ".join(beside(number, ours)[1:]), "small")) for number, ours in line.cells]
            rows.append(["", *(text for pair in ends for text in pair)])
    return latex.table(caption, f"tab:{label}", [first, second], rows)

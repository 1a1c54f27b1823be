"""The scores of one dataset, read, checked, and grouped by method and variant."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfuse.errors import UserError
from mmfuse.files.reading import damaged, read_json, read_table
from mmfuse.files.writing import checksum
from mmfuse.study.integrity import check_made
from mmfuse.study.plan import System
from mmfuse.study.stages import EVALUATE, key_of
from mmfuse.words import number_of

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Column:
    """One metric: its column's name, its definition, the better direction and the convention.

    `better` is `higher` or `lower`. The name is the plain one (SSIM) or, for a further convention, SSIM.CONVENTION.
    """

    name: str
    definition: str
    better: str
    convention: str

    @property
    def plain(self) -> str:
        """The name without its convention."""
        return self.name.partition(".")[0]

    @property
    def sign(self) -> int:
        """1 where larger is better, -1 where smaller is better, 0 where neither."""
        return {"higher": 1, "lower": -1}.get(self.better, 0)


@dataclass(frozen=True)
class Scores:
    """One system on one dataset: `values` has a row for each metric and a column for each image, NaN if undefined."""

    system: System
    convention: str
    metrics: tuple[Column, ...]
    images: tuple[str, ...]
    values: Array


@dataclass(frozen=True)
class Group:
    """One method and variant; `values` (metrics, images) are averaged over its seeds."""

    method: str
    variant: str
    members: tuple[Scores, ...]
    values: Array

    @property
    def label(self) -> str:
        """The short name in the text and the figures."""
        return self.method if self.variant == "base" else f"{self.method}.{self.variant}"


def existing(path: Path, stage: str) -> Path:
    """Return the path of a file that the report needs.

    Raises:
        UserError: the file is missing; the message names the stage that writes it.
    """
    if not path.is_file():
        raise UserError(
            f"The report needs {path}.",
            expected=f"the file that the stage `{stage}` writes",
            found="no such file",
            fix=f"run the stage `{stage}` for it, or the whole pipeline",
        )
    return path


def _numbers(texts: Sequence[str], path: Path) -> list[float]:
    try:
        return list(map(float, texts))
    except ValueError:  # an empty cell, or a mistake
        return [_number(text, path) for text in texts]


def _number(text: str, path: Path) -> float:
    try:
        return float(text) if text.strip() else math.nan
    except ValueError as error:
        raise UserError(f"{path} contains something that is not a number.", expected="a number", found=text) from error


def _check_summary(summary: Mapping[str, Any], path: Path, fix: str) -> None:
    """Check that a summary has what the report needs."""
    metrics = summary.get("metrics")
    whole = isinstance(metrics, Mapping) and {"images", "convention"} <= summary.keys()
    for name, entry in metrics.items() if isinstance(metrics, Mapping) else ():
        keys = {"definition", "better", "convention", "mean"}
        number = isinstance(entry, Mapping) and (entry.get("mean") is None or isinstance(entry["mean"], (int, float)))
        if not number or not keys <= entry.keys():
            raise damaged(path, ", ".join(sorted(keys)), f"{name}: {entry}", fix)
    if not whole:
        raise damaged(path, "images, convention, metrics", ", ".join(summary) or "nothing", fix)


def read_scores(root: Path, dataset: str, system: System) -> Scores:
    """Read the scores of one system in a project's folder; check that the table and its summary belong together.

    Raises:
        UserError: a file is missing or is not what the stage `evaluate` wrote, or the table and the summary disagree.
    """
    table = existing(root / EVALUATE.path("table", key_of(dataset, system)), "evaluate")
    summary = existing(table.with_suffix(".json"), "evaluate")
    check_made(root, {path.relative_to(root).as_posix(): checksum(path) for path in (table, summary)})
    return read_one(table, system, again="run the stage `evaluate` for it again")


def read_one(table: Path, system: System, *, again: str) -> Scores:
    """Read one table of scores and check that the JSON summary of the same name, in the same folder, belongs to it.

    Args:
        table: The CSV.
        system: The system with these scores.
        again: How to create both files again.

    Raises:
        UserError: a file is missing, or the table and the summary disagree.
    """
    summary_file = table.with_suffix(".json")
    summary, rows = read_json(summary_file, fix=again), read_table(table, ("name",), fix=again)
    _check_summary(summary, summary_file, again)
    header = list(rows[0]) if rows else []
    missing = [name for name in summary["metrics"] if rows and name not in header]
    if missing or len(rows) != summary["images"]:
        raise UserError(
            f"{table} does not belong to {summary_file.name}.",
            expected=f"{number_of(summary['images'], 'image')} with {', '.join(summary['metrics'])}",
            found=f"{number_of(len(rows), 'image')}" + (f", without {', '.join(missing)}" if missing else ""),
            fix=again,
        )
    names = [row["name"] for row in rows]
    if len(set(names)) < len(names):
        twice = min(name for name, count in Counter(names).items() if count > 1)
        raise UserError(f"{table} lists an image twice.", expected="one row for each image", found=twice, fix=again)
    cards = {name: summary["metrics"][name] for name in header if name in summary["metrics"]}  # in the table's order
    metrics = tuple(
        Column(name, *(str(card[key]) for key in ("definition", "better", "convention")))
        for name, card in cards.items()
    )
    values = np.array([_numbers([row[m.name] for row in rows], table) for m in metrics], dtype=np.float64)
    for metric, series in zip(metrics, values, strict=True):
        stated, mean = cards[metric.name]["mean"], average(series)
        if stated is not None and not math.isclose(stated, mean, rel_tol=1e-6, abs_tol=1e-9):
            raise UserError(
                f"{table} and {summary_file.name} disagree on {metric.name}.",
                expected=f"a mean of {stated}",
                found=mean,
                fix=again,
            )
    return Scores(system, str(summary["convention"]), metrics, tuple(names), values)


def average(values: Array) -> float:
    """Return the mean of the defined values; NaN if there is none."""
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if defined.size else math.nan


def spread(values: Array) -> float:
    """Return the standard deviation (divided by n) of the defined values; NaN if there is none."""
    defined = values[np.isfinite(values)]
    return float(defined.std()) if defined.size else math.nan


def grouped(scores: Sequence[Scores], dataset: str) -> list[Group]:
    """Group the seeds of each method and variant, in the order of the study.

    Raises:
        UserError: the systems were not measured in the same way, so their numbers cannot be put in one table.
    """
    first = scores[0]
    for other in scores[1:]:
        same = ("images", "metrics", "convention")
        different = [name for name in same if getattr(other, name) != getattr(first, name)]
        if different:
            raise UserError(
                f"The scores on {dataset} cannot be put in one table.",
                expected=f"the same {', '.join(same)} for every system",
                found=f"{first.system.label} and {other.system.label} differ in their {', '.join(different)}",
                fix="run the stage `evaluate` again for the whole study",
            )
    members: dict[tuple[str, str], list[Scores]] = {}
    for item in scores:
        members.setdefault((item.system.method, item.system.variant), []).append(item)
    return [
        Group(method, variant, tuple(found), np.mean([s.values for s in found], axis=0))
        for (method, variant), found in members.items()
    ]

"""The page of the ablations: each variant of a method compared with its base, with tests over the images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from mmfuse.files.writing import sheet_text
from mmfuse.reporting import comparisons, latex, provenance, statistics, tables
from mmfuse.reporting.latex import Head
from mmfuse.reporting.ranking import Standing
from mmfuse.reporting.scores import Column, Group, average
from mmfuse.reporting.study import Page, Study
from mmfuse.reporting.tables import printed
from mmfuse.study import plan

Apart = tuple[float, float, float]  # the mean difference from the base, and the ends of its interval


@dataclass(frozen=True)
class Cell:
    """One metric of one variant: its mean, the difference from the base with an interval, and the result of a test.

    `sign` is ▲ where the variant is significantly better than the base, ▼ where it is worse.
    """

    mean: str
    apart: str
    interval: str
    sign: str


def pages(study: Study) -> list[Page]:
    """Return the page of the ablations, if the study measures several variants of a method or has a sweep."""
    methods = list(dict.fromkeys(g.method for groups in study.groups.values() for g in groups))
    parts = [part for method in methods for part in _method(study, method)]
    sweeps = [
        comparisons.sweep(study.album, dataset, study.parameters, number, groups)
        for dataset, groups in study.groups.items()
        for number in range(len(study.settings.get("sweeps", [])))
    ]
    shown = {"parts": parts, "sweeps": [found for found in sweeps if found]}
    return [Page("ablations", "Ablations", "ablations.html.jinja", shown)] if parts or shown["sweeps"] else []


def _method(study: Study, method: str) -> list[dict[str, Any]]:
    """Return the table of one method on each dataset that has several of its variants, including `base`.

    Given weights are not an ablation, because they were trained on other pairs.
    """
    found = []
    for dataset, groups in study.groups.items():
        own = [
            number
            for number, group in enumerate(groups)
            if group.method == method and plan.given_weights(study.parameters, group.members[0].system) is None
        ]
        base = next((number for number in own if groups[number].variant == "base"), None)
        if base is None or len(own) < 2:
            continue
        standings = [
            s for s in study.boards[dataset].standings if s.column.convention == groups[0].members[0].convention
        ]
        apart = [apart_from_base(groups, s, own, base) for s in standings]
        rows = [
            (
                groups[number].variant,
                _changes(study, method, groups[number].variant),
                provenance.anchor("row", dataset, f"{method}.{groups[number].variant}"),
                [cell(s, number, base, found[number]) for s, found in zip(standings, apart, strict=True)],
            )
            for number in [base, *(n for n in own if n != base)]
        ]
        columns = [s.column for s in standings]
        name = f"ablations.{dataset}.{method}"
        study.sheets[f"{name}.csv"] = _csv(groups, standings, apart, base)
        study.sheets[f"{name}.tex"] = _latex(method, dataset, columns, rows)
        found.append({"method": method, "dataset": dataset, "columns": columns, "rows": rows, "file": name})
    return found


def _changes(study: Study, method: str, variant: str) -> str:
    block = study.parameters["methods"].get(method, {}).get("variants", {}).get(variant) or {}
    return yaml.safe_dump(block, default_flow_style=True, width=10_000, sort_keys=False).strip() if block else ""


def apart_from_base(groups: Sequence[Group], standing: Standing, own: Sequence[int], base: int) -> dict[int, Apart]:
    """Return the mean difference of each variant from the base over the images, and its 95 % interval.

    All variants are computed at once, so that their intervals use the same resamples of the images.
    """
    row = groups[0].members[0].metrics.index(standing.column)
    differences = np.stack([groups[number].values[row] - groups[base].values[row] for number in own])
    ends = statistics.interval(differences)
    return {
        number: (average(series), float(low), float(high))
        for number, series, (low, high) in zip(own, differences, ends, strict=True)
    }


def cell(standing: Standing, number: int, base: int, apart: Apart) -> Cell:
    """Return one metric of one variant compared with the base."""
    digits = tables.decimals(standing.means)
    mean = printed(float(standing.means[number]), digits)
    if number == base:
        return Cell(mean, "", "", "")
    middle, low, high = apart
    sign = {1: "▲", -1: "▼", 0: ""}[int(standing.better[number, base])]
    told = ("+" if middle > 0 else "") + printed(middle, digits)
    interval = (
        f"[{printed(low, max(1, digits - 1))}, {printed(high, max(1, digits - 1))}]" if math.isfinite(low) else ""
    )
    return Cell(mean, told, interval, sign)


def _csv(
    groups: Sequence[Group], standings: Sequence[Standing], apart: Sequence[Mapping[int, Apart]], base: int
) -> str:
    """Return the table with all digits: one line for each variant and metric."""
    lines: list[list[Any]] = [
        ["variant", "metric", "convention", "images", "mean", "difference", "low", "high", "p", "better"]
    ]
    for number in apart[0] if apart else ():
        for s, found in zip(standings, apart, strict=True):
            start = [groups[number].variant, s.column.plain, s.column.convention, groups[number].values.shape[1]]
            numbers = [float(s.means[number]), *found[number], float(s.p[number, base])]
            better = {1: groups[number].variant, -1: "base", 0: ""}[int(s.better[number, base])]
            lines.append([*start, *tables.digits(numbers), better])
    return sheet_text(lines)


def _latex(
    method: str, dataset: str, columns: Sequence[Column], rows: Sequence[tuple[str, str, str, Sequence[Cell]]]
) -> str:
    heads = [Head("Variant"), *(Head(c.plain + {1: " ↑", -1: " ↓", 0: ""}[c.sign]) for c in columns)]
    lines = []
    for variant, _, _, cells in rows:
        lines.append([latex.escape(variant), *(latex.escape(c.mean) for c in cells)])
        if any(c.apart for c in cells):
            lines.append(["", *(latex.marked(f"{c.apart} {c.sign}".strip(), "small") for c in cells)])
    caption = f"Variants of {method} on {dataset}: mean over the test images and, below, the difference from base. "
    caption += (
        "▲: significantly better than base, ▼: worse (Wilcoxon signed-rank test over the images, Holm's correction)."
    )
    return latex.table(caption, f"tab:{method}-{dataset}", [heads], lines)

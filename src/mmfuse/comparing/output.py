"""A comparison as text, JSON or CSV."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mmfuse.comparing import Comparison, Differences
from mmfuse.comparing.runs import Row
from mmfuse.files.writing import sheet_text
from mmfuse.reporting.downstream_scores import WORDS
from mmfuse.terminal import table, wrapped
from mmfuse.words import number_of


def as_json(found: Comparison) -> str:
    """Return everything that was found, with all digits."""
    runs = [{"name": run.name, "kind": run.kind, "commits": run.commits} for run in found.runs]
    value = {
        "runs": runs,
        **{name: getattr(found, name) for name in ("parameters", "code", "data", "environment", "jobs", "notes")},
        "scores": [asdict(row) for row in found.rows],
    }
    return json.dumps(value, indent=2, ensure_ascii=False)


def as_csv(found: Comparison) -> str:
    """Return the scores as a table."""
    rows = [asdict(row) for row in found.rows]
    return sheet_text([list(rows[0]), *(row.values() for row in rows)])


def lines(found: Comparison) -> list[str]:
    """Return the comparison as text; only the JSON and the CSV have the metrics of further conventions."""
    said = ["runs"]
    said += table([[str(k), r.name, r.kind, "code " + ", ".join(r.commits)] for k, r in enumerate(found.runs, 1)])
    head = [f"run {k}" for k in range(1, len(found.runs) + 1)]
    for name in ("parameters", "code", "data", "environment"):
        differing: Differences = getattr(found, name)
        said += ["", name if differing else f"{name}: no difference"]
        said += table([["", *head], *([key, *map(_value, v)] for key, v in differing.items())] if differing else [])
    jobs = len({job for run in found.runs for job in run.records})
    said += ["", f"jobs with other results: {len(found.jobs)} of {jobs}", *(f"  {job}" for job in found.jobs)]
    shown = [row for row in found.rows if "." not in row.metric]
    for place in dict.fromkeys((row.dataset, row.protocol) for row in shown):
        numbers = {run.name: str(k) for k, run in enumerate(found.runs, 1)}
        said += ["", *_section([row for row in shown if (row.dataset, row.protocol) == place], numbers)]
    return [wrapped(line) for line in [*said, *([""] if found.notes else []), *(f"note: {n}" for n in found.notes)]]


def _section(rows: Sequence[Row], numbers: Mapping[str, str]) -> list[str]:
    """Return the lines of one dataset, or of one protocol; `numbers` has the numbers of the runs by name."""
    moved = [row for row in rows if row.verdict != "equal"]
    same = dict.fromkeys((row.run, row.system) for row in rows)
    still = [key for key in same if key not in {(row.run, row.system) for row in moved}]
    head = ["system", "metric", "run", "run 1", "that run", "difference", "p", ""]
    body = [
        [
            row.system,
            WORDS.get(row.metric, row.metric) + {"higher": " ↑", "lower": " ↓"}.get(row.better, ""),
            numbers[row.run],
            _interval(row.reference, row.reference_low, row.reference_high),
            _interval(row.mean, row.low, row.high),
            _interval(row.difference, row.difference_low, row.difference_high, "+"),
            "" if row.p is None else f"{row.p:.2g}",
            row.verdict,
        ]
        for row in moved
    ]
    *others, last = sorted({row.images for row in rows})
    counts = "".join(f"{number}, " for number in others)
    of, protocol = rows[0].dataset, rows[0].protocol
    said = [
        f"{protocol}: {counts}{number_of(last, 'test image')} of {of}"
        if protocol
        else f"{of}: {counts}{number_of(last, 'image')}"
    ]
    said += table([head, *body]) if body else []
    return said + [
        f"  equal on every image in {run}: {', '.join(s for r, s in still if r == run)}" for run in _runs(still)
    ]


def _runs(keys: Sequence[tuple[str, str]]) -> list[str]:
    return list(dict.fromkeys(run for run, _ in keys))


def _interval(mean: float, low: float | None, high: float | None, sign: str = "") -> str:
    ends = "" if low is None or high is None else f" [{low:{sign}.4g}, {high:{sign}.4g}]"
    return f"{mean:{sign}.4g}{ends}"


def _value(value: Any) -> str:
    return "none" if value is None else str(value)

"""`mmfuse compare`: what differs between runs of a study, and the effect on the scores.

All other runs are compared with the first one. Systems are compared on the same images of the same data: the mean
difference has a bootstrap interval, and a paired test shows whether it could be chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from mmfuse.comparing import downstream
from mmfuse.comparing.runs import AGAIN, Row, Run, direction, pairs, scored
from mmfuse.errors import UserError
from mmfuse.files.reading import read_yaml
from mmfuse.files.records import read_record
from mmfuse.progress import progress
from mmfuse.reporting import statistics
from mmfuse.reporting.scores import Column, Group
from mmfuse.study.parameters import flatten
from mmfuse.study.stages import EVALUATE, key_of
from mmfuse.tracking import results
from mmfuse.tracking.results import PARAMS, Place

Differences = dict[str, list[Any]]  # what differs, with its value in each run


@dataclass(frozen=True)
class Comparison:
    """What differs between runs, and the effect on the scores."""

    runs: list[Run]
    parameters: Differences
    code: Differences
    data: Differences
    environment: Differences
    jobs: list[str]
    rows: list[Row]
    notes: list[str]


def compare(names: Sequence[str]) -> Comparison:
    """Compare runs by name: folders, commits or runs in MLflow.

    Raises:
        UserError: a run is unknown, or no two of them measured the same by the same metric.
    """
    if len(names) < 2:
        raise UserError("A single run cannot be compared.", expected="two or more runs", found=", ".join(names))
    with TemporaryDirectory() as scratch:
        places = []
        for number, name in enumerate(names):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            places.append(results.find(name, folder))
        runs = [_read(place) for place in places]
    rows, notes = [], []
    for other in runs[1:]:
        for one in (_scores, downstream.rows):
            found, said = one(runs[0], other)
            rows += found
            notes += said
    if not rows:
        raise UserError(
            "These runs have nothing in common that can be compared.",
            expected="the same system on the same dataset by the same metric",
            found="; ".join(f"{run.name}: {_contents(run)}" for run in runs),
            fix="name runs that share a test dataset, measured with the same evaluate.convention"
            if not notes
            else notes[0],
        )
    return Comparison(
        runs,
        _differing([run.parameters for run in runs]),
        _job_by_job(runs, "code"),
        _job_by_job(runs, "data"),
        _differing([_environment(run) for run in runs]),
        _changed_jobs(runs),
        _corrected(rows),
        list(dict.fromkeys(notes)),
    )


# -------------------------------------------------------------------------------------------------- reading one run


def _read(place: Place) -> Run:
    """Read the results of a run: those of its parameters if it has any, else all in its folder of scores."""
    scores, params = place.root / EVALUATE.folder, place.root / PARAMS
    parameters: Any = read_yaml(params) if params.is_file() else {}  # of another state of the project, unchecked
    if parameters:
        records = [Path(file) for file in results.small_files(parameters) if file.endswith("run.json")]
    else:
        records = [path.relative_to(place.root) for path in sorted(scores.rglob("*.run.json"))]
    groups = scored(place)
    texts = {path.as_posix(): place.root / path for path in records if (place.root / path).is_file()}
    kept = {name: read_record(path, fix=AGAIN) for name, path in texts.items()}
    entries = {k: v for r in kept.values() for k, v in r["parameters"].items() if k.startswith("data/catalog.yaml:")}
    sets = downstream.read(place, parameters)
    return Run(place.name, place.kind, flatten(parameters) | flatten(entries), kept, groups, sets)


def _contents(run: Run) -> str:
    found = [(place, list(names)) for part in (run.groups, run.sets) for place, names in part.items()]
    return ", ".join(f"{', '.join(names)} on {place}" for place, names in found) or "no scores"


# --------------------------------------------------------------------------------------------------- what differs


def _differing(runs: Sequence[Mapping[str, Any]]) -> Differences:
    """Return the keys whose values are not the same in all runs; a run that lacks a key has None."""
    keys = dict.fromkeys(key for run in runs for key in run)
    found = {key: [run.get(key) for run in runs] for key in keys}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}


def _environment(run: Run) -> dict[str, str]:
    """Return the versions and machines of a run; several of one kind are listed."""
    found: dict[str, set[str]] = {}
    for record in run.records.values():
        for name, version in record["versions"].items():
            found.setdefault(name, set()).add(str(version))
        for name in ("processor", "device", "capability", "threads"):
            if record["machine"].get(name) is not None:
                found.setdefault(name, set()).add(str(record["machine"][name]))
    return {name: ", ".join(sorted(values)) for name, values in found.items()}


def _job_by_job(runs: Sequence[Run], kind: str) -> Differences:
    """Return the files whose checksums differ between the same jobs of several runs."""
    shared = set.intersection(*(set(run.records) for run in runs))
    found: Differences = {}
    for job in sorted(shared):
        found |= _differing([_checksums(run.records[job], kind) for run in runs])
    return {path: [value and value[:12] for value in values] for path, values in sorted(found.items())}


def _checksums(record: Mapping[str, Any], kind: str) -> dict[str, str]:
    """Return the checksums of the code of a job, or of the data that come from outside the study."""
    if kind == "code":
        return {path: value for path, value in record["inputs"].items() if path.startswith("src/")}
    own = record["outputs"] if record["stage"] in {"download", "prepare", "label", "divide"} else {}
    elsewhere = {path: value for path, value in record["inputs"].items() if path.startswith("data/external/")}
    return {**own, **elsewhere}


def _changed_jobs(runs: Sequence[Run]) -> list[str]:
    """Return the jobs whose outputs differ from those of the first run, or that are missing in a run."""
    return list(_differing([{job: record.get("outputs") for job, record in run.records.items()} for run in runs]))


# ------------------------------------------------------------------------------------------ the effect on the scores


def _scores(first: Run, other: Run) -> tuple[list[Row], list[str]]:
    """Return the rows of one run compared with the first, and notes on what could not be compared."""
    rows, notes = [], []
    for dataset, groups in other.groups.items():
        both = list(pairs(first.groups.get(dataset, {}), groups))
        for one, two in progress(both, f"compare {dataset}", unit="systems"):
            found = [c.name for c in one.members[0].metrics]
            kept, left_out = _same_metrics(one, two)
            paired, why = _paired(first, other, dataset, one, two)
            label = _label(two) if _label(one) == _label(two) else f"{_label(one)} -> {_label(two)}"
            if left_out:
                notes.append(
                    f"{dataset}, {label}: left out {', '.join(left_out)}, defined differently in {other.name}."
                )
            if why:
                notes.append(f"{dataset}, {label}: {why}")
            rows += _rows(dataset, label, other.name, one, two, [(found.index(c.name), c) for c in kept], paired)
    return rows, notes


def _label(group: Group) -> str:
    return f"{group.method}.{group.variant}"


def _same_metrics(one: Group, two: Group) -> tuple[list[Column], list[str]]:
    """Return the metrics that both have with the same definition, and those that share only the name."""
    other = {column.name: column for column in two.members[0].metrics}
    shared = [column for column in one.members[0].metrics if column.name in other]
    same = [column for column in shared if column.definition == other[column.name].definition]
    return same, [column.name for column in shared if column not in same]


def _paired(first: Run, other: Run, dataset: str, one: Group, two: Group) -> tuple[bool, str]:
    """Return whether the images are the same, and the reason if not."""
    if one.members[0].images != two.members[0].images:
        return False, "different images, so neither an interval of the difference nor a test."
    packs = [
        {
            checksum
            for member in group.members
            for path, checksum in run.records.get(EVALUATE.path("record", key_of(dataset, member.system)), {})
            .get("inputs", {})
            .items()
            if path.endswith("/test.safetensors")
        }
        for run, group in ((first, one), (other, two))
    ]
    if packs[0] and packs[1] and packs[0] != packs[1]:
        return False, "images of equal names but other content, so neither an interval of the difference nor a test."
    return True, ""


def _rows(
    dataset: str, system: str, run: str, one: Group, two: Group, columns: Sequence[tuple[int, Column]], paired: bool
) -> list[Row]:
    if not columns:
        return []
    names = [column.name for column in two.members[0].metrics]
    left = one.values[[number for number, _ in columns]]  # (metrics, images)
    right = two.values[[names.index(column.name) for _, column in columns]]
    ends = statistics.interval(left), statistics.interval(right)
    moved = statistics.difference(right, left) if paired else None
    between = None if moved is None else statistics.interval(moved)
    rows = []
    for k, (_, column) in enumerate(columns):
        reference, mean = float(np.nanmean(left[k])), float(np.nanmean(right[k]))
        row = Row(
            dataset=dataset,
            system=system,
            metric=column.name,
            definition=column.definition,
            better=column.better,
            run=run,
            images=right.shape[1],
            reference=reference,
            reference_low=float(ends[0][k, 0]),
            reference_high=float(ends[0][k, 1]),
            mean=mean,
            low=float(ends[1][k, 0]),
            high=float(ends[1][k, 1]),
            difference=mean - reference,
        )
        if moved is not None and between is not None:
            p, sign = statistics.signed_rank(moved[k])
            row = replace(
                row,
                difference=float(np.nanmean(moved[k])),
                difference_low=float(between[k, 0]),
                difference_high=float(between[k, 1]),
                p=p,
                verdict=direction(sign * column.sign) if moved[k].any() else "equal",
            )
        rows.append(row)
    return rows


def _corrected(rows: Sequence[Row]) -> list[Row]:
    """Correct p for the tests of one dataset (or protocol) and metric; rows equal on every image were not tested."""
    found = list(rows)
    for key in dict.fromkeys((row.dataset, row.protocol, row.metric) for row in rows):
        alike = [k for k, row in enumerate(rows) if (row.dataset, row.protocol, row.metric) == key]
        tested = [k for k in alike if rows[k].p is not None and rows[k].verdict != "equal"]
        adjusted = statistics.holm(np.array([rows[k].p for k in tested], dtype=np.float64))
        for k, p in zip(tested, adjusted, strict=True):
            verdict = rows[k].verdict if p < statistics.LEVEL else "no difference shown"
            found[k] = replace(rows[k], p=float(p), verdict=verdict)
    return found

"""The papers' tables of detection and segmentation, with the results of the study's own detectors and segmenters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmfuse.downstream import masks
from mmfuse.errors import UserError
from mmfuse.reporting import given_weights
from mmfuse.reporting.downstream_scores import MEANS, Array, Seen, ends, mean, set_name
from mmfuse.reporting.published import Beside, Line, Measured, asked, ending, metrics_of
from mmfuse.reporting.study import Study
from mmfuse.reporting.training_data import Trained, behind
from mmfuse.study import plan
from mmfuse.study.types import Parameters
from mmfuse.words import number_of

# a column of a paper -> the measure by class; the class follows after a space
_BY_CLASS = {"AP50": "AP50", "AP50-95": "AP50_95", "IoU": "IoU"}
_OVER_CLASSES = {"mAP50": "AP50", "mAP50-95": "AP50_95", "mIoU": "IoU", "mAcc": "Acc"}
_GOALS = {"detect": "detectors", "segment": "segmenters"}


def build(entry: Mapping[str, Any], path: Path, parameters: Parameters, sets: Sequence[Seen]) -> Beside:
    """Put the results of detectors or segmenters on our image sets beside a table of a paper.

    Classes are matched by name, ignoring case, spaces and underscores, or by the entry's `classes`. A mean over classes
    is measured only if all classes of the table are: otherwise it would be the mean of other classes.

    Args:
        entry: An entry of `report.published` that names a protocol.
        path: The printed tables.
        parameters: The study's parameters.
        sets: The image sets of the protocol.

    Raises:
        UserError: the table, one of its rows or one of the named classes does not exist.
    """
    protocol, table = entry["protocol"], asked(entry, path)
    metrics, block = metrics_of(table), parameters["downstream"][entry["protocol"]]
    known = {_plain(name): number for number, name in enumerate(sets[0].classes)}
    places, missing = _places(metrics, entry, known, sets[0].goal, block["dataset"])
    scale = 100.0 if in_percent(number for row in table.values() for number in row.values()) else 1.0
    labels = {set_name(label): seen for label, seen in zip(plan.image_sets(parameters, protocol), sets, strict=True)}
    lines = []
    for name, row in table.items():
        system = entry["rows"].get(name, "")
        seen = labels[system] if system else None
        cells = ((row.get(m, ""), measure(seen, *places[m], scale) if seen and m in places else None) for m in metrics)
        lines.append(Line(name, system, tuple(cells)))
    return Beside(
        entry["paper"],
        entry["table"],
        entry["of"],
        (block["dataset"],),
        f"protocol {protocol}",
        metrics,
        tuple(lines),
        len(sets[0].images),
        len(block["seeds"]),
        missing,
        entry["note"],
    )


def in_percent(numbers: Iterable[str]) -> bool:
    """Return whether a table prints its values in percent, that is, whether a number is above 1."""
    return any(float(number) > 1 for number in numbers if number)


def _plain(name: str) -> str:
    """Return a class's name without case, spaces and underscores."""
    return name.lower().replace(" ", "").replace("_", "")


def _places(
    metrics: Sequence[str], entry: Mapping[str, Any], known: Mapping[str, int], goal: str, dataset: str
) -> tuple[dict[str, tuple[str, list[int]]], dict[str, str]]:
    """Return the measure and class numbers of each measured column, and the other columns with the reason."""
    named = entry.get("classes", {})
    wrong = next((name for name in named.values() if _plain(name) not in known), None)
    if wrong is not None:
        raise UserError(
            f"report.published: {dataset} has no class {wrong!r}, which `classes` of Table {entry['table']} names.",
            expected=", ".join(known),
            found=wrong,
        )
    measured = set(MEANS[goal].values())
    places: dict[str, tuple[str, list[int]]] = {}
    missing: dict[str, str] = {}
    for metric in metrics:
        measure, _, kind = metric.partition(" ")
        kinds = [kind] if kind else [m.partition(" ")[2] for m in metrics if " " in m]
        numbers = [known.get(_plain(named.get(name, name))) for name in dict.fromkeys(kinds)]
        by_class = (_BY_CLASS if kind else _OVER_CLASSES).get(measure)
        found = [number for number in numbers if number is not None]
        if by_class not in measured:
            missing[metric] = f"not a measure of {_GOALS[goal]} here"
        elif len(found) < len(numbers):
            missing[metric] = f"{dataset} has no such class" if kind else f"{dataset} has other classes"
        else:
            whole = not kind and entry.get("means", "all") == "all"
            places[metric] = (str(by_class), list(known.values()) if whole else found)
    return places, missing


def measure(seen: Seen, kind: str, classes: Sequence[int], scale: float) -> Measured:
    """Return the mean of a measure over classes and seeds, with the interval over the test images."""
    by_seed: Array = scale * masks.mean(seen.measured(kind)[:, classes])
    low, high = ends(scale * np.mean(masks.mean(seen.drawn(kind)[..., classes]), axis=0))
    return Measured(mean(by_seed), low, high, float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else math.nan)


def caption(study: Study, protocol: str, table: Beside, systems: Sequence[Trained]) -> str:
    """Return a table's caption: its content, our images for training and testing, and why our numbers may differ."""
    block, (first, *_) = study.parameters["downstream"][protocol], study.seen(protocol)
    summary = first.summaries[0]
    unit = " in percent" if in_percent(number for line in table.lines for number, _ in line.cells) else ""
    folds = summary["folds"]
    seeds = f"mean over {table.seeds} seeds of that training" if table.seeds > 1 else "one seed of that training"
    text = f"{table.title}. Paper: as printed there{',' if unit else ''}{unit}. Measured{unit}: by the protocol "
    text += f"{protocol} of this study, {summary['model']} trained separately on each image set of {block['dataset']} "
    text += (
        f"({number_of(folds['train'], 'pair')} for training, {folds['val']} for validation) and "
        f"tested on {table.images} others; {seeds}"
    )
    rows = {line.name: line.system for line in table.lines}
    task = plan.task_of(study.parameters, block["dataset"])
    fused = behind(systems, rows, task) + given_weights.behind(given_weights.read(study), rows, task)
    text += f"; fused images of the first seed of each trained fusion method{fused}; "
    text += {
        "detect": "AP as in the COCO evaluation",
        "segment": "IoU and accuracy from the pixels of all test images together",
    }[first.goal]
    text += "; in brackets, the 95 % bootstrap interval over the test images. "
    return text + ending(table)

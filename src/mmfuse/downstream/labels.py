"""Validity of labels: known classes, boxes inside the image with non-zero area, a mask for each pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mmfuse.data.catalog import Dataset
from mmfuse.data.packs import Pack, Sample
from mmfuse.errors import UserError
from mmfuse.words import number_of

KINDS = {"detect": "boxes", "segment": "mask"}  # the labels that a goal needs
# ASSUME: annotators exceed the border by up to a hundredth of the image; more is a wrong label
_OVERHANG = 0.01
_SHOWN = 10


def class_index(dataset: Dataset, goal: str, unlabelled: str | None = None) -> dict[int, int]:
    """Return class id to class index, in the order of the ids; with `ignore`, id 0 of a mask is left out.

    Raises:
        UserError: the dataset has no labels of this kind.
    """
    kind = KINDS[goal]
    if kind not in dataset.labels:
        raise UserError(
            f"{dataset.name} has no {kind}, which {goal} needs.",
            expected="a dataset whose entry in data/catalog.yaml has them under `labels`",
            found=", ".join(dataset.labels) or "no labels",
        )
    ids = sorted(dataset.labels[kind].classes)
    if kind == "mask" and unlabelled == "ignore":
        ids.remove(0)
    return {identity: number for number, identity in enumerate(ids)}


def class_names(dataset: Dataset, goal: str, unlabelled: str | None = None) -> list[str]:
    """Return the names of the measured classes in the order of their indices."""
    return [dataset.labels[KINDS[goal]].classes[i] for i in class_index(dataset, goal, unlabelled)]


def check_labels(dataset: Dataset, goal: str, pack: Pack, names: Sequence[str]) -> None:
    """Check the labels of the named pairs. An empty label file is valid: it means that there is no object.

    Raises:
        UserError: labels are missing, out of range, of unknown class or of zero area; it lists the pairs.
    """
    known = dataset.labels[KINDS[goal]].classes
    chosen = set(names)
    problems = [
        f"{sample['name']}: {problem}"
        for sample in pack
        if sample["name"] in chosen
        for problem in (_boxes(sample, known) if goal == "detect" else _mask(sample, known))
    ]
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise UserError(
            f"{number_of(len(problems), 'label')} of {dataset.name} cannot be used for {goal}.",
            expected=f"a {'box file' if goal == 'detect' else 'mask'} for each pair, with the classes "
            + ", ".join(f"{identity} {name}" for identity, name in known.items())
            + (", and boxes with non-zero area inside the image" if goal == "detect" else ""),
            found="\n            ".join([*problems[:_SHOWN], *more]),
            fix="correct the labels, or `labels` in data/catalog.yaml",
        )


def _boxes(sample: Sample, known: Mapping[int, str]) -> list[str]:
    if "boxes" not in sample:
        return ["its box file is missing (an empty one would mean that there is no object)"]
    problems = []
    for number, (kind, x, y, width, height) in enumerate(sample["boxes"].tolist(), start=1):
        ends = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        if not np.isfinite([x, y, width, height]).all() or min(ends) < -_OVERHANG or max(ends) > 1 + _OVERHANG:
            problems.append(f"box {number} extends outside the image: {x:g} {y:g} {width:g} {height:g}")
        elif width <= 0 or height <= 0:
            problems.append(f"box {number} has no area: {width:g} x {height:g}")
        if int(kind) not in known:
            problems.append(f"box {number} has the unknown class {int(kind)}")
    return problems


def _mask(sample: Sample, known: Mapping[int, str]) -> list[str]:
    if "mask" not in sample:
        return ["its mask is missing"]
    unknown = [int(identity) for identity in np.unique(sample["mask"]) if int(identity) not in known]
    return [f"its mask contains the unknown ids {', '.join(map(str, unknown))}"] if unknown else []

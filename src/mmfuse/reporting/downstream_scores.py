"""Results of the detectors or segmenters of a protocol on each image set, read once, and measured on resampled images.

Measures by class are called AP50, AP50_95, IoU and Acc; a measure of a set is the mean of one of them over classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfuse.downstream import boxes, masks, results
from mmfuse.downstream.boxes import Matched
from mmfuse.reporting import provenance, statistics
from mmfuse.reporting.scores import existing
from mmfuse.study import plan
from mmfuse.study.stages import STAGES
from mmfuse.study.types import Parameters

Array = NDArray[np.float64]
# ASSUME: another draw then moves the ends of an interval by a few hundredths of its width
RESAMPLES = 1000
# measure of a set -> the measure by class of which it is the mean; the first one is the main measure of its goal
MEANS = {
    "detect": {"mAP50": "AP50", "mAP50_95": "AP50_95"},
    "segment": {"mIoU": "IoU", "mAcc": "Acc"},
}
WORDS = {"mAP50": "mAP@0.5", "mAP50_95": "AP@[0.5:0.95]", "mIoU": "mIoU", "mAcc": "mAcc"}


@dataclass(frozen=True)
class Seen:
    """One image set with the results of its detectors or segmenters.

    Attributes:
        label: Its name in paths.
        title: Its name in the report.
        goal: `detect` or `segment`.
        summaries: A summary for each seed.
        anchors: The anchor of each seed's run in the report.
        found: Results of each seed on the test images: matched boxes, or a confusion matrix for each image.
    """

    label: str
    title: str
    goal: str
    summaries: tuple[Mapping[str, Any], ...]
    anchors: tuple[str, ...]
    found: tuple[Matched | NDArray[np.int64], ...]
    _drawn: dict[str, Array] = field(default_factory=dict, repr=False)

    @property
    def classes(self) -> list[str]:
        """Names of the measured classes."""
        return list(self.summaries[0]["classes"])

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the test images."""
        return tuple(self.summaries[0]["objects" if self.goal == "detect" else "images"])

    @property
    def main(self) -> str:
        """The measure used for intervals and tests."""
        return next(iter(MEANS[self.goal]))

    def values(self, key: str, on: str | None = None) -> Array:
        """Return a measure by seed; `on` names another tested set."""
        return numbers(summary["results"][on or self.label][key] for summary in self.summaries)

    def by_class(self, key: str, kind: str) -> Array:
        """Return the measure of a class by seed, from the summaries."""
        return numbers(summary["results"][self.label][key][kind] for summary in self.summaries)

    def measured(self, kind: str) -> Array:
        """Return a measure of each class on the original test images; (seeds, classes)."""
        return np.stack([_measure(found, kind)[0] for found in self.found])

    def drawn(self, kind: str) -> Array:
        """Return a measure of each class on resampled test images; (seeds, resamples, classes)."""
        if kind not in self._drawn:
            counts = statistics.drawn(len(self.images), RESAMPLES)
            self._drawn[kind] = np.stack([_measure(found, kind, counts) for found in self.found])
        return self._drawn[kind]

    def resampled(self, key: str = "") -> Array:
        """Return a measure of the set, by default the main one, on resampled test images, averaged over the seeds."""
        means: Array = np.mean(masks.mean(self.drawn(MEANS[self.goal][key or self.main])), axis=0)
        return means


def numbers(values: Iterable[float | None]) -> Array:
    """Return the numbers of a summary, NaN where it has none."""
    return np.array([math.nan if value is None else value for value in values])


def _measure(found: Matched | NDArray[np.int64], kind: str, counts: NDArray[np.int64] | None = None) -> Array:
    """Return a measure of each class; `counts` has how often each image is drawn, None means once each.

    Shape: counts (R, images); returns (R, classes) or (1, classes).
    """
    if isinstance(found, Matched):
        thresholds = 1 if kind == "AP50" else len(boxes.THRESHOLDS)
        return boxes.average_precision(found, counts, thresholds=thresholds).mean(-1)
    whole = found.sum(0)[None] if counts is None else np.tensordot(counts, found, axes=1)
    iou, accuracy = masks.ratios(whole)
    return iou if kind == "IoU" else accuracy


def set_name(label: str) -> str:
    """Return the name of an image set in the parameters: `a`, `b` or METHOD.VARIANT, without the seed."""
    return label if label in plan.MODALITIES else label.rpartition(".")[0]


def ends(resampled: Array) -> tuple[float, float]:
    """Return the 95 % interval of a measure from its values on resampled images; NaN if there are none."""
    if not np.isfinite(resampled).any():
        return math.nan, math.nan
    low, high = np.nanquantile(resampled, (statistics.LEVEL / 2, 1 - statistics.LEVEL / 2))
    return float(low), float(high)


def mean(values: Array) -> float:
    """Return the mean of the defined values; NaN if there is none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


def read_set(stems: Sequence[Path], goal: str, label: str, title: str, anchors: Sequence[str] = ()) -> Seen:
    """Read one image set; `stems` are the paths of its results by seed, without suffix.

    Raises:
        UserError: a result is missing or damaged.
    """
    read = results.read_detections if goal == "detect" else results.read_masks
    for stem in stems:
        existing(stem.with_name(f"{stem.name}.json"), goal)
    pairs = [read(stem) for stem in stems]
    summaries = tuple(summary for summary, _ in pairs)
    return Seen(label, title, goal, summaries, tuple(anchors), tuple(found for _, found in pairs))


def summaries(parameters: Parameters, protocol: str, label: str) -> list[str]:
    """Return the path of the summary of each seed of an image set."""
    block = parameters["downstream"][protocol]
    keys = ({"protocol": protocol, "set": label, "seed": str(seed)} for seed in block["seeds"])
    return [STAGES[block["goal"]].path("summary", key) for key in keys]


def read_sets(parameters: Parameters, protocol: str, root: Path, roles: Mapping[str, str]) -> list[Seen]:
    """Read the image sets of a protocol in a project's folder; `roles` are those of `a` and `b`, such as infrared.

    Raises:
        UserError: a result is missing or damaged.
    """
    block, found = parameters["downstream"][protocol], []
    for label, system in plan.image_sets(parameters, protocol).items():
        title = f"{roles[label]} alone" if system is None else system.method
        title += "" if system is None or system.variant == "base" else f".{system.variant}"
        stems = [root / path.removesuffix(".json") for path in summaries(parameters, protocol, label)]
        anchors = [provenance.anchor("run", block["goal"], protocol, stem.name) for stem in stems]
        found.append(read_set(stems, block["goal"], label, title, anchors))
    return found

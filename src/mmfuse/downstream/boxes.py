"""Average precision of predicted boxes, as in the COCO evaluation.

For each image, class and overlap threshold, predictions are matched in order of decreasing score; each takes the free
true box that it overlaps most, if their intersection over union reaches the threshold. Over all images, precision is
made non-increasing in recall and sampled at 101 recalls from 0 to 1; AP is its mean. mAP is the mean over the classes
that occur in the ground truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
THRESHOLDS: Array = np.arange(50, 100, 5) / 100
RECALLS: Array = np.linspace(0, 1, 101)
MOST = 100  # maximum number of predictions per class and image, as in the COCO evaluation


@dataclass(frozen=True)
class Boxes:
    """Boxes on one image: (n, 4) left, top, right, bottom; class indices (n,); for predictions also scores (n,)."""

    sides: Array
    kinds: NDArray[np.int64]
    scores: Array

    def __len__(self) -> int:
        return len(self.kinds)


@dataclass(frozen=True)
class Matched:
    """Predictions on all images in order of decreasing score, with their hits.

    Attributes:
        image: Index of the image of each prediction, (D,).
        kind: Class index, (D,).
        score: Score, (D,).
        hits: Whether the prediction is correct at each threshold, (D, T).
        objects: Number of true boxes of each class in each image, (images, classes).
    """

    image: NDArray[np.int64]
    kind: NDArray[np.int64]
    score: Array
    hits: NDArray[np.bool_]
    objects: NDArray[np.int64]


def overlaps(one: Array, other: Array) -> Array:
    """Return the intersection over union of each pair of boxes, 0 if undefined; (n, 4) and (m, 4) to (n, m)."""
    import torch
    from torchvision.ops import box_iou  # imported here, because the report, which resamples images, does not need it

    return box_iou(torch.from_numpy(one), torch.from_numpy(other)).nan_to_num().numpy()


def _hits(order: NDArray[np.int64], overlap: Array, threshold: float) -> NDArray[np.bool_]:
    """Return which predictions are correct at one threshold; `overlap` is (predictions, true boxes) of one class."""
    hits, free = np.zeros(len(overlap), bool), np.ones(overlap.shape[1], bool)
    for row in order:
        possible = np.where(free, overlap[row], -1.0)
        if possible.size and possible.max() >= threshold:
            free[possible.argmax()] = False
            hits[row] = True
    return hits


def match(predicted: Sequence[Boxes], truth: Sequence[Boxes], classes: int) -> Matched:
    """Match the predictions on all images with the true boxes, at all thresholds."""
    images, kinds, scores, hits = [], [], [], []
    objects = np.zeros((len(truth), classes), np.int64)
    for number, (found, true) in enumerate(zip(predicted, truth, strict=True)):
        np.add.at(objects[number], true.kinds, 1)
        for kind in np.unique(found.kinds):
            own = np.flatnonzero(found.kinds == kind)
            own = own[np.argsort(-found.scores[own], kind="stable")][:MOST]
            overlap = overlaps(found.sides[own], true.sides[true.kinds == kind])
            hits.append(np.stack([_hits(np.arange(len(own)), overlap, t) for t in THRESHOLDS], axis=1))
            images.append(np.full(len(own), number))
            kinds.append(np.full(len(own), kind))
            scores.append(found.scores[own])
    if not images:
        none = np.empty(0, np.int64)
        return Matched(none, none, np.empty(0), np.empty((0, len(THRESHOLDS)), bool), objects)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return Matched(
        np.concatenate(images)[order],
        np.concatenate(kinds)[order],
        np.concatenate(scores)[order],
        np.concatenate(hits)[order],
        objects,
    )


def precisions(matched: Matched, kind: int, threshold: int, counts: NDArray[np.int64] | None = None) -> Array:
    """Return the precision of one class at `RECALLS`, made non-increasing; NaN without any true box.

    Shape: counts (R, images), how often each image is drawn, or None for once each; returns (R, 101) or (1, 101).
    """
    drawn = np.ones((1, len(matched.objects)), np.int64) if counts is None else counts
    own = matched.kind == kind
    weights = drawn[:, matched.image[own]]  # (R, D)
    right = np.cumsum(weights * matched.hits[own, threshold], axis=1)
    all_so_far = np.cumsum(weights, axis=1)
    total = drawn @ matched.objects[:, kind]  # (R,)
    precision = np.divide(right, all_so_far, out=np.zeros(right.shape), where=all_so_far > 0)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    result = np.zeros((len(drawn), len(RECALLS)))
    for row, (hits, objects) in enumerate(zip(right, total, strict=True)):
        if not objects:
            result[row] = np.nan
            continue
        places = np.searchsorted(hits / objects, RECALLS, side="left")
        reached = places < hits.size
        result[row, reached] = precision[row, places[reached]]
    return result


def average_precision(matched: Matched, counts: NDArray[np.int64] | None = None, thresholds: int = 10) -> Array:
    """Return AP by resample, class and threshold, (R, classes, thresholds); NaN for classes without a true box.

    Args:
        matched: Predictions and their hits.
        counts: Number of times each image is drawn, (R, images); None means once each.
        thresholds: Number of `THRESHOLDS` to evaluate, from 0.5 on.
    """
    classes = matched.objects.shape[1]
    found = [
        [precisions(matched, kind, threshold, counts).mean(-1) for threshold in range(thresholds)]
        for kind in range(classes)
    ]
    return np.moveaxis(np.array(found), -1, 0)


def mean_precision(average: Array) -> Array:
    """Return the mean over the classes that occur and over all thresholds; (R, classes, thresholds) to (R,)."""
    occurs = np.isfinite(average[..., 0])
    count = occurs.sum(-1)
    total = np.where(occurs[..., None], average, 0.0).mean(-1).sum(-1)
    return np.divide(total, count, out=np.full(len(average), np.nan), where=count > 0)

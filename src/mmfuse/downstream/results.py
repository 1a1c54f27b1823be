"""Files of a downstream job, written by its stage and read by the report.

A JSON file has the summary; the CSV next to it has the contribution of each test image, so that the report can resample
images for its intervals and tests without running a network again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfuse.downstream import boxes, masks
from mmfuse.downstream.boxes import Matched
from mmfuse.errors import UserError
from mmfuse.files.reading import read_json, read_table
from mmfuse.files.writing import csv_text, write_json, write_text

Array = NDArray[np.float64]
_AGAIN = "run the stage `detect` or `segment` for it again"


def by_class(values: Array, classes: Sequence[str]) -> dict[str, float | None]:
    """Return values by class, None where undefined."""
    return {name: number(value) for name, value in zip(classes, values.tolist(), strict=True)}


def number(value: float) -> float | None:
    """Return a number for JSON, None for NaN."""
    return float(value) if math.isfinite(value) else None


def detection_summary(matched: Matched, classes: Sequence[str]) -> dict[str, Any]:
    """Return AP@0.5 of each class, mAP@0.5 and AP@[0.5:0.95]."""
    average = boxes.average_precision(matched)
    return {
        "AP50": by_class(average[0, :, 0], classes),
        "mAP50": number(boxes.mean_precision(average[..., :1])[0]),
        "mAP50_95": number(boxes.mean_precision(average)[0]),
    }


def curves(matched: Matched, classes: Sequence[str]) -> dict[str, list[float] | None]:
    """Return the precision at 101 recalls for each class, at an overlap of 0.5; None for a class without objects."""
    found = {name: boxes.precisions(matched, kind, 0)[0] for kind, name in enumerate(classes)}
    return {name: line.tolist() if np.isfinite(line).all() else None for name, line in found.items()}


def segmentation_summary(matrix: NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any]:
    """Return the IoU of each class, mIoU and mAcc."""
    iou, accuracy = masks.ratios(matrix)
    return {
        "IoU": by_class(iou, classes),
        "mIoU": number(float(masks.mean(iou))),
        "mAcc": number(float(masks.mean(accuracy))),
    }


def write_detections(out: Path, summary: Mapping[str, Any], names: Sequence[str], matched: Matched) -> None:
    """Write OUT.json, and OUT.csv with one line per prediction that counts: its hits at each threshold."""
    classes = summary["classes"]
    objects = {name: row.tolist() for name, row in zip(names, matched.objects, strict=True)}
    write_json(out.with_name(f"{out.name}.json"), {**summary, "objects": objects})
    lines: list[list[Any]] = [["image", "class", "score", "hits"]]
    for image, kind, score, hits in zip(matched.image, matched.kind, matched.score, matched.hits, strict=True):
        lines.append([names[image], classes[kind], repr(float(score)), "".join(str(int(hit)) for hit in hits)])
    write_text(out.with_name(f"{out.name}.csv"), csv_text(lines))


def read_detections(out: Path) -> tuple[dict[str, Any], Matched]:
    """Read the files of `write_detections`.

    Raises:
        UserError: a file is missing or damaged.
    """
    with _read(out, ("image", "class", "score", "hits"), "objects") as (summary, rows, places, kinds):
        hits = [[digit == "1" for digit in row["hits"]] for row in rows]
        return summary, Matched(
            np.array([places[row["image"]] for row in rows], np.int64),
            np.array([kinds[row["class"]] for row in rows], np.int64),
            np.array([float(row["score"]) for row in rows]),
            np.array(hits, bool).reshape(-1, len(boxes.THRESHOLDS)),
            np.array(list(summary["objects"].values()), np.int64),
        )


def write_masks(
    out: Path, summary: Mapping[str, Any], names: Sequence[str], matrices: Sequence[NDArray[np.int64]]
) -> None:
    """Write OUT.json, and OUT.csv with the pixel counts of each image by true and predicted class."""
    classes = summary["classes"]
    write_json(out.with_name(f"{out.name}.json"), {**summary, "images": list(names)})
    lines: list[list[Any]] = [["image", "true", "predicted", "pixels"]]
    for name, matrix in zip(names, matrices, strict=True):
        lines += [[name, classes[i], classes[j], int(matrix[i, j])] for i, j in np.argwhere(matrix)]
    write_text(out.with_name(f"{out.name}.csv"), csv_text(lines))


def read_masks(out: Path) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Read the files of `write_masks`: the summary, and a confusion matrix for each image.

    Raises:
        UserError: a file is missing or damaged.
    """
    with _read(out, ("image", "true", "predicted", "pixels"), "images") as (summary, rows, places, kinds):
        matrices = np.zeros((len(places), len(kinds), len(kinds)), np.int64)
        for row in rows:
            matrices[places[row["image"]], kinds[row["true"]], kinds[row["predicted"]]] = int(row["pixels"])
        return summary, matrices


@contextmanager
def _read(
    out: Path, columns: Sequence[str], images: str
) -> Iterator[tuple[dict[str, Any], list[dict[str, str]], dict[str, int], dict[str, int]]]:
    """Yield the summary, the rows of the CSV, and the indices of images and classes in the summary.

    All errors from two files that do not match become one clear error.
    """
    summary = read_json(out.with_name(f"{out.name}.json"), fix=_AGAIN)
    rows = read_table(out.with_name(f"{out.name}.csv"), columns, fix=_AGAIN)
    try:
        places, kinds = ({name: place for place, name in enumerate(summary[key])} for key in (images, "classes"))
        yield summary, rows, places, kinds
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise UserError(
            f"{out.name}.csv and {out.name}.json in {out.parent} do not match.",
            expected="images, classes and counts in both files",
            found=f"{type(error).__name__}: {error}",
            fix=_AGAIN,
        ) from error

"""What detectors and segmenters might have found, made up: files as the stages `detect` and `segment` write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmfuse.data.images import write_image
from mmfuse.downstream import results
from mmfuse.downstream.boxes import THRESHOLDS, Matched
from mmfuse.downstream.results import curves, detection_summary, segmentation_summary

ROAD_BOXES = ("People", "Car", "Bus", "Lamp", "Motorcycle", "Truck")
ROAD_MASKS = ("unlabelled", "car", "person", "bike", "curve", "car_stop", "guardrail", "color_cone", "bump")


def matched(random: np.random.Generator, images: int, classes: int, skill: float) -> Matched:
    """Boxes found on made-up images: about four objects on each, and the better the skill, the more are hit."""
    objects = random.poisson(4 / classes, (images, classes))
    objects[0] += 1  # every class occurs
    image, kind = (np.repeat(places, objects.ravel()) for places in np.indices(objects.shape).reshape(2, -1))
    sure = random.uniform(0, 1, len(image))
    overlap = np.clip(skill * random.uniform(0.6, 1.2, len(image)), 0, 0.99)
    order = np.argsort(-sure, kind="stable")
    return Matched(image[order], kind[order], sure[order], (overlap[:, None] >= THRESHOLDS)[order], objects)


def matrices(random: np.random.Generator, images: int, classes: int, skill: float) -> np.ndarray:
    """Confusion matrices of made-up images: the better the skill, the more pixels lie on the diagonal."""
    wrong = random.integers(1, 40, (images, classes, classes))
    right = np.eye(classes, dtype=np.int64) * random.integers(200, 900, (images, classes, 1))
    return (wrong * (1.5 - skill)).astype(np.int64) + (right * skill).astype(np.int64)


def write_protocol(
    room: Path,
    block: Mapping[str, Any],
    labels: Sequence[str],
    classes: Sequence[str],
    *,
    images: int = 12,
    skills: Mapping[str, float] | None = None,
    pictures: bool = True,
) -> None:
    """Write the results of one protocol for all image sets and seeds into a folder.

    The skill of a set, between 0 and 1, moves its numbers; equal skills give equal results.
    """
    names = [f"t{number:03d}" for number in range(images)]
    for label in labels:
        for seed in block["seeds"]:
            skill = (skills or {}).get(label, 0.6 + 0.05 * list(labels).index(label))
            out = room / f"{label}.seed{seed}"
            head = {
                "goal": block["goal"],
                "dataset": block["dataset"],
                "set": label,
                "seed": seed,
                "model": block["model"]["name"],
                "folds": {"train": 30, "val": 4, "test": images},
                "classes": list(classes),
                "parameters": 1234567,
                "val": None,
            }
            random = np.random.default_rng(seed)
            if block["goal"] == "detect":
                found = matched(random, images, len(classes), skill)
                own = detection_summary(found, classes)
                head |= {"results": dict.fromkeys(labels, own), "curves": curves(found, classes)}
                results.write_detections(out, head, names, found)
            else:
                pixels = matrices(random, images, len(classes), skill)
                own = segmentation_summary(pixels.sum(0), classes)
                results.write_masks(out, head | {"results": dict.fromkeys(labels, own)}, names, list(pixels))
            for name in names[:2] if pictures else ():
                picture = random.integers(0, 256, (48, 64, 3), dtype=np.uint8)
                write_image(room / f"{label}.seed{seed}.pictures" / f"{name}.png", picture)

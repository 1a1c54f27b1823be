"""Stage `crop`: training patches cut from the prepared pairs, with their masks and boxes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfuse.data.images import Bytes
from mmfuse.data.packs import Pack, Sample, pack_writer, patch_name
from mmfuse.errors import UserError
from mmfuse.pipeline.jobs import Work
from mmfuse.progress import progress
from mmfuse.words import number_of


def work(job: Work) -> None:
    """Run one job of the stage."""
    patches = job.parameters["prepare"]["patches"][job.key["patches"]]
    run(pack=job.read("pack"), out=job.outputs["pack"], patches=patches)


def run(*, pack: Path, out: Path, patches: Mapping[str, Any]) -> None:
    """Cut a pack into patches of one size.

    Args:
        pack: data/prepared/DATASET/train.safetensors.
        out: The pack of patches.
        patches: A patch set of the parameters: `height`, `width`; `stride` of a grid, or `random` patches per image
            with `seed`; `low_contrast` (or null) drops patches with low contrast; `box_visible` is the smallest share
            of a box inside a patch for the box to be kept.

    Raises:
        UserError: no image is large enough, or the filter leaves nothing.
    """
    source = Pack(pack)
    count = 0
    with pack_writer(out) as add:
        for sample in progress(source, "crop", unit="pairs"):
            for patch in _cut(sample, patches):
                add(patch)
                count += 1
        if len(source) and not count:
            raise UserError(
                f"The patch set leaves no patches from {pack}.",
                expected=f"images of at least {patches['height']} x {patches['width']} with some contrast",
                found=f"{number_of(len(source), 'pair')}, the first of size {source[0]['a'].shape}",
                fix="lower height and width, or loosen low_contrast, under prepare.patches",
            )
    print(
        f"{number_of(count, 'patch', 'patches')} of {patches['height']} x {patches['width']} "
        f"from {number_of(len(source), 'pair')}"
    )


def _cut(sample: Sample, patches: Mapping[str, Any]) -> Iterator[Sample]:
    height, width = patches["height"], patches["width"]
    for top, left in _corners(sample, patches):
        window = (slice(top, top + height), slice(left, left + width))
        a, b = sample["a"][window], sample["b"][window]
        limits = patches["low_contrast"]
        if limits is not None and any(is_low_contrast(image, **limits) for image in (a, b)):
            continue
        patch: Sample = {"name": patch_name(sample["name"], top, left), "a": a, "b": b}
        if "mask" in sample:
            patch["mask"] = sample["mask"][window]
        if "boxes" in sample:
            shape = (sample["a"].shape[0], sample["a"].shape[1])
            patch["boxes"] = crop_boxes(
                sample["boxes"], shape, (top, left, height, width), visible=patches["box_visible"]
            )
        yield patch


def _corners(sample: Sample, patches: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    """Yield the top left corners: a grid, or random positions that depend only on the image's name."""
    rows, columns = (n - m for n, m in zip(sample["a"].shape, (patches["height"], patches["width"]), strict=True))
    if rows < 0 or columns < 0:
        return
    if patches["random"] is None:
        stride = patches["stride"]
        yield from ((top, left) for top in range(0, rows + 1, stride) for left in range(0, columns + 1, stride))
        return
    draw = np.random.default_rng([patches["seed"], *sample["name"].encode()])
    for _ in range(patches["random"]):
        yield int(draw.integers(rows + 1)), int(draw.integers(columns + 1))


def is_low_contrast(image: Bytes, *, lower: float, upper: float, threshold: float) -> bool:
    """Return whether the range between two percentiles is a small part of the upper one.

    A black patch has low contrast. (S11: the published script divides zero by zero there and keeps it.)

    Source: SMFNet 4.1 (patches), after CDDFuse's preparation.
    """
    low, high = np.percentile(image, [lower, upper])
    return bool(high == 0 or (high - low) / high < threshold)


def crop_boxes(
    boxes: NDArray[np.float32], shape: tuple[int, int], window: tuple[int, int, int, int], *, visible: float
) -> NDArray[np.float32]:
    """Convert boxes to a window's coordinates, clip them, and drop those with too little area left.

    Shape: boxes (n, 5) rows of class, cx, cy, w, h relative to the image; returns (m, 5) relative to the window.

    Args:
        boxes: The image's boxes.
        shape: Height and width of the image.
        window: Top, left, height and width of the window, in pixels.
        visible: Smallest share of a box's area inside the window for it to be kept.
    """
    top, left, height, width = window
    scale = np.array([shape[1], shape[0]], np.float64)
    centre, half = boxes[:, 1:3] * scale, boxes[:, 3:5] * scale / 2
    limit = np.array([width, height], np.float64)
    low = np.clip(centre - half - (left, top), 0, limit)
    high = np.clip(centre + half - (left, top), 0, limit)
    inside, whole = np.prod(high - low, axis=1), np.prod(2 * half, axis=1)
    rows = np.column_stack([boxes[:, 0], (low + high) / 2 / limit, (high - low) / limit])
    return rows[(inside > 0) & (inside >= visible * whole)].astype(np.float32)

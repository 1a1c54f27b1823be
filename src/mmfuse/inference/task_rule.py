"""The task of a pair of images, determined from the images alone where that is reliable.

A scan shows a body on a black background: both images are black at the same pixels, along most of the border and in
the corners around the body. A camera image fills its frame: hardly any pixel is black in both infrared and visible
light. Rows and columns that are almost entirely black are removed before the area is measured, so that a film with
black bars is unclear rather than a scan.

Measured on 1025 pairs of scans (Harvard CT, PET and SPECT with MRI, Open MS Data) and 599 camera pairs (MSRS,
RoadScene, TNO, VIFB, every 15th frame of M2VD): at least 0.671 of the border and 0.129 of the area is black in a scan,
and at most 0.110 and 0.0023 in a camera pair. The limits are between these values, with margins on both sides. A scan
that fills its frame looks like a camera image; it needs `--task`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mmfuse.data.images import Bytes, luminance
from mmfuse.errors import UserError

BLACK = 2  # grey levels from 0: a black background after editing or JPEG compression
ALONG = 0.99  # a row or column is removed if at least this share is black
SCAN_BORDER, SCAN_AREA = 0.5, 0.05  # least share that is black in both images of a scan
CAMERA_BORDER, CAMERA_AREA = 0.25, 0.01  # largest share in a camera pair


@dataclass(frozen=True)
class Black:
    """Share of a pair that is black in both images: of its border, and of its area without black margins."""

    border: float
    area: float

    @property
    def task(self) -> str | None:
        """`mif` for a scan, `ivif` for a camera image; None if it is unclear or entirely black."""
        if self.border >= SCAN_BORDER and SCAN_AREA <= self.area < 1:
            return "mif"
        return "ivif" if self.border <= CAMERA_BORDER and self.area <= CAMERA_AREA else None


def shared_black(a: Bytes, b: Bytes) -> Black:
    """Measure where both images of a pair are black.

    Shape: a, b (H, W) or (H, W, 3) uint8, of equal height and width.
    """
    black = (luminance(a) <= BLACK) & (luminance(b) <= BLACK)
    border = np.concatenate([black[0], black[-1], black[1:-1, 0], black[1:-1, -1]])
    rows, columns = (np.flatnonzero(black.mean(axis) < ALONG) for axis in (1, 0))
    if not rows.size or not columns.size:
        return Black(float(border.mean()), 1.0)
    inside = black[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Black(float(border.mean()), float(inside.mean()))


def task_of_images(pairs: Iterable[tuple[str, Bytes, Bytes]]) -> str:
    """Return the task of all pairs, each with its name and its two images.

    Raises:
        UserError: a pair is neither clearly a scan nor clearly a camera image, or the pairs disagree.
    """
    first: dict[str, str] = {}
    for name, a, b in pairs:
        black = shared_black(a, b)
        shares = f"black in both: {black.border:.1%} of the border, {black.area:.1%} of the area within black margins"
        if black.task is None:
            raise _unclear("The task is not clear from the images.", f"{name}: {shares}")
        first.setdefault(black.task, f"{name}: {shares}")
        if len(first) > 1:
            raise _unclear("The images seem to belong to both tasks.", "; ".join(first.values()))
    if not first:
        raise _unclear("There is no image to determine the task from.", "no pair")
    return next(iter(first))


def _unclear(problem: str, found: str) -> UserError:
    return UserError(
        problem,
        expected=f"scans, black along {SCAN_BORDER:.0%} of the border and {SCAN_AREA:.0%} of the area or more, or "
        f"camera images, {CAMERA_BORDER:.0%} and {CAMERA_AREA:.0%} or less",
        found=found,
        fix="set it: --task ivif for infrared and visible images, --task mif for medical ones",
    )

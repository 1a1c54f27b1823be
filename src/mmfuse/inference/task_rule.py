"""Which task a pair of images belongs to, told from the images alone where that is safe.

A scan shows a body on a black background: both images are black at the same pixels, along most of the border and in
the corners that the body leaves free. A camera's picture fills its frame: hardly any pixel is black in infrared and
visible light at once. Rows and columns that are black nearly all along are cut off before the area is measured, so that
a film with black bars is unclear, and no scan.

Measured on 1025 pairs of scans (Harvard CT, PET and SPECT with MRI, Open MS Data) and 599 pairs of cameras (MSRS,
RoadScene, TNO, VIFB, every 15th frame of M2VD): 0.671 of the border and 0.129 of the area is black in a scan at least,
and 0.110 and 0.0023 in a camera's pair at most. The limits lie between, with room on both sides. A scan that fills its
frame looks like a camera's picture; `--task` is for that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mmfuse.data.images import Bytes, luminance
from mmfuse.errors import UserError

BLACK = 2  # grey levels from 0: what an editor or JPEG leaves of a black background
ALONG = 0.99  # a row or column is cut off if so much of it is black
SCAN_BORDER, SCAN_AREA = 0.5, 0.05  # in a scan at least so much is black in both images,
CAMERA_BORDER, CAMERA_AREA = 0.25, 0.01  # and in a camera's picture at most so much


@dataclass(frozen=True)
class Black:
    """How much of a pair is black in both images: a share of its border, and of its area without black margins."""

    border: float
    area: float

    @property
    def task(self) -> str | None:
        """`mif` for a scan, `ivif` for a camera's picture; None where it is neither clearly, or black all over."""
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
    """Return the task of all pairs, each given by its name and its two images.

    Raises:
        UserError: a pair is neither clearly a scan nor clearly a camera's picture, or the pairs disagree.
    """
    first: dict[str, str] = {}
    for name, a, b in pairs:
        black = shared_black(a, b)
        shares = f"black in both: {black.border:.1%} of the border, {black.area:.1%} of the area within black margins"
        if black.task is None:
            raise _unclear("It is not clear from the images what they are.", f"{name}: {shares}")
        first.setdefault(black.task, f"{name}: {shares}")
        if len(first) > 1:
            raise _unclear("The images seem to be of both tasks.", "; ".join(first.values()))
    if not first:
        raise _unclear("There is no image to tell the task from.", "no pair")
    return next(iter(first))


def _unclear(problem: str, found: str) -> UserError:
    return UserError(
        problem,
        expected=f"scans, black along {SCAN_BORDER:.0%} of the border and {SCAN_AREA:.0%} of the area or more, or "
        f"pictures of cameras, {CAMERA_BORDER:.0%} and {CAMERA_AREA:.0%} or less",
        found=found,
        fix="say it: --task ivif for infrared and visible images, --task mif for medical ones",
    )

"""A map from the pixels of a moving image to those of a fixed image, and its JSON file.

Positions are (x, y) in pixels: x to the right, y down, (0, 0) the centre of the upper left pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfuse.errors import UserError
from mmfuse.files.reading import read_json
from mmfuse.files.schema import check_against_schema
from mmfuse.files.writing import write_json

Floats = NDArray[np.float64]
MODELS = ("rigid", "similarity", "affine")
_FORMAT = "mmfuse-transform/1"
_LARGEST = 1_000_000  # pixels along a side
_SCALES = (1 / 50, 50.0)  # how much a map may shrink or enlarge
STEEPEST = 0.35  # of a displacement field, pixels per pixel: a steeper one could fold
_BAND = 1 << 20  # pixels that are resampled at once
_FIX = "make it again with `mmfuse align`"

_NUMBER = {"type": "number"}
_ROWS = {"type": "array", "minItems": 2, "items": {"type": "array", "minItems": 2, "items": _NUMBER}}
_SIDE = {"type": "integer", "minimum": 1, "maximum": _LARGEST}
_SIZE = {
    "type": "object",
    "description": "width and height of the image in pixels",
    "required": ["width", "height"],
    "additionalProperties": False,
    "properties": {"width": _SIDE, "height": _SIDE},
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["format", "model", "moving", "fixed", "matrix", "confidence"],
    "additionalProperties": False,
    "properties": {
        "format": {"const": _FORMAT},
        "model": {"enum": list(MODELS), "description": "kind of map in `matrix`"},
        "moving": _SIZE,
        "fixed": _SIZE,
        "matrix": {
            "type": "array",
            "minItems": 2,
            "maxItems": 2,
            "items": {"type": "array", "minItems": 3, "maxItems": 3, "items": _NUMBER},
            "description": "two rows of three numbers: x' = a x + b y + c, y' = d x + e y + f",
        },
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "displacement": {
            "type": "object",
            "description": "shifts in pixels on a grid that covers the fixed image from corner to corner",
            "required": ["x", "y"],
            "additionalProperties": False,
            "properties": {"x": _ROWS, "y": _ROWS},
        },
    },
}


@dataclass(frozen=True, eq=False)
class Transform:
    """Where the content of a moving image lies in a fixed image.

    A position p of the fixed image shows what the moving image shows at q, where matrix q = p + displacement(p).

    Attributes:
        matrix: (3, 3), maps homogeneous positions (x, y, 1) of the moving image to the fixed one.
        moving: Height and width of the moving image.
        fixed: Height and width of the fixed image.
        model: One of `MODELS`.
        confidence: In [0, 1], the share of the image that agrees; see `mmfuse.alignment.check`.
        aligned: False for a map that was found but cannot be trusted. Such a transform is never written.
        displacement: (2, rows, columns), shifts (x, y) in pixels at the nodes of a grid from corner to corner of the
            fixed image; None without deformation.
    """

    matrix: Floats
    moving: tuple[int, int]
    fixed: tuple[int, int]
    model: str = "affine"
    confidence: float = 1.0
    aligned: bool = True
    displacement: Floats | None = None

    def to_fixed(self, points: NDArray[Any]) -> Floats:
        """Map positions in the moving image into the fixed one.

        Shape: (N, 2) in and out.
        """
        target = _mapped(self.matrix, np.asarray(points, np.float64))
        found = target
        if self.displacement is not None:
            for _ in range(60):  # a contraction, because the field is not steeper than STEEPEST
                found = target - self._shifts(found)
        return found

    def to_moving(self, points: NDArray[Any]) -> Floats:
        """Map positions in the fixed image into the moving one.

        Shape: (N, 2) in and out.
        """
        points = np.asarray(points, np.float64)
        shifted = points if self.displacement is None else points + self._shifts(points)
        return _mapped(np.linalg.inv(self.matrix), shifted)

    def _shifts(self, points: Floats) -> Floats:
        """Return the displacement at positions of the fixed image, bilinear between nodes; outside as at the edge."""
        from scipy.ndimage import map_coordinates

        assert self.displacement is not None
        nodes = np.array(self.displacement.shape[1:])
        scale = (nodes - 1) / np.maximum(np.array(self.fixed) - 1, 1)
        at = points[:, ::-1].T * scale[:, None]
        return np.stack([map_coordinates(part, at, order=1, mode="nearest") for part in self.displacement], axis=1)

    def warp(self, image: NDArray[Any]) -> NDArray[Any]:
        """Resample the moving image on the pixels of the fixed one, bilinearly; 0 where it shows nothing.

        Shape: (H, W) or (H, W, C) of the size `moving`; returns the size `fixed`, the same type.

        Raises:
            UserError: the image has another size.
        """
        from scipy.ndimage import gaussian_filter, map_coordinates

        self.check_size(image.shape[:2], "The moving image")
        planes = image[..., None] if image.ndim == 2 else image
        height, width = self.fixed
        out = np.empty((height, width, planes.shape[2]), image.dtype)
        # where the image is made smaller, first remove what the coarser grid cannot show
        shrinking = float(np.linalg.svd(np.linalg.inv(self.matrix)[:2, :2], compute_uv=False).mean())
        blur = max(0.0, (shrinking - 1) / 2)
        rows = max(1, _BAND // width)
        channels = list(np.moveaxis(planes, 2, 0))
        if blur > 0.1:
            channels = [gaussian_filter(channel.astype(np.float32), blur, mode="nearest") for channel in channels]
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            y, x = np.mgrid[top:bottom, :width].reshape(2, -1)
            at = self.to_moving(np.stack([x, y], axis=1))[:, ::-1].T
            for number, channel in enumerate(channels):
                values = map_coordinates(channel, at, output=np.float64, order=1, mode="constant")
                if np.issubdtype(image.dtype, np.integer):
                    values = np.rint(values)
                out[top:bottom, :, number] = values.reshape(bottom - top, width).astype(image.dtype)
        return out if image.ndim == 3 else out[..., 0]

    def check_size(self, shape: tuple[int, ...], what: str, *, fixed: bool = False) -> None:
        """Check that an image has the size for which the transform was made.

        Raises:
            UserError: it has not; `what` names the image.
        """
        height, width = self.fixed if fixed else self.moving
        if tuple(shape[:2]) != (height, width):
            raise UserError(
                f"{what} does not fit the transform.", expected=f"{height}x{width} (height x width)",
                found=f"{shape[0]}x{shape[1]}", fix="align images of this size, and use their transform",
            )  # fmt: skip


def _mapped(matrix: NDArray[Any], points: Floats) -> Floats:
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def write_transform(path: Path, transform: Transform) -> None:
    """Write a transform as JSON, completely or not at all."""
    value: dict[str, Any] = {
        "format": _FORMAT,
        "model": transform.model,
        "moving": {"height": transform.moving[0], "width": transform.moving[1]},
        "fixed": {"height": transform.fixed[0], "width": transform.fixed[1]},
        "matrix": [[round(number, 9) for number in row] for row in transform.matrix[:2].tolist()],
        "confidence": round(transform.confidence, 4),
    }
    if transform.displacement is not None:
        x, y = np.round(transform.displacement, 4).tolist()
        value["displacement"] = {"x": x, "y": y}
    write_json(path, value)


def read_transform(path: Path) -> Transform:
    """Read and check a transform.

    Raises:
        UserError: the file is missing or damaged, or its map is singular, mirrored, folded, or moves the image away.
    """
    value = read_json(path, fix=_FIX)
    check_against_schema(value, SCHEMA, str(path))
    size = {name: (value[name]["height"], value[name]["width"]) for name in ("moving", "fixed")}
    with np.errstate(all="ignore"):
        matrix = np.array([*value["matrix"], [0, 0, 1]], np.float64)
        field = _field(path, value["displacement"]) if "displacement" in value else None
        transform = Transform(
            matrix, size["moving"], size["fixed"], value["model"], value["confidence"], displacement=field
        )
        _check_map(path, transform)
    return transform


def _field(path: Path, parts: dict[str, Any]) -> Floats:
    """Return the displacement of a file as one array."""
    lengths = {(len(rows), len(row)) for rows in parts.values() for row in rows}
    if len(lengths) != 1:
        raise _wrong(path, "rows of equal length, as many in x as in y", f"(rows, columns): {sorted(lengths)}")
    return np.array([parts["x"], parts["y"]], np.float64)


def _check_map(path: Path, transform: Transform) -> None:
    linear = transform.matrix[:2, :2]
    finite = bool(np.isfinite(transform.matrix).all()) and float(np.abs(transform.matrix).max()) < 1e9
    scales = np.linalg.svd(linear, compute_uv=False) if finite else np.zeros(2)
    if not _SCALES[0] <= scales.min() <= scales.max() <= _SCALES[1] or np.linalg.det(linear) <= 0:
        raise _wrong(
            path, f"a matrix that does not mirror and scales by {_SCALES[0]:g} to {_SCALES[1]:g}", linear.tolist()
        )
    if transform.model != "affine" and scales.max() > scales.min() * (1 + 1e-6):
        raise _wrong(path, f"a {transform.model} matrix, which scales equally in all directions", linear.tolist())
    field = transform.displacement
    if field is not None:
        steep = steepest(field, transform.fixed)
        if not (np.isfinite(field).all() and steep <= STEEPEST):
            raise _wrong(path, f"a displacement that changes by at most {STEEPEST} pixels per pixel", f"{steep:g}")
    if not _overlap(transform):
        raise _wrong(path, "a map onto the fixed image", "the whole moving image lies outside the fixed one")


def steepest(field: Floats, sides: tuple[int, int]) -> float:
    """Return how much a displacement changes at most from pixel to pixel.

    Args:
        field: (2, rows, columns), on a grid from corner to corner.
        sides: Height and width of the image.
    """
    spacing = [max(side - 1, 1) / (count - 1) for side, count in zip(sides, field.shape[1:], strict=True)]
    return max(
        float(np.abs(np.diff(field, axis=axis)).max()) / step for axis, step in zip((1, 2), spacing, strict=True)
    )


def _overlap(transform: Transform) -> bool:
    """Return whether some of the fixed image shows the moving one."""
    height, width = transform.fixed
    grid = np.stack(np.meshgrid(np.linspace(0, width - 1, 33), np.linspace(0, height - 1, 33)), -1).reshape(-1, 2)
    seen = transform.to_moving(grid)
    inside = (seen >= -0.5) & (seen <= np.array(transform.moving[::-1]) - 0.5)
    return bool(inside.all(axis=1).any())


def _wrong(path: Path, expected: str, found: object) -> UserError:
    return UserError(f"{path} is not a usable transform.", expected=expected, found=found, fix=_FIX)

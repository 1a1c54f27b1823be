"""A volume in memory or mapped from a file, with its geometry, and how its slices are shown to a network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmfuse.errors import UserError

Values = NDArray[np.float64]

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}  # the axis of RAS+ (right, anterior, superior) along which they lie
_IN_PLANE = {"sagittal": (2, 1), "coronal": (2, 0), "axial": (1, 0)}  # axes of RAS+ that are rows and columns
_CLOSE = 0.05  # of a voxel: grids that differ by less are the same


@dataclass
class Volume:
    """One volume.

    Attributes:
        name: The file or folder, for messages.
        data: Stored values, (X, Y, Z), or (X, Y, Z, 3) uint8 for colour; often mapped from a file.
        affine: Voxel index to millimetres in RAS+, 4 x 4, of full rank.
        located: Whether the affine holds positions; otherwise, only voxel sizes.
        slope: Factor from stored values to values.
        intercept: Value of a stored 0.
        window: Display range that the file states, in values.
        window_source: Where the window comes from.
        inverted: Whether small values are shown bright (MONOCHROME1).
        header: Of a NIfTI file, as nibabel has it.
        notes: What the user should know about it.
        identity: Of a DICOM series: patient and frame of reference.
    """

    name: str
    data: NDArray[Any]
    affine: Values
    located: bool = True
    slope: float = 1.0
    intercept: float = 0.0
    window: tuple[float, float] | None = None
    window_source: str = ""
    inverted: bool = False
    header: Any = None
    notes: list[str] = field(default_factory=list)
    identity: dict[str, str] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of voxels along each axis."""
        return self.data.shape[:3]

    @property
    def colour(self) -> bool:
        """Whether each voxel has red, green and blue."""
        return self.data.ndim == 4

    @property
    def spacing(self) -> Values:
        """Millimetres between voxels along each axis."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    def scaled(self, stored: NDArray[Any]) -> Values:
        """Return values from stored ones; these need not be finite."""
        return stored.astype(np.float64) * self.slope + self.intercept

    def blocks(self) -> Iterator[Values]:
        """Yield the values in parts: planes of the last axis, which is contiguous in most files."""
        for number in range(self.shape[2]):
            yield self.scaled(self.data[:, :, number])

    def described(self) -> str:
        """Return the size of the grid in words, such as `256 x 256 x 180 voxels of 1 x 1 x 1.2 mm`."""
        return f"{' x '.join(map(str, self.shape))} voxels of {' x '.join(f'{s:.4g}' for s in self.spacing)} mm"


def check_affine(name: str, affine: Values) -> None:
    """Check that an affine can be inverted.

    Raises:
        UserError: it cannot.
    """
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise UserError(
            f"The geometry of {name} cannot be used.",
            expected="an affine of finite numbers whose axes are not parallel",
            found=np.array2string(affine[:3], precision=4).replace("\n", ""),
            fix="correct the header, or convert the volume from its source again",
        )


def _corners(shape: tuple[int, ...]) -> Values:
    """Return the corners of a grid as columns (4, 8)."""
    ends = np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")
    return np.stack([*(one.ravel() for one in ends), np.ones(8)]).astype(np.float64)


def affines_agree(first: Values, second: Values, shape: tuple[int, ...]) -> bool:
    """Return whether two affines put a grid's voxels at the same positions, to a twentieth of the smallest voxel."""
    distance = np.linalg.norm(((first - second) @ _corners(shape))[:3], axis=0).max()
    return bool(distance <= _CLOSE * np.linalg.norm(first[:3, :3], axis=0).min())


class Layout(NamedTuple):
    """How a grid is cut into slices as they are displayed: rows from anterior or superior, columns from right.

    In a sagittal slice, columns run from anterior. Slices run from left, posterior or inferior.

    Attributes:
        axes: Axes of the grid: along the slices, along rows downwards, along columns.
        flips: For each of them, 1, or -1 if it runs against the order of display.
    """

    axes: tuple[int, int, int]
    flips: tuple[int, int, int]

    def slices(self, data: NDArray[Any]) -> NDArray[Any]:
        """Return a view (slices, rows, columns) or (slices, rows, columns, 3) of (X, Y, Z) or (X, Y, Z, 3)."""
        along, rows, columns = self.flips
        return data.transpose(*self.axes, *range(3, data.ndim))[::along, ::rows, ::columns]

    def to_grid(self, shape: tuple[int, ...]) -> Values:
        """Return the 4 x 4 matrix from indices of the view to indices of the grid."""
        matrix = np.zeros((4, 4))
        matrix[3, 3] = 1
        for place, (axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            matrix[axis, place] = flip
            matrix[axis, 3] = shape[axis] - 1 if flip < 0 else 0
        return matrix


def layout(volume: Volume, plane: str) -> Layout:
    """Return how a volume is cut into slices nearest to a plane: sagittal, coronal or axial."""
    from nibabel.orientations import io_orientation

    orientation = io_orientation(volume.affine)
    axes = [int(np.flatnonzero(orientation[:, 0] == world)[0]) for world in (PLANES[plane], *_IN_PLANE[plane])]
    signs = [int(orientation[axis, 1]) for axis in axes]
    return Layout((axes[0], axes[1], axes[2]), (signs[0], -signs[1], -signs[2]))

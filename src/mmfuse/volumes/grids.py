"""Slices of one volume on the grid of another: the same voxels, or resampled by the affines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mmfuse.errors import UserError
from mmfuse.volumes.volume import Layout, Values, Volume, affines_agree

Slice = Callable[[int], Values]  # number of a slice to its values, (rows, columns) or (rows, columns, 3)


def same_grid(first: Volume, second: Volume) -> bool:
    """Return whether two volumes have the same voxels, to a twentieth of a voxel.

    Raises:
        UserError: the grids differ, and one of them has no positions.
    """
    if first.shape == second.shape:
        if affines_agree(first.affine, second.affine, first.shape):
            return True
        if not (first.located and second.located) and np.allclose(first.spacing, second.spacing, 1e-3):
            return True
    unknown = [volume for volume in (first, second) if not volume.located]
    if unknown:
        raise UserError(
            f"The volume {unknown[0].name} has no positions.",
            expected="volumes on the same grid, or with positions (sform or qform), by which they can be resampled",
            found=f"{first.described()}, and {second.described()}",
            fix="convert the volume from its source again with a tool that keeps the geometry",
        )
    return False


def own_slices(volume: Volume, layout: Layout) -> Slice:
    """Return the slices of a volume on its own grid."""
    view = layout.slices(volume.data)
    return lambda number: volume.scaled(view[number])


def overlap(volume: Volume, target: Volume) -> float:
    """Return which share of another volume's field of view lies within a volume, judged at 33 x 33 x 33 positions."""
    lines = [np.linspace(0, n - 1, 33) for n in target.shape]
    points = np.stack([*(one.ravel() for one in np.meshgrid(*lines)), np.ones(33**3)])
    indices = (np.linalg.solve(volume.affine, target.affine) @ points)[:3]
    ends = np.array(volume.shape)[:, None] - 0.5
    return float(((indices >= -0.5) & (indices <= ends)).all(axis=0).mean())


def resampled_slices(volume: Volume, target: Volume, layout: Layout) -> Slice:
    """Return the slices of a volume on the grid of another one, by linear interpolation in three dimensions.

    Voxels outside of the volume are NaN. A volume that is finer than the grid is smoothed first, so that no detail
    turns into another one. The volume is held in memory as float32, and resampled one slice at a time.

    Raises:
        UserError: the volumes do not overlap.
    """
    import SimpleITK as sitk  # noqa: N813 - as its users call it

    if not overlap(volume, target):
        raise UserError(
            "The two volumes do not overlap.",
            expected="volumes that show the same part of one body, in one coordinate system",
            found=f"no voxel of {target.name} within {volume.name}",
            fix="check the files; volumes of different examinations must be registered first",
        )
    stored = np.ascontiguousarray(np.moveaxis(volume.data, (0, 1, 2), (2, 1, 0)), np.float32)
    image: Any = sitk.GetImageFromArray(stored, isVector=volume.colour)
    del stored
    between = np.linalg.solve(volume.affine, target.affine)
    steps = np.linalg.norm(between[:3, :3], axis=1)  # voxels of the volume between two of the grid
    sigmas = np.maximum(0, (steps - 1) / 2)
    if sigmas.any():
        image = _smoothed(image, sigmas)
    matrix = between @ layout.to_grid(target.shape)
    rows, columns = (target.shape[axis] for axis in layout.axes[1:])
    outside = float("nan")

    def one(number: int) -> Values:
        # its axes are columns, rows and slices; those of the matrix are slices, rows and columns
        transform = sitk.AffineTransform(3)
        transform.SetMatrix(matrix[:3, 2::-1].ravel().tolist())
        transform.SetTranslation((matrix[:3, 3] + number * matrix[:3, 0]).tolist())
        plane = sitk.Resample(
            image, (columns, rows, 1), transform, sitk.sitkLinear, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0),
            (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0), outside,
        )  # fmt: skip
        return volume.scaled(sitk.GetArrayFromImage(plane)[0])

    return one


def _smoothed(image: Any, sigmas: Values) -> Any:
    """Return an image smoothed by a Gaussian; sigmas along its axes in voxels."""
    import SimpleITK as sitk  # noqa: N813 - as its users call it

    channels = image.GetNumberOfComponentsPerPixel()
    if channels > 1:
        return sitk.Compose([_smoothed(sitk.VectorIndexSelectionCast(image, n), sigmas) for n in range(channels)])
    return sitk.DiscreteGaussian(image, [float(s**2) for s in sigmas], 32, 0.01, useImageSpacing=False)

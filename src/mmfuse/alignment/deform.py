"""A smooth displacement field after the linear map: each block moves where it agrees, tied to its neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmfuse.alignment.refine import Surfaces, sampled
from mmfuse.alignment.transform import STEEPEST, Floats, steepest

_BLURS = (1.5, 0.7)  # of the surfaces, in pixels
_STIFFNESS = 0.5  # agreement per squared pixel by which the shifts of two neighbouring blocks differ


def bent(found: Sequence[Surfaces], reach: int) -> Floats:
    """Return the shift of each block, (2, rows, columns) as x and y in pixels.

    Args:
        found: The surfaces of one or several pairs, of equal size, under the linear map.
        reach: As in `surfaces`.
    """
    from scipy.ndimage import gaussian_filter1d
    from scipy.optimize import minimize

    values = np.sum([one.values * one.known for one in found], axis=0) / len(found)
    grid = values.shape[2:]
    smooth = values.reshape(*values.shape[:2], -1)
    shifts = np.zeros(2 * grid[0] * grid[1])
    for blur in _BLURS:
        for axis in (0, 1):
            smooth = gaussian_filter1d(smooth, blur, axis=axis, mode="nearest")
        shifts = minimize(_cost, shifts, (smooth, grid, reach), jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
        smooth = values.reshape(*values.shape[:2], -1)
    return shifts.reshape(2, *grid)


def _cost(
    shifts: NDArray[np.float64], values: NDArray[np.float32], grid: tuple[int, int], reach: int
) -> tuple[float, NDArray[np.float64]]:
    """Return stiffness minus agreement, and the gradient."""
    agreement, slope = sampled(values, shifts.reshape(2, -1), reach)
    field = shifts.reshape(2, *grid)
    gradient = -slope.reshape(field.shape)
    energy = 0.0
    for axis in (1, 2):
        steps = np.diff(field, axis=axis)
        energy += _STIFFNESS / 2 * float((steps**2).sum())
        pull = _STIFFNESS * steps
        none = [(0, 0)] * 3
        none[axis] = (1, 0)
        gradient = gradient + np.pad(pull, none)
        none[axis] = (0, 1)
        gradient = gradient - np.pad(pull, none)
    return energy - float(agreement.sum()), gradient.ravel()


def on_corners(field: Floats, found: Surfaces, scale: float) -> Floats:
    """Return a field of blocks on a grid from corner to corner of the fixed image, smooth enough not to fold.

    Args:
        field: (2, rows, columns), as `bent` returns it.
        found: The surfaces that it comes from.
        scale: Pixels of full resolution per pixel of the surfaces.

    Returns:
        (2, rows, columns), at least 2 along each axis, in pixels of full resolution.
    """
    from scipy.ndimage import gaussian_filter1d, map_coordinates

    sides = found.shape
    counts = [max(2, count) for count in field.shape[1:]]
    nodes = [np.linspace(0, side - 1, count) for side, count in zip(sides, counts, strict=True)]
    origin, step = found.centres[::-1, 0, 0], found.centres[0, 0, 1] - found.centres[0, 0, 0]
    lines = [(line - start) / step for line, start in zip(nodes, origin, strict=True)]
    at = np.stack(np.meshgrid(*lines, indexing="ij"))
    corners = np.stack([map_coordinates(part, at, order=1, mode="nearest") for part in field])
    while steepest(corners, sides) > 0.9 * STEEPEST:
        for axis in (1, 2):
            corners = gaussian_filter1d(corners, 1.0, axis=axis, mode="nearest")
    return corners * scale

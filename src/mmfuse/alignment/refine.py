"""Refinement of a map by the agreement of blocks.

Each block of the fixed image is compared with the moving image at each small shift. The agreement of a block is a
normalised correlation of edge orientations. All blocks vote with their whole surface of agreements, not only with its
peak, so that blocks without texture or with a wrong peak do no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmfuse.alignment.features import Floats, Mask, orientations
from mmfuse.alignment.start import Level, turned
from mmfuse.alignment.transform import Floats as Matrix

BLOCK = 8  # pixels between the centres of blocks
_TAPS = np.array([1, 4, 7, 8, 7, 4, 1]) / 32  # the window of a block, in steps of BLOCK pixels: about 32 pixels wide
_BLURS = (2.5, 1.2, 0.6)  # of the surfaces, in pixels: first far-reaching, then exact
_SHARPNESS = 15.0  # of the evidence: agreements that differ by 1 / 15 differ by a factor e
_FLOOR = 0.15  # of the strongest block: edges that count half
_FALL = 0.05  # agreement per squared pixel beyond the reach
_KNOWN = 0.3  # least share of a block with content in both images


class Surfaces(NamedTuple):
    """Agreement of blocks at shifts.

    Attributes:
        values: (shifts in y, shifts in x, rows, columns), in [-1, 1]; the shift 0 is in the middle.
        known: (rows, columns), True for blocks with content in both images.
        centres: (2, rows, columns), x and y of the blocks' centres in the fixed image.
        shape: Height and width of the fixed image.
    """

    values: Floats
    known: Mask
    centres: Matrix
    shape: tuple[int, int]


def surfaces(fixed: Level, moving: Level, matrix: Matrix, reach: int, sigma: float = 1.0) -> Surfaces:
    """Compare the blocks of a fixed image with a moving one under a map and shifts of up to `reach` pixels.

    Args:
        fixed: The fixed image.
        moving: The moving image.
        matrix: The map between these two.
        reach: Largest shift along each axis.
        sigma: See `orientations`.
    """
    height, width = fixed.image.shape
    there, there_known = orientations(fixed.image, fixed.mask, sigma)
    # a margin of `reach` around the warped image, so that every shift has a value
    margin = np.eye(3)
    margin[:2, 2] = reach
    here, here_known = orientations(*turned(moving, margin @ matrix, (height + 2 * reach, width + 2 * reach)), sigma)
    energy, own_energy = (there**2).sum(axis=0), (here**2).sum(axis=0)
    masks = there_known.astype(np.float32), here_known.astype(np.float32)
    count = 2 * reach + 1
    sums = np.empty((4, count, count, *(-(-side // BLOCK) for side in (height, width))), np.float32)
    for row in range(count):
        for column in range(count):
            window = np.s_[..., row : row + height, column : column + width]
            products = (
                (there * here[window]).sum(axis=0), energy * masks[1][window], masks[0] * own_energy[window],
                masks[0] * masks[1][window],
            )  # fmt: skip
            for number, product in enumerate(products):
                sums[number, row, column] = _per_block(product)
    product, first, second, known = _windowed(sums)
    strength = np.sqrt(first * second)
    floor = _FLOOR * float(strength[reach, reach].max(initial=1e-9))  # a block with faint edges agrees little
    y, x = (np.arange(sums.shape[axis]) * BLOCK + (BLOCK - 1) / 2 for axis in (3, 4))
    enough = known[reach, reach] >= _KNOWN * BLOCK**2
    return Surfaces(product / (strength + floor), enough, np.stack(np.meshgrid(x, y)), (height, width))


def _per_block(values: Floats) -> Floats:
    """Sum an image (H, W) over blocks of BLOCK x BLOCK pixels, the last of which may be incomplete."""
    rows, columns = (np.arange(0, side, BLOCK) for side in values.shape)
    return np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)


def _windowed(sums: Floats) -> Floats:
    """Smooth sums of blocks over their neighbours; (..., rows, columns) in and out."""
    from scipy.ndimage import correlate1d

    for axis in (-1, -2):
        sums = correlate1d(sums, _TAPS, axis=axis, mode="constant")
    return sums


def fitted(found: Sequence[Surfaces], model: str, reach: int) -> tuple[Matrix, float]:
    """Return the map of the fixed image that agrees best with all blocks, and its mean agreement.

    Args:
        found: The surfaces of one or several pairs, of equal size.
        model: `rigid`, `similarity` or `affine`.
        reach: As in `surfaces`.

    Returns:
        (3, 3): what the fixed image shows at p, the warped moving image shows at matrix p. And the evidence for it: the
        mean over all blocks of the logarithm of how much better a block agrees there than at other shifts; blocks
        without content count 0.
    """
    from scipy.ndimage import gaussian_filter1d
    from scipy.optimize import minimize
    from scipy.special import logsumexp

    values = np.concatenate([one.values[:, :, one.known] for one in found], axis=2)
    if not values.size:
        return np.eye(3), 0.0
    shape = found[0].shape
    basis = _basis(np.concatenate([one.centres[:, one.known] for one in found], axis=1), shape, model)
    best = np.zeros(len(basis))
    for blur in _BLURS:
        smooth = values
        for axis in (0, 1):
            smooth = gaussian_filter1d(smooth, blur, axis=axis, mode="nearest")
        best = minimize(_cost, best, (smooth, basis, reach), jac=True, method="L-BFGS-B").x
    agreement, _ = sampled(values, np.tensordot(best, basis, axes=1), reach)
    elsewhere = logsumexp(_SHARPNESS * values, axis=(0, 1)) - 2 * np.log(2 * reach + 1)
    blocks = sum(one.known.size for one in found)
    return matrix_of(best, shape, model), float((_SHARPNESS * agreement - elsewhere).sum() / blocks)


def _basis(centres: Matrix, shape: tuple[int, int], model: str) -> NDArray[np.float64]:
    """Return what each parameter does to the shifts (x, y) of each block; all parameters are pixels.

    Shape: centres (2, N); returns (parameters, 2, N).
    """
    height, width = shape
    x, y = (centres - np.array([[(width - 1) / 2], [(height - 1) / 2]])) / (max(shape) / 2)
    one, none = np.ones_like(x), np.zeros_like(x)
    rows = [(one, none), (none, one), (-y, x)]
    if model != "rigid":
        rows.append((x, y))
    if model == "affine":
        rows += [(x, -y), (y, x)]
    return np.array(rows)


def matrix_of(parameters: Matrix, shape: tuple[int, int], model: str) -> Matrix:
    """Return a map near the identity by its parameters, all in pixels.

    Args:
        parameters: Shifts along x and y, rotation, scale, and two shears; those that the model lacks are left out. The
            last four are what they shift at half the longer side from the centre.
        shape: Height and width of the image.
        model: `rigid`, `similarity` or `affine`.
    """
    shift_x, shift_y, turn, scale, stretch, shear = np.pad(parameters, (0, 6 - len(parameters)))
    half = max(shape) / 2
    linear = np.array([[scale + stretch, shear - turn], [shear + turn, scale - stretch]]) / half + np.eye(2)
    if model == "rigid":
        linear /= np.sqrt(np.linalg.det(linear))
    height, width = shape
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = centre + np.array([shift_x, shift_y]) - linear @ centre
    return matrix


def _cost(
    parameters: Matrix, values: Floats, basis: NDArray[np.float64], reach: int
) -> tuple[float, NDArray[np.float64]]:
    """Return the negative mean agreement at the shifts of some parameters, and its gradient."""
    shifts = np.tensordot(parameters, basis, axes=1)  # (2, blocks)
    agreement, slope = sampled(values, shifts, reach)
    gradient = (basis * slope).sum(axis=1).mean(axis=1)
    return -float(agreement.mean()), -gradient


def sampled(values: Floats, shifts: Matrix, reach: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read one surface for each block at its own shift, and the slope there.

    The surfaces are splines of degree 2 with the values as coefficients: their slope has no jumps, at which a search
    would stop.

    Shape: values (shifts in y, shifts in x, N), shifts (2, N) as x and y; returns (N,) and (2, N).
    """
    at = np.clip(shifts + reach, 0.5, 2 * reach - 0.5)
    beyond = shifts + reach - at  # nothing is known there: the surface falls, so that a fit stays within reach
    centre = np.clip(np.rint(at).astype(int), 1, 2 * reach - 1)
    f = at - centre
    weights = np.stack([(0.5 - f) ** 2 / 2, 0.75 - f**2, (0.5 + f) ** 2 / 2])  # (3, 2, N)
    slopes = np.stack([f - 0.5, -2 * f, f + 0.5])
    steps = np.arange(-1, 2)
    near = values[
        centre[1] + steps[:, None, None], centre[0] + steps[None, :, None], np.arange(values.shape[2])
    ]  # (3, 3, N)
    agreement = np.einsum("yn,xn,yxn->n", weights[:, 1], weights[:, 0], near)
    slope = np.stack([
        np.einsum("yn,xn,yxn->n", weights[:, 1], slopes[:, 0], near),
        np.einsum("yn,xn,yxn->n", slopes[:, 1], weights[:, 0], near),
    ])  # fmt: skip
    return agreement - _FALL * (beyond**2).sum(axis=0), slope * (beyond == 0) - 2 * _FALL * beyond

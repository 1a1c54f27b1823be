"""Registration of scans by their normalised mutual information.

PET and SPECT show hardly the edges of a CT or MRI image: their resolution is several times coarser. What they share is
statistical: a tissue of one brightness in one image has a typical brightness in the other, and the background is black
in both (Studholme, Hill and Hawkes, "An overlap invariant entropy measure of 3D medical image alignment", Pattern
Recognition 1999).

The optimum is searched from several starts. How many of them end at the same map tells how far it can be trusted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmfuse.alignment.features import Floats, Pair
from mmfuse.alignment.refine import matrix_of
from mmfuse.alignment.start import Candidate, Level, at_size, level_factor
from mmfuse.alignment.transform import Floats as Matrix

SIDES = (128, 256)  # pixels of the longer side: for the search, and for the last refinement
_BINS = (24, 32)  # brightness levels at these sizes
_SIGMA = 1.0  # pixels by which both images are smoothed
_STEP = (3.0, 1.0)  # pixels, the first step along each parameter
_ANGLES = (-10, 0, 10)  # degrees, of the starts that put centre on centre
_OVERLAP = 0.4  # least share of the fixed image that the moving one must cover
_SAME = 0.02  # of the longer side: starts whose corners end closer than this end at the same map


class Information:
    """Normalised mutual information of one or several pairs as a function of a map."""

    def __init__(self, levels: Sequence[tuple[Level, Level]], model: str, bins: int) -> None:
        self.model, self.bins = model, bins
        self.fixed = [np.rint(_levels(fixed.image, bins)).astype(int) for _, fixed in levels]
        self.moving = [_levels(moving.image, bins) for moving, _ in levels]
        self.shape = self.fixed[0].shape

    def __call__(self, matrix: Matrix) -> float:
        """Return (H(fixed) + H(moving)) / H(fixed, moving) where both are known, from 1 to 2; 1 for a small overlap."""
        images = zip(self.fixed, self.moving, strict=True)
        counts = np.sum([self._joint(fixed, moving, matrix) for fixed, moving in images], axis=0)
        if counts.sum() < _OVERLAP * sum(fixed.size for fixed in self.fixed):
            return 1.0
        joint = _entropy(counts)
        return (_entropy(counts.sum(axis=0)) + _entropy(counts.sum(axis=1))) / joint if joint > 1e-9 else 1.0

    def _joint(self, fixed: NDArray[np.int_], moving: Floats, matrix: Matrix) -> Matrix:
        """Return the joint histogram; a brightness between two levels counts for both in part."""
        from scipy.ndimage import affine_transform

        inverse = np.linalg.inv(matrix)
        seen = affine_transform(
            moving, inverse[:2, :2][::-1, ::-1], inverse[:2, 2][::-1], output_shape=self.shape, order=1, cval=-1.0
        )
        known = seen >= 0
        low = np.minimum(seen[known].astype(int), self.bins - 2)
        part = seen[known] - low
        place = fixed[known] * self.bins + low
        size = self.bins**2
        lower = np.bincount(place, weights=1 - part, minlength=size)
        upper = np.bincount(place + 1, weights=part, minlength=size)
        return np.asarray(lower + upper, np.float64).reshape(self.bins, self.bins)

    def best_near(self, matrix: Matrix, step: float) -> Candidate:
        """Search the best map from a start, by Powell's method; `step` is the first step in pixels."""
        from scipy.optimize import minimize

        count = {"rigid": 3, "similarity": 4, "affine": 6}[self.model]

        def cost(parameters: Matrix) -> float:
            return -self(matrix_of(parameters, self.shape, self.model) @ matrix)

        options = {"xtol": 0.05, "ftol": 1e-5, "direc": np.eye(count) * step}
        found = minimize(cost, np.zeros(count), method="Powell", options=options)
        return Candidate(-float(found.fun), matrix_of(found.x, self.shape, self.model) @ matrix)


def _levels(image: Floats, bins: int) -> Floats:
    """Return a smoothed image scaled to 0 to bins - 1."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(image, _SIGMA)
    return (smooth - smooth.min()) / max(float(np.ptp(smooth)), 1e-12) * (bins - 1)


def _entropy(counts: Matrix) -> float:
    shares = counts[counts > 0] / max(float(counts.sum()), 1e-12)
    return float(-(shares * np.log(shares)).sum())


def centred(pairs: Sequence[tuple[Floats, Floats]], ratio: float) -> list[Matrix]:
    """Return maps that put the centre of mass of the moving images on that of the fixed ones, at several angles."""
    from scipy.ndimage import center_of_mass

    centres = [[center_of_mass(image - image.min() + 1e-9)[::-1] for image in pair] for pair in pairs]
    here, there = np.mean(centres, axis=0)
    found = []
    for angle in np.radians(_ANGLES):
        matrix = np.eye(3)
        matrix[:2, :2] = ratio * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix[:2, 2] = there - matrix[:2, :2] @ here
        found.append(matrix)
    return found


def most_informative(pairs: Sequence[Pair], starts: Sequence[Matrix], model: str) -> tuple[Matrix, float]:
    """Return the map with the most information, and the share of the starts that end at it.

    Args:
        pairs: One or several pairs of equal sizes.
        starts: Maps from moving to fixed.
        model: `rigid`, `similarity` or `affine`.
    """
    ended: list[Candidate] = []
    height, width = pairs[0][0][0].shape
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]]).T
    side = max(pairs[0][1][0].shape)
    for size, bins, step in zip(SIDES, _BINS, _STEP, strict=True):
        factor = level_factor(pairs[0][1][0].shape, size)
        own = min(1.0, factor * float(np.sqrt(np.linalg.det(starts[0][:2, :2]))))
        levels = [(at_size(*moving, own), at_size(*fixed, factor)) for moving, fixed in pairs]
        to, back = levels[0][1].matrix, np.linalg.inv(levels[0][0].matrix)
        information = Information(levels, model, bins)
        best = [information.best_near(to @ start @ back, step) for start in starts]
        full = [Candidate(one.score, np.linalg.inv(to) @ one.matrix @ np.linalg.inv(back)) for one in best]
        ended = ended or full
        starts = [max(full, key=lambda one: one.score).matrix]
    top = max(ended, key=lambda one: one.score)
    gaps = [float(np.linalg.norm(((one.matrix - top.matrix) @ corners)[:2], axis=0).mean()) for one in ended]
    return starts[0], sum(gap <= _SAME * side for gap in gaps) / len(gaps)

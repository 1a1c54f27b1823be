"""A robust start: all shifts at once for each of many rotations and scales, on small images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mmfuse.alignment.features import Floats, Mask, orientations
from mmfuse.alignment.transform import Floats as Matrix

SIDE = 128  # pixels of the longer side at which the start is searched
ROTATIONS = tuple(range(-15, 16, 3))  # degrees
SCALES = (0.8, 0.86, 0.93, 1.0, 1.08, 1.16, 1.25)
_OVERLAP = 0.4  # least share of the smaller image that must lie in the other one
_SIGMA = 1.0  # pixels
_PEAKS = 2  # of each rotation and scale
_APART = 0.04  # of the longer side: mean distance of the corners by which two candidates differ


class Level(NamedTuple):
    """An image at some resolution: its pixels, its mask, and the matrix from full resolution to this one."""

    image: Floats
    mask: Mask
    matrix: Matrix


class Candidate(NamedTuple):
    """A map of full resolution, moving to fixed, and its score."""

    score: float
    matrix: Matrix


def at_size(image: Floats, mask: Mask, factor: float) -> Level:
    """Return an image and its mask resized by exactly a factor; a last row or column that does not fit is left out."""
    from PIL import Image

    size = tuple(max(1, int(side * factor + 1e-6)) for side in image.shape)
    box = (0, 0, min(size[1] / factor, image.shape[1]), min(size[0] / factor, image.shape[0]))

    def small(values: Floats) -> Floats:
        picture = Image.fromarray(np.ascontiguousarray(values, np.float32))
        return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR, box), np.float32)

    offset = (factor - 1) / 2  # pixel centres are whole numbers
    matrix = np.array([[factor, 0, offset], [0, factor, offset], [0, 0, 1]])
    return Level(small(image), small(mask.astype(np.float32)) > 0.999, matrix)


def level_factor(shape: tuple[int, ...], side: int) -> float:
    """Return how much an image is resized for a level: its longer side to `side`, the shorter to at least side / 4.

    No image is enlarged.
    """
    return min(1.0, max(side / max(shape), side / 4 / min(shape)))


def turned(level: Level, matrix: Matrix, shape: tuple[int, int]) -> tuple[Floats, Mask]:
    """Resample an image and its mask by a matrix (its pixels to those of the result)."""
    from scipy.ndimage import affine_transform

    inverse = np.linalg.inv(matrix)
    linear, shift = inverse[:2, :2][::-1, ::-1], inverse[:2, 2][::-1]
    out = affine_transform(level.image, linear, shift, output_shape=shape, order=1, mode="nearest")
    mask = affine_transform(level.mask.astype(np.float32), linear, shift, output_shape=shape, order=1) > 0.999
    return out, mask


def candidates(
    moving: tuple[Floats, Mask], fixed: tuple[Floats, Mask], ratio: float, *, rigid: bool, count: int
) -> list[Candidate]:
    """Return the best different maps (rotation, scale, shift) from moving to fixed, best first.

    Args:
        moving: The image (H, W) and its mask.
        fixed: The same of the fixed image, of any size.
        ratio: Pixels of the fixed image per pixel of the moving one, about which scales are tried.
        rigid: Only try this scale.
        count: At most so many.
    """
    factor = level_factor(fixed[0].shape, SIDE)
    small_fixed, small_moving = at_size(*fixed, factor), at_size(*moving, factor * ratio)
    searched = _Search(small_fixed)
    found: list[Candidate] = []
    for scale in (1.0,) if rigid else SCALES:
        for degrees in ROTATIONS:
            for score, matrix in searched.peaks(small_moving, np.radians(degrees), scale):
                found.append(Candidate(score, np.linalg.inv(small_fixed.matrix) @ matrix @ small_moving.matrix))
    found.sort(key=lambda candidate: -candidate.score)
    return different(found, moving[0].shape, _APART * max(fixed[0].shape))[:count]


def different(found: list[Candidate], shape: tuple[int, ...], apart: float) -> list[Candidate]:
    """Return the candidates, best first, without those close to a better one."""
    height, width = shape
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]]).T
    kept: list[Candidate] = []
    for one in found:
        gaps = [np.linalg.norm(((one.matrix - other.matrix) @ corners)[:2], axis=0).mean() for other in kept]
        if all(gap > apart for gap in gaps):
            kept.append(one)
    return kept


class _Search:
    """The fixed image, prepared for correlations with many moving ones."""

    def __init__(self, fixed: Level) -> None:
        self.features, self.mask = orientations(fixed.image, fixed.mask, _SIGMA)
        self.spectra: dict[tuple[int, int], tuple[np.ndarray, ...]] = {}

    def peaks(self, moving: Level, angle: float, scale: float) -> list[tuple[float, Matrix]]:
        """Return the best shifts of the moving image after a rotation and a scaling, as score and matrix."""
        from scipy.fft import irfft2, next_fast_len, rfft2

        matrix, shape = _around_centre(moving.image.shape, angle, scale)
        features, mask = orientations(*turned(moving, matrix, shape), _SIGMA)
        height, width = self.mask.shape
        size = (next_fast_len(height + shape[0] - 1, real=True), next_fast_len(width + shape[1] - 1, real=True))
        if size not in self.spectra:
            self.spectra[size] = tuple(rfft2(part, size) for part in _parts(self.features, self.mask))
        fixed_features, fixed_energy, fixed_mask = self.spectra[size]
        own_features, own_energy, own_mask = (rfft2(part, size).conj() for part in _parts(features, mask))
        overlap = irfft2(fixed_mask * own_mask, size)
        energy = irfft2(fixed_energy * own_mask, size) * irfft2(fixed_mask * own_energy, size)
        product = irfft2((fixed_features * own_features).sum(axis=0), size)
        share = overlap / max(1, min(self.mask.sum(), mask.sum()))
        # by chance, correlations of n pixels vary by 1 / sqrt(n): small overlaps would win without this weight
        score = product * np.sqrt(np.maximum(share, 0) / np.maximum(energy, 1e-4 * max(float(energy.max()), 1e-9)))
        score[share < _OVERLAP] = -1
        found = []
        for _ in range(_PEAKS):
            row, column = np.unravel_index(int(score.argmax()), score.shape)
            if score[row, column] <= 0:
                break
            shift = np.eye(3)
            # a correlation is periodic: large indices are negative shifts
            shift[:2, 2] = (
                column - size[1] if column >= width else column,
                row - size[0] if row >= height else row,
            )
            found.append((float(score[row, column]), shift @ matrix))
            rows, columns = (np.arange(at - 3, at + 4) % side for at, side in zip((row, column), size, strict=True))
            score[np.ix_(rows, columns)] = -1
        return found


def _parts(features: Floats, mask: Mask) -> tuple[Floats, Floats, Floats]:
    return features, (features**2).sum(axis=0), mask.astype(np.float32)


def _around_centre(shape: tuple[int, ...], angle: float, scale: float) -> tuple[Matrix, tuple[int, int]]:
    """Return the matrix of a rotation and scaling, and the height and width that then hold the whole image."""
    height, width = shape
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    new_width = int(np.ceil(width * abs(cosine) + height * abs(sine)))
    new_height = int(np.ceil(width * abs(sine) + height * abs(cosine)))
    matrix = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1.0]])
    matrix[:2, 2] = np.array([new_width - 1, new_height - 1]) / 2 - matrix[:2, :2] @ [(width - 1) / 2, (height - 1) / 2]
    return matrix, (new_height, new_width)

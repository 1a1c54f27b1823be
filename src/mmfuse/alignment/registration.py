"""Registration of two images of different modalities: where the content of one lies in the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfuse.alignment.check import REACH, trusted
from mmfuse.alignment.deform import bent, on_corners
from mmfuse.alignment.features import Image, Pair, content, grey
from mmfuse.alignment.information import centred, most_informative
from mmfuse.alignment.refine import Surfaces, fitted, surfaces
from mmfuse.alignment.start import Candidate, Level, at_size, candidates, different, level_factor
from mmfuse.alignment.transform import MODELS, Transform
from mmfuse.alignment.transform import Floats as Matrix
from mmfuse.errors import UserError, python_errors, unknown_name
from mmfuse.inference.task_rule import shared_black

SMALLEST = 32  # pixels of the shorter side
_LARGEST = 640  # pixels of the longer side: larger images are first made smaller
_STARTS = 6  # candidates of the global search that are refined
_COARSE = 192  # pixels of the longer side where candidates are compared, and where the best is checked
_FINE = ((192, 8, 1.0), (320, 6, 1.0))  # longer side, reach and sigma of the further refinement
_BEND = (320, 6, 1.5)  # the same for deformations
_SCAN_STARTS = 4  # of a scan, from edges; those from the centres of mass come to it
_SCAN_SHARE = 0.5  # least share of starts that end at the same map
_RIVAL_APART = 0.08  # of the longer side: how far another map must be to question the best one
_APART = 0.02  # of the longer side: how far apart two refined candidates are


def check_image(pixels: NDArray[Any], what: str) -> None:
    """Check the dimensions of an image.

    Raises:
        UserError: it is not an image, or too small; `what` names it.
    """
    if pixels.ndim not in {2, 3} or (pixels.ndim == 3 and pixels.shape[2] not in {3, 4}):
        raise UserError(f"{what} is not an image.", expected="(H, W) or (H, W, 3)", found=pixels.shape)
    if min(pixels.shape[:2]) < SMALLEST:
        raise UserError(
            f"{what} is too small to be aligned.", expected=f"at least {SMALLEST}x{SMALLEST} pixels",
            found=f"{pixels.shape[0]}x{pixels.shape[1]}",
        )  # fmt: skip


def prepared(image: NDArray[Any], what: str) -> Level:
    """Return the luminance and the mask of an image, made smaller if it is large.

    Raises:
        UserError: it is not an image, too small, or has values that are not finite; `what` names it.
    """
    pixels = np.asarray(image)
    check_image(pixels, what)
    values = grey(pixels)
    if not np.isfinite(values).all():
        raise UserError(f"{what} has values that are not finite.", fix="replace them first")
    whole = np.ones(values.shape, np.bool_)
    small = at_size(values, whole, level_factor(values.shape, _LARGEST))
    return small._replace(mask=content(small.image))


def search(pairs: Sequence[Pair], model: str) -> list[Candidate]:
    """Return the best maps after the global search and a first refinement, best first; scores are evidence."""
    shapes = pairs[0][0][0].shape, pairs[0][1][0].shape
    ratio = field_ratio(*shapes)
    first = "rigid" if model == "rigid" else "similarity"
    count = max(2, -(-_STARTS // len(pairs)))
    found = [one for pair in pairs for one in candidates(*pair, ratio, rigid=model == "rigid", count=count)]
    found = different(sorted(found, key=lambda one: -one.score), shapes[0], _APART * max(shapes[1]))
    for count in (_STARTS, _STARTS // 2):  # once all, then the better half once more
        refined = [refine(pairs, one.matrix, first, _COARSE) for one in found[:count]]
        found = different(sorted(refined, key=lambda one: -one.score), shapes[0], _APART * max(shapes[1]))
    return found


def field_ratio(moving: tuple[int, ...], fixed: tuple[int, ...]) -> float:
    """Return pixels of the fixed image per pixel of the moving one, if both show the same field of view."""
    return min(new / old for new, old in zip(fixed, moving, strict=True))


def compared(
    pairs: Sequence[Pair], matrix: Matrix, side: int, reach: int, sigma: float = 1.0
) -> tuple[list[Surfaces], Matrix]:
    """Compare the images of pairs under a map, resized so that the longer side of the fixed ones is `side` pixels.

    No image is enlarged.

    Returns:
        The surfaces, and the matrix from full resolution to this one for the fixed images.
    """
    factor = level_factor(pairs[0][1][0].shape, side)
    own = min(1.0, factor * float(np.sqrt(np.linalg.det(matrix[:2, :2]))))
    found = []
    for moving, fixed in pairs:
        here, there = at_size(*moving, own), at_size(*fixed, factor)
        found.append(surfaces(there, here, there.matrix @ matrix @ np.linalg.inv(here.matrix), reach, sigma))
    return found, there.matrix


def refine(
    pairs: Sequence[Pair], matrix: Matrix, model: str, side: int, reach: int = REACH, sigma: float = 1.0
) -> Candidate:
    """Refine the map of one or several pairs of equal sizes, see `compared`; the score is the evidence for it."""
    found, to_level = compared(pairs, matrix, side, reach, sigma)
    step, score = fitted(found, model, reach)
    return Candidate(score, np.linalg.inv(to_level) @ np.linalg.inv(step) @ to_level @ matrix)


@python_errors
def align(moving: NDArray[Any], fixed: NDArray[Any], *, model: str = "auto", deformable: bool = False) -> Transform:
    """Find where the content of a moving image lies in a fixed image.

    Args:
        moving: (H, W) or (H, W, 3), any type and range.
        fixed: The same, of any size that shows about the same field of view.
        model: `rigid` (rotation and shift), `similarity` (and scale), `affine`, or `auto`: rigid for scans (a
            body on black), affine for others.
        deformable: Also bend the image: a smooth displacement field after the linear map.

    Returns:
        The transform. Its `aligned` is False if the images do not agree under it; then do not use it.

    Raises:
        UserError: an image cannot be used, or the model is unknown; also a ValueError.
    """
    return align_frames([(moving, fixed)], model=model, deformable=deformable)


def align_frames(
    frames: Sequence[tuple[NDArray[Any], NDArray[Any]]], *, model: str = "auto", deformable: bool = False
) -> Transform:
    """Find the one transform of several pairs from the same two cameras; `align` explains arguments and errors.

    Raises:
        UserError: the images of one camera differ in size.
    """
    if model not in {"auto", *MODELS}:
        raise unknown_name("There is no such model.", model, ["auto", *MODELS], "take one of these")
    if not frames:
        raise UserError("There are no images to align.")
    levels = [(prepared(moving, "The moving image"), prepared(fixed, "The fixed image")) for moving, fixed in frames]
    sizes = {(np.shape(moving)[:2], np.shape(fixed)[:2]) for moving, fixed in frames}
    if len(sizes) > 1:
        raise UserError(
            "The images of one camera differ in size.", expected="one size for all frames of each camera",
            found=sorted(sizes), fix="align the pairs one by one",
        )  # fmt: skip
    size = sizes.pop()
    pairs = [((moving.image, moving.mask), (fixed.image, fixed.mask)) for moving, fixed in levels]
    scan = all(is_scan(*pair) for pair in pairs)
    if model == "auto":
        model = "rigid" if scan else "affine"
    matrix, aligned, share = (by_information if scan else by_edges)(pairs, model)
    from_full, to_full = levels[0][0].matrix, np.linalg.inv(levels[0][1].matrix)
    field = _bend(pairs, matrix) * to_full[0, 0] if deformable and aligned else None
    matrix = to_full @ matrix @ from_full
    return Transform(matrix, *size, model, confidence=share, aligned=aligned, displacement=field)


def by_edges(pairs: Sequence[Pair], model: str) -> tuple[Matrix, bool, float]:
    """Return the map under which edges agree best, whether it can be trusted, and the share of blocks that agree."""
    found = search(pairs, model)
    if not found:
        ratio = field_ratio(pairs[0][0][0].shape, pairs[0][1][0].shape)
        return np.diag([ratio, ratio, 1.0]), False, 0.0
    best = found[0]
    for side, reach, sigma in _FINE:
        best = refine(pairs, best.matrix, model, side, reach, sigma)
    rivals = different(found, pairs[0][0][0].shape, _RIVAL_APART * max(pairs[0][1][0].shape))
    aligned, share = trusted(compared(pairs, best.matrix, _COARSE, REACH)[0], [one.score for one in rivals])
    return best.matrix, aligned, share


def by_information(pairs: Sequence[Pair], model: str) -> tuple[Matrix, bool, float]:
    """Return the map with the most mutual information, whether it can be trusted, and the share of starts at it."""
    ratio = field_ratio(pairs[0][0][0].shape, pairs[0][1][0].shape)
    edges = [one.matrix for one in candidates(*pairs[0], ratio, rigid=True, count=_SCAN_STARTS)]
    starts = [*edges, *centred([(moving[0], fixed[0]) for moving, fixed in pairs], ratio)]
    matrix, share = most_informative(pairs, starts, model)
    return matrix, share >= _SCAN_SHARE, share


def _bend(pairs: Sequence[Pair], matrix: Matrix) -> Matrix:
    side, reach, sigma = _BEND
    found, to_level = compared(pairs, matrix, side, reach, sigma)
    return on_corners(bent(found, reach), found[0], 1 / float(to_level[0, 0]))


def is_scan(moving: Image, fixed: Image) -> bool:
    """Return whether two images show a body on black, as scans do, by the rule of `mmfuse.inference.task_rule`."""
    from PIL import Image as Pictures

    height, width = fixed[0].shape
    same = np.asarray(Pictures.fromarray(moving[0]).resize((width, height), Pictures.Resampling.BILINEAR))
    scaled = [(255 * (one - one.min()) / max(float(np.ptp(one)), 1e-12)).astype(np.uint8) for one in (same, fixed[0])]
    return shared_black(*scaled).task == "mif"

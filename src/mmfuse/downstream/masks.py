"""Intersection over union of predicted masks, computed over the pixels of all test images together.

Pixels whose true id is ignored (`IGNORED`) never count, regardless of the prediction there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
IGNORED = 255


def confusion(predicted: NDArray[np.integer], truth: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """Count pixels by true class (rows) and predicted class (columns); (classes, classes)."""
    known = truth != IGNORED
    pairs = truth[known].astype(np.int64) * classes + predicted[known]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def ratios(matrices: NDArray[np.int64]) -> tuple[Array, Array]:
    """Return IoU and accuracy of each class from confusion matrices.

    A class that is neither true nor predicted anywhere has no IoU (NaN); a class that is never true has no accuracy.

    Shape: (..., classes, classes) to twice (..., classes).
    """
    right = np.diagonal(matrices, axis1=-2, axis2=-1).astype(np.float64)
    true, predicted = matrices.sum(-1), matrices.sum(-2)
    union = true + predicted - right
    nothing = np.full(right.shape, np.nan)
    return (
        np.divide(right, union, out=nothing.copy(), where=union > 0),
        np.divide(right, true, out=nothing.copy(), where=true > 0),
    )


def mean(values: Array) -> Array:
    """Return the mean over the classes that have a value, (..., classes) to (...); NaN if none has."""
    known = np.isfinite(values)
    count = known.sum(-1)
    total = np.where(known, values, 0.0).sum(-1)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)

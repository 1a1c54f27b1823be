"""Centred kernel alignment (CKA) of many representations at once, and results derived from it.

Source: Nguyen, Raghu, Kornblith, "Do Wide and Deep Networks Learn the Same Things?", ICLR 2021 (linear CKA from the
unbiased estimator of HSIC, averaged over minibatches); the estimator itself: Song et al., JMLR 2012.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
SMALLEST_BATCH = 4  # the unbiased estimator divides by n (n - 3)
_VALUES = 2**22  # feature values held in double precision at a time


def centred_gram(features: Tensor) -> Tensor:
    """Return a batch's Gram matrix of inner products, centred so that two of them multiply to the unbiased HSIC.

    The diagonal is excluded and the remaining row sums are zero; adding a constant to the features changes nothing.

    Shape: (n, ...) to (n, n), float64 on the CPU.
    """
    rows = features.detach().flatten(1)  # (n, p)
    n = len(rows)
    gram = torch.zeros(n, n, dtype=torch.float64, device=rows.device)
    for part in rows.split(max(1, _VALUES // n), dim=1):  # (n, at most _VALUES / n)
        exact = part.double()
        exact = exact - exact.mean(dim=0)
        gram += exact @ exact.T
    gram = gram.cpu().fill_diagonal_(0)
    sums = gram.sum(dim=1)
    gram = gram - (sums[:, None] + sums[None]) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
    return gram.fill_diagonal_(0)


class Alignment:
    """CKA between all pairs of representations, accumulated over minibatches in constant memory.

    The spread over images comes from the Bayesian bootstrap (Rubin 1981): each minibatch has random weights from an
    exponential distribution, which can be summed as the minibatches arrive.

    Args:
        representations: Number of representations in each minibatch.
        resamples: Number of bootstrap resamples.
        seed: Seed of their weights.
    """

    def __init__(self, representations: int, resamples: int = 0, seed: int = 0) -> None:
        self.total = np.zeros((representations, representations))
        self.resampled = np.zeros((resamples, representations, representations))
        self._random = np.random.default_rng(seed)

    def add(self, grams: Sequence[Tensor]) -> None:
        """Add one minibatch: a Gram matrix from `centred_gram` for each representation, at least 4 x 4 each."""
        n = len(grams[0])
        if n < SMALLEST_BATCH:
            raise ValueError(f"a minibatch needs {SMALLEST_BATCH} images, not {n}")
        flat = torch.stack(list(grams)).flatten(1)  # (representations, n * n)
        hsic = (flat @ flat.T).numpy() / (n * (n - 3))
        self.total += hsic
        weights = self._random.exponential(size=len(self.resampled))
        self.resampled += weights[:, None, None] * hsic

    def matrix(self) -> Array:
        """Return CKA between all pairs, (representations, representations)."""
        return _normalised(self.total)

    def resamples(self) -> Array:
        """Return CKA of each bootstrap resample, (resamples, representations, representations)."""
        return _normalised(self.resampled)


def _normalised(hsic: Array) -> Array:
    """Divide HSIC by both norms; 0 for a representation that is the same for all images."""
    norms = np.sqrt(np.diagonal(hsic, axis1=-2, axis2=-1))  # (..., representations)
    products = norms[..., :, None] * norms[..., None, :]
    return np.divide(hsic, products, out=np.zeros_like(hsic), where=products > 0)


def change_point(similarity: Array) -> tuple[int, float]:
    """Return where a network's layers split into two blocks, and how clearly.

    Of all cuts into layers 0..k-1 and k.., this cut has the two-valued matrix (one value within both blocks, one
    between them) nearest to the similarity matrix in least squares, off the diagonal. It maximises

        (mean within - mean between) * sqrt(pairs within * pairs between) / pairs,

    so a small block needs a stronger contrast. Among equal cuts, the first wins.

    Shape: (layers, layers), symmetric, at least three layers.
    Range: k in 1..layers-1, and mean within minus mean between at this cut.
    """
    layers = len(similarity)
    cuts = np.arange(1, layers)
    upper = np.triu(similarity, 1)
    corner = upper.cumsum(0).cumsum(1)  # sums over rows and columns up to an index
    first = np.array([corner[k - 1, k - 1] for k in cuts])
    both = np.array([corner[k - 1, -1] for k in cuts])
    between = both - first
    pairs, crossing = layers * (layers - 1) / 2, cuts * (layers - cuts)
    contrast = (corner[-1, -1] - between) / (pairs - crossing) - between / crossing
    score = contrast * np.sqrt(crossing * (pairs - crossing)) / pairs
    best = int(np.argmax(np.round(score, 12)))  # round-off must not decide between equal cuts
    return int(cuts[best]), float(contrast[best])


def best_pairing(similarity: Array, pairs: int) -> list[tuple[int, int]]:
    """Return the monotone alignment of two networks' levels with the largest mean similarity.

    It chooses `pairs` levels of each network and pairs them in order from shallow to deep. Among equal alignments, the
    first in lexicographic order wins. Levels count from 1.

    Shape: (levels of the first, levels of the second).
    """
    first, second = (combinations(range(levels), pairs) for levels in similarity.shape)
    choices = [list(zip(v, i, strict=True)) for v, i in product(first, second)]
    means = [np.mean([similarity[pair] for pair in choice]) for choice in choices]
    best = choices[int(np.argmax(np.round(means, 12)))]
    return [(v + 1, i + 1) for v, i in best]

"""Statistics over the images of one dataset: intervals, paired tests, ranks. Arrays in, arrays out.

Images are assumed to be independent draws. Frames of one video are not: for them, intervals are too narrow and p-values
too small.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Array = NDArray[np.float64]
LEVEL = 0.05
# ASSUME: another seed then moves the ends of an interval by about a hundredth of its width
_RESAMPLES, _SEED = 10_000, 0
_EXACT = 50  # images; above this number, scipy also uses the normal distribution
_AT_ONCE = 4_000_000  # numbers in memory, whatever the number of images: 32 MB of double precision
# ASSUME: 1e-9 of the value is far below the effect of a changed pixel and far above that of the order of a sum
_RELATIVE, _ABSOLUTE = 1e-9, 1e-12
_COPIES = 16  # arrays of the size of the differences that scipy has in memory during a test


def drawn(count: int, resamples: int) -> NDArray[np.int64]:
    """Return how often each of `count` images is drawn in each of several resamples of them; (resamples, count)."""
    return np.random.default_rng(_SEED).multinomial(count, np.full(count, 1 / count), size=resamples)


@functools.lru_cache(maxsize=2)
def _counts(count: int) -> NDArray[np.unsignedinteger]:
    """Return the counts of `drawn` for the intervals, in the smallest integers: ten thousand images take 200 MB."""
    random = np.random.default_rng(_SEED)
    found = np.empty((_RESAMPLES, count), np.min_scalar_type(count))
    for rows in _blocks(_RESAMPLES, count):
        found[rows] = random.multinomial(count, np.full(count, 1 / count), size=rows.stop - rows.start)
    return found


def _blocks(count: int, each: int) -> list[slice]:
    """Return slices of `count` rows with `each` values per row, so that a slice has at most about `_AT_ONCE` values."""
    step = max(1, _AT_ONCE // each)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def interval(values: Array) -> Array:
    """Return the 95 % bootstrap interval of the mean over images: percentiles of the means of resampled images.

    Undefined values are left out. Without any defined value, both ends are NaN; with a single one, they are that value.

    Shape: values (series, images); returns (series, 2), low and high.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, 13.3.
    """
    ends = np.full((len(values), 2), math.nan)
    defined = np.isfinite(values)
    for pattern in np.unique(defined, axis=0):  # usually one: everything is defined
        alike, count = (defined == pattern).all(1), int(pattern.sum())
        if count:
            known, counts = values[alike][:, pattern], _counts(count)
            parts = [known @ (counts[rows] / count).T for rows in _blocks(_RESAMPLES, count)]
            means = np.concatenate(parts, axis=1)  # (series, resamples)
            ends[alike] = np.quantile(means, (LEVEL / 2, 1 - LEVEL / 2), axis=1).T
    return ends


@dataclass(frozen=True)
class Crossed:
    """The mean of values that differ by seed and by image, with its 95 % interval over both.

    `seeds`, `images` and `rest` are the variances between seeds, between images, and the residual variance. With a
    single seed, the interval is only over the images, and `seeds` and `rest` are NaN.
    """

    mean: float
    low: float
    high: float
    seeds: float
    images: float
    rest: float


def crossed(values: Array) -> Crossed:
    """Return the mean over seeds and images, with an interval that is valid for other seeds and other images.

    Both are random effects without interaction, estimated by the analysis of variance; a negative estimate counts as 0.
    The interval is Student's with Satterthwaite's degrees of freedom.

    With fewer than two images, the ends and the variances are NaN.

    Shape: values (seeds, images), all of them finite.
    Source: Searle, Casella and McCulloch, Variance Components, 1992, 4.3 and 4.7; Satterthwaite 1946.
    """
    count = values.shape
    if count[1] < 2:
        return Crossed(float(values.mean()) if count[1] else math.nan, *[math.nan] * 5)
    mean, of_seeds, of_images = float(values.mean()), values.mean(1), values.mean(0)
    if count[0] == 1:
        variance = float(of_images.var(ddof=1))
        half = _half_width([(variance / count[1], count[1] - 1)])
        return Crossed(mean, mean - half, mean + half, math.nan, variance, math.nan)
    rest = ((values - of_seeds[:, None] - of_images + mean) ** 2).sum() / ((count[0] - 1) * (count[1] - 1))
    seeds = max(0.0, float(of_seeds.var(ddof=1) - rest / count[1]))
    images = max(0.0, float(of_images.var(ddof=1) - rest / count[0]))
    half = _half_width(_mean_squares(count, seeds, images, float(rest)))
    return Crossed(mean, mean - half, mean + half, seeds, images, float(rest))


def _mean_squares(count: tuple[int, ...], seeds: float, images: float, rest: float) -> list[tuple[float, int]]:
    """Return the expected mean squares that add up to the variance of the mean, with their degrees of freedom."""
    s, i = count
    whole = s * i
    parts = [((i * seeds + rest) / whole, s - 1), ((s * images + rest) / whole, i - 1)]
    if seeds and images:
        return [*parts, (-rest / whole, (s - 1) * (i - 1))]
    return [parts[0] if seeds else parts[1]] if seeds or images else [(rest / whole, whole - 1)]


def _half_width(mean_squares: Sequence[tuple[float, int]]) -> float:
    """Return half the width of the 95 % interval of a mean whose variance is a sum of mean squares."""
    variance = sum(part for part, _ in mean_squares)
    if variance <= 0:
        return 0.0
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in mean_squares)
    return float(stats.t.ppf(1 - LEVEL / 2, freedom)) * math.sqrt(variance)


def seeds_to_decide(found: Crossed, images: int, most: int = 1000) -> int | None:
    """Return how many seeds, at least 2, would give an interval without 0 if mean and variances stay the same.

    Returns:
        None if even `most` seeds do not, so that more images are needed, or if the variance of the seeds is unknown.
    """
    if math.isnan(found.seeds):
        return None

    def decides(seeds: int) -> bool:
        return _half_width(_mean_squares((seeds, images), found.seeds, found.images, found.rest)) < abs(found.mean)

    return bisect.bisect_left(range(2, most + 1), True, key=decides) + 2 if decides(most) else None


def difference(first: Array, second: Array) -> Array:
    """Return first - second, and exactly 0 where they differ only by round-off."""
    found = first - second
    if np.abs(found).min(initial=math.inf) > _tolerance(np.abs(second).max(initial=0.0)):
        return found  # no two values are close, and this check of all of them is faster than `isclose`
    return np.where(np.isclose(first, second, rtol=_RELATIVE, atol=_ABSOLUTE), 0.0, found)


def _tolerance(size: Any) -> Any:
    """Return a difference above which values of this size are not equal; twice the limit, because of round-off."""
    return 2 * (_ABSOLUTE + _RELATIVE * size)


def signed_rank(differences: Array) -> tuple[float, int]:
    """Test whether paired differences are centred at zero: two-sided Wilcoxon signed-rank test.

    Zeros and undefined values are left out. If all values are zero, p is 1; without any value, it is NaN. The test is
    exact up to 50 images, with or without ties; above, it uses the normal distribution with the correction for ties.

    Shape: differences (images,).
    Source: Wilcoxon, Individual comparisons by ranking methods, Biometrics Bulletin 1945.

    Returns:
        p, and the sign of the difference by the test: that of the larger sum of ranks, 0 if both are equal.
    """
    known = differences[np.isfinite(differences)]
    moved = known[known != 0]
    if not moved.size:
        return (1.0 if known.size else math.nan), 0
    ranks = stats.rankdata(np.abs(moved))
    up, down = float(ranks[moved > 0].sum()), float(ranks[moved < 0].sum())
    exact = moved.size <= _EXACT
    p = _exact_p(ranks, max(up, down)) if exact else float(stats.wilcoxon(moved, method="asymptotic").pvalue)
    return p, int(np.sign(up - down))


def signed_ranks(differences: Array) -> tuple[Array, NDArray[np.int64]]:
    """Test each row like `signed_rank`, all rows with many images at once, which is far faster.

    Shape: differences (tests, images); returns two of (tests,), p and signs.
    """
    p, signs = np.full(len(differences), math.nan), np.zeros(len(differences), dtype=np.int64)
    at_once = np.isfinite(differences).all(1) & (np.count_nonzero(differences, axis=1) > _EXACT)
    many = np.flatnonzero(at_once)
    for rows in _blocks(many.size, _COPIES * differences.shape[1]):
        z = _z(differences[many[rows]])
        p[many[rows]], signs[many[rows]] = 2 * special.ndtr(-np.abs(z)), np.sign(z)
    for row in np.flatnonzero(~at_once):
        p[row], signs[row] = signed_rank(differences[row])
    return p, signs


def _z(differences: Array) -> Array:
    """Return the statistic of `signed_rank` by the normal distribution for each row.

    Without zeros and ties, the ranks are the places in the order; they are found in about a third of scipy's time.
    """
    count = differences.shape[1]
    ordered = np.take_along_axis(differences, np.abs(differences).argsort(axis=1), axis=1)
    steps = np.diff(np.abs(ordered), axis=1, prepend=0.0)
    up = (ordered > 0) @ np.arange(1.0, count + 1)
    z = (up - count * (count + 1) / 4) / math.sqrt(count * (count + 1) * (2 * count + 1) / 24)
    tied = (steps == 0).any(1)
    if tied.any():
        # one-sided, because the two-sided test of scipy does not return the sign of z
        told: dict[str, Any] = {"method": "asymptotic", "alternative": "greater", "axis": 1}
        z[tied] = stats.wilcoxon(differences[tied], **told).zstatistic
    return np.asarray(z)


def _exact_p(ranks: Array, larger: float) -> float:
    """Return the share of the 2^n choices of signs whose larger sum of ranks is at least this one.

    Counted over all sums that the signs can give; scipy does so only without ties.
    """
    steps = np.rint(2 * ranks).astype(int)  # shared ranks are halves
    ways = np.zeros(steps.sum() + 1)
    ways[0] = 1
    for step in steps:
        ways[step:] += ways[:-step].copy()
    return float(min(1.0, 2 * ways[round(2 * larger) :].sum() / 2.0**ranks.size))


def holm(p: Array) -> Array:
    """Return p-values adjusted for several tests by Holm's correction; NaN means no test and stays NaN.

    Shape: p (tests,); returns the same.
    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 1979.
    """
    order = np.argsort(p, kind="stable")  # NaN last
    left = np.isfinite(p).sum() - np.arange(p.size)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * left), 1.0)
    return adjusted


def compare(values: Array) -> tuple[Array, NDArray[np.int64]]:
    """Test each pair of methods over the images that both have, with Holm's correction over all pairs.

    Shape: values (methods, images); returns two of (methods, methods): adjusted p, symmetric, NaN where there is no
    test and on the diagonal; and the sign of row minus column by the test.
    """
    count = len(values)
    p, signs = np.full((count, count), math.nan), np.zeros((count, count), dtype=np.int64)
    first, second = np.triu_indices(count, 1)
    found, larger = np.empty(first.size), np.empty(first.size, dtype=np.int64)
    for rows in _blocks(first.size, _COPIES * max(1, values.shape[1])):
        found[rows], larger[rows] = signed_ranks(difference(values[first[rows]], values[second[rows]]))
    p[first, second] = p[second, first] = holm(found)
    signs[first, second], signs[second, first] = larger, -larger
    return p, signs


def resampled_p(differences: Array) -> float:
    """Test whether a difference is zero, from its values on resampled images: two-sided, never below 2 / (n + 1).

    It is for measures of a whole set of images, such as mAP. Undefined values are left out.

    Shape: differences (resamples,), each of two systems on the same resample.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, 15.4 and 16.2.
    """
    known = differences[np.isfinite(differences)]
    if not known.size:
        return math.nan
    tail = min((known <= 0).sum(), (known >= 0).sum())
    return float(min(1.0, 2 * (tail + 1) / (known.size + 1)))


def can_differ(methods: int, images: int) -> bool:
    """Return whether so few images can show any difference: the smallest possible p of the test is 2^(1 - images)."""
    return math.comb(methods, 2) * 2.0 ** (1 - images) < LEVEL


def places(values: Array, sign: int) -> Array:
    """Rank the methods on each image, 1 for the best; equal ones share the mean of their ranks.

    Shape: values (methods, images), all finite; returns the same.

    Args:
        values: One metric.
        sign: 1 where larger is better, -1 where smaller is better.
    """
    count, images = values.shape
    order = np.argsort(-sign * values, axis=0)
    ordered = np.take_along_axis(values, order, axis=0)
    sizes = np.abs(ordered)
    apart = np.abs(np.diff(ordered, axis=0)) > _tolerance(np.maximum(sizes[1:], sizes[:-1]))
    found = np.empty((count, images))
    np.put_along_axis(found, order, np.arange(1.0, count + 1)[:, None], axis=0)
    close = np.flatnonzero(~apart.all(0))  # images on which methods may be equal
    for some in _blocks(close.size, count**2):
        part = values[:, close[some]]
        ahead = sign * difference(part[:, None], part[None])  # (methods, others, images)
        found[:, close[some]] = 1.0 + (ahead < 0).sum(1) + 0.5 * ((ahead == 0).sum(1) - 1)
    return found


def average_ranks(values: Array, sign: int) -> Array:
    """Return the ranks on each image (see `places`), averaged over the images.

    Shape: values (methods, images), all finite; returns (methods,).

    Source: Friedman, The use of ranks to avoid the assumption of normality, JASA 1937.
    """
    return places(values, sign).mean(1)


def critical_difference(methods: int, images: int) -> float:
    """Return how much average ranks must differ to be significant at level 0.05, by Nemenyi's test of all pairs.

    For the mean of the average ranks over several metrics, it is an upper bound: such a mean scatters no more than the
    ranks of a single metric, however the metrics are correlated.

    Source: Demsar, Statistical comparisons of classifiers over multiple data sets, JMLR 2006, 3.2.2.
    """
    q = stats.studentized_range.ppf(1 - LEVEL, methods, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(methods * (methods + 1) / (6 * images)))


def cliques(ranks: Array, critical: float) -> list[tuple[int, ...]]:
    """Return the largest groups of methods whose average ranks are all within the critical difference, best first.

    Shape: ranks (methods,); each group has two or more of their numbers, in the order of the ranks.
    """
    order = [int(i) for i in np.argsort(ranks, kind="stable")]
    found: list[tuple[int, ...]] = []
    reached = 0
    for start, first in enumerate(order):
        end = start + int(sum(ranks[i] - ranks[first] <= critical for i in order[start:]))
        if end > max(reached, start + 1):
            found.append(tuple(order[start:end]))
            reached = end
    return found

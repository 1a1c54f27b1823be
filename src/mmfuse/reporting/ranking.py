"""The ranking of the methods on one dataset: means with intervals, paired tests, marks, ranks and a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmfuse.reporting import statistics
from mmfuse.reporting.scores import Array, Column, Group, average, spread
from mmfuse.words import number_of


@dataclass(frozen=True)
class Standing:
    """The groups on one metric; arrays have one value per group, `p` and `better` one value per pair of groups.

    `seeds` is the standard deviation between the means of a group's seeds (divided by n - 1), NaN with a single seed.
    `p` has Holm's correction over all pairs. `better` is 1 where the row's group is significantly better than
    the column's, -1 where it is worse, else 0. `ranks` is NaN if the metric has no better direction, a group has no
    value on some image, or there is only one group.
    """

    column: Column
    means: Array
    stds: Array
    intervals: Array
    seeds: Array
    p: Array
    better: NDArray[np.int64]
    ranks: Array
    marks: tuple[str, ...]


@dataclass(frozen=True)
class Ranking:
    """The ranking of the groups of one dataset over the metrics.

    `counted` are the metrics that have ranks. `ranks` is the mean of their average ranks over the images; two groups
    differ significantly if their ranks differ by more than `critical`. `firsts` is the number of metrics on which a
    group has the best mean, `alone` the number of those on which no other group is tied with it.
    """

    counted: tuple[Standing, ...]
    ranks: Array
    critical: float
    marks: tuple[str, ...]
    firsts: tuple[int, ...]
    alone: tuple[int, ...]


def marks(means: Array, sign: int, p: Array, better: NDArray[np.int64]) -> tuple[str, ...]:
    """Mark the best mean, those tied with it, and the best of the rest.

    A mean is tied with the best if a test does not find it significantly worse.

    Returns:
        For each mean `best`, `tied`, `second` or the empty string; nothing is marked without a direction or a
        competitor.
    """
    finite = np.isfinite(means)
    if not sign or finite.sum() < 2:
        return ("",) * len(means)
    signed = np.where(finite, sign * means, -math.inf)
    best = signed == signed.max()
    tied = finite & ~best & np.isfinite(p[best]).any(0) & ~(better[best] > 0).any(0)
    rest = finite & ~best & ~tied
    second = rest & (signed == signed.max(where=rest, initial=-math.inf))
    return tuple(str(word) for word in np.select([best, tied, second], ["best", "tied", "second"], ""))


def stand(groups: Sequence[Group], column: Column) -> Standing:
    """Compare the groups on one metric."""
    number = groups[0].members[0].metrics.index(column)
    values = np.stack([g.values[number] for g in groups])  # (groups, images)
    means = np.array([average(series) for series in values])
    seeds = [np.array([average(member.values[number]) for member in g.members]) for g in groups]
    p, larger = statistics.compare(values)
    better = np.where(p < statistics.LEVEL, column.sign * larger, 0)
    ranked = column.sign and len(groups) > 1 and np.isfinite(values).all()
    return Standing(
        column,
        means,
        np.array([spread(series) for series in values]),
        statistics.interval(values),
        np.array([float(np.std(one, ddof=1)) if one.size > 1 else math.nan for one in seeds]),
        p,
        better,
        statistics.average_ranks(values, column.sign) if ranked else np.full(len(groups), math.nan),
        marks(means, column.sign, p, better),
    )


def ranking(groups: Sequence[Group], standings: Sequence[Standing]) -> Ranking | None:
    """Rank the groups over the metrics that have ranks; None if there is nothing to compare."""
    counted = [s for s in standings if np.isfinite(s.ranks).all()]
    if not counted:
        return None
    ranks = np.mean([s.ranks for s in counted], axis=0)
    critical = statistics.critical_difference(len(groups), len(groups[0].members[0].images))
    best = np.isclose(ranks, ranks.min())
    near = ranks - ranks.min() <= critical
    marked = tuple(str(word) for word in np.select([best, near], ["best", "tied"], ""))
    firsts = [[s.marks[i] == "best" for s in counted] for i in range(len(groups))]
    untied = [sum(mark in {"best", "tied"} for mark in s.marks) == 1 for s in counted]
    alone = tuple(sum(a and b for a, b in zip(row, untied, strict=True)) for row in firsts)
    return Ranking(tuple(counted), ranks, critical, marked, tuple(map(sum, firsts)), alone)


def verdict(groups: Sequence[Group], ranked: Ranking | None) -> str:
    """Say in words which method ranks first on one dataset, and how certain that is."""
    images = f"{number_of(len(groups[0].members[0].images), 'test image')}"
    if ranked is None:
        return f"{images}; nothing to rank (fewer than two systems, or no metric with values for all on all images)."
    order = [int(i) for i in np.argsort(ranked.ranks, kind="stable")]
    best = [i for i in order if ranked.marks[i] == "best"]
    near = [i for i in order if ranked.marks[i] == "tied"]
    behind = [i for i in order if not ranked.marks[i]]
    count = len(ranked.counted)
    over = f"over {count} metrics" if count > 1 else f"on the one metric {ranked.counted[0].column.name}"
    shares = "share" if len(best) > 1 else "has"
    text = (
        f"{images}: {_named(groups, best)} {shares} the lowest mean rank {over} "
        f"({ranked.ranks[best[0]]:.2f} among {number_of(len(groups), 'system')})"
    )
    if near:
        near_ranks = ", ".join(f"{ranked.ranks[i]:.2f}" for i in near)
        text += (
            f", but {_named(groups, near)} ({near_ranks}) cannot be distinguished from "
            f"{'it' if len(best) == 1 else 'them'}: the critical difference is {ranked.critical:.2f}."
        )
    elif behind:
        text += (
            f", ahead of {groups[behind[0]].label} ({ranked.ranks[behind[0]]:.2f}) by more than the critical "
            f"difference of {ranked.critical:.2f}."
        )
    else:
        text += "."
    if len(best) == 1:
        firsts, alone = ranked.firsts[best[0]], ranked.alone[best[0]]
        text += f" It has the best mean on {firsts} of {number_of(count, 'metric')}"
        text += f", on {alone} of them significantly better than every other system." if firsts else "."
    return text


def _named(groups: Sequence[Group], which: Sequence[int]) -> str:
    names = [groups[i].label for i in which]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)

"""The ranking of a board's rows: mean ranks with intervals, and paired tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmfuse.leaderboard.boards import Board
from mmfuse.leaderboard.rows import KINDS, PUBLISHED, Row
from mmfuse.reporting import statistics
from mmfuse.reporting.ranking import Standing, stand
from mmfuse.reporting.scores import Array, Column


@dataclass(frozen=True)
class Held:
    """One row compared with all others; arrays have one value for each row, in the order of the board.

    Attributes:
        row: Its number.
        differences: Mean rank of the other row minus its own: above 0 where this row is ahead.
        intervals: 95 % intervals of the differences, (rows, 2).
        p: p of their tests, adjusted over the rows; NaN for the row itself.
        by_metric: p of the test of each metric, adjusted over the rows; (metrics, rows).
        better: 1 where this row is better by the metric, -1 where worse; (metrics, rows).
    """

    row: int
    differences: Array
    intervals: Array
    p: Array
    by_metric: Array
    better: NDArray[np.int64]


@dataclass(frozen=True)
class Result:
    """One board, its rows in the order of their mean ranks.

    Attributes:
        board: The board.
        images: The names of its images.
        rows: Its rows, the best first.
        standings: Means, intervals and marks on each metric.
        places: Rank of each row on each image, the mean over the metrics; (rows, images).
        ranks: Mean ranks: the means of `places` over the images.
        intervals: 95 % intervals of the mean ranks, (rows, 2).
        p: p of the paired tests of `places`, adjusted over all pairs; (rows, rows).
        ahead: Whether the row of the array is significantly ahead of the column; (rows, rows).
        held: The row of `best_of_ours` compared with the others; None without any.
        notes: What was left out.
    """

    board: Board
    images: tuple[str, ...]
    rows: tuple[Row, ...]
    standings: tuple[Standing, ...]
    places: Array
    ranks: Array
    intervals: Array
    p: Array
    ahead: NDArray[np.bool_]
    held: Held | None
    notes: tuple[str, ...]


def result(board: Board, rows: Sequence[Row], columns: Sequence[Column], notes: Sequence[str]) -> Result:
    """Rank the rows of a board and test their differences.

    The rank of a row on an image is the mean of its ranks over the metrics; the mean rank is the mean of these over
    the images. Rows with equal mean ranks are sorted by name.
    """
    values = np.stack([row.group.values for row in rows])  # (rows, metrics, images)
    places = mean_places(values, columns)
    order = sorted(range(len(rows)), key=lambda number: (float(places[number].mean().round(9)), rows[number].name))
    rows, places, values = [rows[number] for number in order], places[order], values[order]
    p, signs = statistics.compare(places)
    ours = best_of_ours(rows)
    return Result(
        board,
        rows[0].group.members[0].images,
        tuple(rows),
        tuple(stand([row.group for row in rows], column) for column in columns),
        places,
        places.mean(1),
        statistics.interval(places),
        p,
        (p < statistics.LEVEL) & (signs < 0),
        None if ours is None else hold(ours, values, places, columns),
        tuple(notes),
    )


def mean_places(values: Array, columns: Sequence[Column]) -> Array:
    """Return the ranks on each image, averaged over the metrics.

    Shape: values (rows, metrics, images); returns (rows, images).
    """
    found = [statistics.places(values[:, number], column.sign) for number, column in enumerate(columns)]
    return np.mean(found, axis=0, dtype=np.float64)


def best_of_ours(rows: Sequence[Row]) -> int | None:
    """Return the first of the systems, else of the external rows, else of the baselines; None if all are published."""
    kinds = [row.kind for row in rows]
    return next((kinds.index(kind) for kind in KINDS if kind in kinds and kind != PUBLISHED), None)


def hold(row: int, values: Array, places: Array, columns: Sequence[Column]) -> Held:
    """Compare one row with all others: two-sided Wilcoxon signed-rank tests, Holm's correction over the rows.

    Shape: values (rows, metrics, images); places (rows, images).
    """
    differences = statistics.difference(places, places[row])
    p, _ = _tested(differences, row)
    by_metric, better = [], []
    for number, column in enumerate(columns):
        adjusted, larger = _tested(statistics.difference(values[row, number], values[:, number]), row)
        by_metric.append(adjusted)
        better.append(column.sign * larger)
    ends = statistics.interval(differences)
    return Held(row, differences.mean(1), ends, p, np.stack(by_metric), np.stack(better))


def _tested(differences: Array, row: int) -> tuple[Array, NDArray[np.int64]]:
    """Test each series of differences, except that of a row with itself; return adjusted p and signs."""
    p, signs = statistics.signed_ranks(differences)
    p[row] = np.nan
    return statistics.holm(p), signs

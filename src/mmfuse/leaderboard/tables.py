"""The numbers of a board as CSV, with all digits."""

from __future__ import annotations

from collections.abc import Sequence

from mmfuse.files.writing import sheet_text
from mmfuse.leaderboard.ranking import Result
from mmfuse.reporting.scores import Column
from mmfuse.reporting.tables import digits


def as_csv(found: Result, columns: Sequence[Column]) -> dict[str, str]:
    """Return the tables of one board by name: means, ranks on each image, tests of one row, tests of pairs."""
    written = {"means": _means(found), "places": _places(found), "pairs": _pairs(found)}
    return written | ({"tests": _tests(found, columns)} if found.held else {})


def _means(found: Result) -> str:
    head = ["row", "kind", "seeds", "images", "mean rank", "low", "high", "ahead of"]
    head += [f"{s.column.name}{end}" for s in found.standings for end in ("", " low", " high", " mark")]
    lines = [head]
    for number, row in enumerate(found.rows):
        ahead = " ".join(
            other.name for other, is_ahead in zip(found.rows, found.ahead[number], strict=True) if is_ahead
        )
        line = [row.name, row.kind, str(len(row.group.members)), str(len(found.images))]
        line += [*digits((found.ranks[number], *found.intervals[number])), ahead]
        for standing in found.standings:
            line += [*digits((standing.means[number], *standing.intervals[number])), standing.marks[number]]
        lines.append(line)
    return sheet_text(lines)


def _places(found: Result) -> str:
    """Return the rank of each row on each image, the mean over the metrics."""
    lines = [["name", *(row.name for row in found.rows)]]
    lines += [[name, *digits(places)] for name, places in zip(found.images, found.places.T, strict=True)]
    return sheet_text(lines)


def _pairs(found: Result) -> str:
    lines = [["first", "second", "difference of the mean ranks", "p", "ahead"]]
    for i, first in enumerate(found.rows):
        for j, second in enumerate(found.rows[i + 1 :], start=i + 1):
            moved, p = digits((found.ranks[j] - found.ranks[i], found.p[i, j]))
            ahead = first.name if found.ahead[i, j] else (second.name if found.ahead[j, i] else "")
            lines.append([first.name, second.name, moved, p, ahead])
    return sheet_text(lines)


def _tests(found: Result, columns: Sequence[Column]) -> str:
    """Return the tests of the compared row: `better` is 1 where it is better, -1 where worse, significant or not."""
    held = found.held
    if held is None:
        return ""
    head = ["row", "against", "difference of the mean ranks", "low", "high", "p"]
    lines = [head + [f"{c.name}{end}" for c in columns for end in (" p", " better")]]
    for number, row in enumerate(found.rows):
        if number == held.row:
            continue
        line = [found.rows[held.row].name, row.name]
        line += digits((held.differences[number], *held.intervals[number], held.p[number]))
        for p, better in zip(held.by_metric[:, number], held.better[:, number], strict=True):
            line += [*digits([p]), str(better)]
        lines.append(line)
    return sheet_text(lines)

"""The tables of scores and of paired tests: with printed digits, and the same numbers as CSV."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from mmfuse.files.writing import sheet_text
from mmfuse.metrics import descriptions
from mmfuse.reporting import latex
from mmfuse.reporting.latex import Head as LatexHead
from mmfuse.reporting.ranking import Ranking, Standing, ranking, stand
from mmfuse.reporting.scores import Array, Column, Group, Scores, average, spread
from mmfuse.words import number_of

UNDEFINED = "n/a"
WORDS = {"best": ", best", "tied": ", not significantly worse than the best", "second": ", best of the rest"}


@dataclass(frozen=True)
class Cell:
    """One number as printed, with the lines below it; `partial` means that some images have no value."""

    mean: str
    below: tuple[str, ...]
    mark: str
    partial: bool
    title: str


@dataclass(frozen=True)
class Head:
    """The columns of one convention; names defined as in the main one (`same`) or not measured by it have none."""

    convention: str
    columns: tuple[Column, ...]
    same: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One line: a method and variant, or (indented, unranked) one of its seeds; `cells` has a tuple for each head."""

    label: str
    variant: str
    seeds: str
    anchor: str
    target: str
    single: bool
    cells: tuple[tuple[Cell, ...], ...]
    rank: Cell | None


@dataclass(frozen=True)
class Pair:
    """Two groups and their tests, a tuple for each head: p as printed, and `+`, `-` or nothing."""

    first: str
    second: str
    cells: tuple[tuple[tuple[str, str], ...], ...]


@dataclass(frozen=True)
class Table:
    """The tables of one dataset, ready for the page."""

    heads: tuple[Head, ...]
    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    standings: tuple[Standing, ...]
    ranking: Ranking | None
    several_seeds: bool
    partial: bool


def decimals(means: Iterable[float]) -> int:
    """Return the decimals for one column, so that its smallest finite mean keeps about four digits (at most five)."""
    finite = [abs(m) for m in means if math.isfinite(m) and m != 0]
    return min(5, max(1, 3 - math.floor(math.log10(min(finite))))) if finite else 1


def printed(value: float, digits: int) -> str:
    """Return a number with fixed decimals and a true minus sign; `n/a` if it is not finite."""
    return f"{value:.{digits}f}".replace("-", "−") if math.isfinite(value) else UNDEFINED


def printed_p(p: float) -> str:
    """Return a p-value with three decimals."""
    return "<0.001" if p < 0.001 else printed(p, 3)


def heads(columns: Sequence[Column], main: str) -> tuple[Head, ...]:
    """Group columns by convention, the main one first; of the others, only columns that differ from it."""
    meaning = {c.plain: c.definition for c in columns if c.convention == main}
    found = []
    for convention in dict.fromkeys([main, *(c.convention for c in columns)]):
        own = [c for c in columns if c.convention == convention]
        same = [c for c in own if convention != main and c.definition == meaning.get(c.plain)]
        missing = [name for name in meaning if name not in {c.plain for c in own}]
        different = tuple(c for c in own if c not in same)
        found.append(Head(convention, different, tuple(c.plain for c in same), tuple(missing)))
    return tuple(found)


def _cell(label: str, series: Array, standing: Standing, number: int | None) -> Cell:
    """Return one cell; `number` is that of the group, None for one of its seeds."""
    column, places = standing.column, decimals(standing.means)
    count, mark = int(np.isfinite(series).sum()), "" if number is None else standing.marks[number]
    below = [f"± {printed(spread(series), places)}"] if count else []
    if count and number is not None:
        low, high = (printed(end, max(1, places - 1)) for end in standing.intervals[number])  # one digit less
        below.append(f"[{low}, {high}]")
        if math.isfinite(standing.seeds[number]):
            below.append(f"seeds ± {printed(standing.seeds[number], places)}")
    title = f"{label}, {column.name} ({column.definition}){WORDS.get(mark, '')}: "
    title += f"{count} of {number_of(series.size, 'image')}"
    return Cell(printed(average(series), places), tuple(below), mark, 0 < count < series.size, title)


def _pairs(groups: Sequence[Group], standings: Sequence[Sequence[Standing]]) -> list[Pair]:
    signs = {1: "+", -1: "−", 0: ""}
    return [
        Pair(
            groups[i].label,
            groups[j].label,
            tuple(tuple((printed_p(s.p[i, j]), signs[int(s.better[i, j])]) for s in part) for part in standings),
        )
        for i, j in combinations(range(len(groups)), 2)
    ]


def build(groups: Sequence[Group], row_anchor: Callable[[str], str], run_anchor: Callable[[Scores], str]) -> Table:
    """Lay out the tables of one dataset.

    Args:
        groups: Methods and variants in the order of the study.
        row_anchor: Returns the anchor of a row from its label.
        run_anchor: Returns the anchor of the run that measured a system's scores.
    """
    columns, main = groups[0].members[0].metrics, groups[0].members[0].convention
    parts = heads(columns, main)
    standings = [[stand(groups, column) for column in part.columns] for part in parts]
    ranked = ranking(groups, standings[0])

    def cells(label: str, values: Array, number: int | None) -> tuple[tuple[Cell, ...], ...]:
        return tuple(
            tuple(_cell(label, values[columns.index(s.column)], s, number) for s in part) for part in standings
        )

    rows: list[Row] = []
    for number, group in enumerate(groups):
        label, many = group.label, len(group.members) > 1
        rank = None
        if ranked:
            mark = ranked.marks[number]
            rank = Cell(f"{ranked.ranks[number]:.2f}", (), mark, False, f"{label}, mean rank{WORDS.get(mark, '')}")
        seeds = f"{len(group.members)} seeds" if many else f"seed {group.members[0].system.seed}"
        first = group.members[0].system.label
        target = row_anchor(first) if many else run_anchor(group.members[0])
        anchor = row_anchor(f"{group.method}.{group.variant}")
        whole = cells(label, group.values, number)
        rows.append(Row(group.method, group.variant, seeds, anchor, target, False, whole, rank))
        for item in group.members if many else ():
            name, seed = item.system.label, f"seed {item.system.seed}"
            own = cells(name, item.values, None)
            rows.append(Row(group.method, group.variant, seed, row_anchor(name), run_anchor(item), True, own, None))
    several = any(len(g.members) > 1 for g in groups)
    partial = any(c.partial for r in rows for part in r.cells for c in part)
    shown = tuple(s for part in standings for s in part)
    return Table(parts, tuple(rows), tuple(_pairs(groups, standings)), shown, ranked, several, partial)


def as_csv(groups: Sequence[Group], table: Table) -> str:
    """Return the table with all digits: one line for each method and variant, then one for each of several seeds.

    `low` and `high` are the ends of the interval, `seeds std` is the deviation between the seeds' means, `rank` the
    average rank over the images.
    """
    ranked, columns = table.ranking, groups[0].members[0].metrics
    words = ("mean", "std", "low", "high", "seeds std", "rank")
    names = [f"{s.column.name} {word}" for s in table.standings for word in words]
    lines: list[list[Any]] = [["method", "variant", "seed", "images", *names, "mean rank", "critical difference"]]
    for number, group in enumerate(groups):
        many = len(group.members) > 1
        seed = f"mean of {len(group.members)}" if many else str(group.members[0].system.seed)
        start = [group.method, group.variant]
        numbers: list[float] = []
        for s in table.standings:
            numbers += [s.means[number], s.stds[number], *s.intervals[number], s.seeds[number], s.ranks[number]]
        numbers += [ranked.ranks[number], ranked.critical] if ranked else [math.nan, math.nan]
        lines.append([*start, seed, group.values.shape[1], *digits(numbers)])
        for item in group.members if many else ():
            series = [item.values[columns.index(s.column)] for s in table.standings]
            numbers = [n for one in series for n in (average(one), spread(one), *[math.nan] * 4)]
            lines.append([*start, item.system.seed, item.values.shape[1], *digits(numbers), "", ""])
    return sheet_text(lines)


def pairs_as_csv(groups: Sequence[Group], table: Table) -> str:
    """Return the paired tests with all digits: one line per metric and pair of groups; `better` only if significant."""
    lines: list[list[Any]] = [["metric", "convention", "definition", "first", "second", "images", "p", "better"]]
    for standing in table.standings:
        column = standing.column
        number = groups[0].members[0].metrics.index(column)
        for i, j in combinations(range(len(groups)), 2):
            both = np.isfinite(groups[i].values[number]) & np.isfinite(groups[j].values[number])
            better = {1: groups[i].label, -1: groups[j].label, 0: ""}[int(standing.better[i, j])]
            pair = [groups[i].label, groups[j].label, int(both.sum()), *digits([standing.p[i, j]]), better]
            lines.append([column.name, column.convention, column.definition, *pair])
    return sheet_text(lines)


def as_latex(dataset: str, images: int, table: Table) -> str:
    """Return the table as printed: a line of means and one of intervals for each method and variant."""
    parts = [head for head in table.heads if head.columns]
    arrows = {1: " ↑", -1: " ↓", 0: ""}
    first = [LatexHead(""), *([LatexHead("")] if table.ranking else [])]
    second = [LatexHead("Method"), *([LatexHead("mean rank ↓")] if table.ranking else [])]
    for part in parts:
        first.append(LatexHead(part.convention, len(part.columns)))
        second += [LatexHead(c.plain + arrows[c.sign]) for c in part.columns]
    rows = []
    for row in (row for row in table.rows if not row.single):
        name = row.label if row.variant == "base" else f"{row.label}.{row.variant}"
        cells = [cell for part in row.cells for cell in part]
        ranked = [row.rank] if row.rank else []
        rows.append([latex.escape(name), *(latex.marked(c.mean, c.mark) for c in (*ranked, *cells))])
        intervals = [next((line for line in c.below if line.startswith("[")), "") for c in cells]
        rows.append(["", *("" for _ in ranked), *(latex.marked(text, "small") for text in intervals)])
    caption = f"Scores on {number_of(images, 'test image')} of {dataset}: mean and, below, its 95 % bootstrap "
    caption += (
        "interval over the images. Bold: best mean of the column; ≈: not significantly worse than it; underlined: best "
        "of the rest."
    )
    return latex.table(caption, f"tab:{dataset}", [first, second], rows, left=2 if table.ranking else 1)


def pairs_as_latex(dataset: str, table: Table) -> str:
    """Return the paired tests as printed: p after Holm's correction, + or − where it is below 0.05."""
    parts = [head for head in table.heads if head.columns]
    first = [LatexHead(""), *(LatexHead(part.convention, len(part.columns)) for part in parts)]
    second = [LatexHead("Pair"), *(LatexHead(c.plain) for part in parts for c in part.columns)]
    rows = [
        [
            latex.escape(f"{pair.first} – {pair.second}"),
            *(latex.escape(f"{sign} {p}".strip()) for part in pair.cells for p, sign in part),
        ]
        for pair in table.pairs
    ]
    caption = (
        f"Paired tests on {dataset}: two-sided Wilcoxon signed-rank test over the images, p after Holm's correction. "
    )
    caption += "For p below 0.05, + means that the first is better, and − that the second is."
    return latex.table(caption, f"tab:{dataset}-tests", [first, second], rows)


def digits(values: Iterable[float]) -> list[str]:
    """Return numbers with all their digits; empty where they are not finite."""
    return [repr(float(value)) if math.isfinite(value) else "" for value in values]


@dataclass(frozen=True)
class Meaning:
    """One definition of a plain name: the conventions that share it, its description, and who uses it."""

    name: str
    better: str
    conventions: tuple[str, ...]
    definition: str
    words: str
    used_by: str


def legend(columns: Sequence[Column]) -> list[Meaning]:
    """Return the definitions of the plain names, in the order of the names, with descriptions for our own metrics."""
    alike: dict[tuple[str, str], list[Column]] = {}
    for name in dict.fromkeys(c.plain for c in columns):
        for column in columns:
            if column.plain == name:
                alike.setdefault((name, column.definition), []).append(column)
    found = []
    for (name, definition), same in alike.items():
        words, used_by = descriptions().get(definition, ("a definition outside mmfuse", ""))
        found.append(Meaning(name, same[0].better, tuple(c.convention for c in same), definition, words, used_by))
    return found

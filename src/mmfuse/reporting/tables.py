"""The table of methods and metrics: printed digits, marks for the best, and the same numbers as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mmfuse.reporting.scores import Array, Column, Group, Ranking, Scores, average, ranking, spread

UNDEFINED = "n/a"


@dataclass(frozen=True)
class Cell:
    """One number as printed; `mark` is `best`, `second` or empty, `partial` says that some images have no value."""

    mean: str
    std: str
    mark: str
    partial: bool
    title: str


@dataclass(frozen=True)
class Row:
    """One line: a method and variant, or (indented, unranked) one of its seeds."""

    label: str
    variant: str
    seeds: str
    anchor: str
    target: str
    single: bool
    cells: tuple[Cell, ...]
    mean_rank: str


@dataclass(frozen=True)
class Table:
    """The table of one dataset, ready for the page."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    ranking: Ranking | None
    several_seeds: bool
    partial: bool


def decimals(means: Sequence[float]) -> int:
    """Return the decimals for one column, so that its smallest finite mean keeps about four digits (at most five)."""
    finite = [abs(m) for m in means if math.isfinite(m) and m != 0]
    return min(5, max(1, 3 - math.floor(math.log10(min(finite))))) if finite else 1


def printed(value: float, digits: int) -> str:
    """Return a number with fixed decimals, with a true minus sign; `n/a` if it is not finite."""
    return f"{value:.{digits}f}".replace("-", "−") if math.isfinite(value) else UNDEFINED


def marks(means: Sequence[float], sign: int, digits: int) -> list[str]:
    """Mark the best and the next best of a column; values that print alike are marked alike.

    Returns:
        For each mean `best`, `second` or the empty string; nothing is marked without a direction or a competitor.
    """
    rounded = [round(m, digits) if math.isfinite(m) else math.nan for m in means]
    order = sorted({r for r in rounded if math.isfinite(r)}, reverse=sign > 0)
    if not sign or sum(math.isfinite(r) for r in rounded) < 2:
        return [""] * len(rounded)
    names = dict(zip(order, ("best", "second"), strict=False))
    return [names.get(r, "") for r in rounded]


def _cells(
    label: str, values: Array, columns: Sequence[Column], digits: Sequence[int], row: Sequence[str]
) -> list[Cell]:
    cells = []
    for column, series, places, mark in zip(columns, values, digits, row, strict=True):
        count = int(np.isfinite(series).sum())
        mean = printed(average(series), places)
        std = printed(spread(series), places) if count else ""
        words = {"best": ", best", "second": ", second"}.get(mark, "")
        title = f"{label}, {column.name} ({column.definition}){words}: {count} of {series.size} images"
        cells.append(Cell(mean, std, mark, 0 < count < series.size, title))
    return cells


def build(groups: Sequence[Group], row_anchor: Callable[[str], str], run_anchor: Callable[[Scores], str]) -> Table:
    """Lay out the table of one dataset.

    Args:
        groups: Methods and variants in the order of the study.
        row_anchor: Gives the anchor of a row from its label.
        run_anchor: Gives the anchor of the run that made a system's scores.
    """
    columns = groups[0].members[0].metrics
    means = [[average(g.values[i]) for g in groups] for i in range(len(columns))]
    digits = [decimals(numbers) for numbers in means]
    marked = [marks(n, c.sign, d) for n, c, d in zip(means, columns, digits, strict=True)]
    ranked = ranking(groups, columns)
    rows: list[Row] = []
    for number, group in enumerate(groups):
        label, many = group.label, len(group.members) > 1
        rank = f"{ranked.mean_ranks[number]:.2f}" if ranked else ""
        cells = _cells(label, group.values, columns, digits, [found[number] for found in marked])
        seeds = f"{len(group.members)} seeds" if many else f"seed {group.members[0].system.seed}"
        first = group.members[0].system.label
        target = row_anchor(first) if many else run_anchor(group.members[0])
        anchor = row_anchor(f"{group.method}.{group.variant}")
        rows.append(Row(group.method, group.variant, seeds, anchor, target, False, tuple(cells), rank))
        for item in group.members if many else ():
            own = _cells(item.system.label, item.values, columns, digits, [""] * len(columns))
            name, seed = item.system.label, f"seed {item.system.seed}"
            rows.append(
                Row(group.method, group.variant, seed, row_anchor(name), run_anchor(item), True, tuple(own), "")
            )
    several = any(len(g.members) > 1 for g in groups)
    return Table(columns, tuple(rows), ranked, several, any(c.partial for r in rows for c in r.cells))


def as_csv(groups: Sequence[Group], ranked: Ranking | None) -> str:
    """Return the same table with all digits: one line a method and variant, then one for each of several seeds."""
    columns = groups[0].members[0].metrics
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [f"{c.name} {what}" for c in columns for what in ("mean", "std")]
    writer.writerow(["method", "variant", "seed", "images", *names, "mean rank"])
    for number, group in enumerate(groups):
        rank = repr(float(ranked.mean_ranks[number])) if ranked else ""
        many = len(group.members) > 1
        seed = f"mean of {len(group.members)}" if many else str(group.members[0].system.seed)
        lines = [(seed, group.values, rank)]
        lines += [(str(s.system.seed), s.values, "") for s in group.members] if many else []
        for name, values, place in lines:
            numbers = [_digits(f(series)) for series in values for f in (average, spread)]
            writer.writerow([group.method, group.variant, name, values.shape[1], *numbers, place])
    return text.getvalue()


def legend(columns: Sequence[Column]) -> list[tuple[Column, str, str]]:
    """Return what each column means in words and who measures it so, as far as our own metrics define it."""
    from mmfuse.metrics import variants  # late: it needs torch

    found = []
    for column in columns:
        metric = variants().get(column.definition)
        words = (metric.function.__doc__ or "").partition("\n")[0] if metric else "a definition outside mmfuse"
        found.append((column, words, metric.card.used_by if metric else ""))
    return found


def _digits(value: float) -> str:
    return repr(value) if math.isfinite(value) else ""


def verdict(groups: Sequence[Group], ranked: Ranking | None) -> str:
    """Say in words which method ranks first on one dataset and how far that can be trusted."""
    images = f"{len(groups[0].members[0].images)} test images"
    if ranked is None:
        return f"{images}; nothing to rank (fewer than two systems, or no metric that all of them have on all images)."
    order = sorted(range(len(groups)), key=lambda i: (ranked.mean_ranks[i], i))
    count = len(ranked.metrics)
    over = f"over {count} metrics" if count > 1 else f"on the one metric {ranked.metrics[0].name}"
    best = [i for i in order if math.isclose(ranked.mean_ranks[i], ranked.mean_ranks[order[0]])]
    rank = f"{ranked.mean_ranks[best[0]]:.2f}"
    if len(best) > 1:
        shared = " and ".join(groups[i].label for i in best)
        return f"{images}: {shared} share the lowest mean rank {over} ({rank} of {len(groups)} systems)."
    first, second = best[0], order[1]
    text = (
        f"{images}: {groups[first].label} has the lowest mean rank {over} ({rank} among {len(groups)} systems; "
        f"best mean on {ranked.firsts[first]} of {count}), before {groups[second].label} "
        f"({ranked.mean_ranks[second]:.2f}; best mean on {ranked.firsts[second]})."
    )
    if ranked.stability is not None:
        text += (
            f" It keeps the first place in {100 * ranked.stability:.0f} % of 1000 bootstrap resamples of the images."
        )
    return text

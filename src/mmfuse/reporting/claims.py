"""The papers' claims about their own ablations, each with a verdict: confirmed, refuted or undecided.

A claim is a row of a printed table that leaves something out of the method. It states, metric by metric, whether the
whole method is better. The study tests it by the difference between its own two systems, with an interval over images
and seeds (docs/decisions/0011-statistics.md).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfuse.files.writing import sheet_text
from mmfuse.reporting import latex, published, statistics
from mmfuse.reporting.latex import Head
from mmfuse.reporting.scores import Array, Group
from mmfuse.reporting.statistics import Crossed
from mmfuse.reporting.tables import UNDEFINED, digits, printed
from mmfuse.words import number_of

CONFIRMED, REFUTED, UNDECIDED = "confirmed", "refuted", "undecided"
WINS = "metrics won"  # the column of all metrics together


@dataclass(frozen=True)
class Decided:
    """One metric of one claim, or the share of the metrics in which the whole method is better on an image, minus 0.5.

    Attributes:
        claimed: The paper's difference between the whole method and the row; NaN for the share of the metrics.
        ours: Our difference, with its interval.
        verdict: Whether our difference has the sign of the paper's, with 95 % confidence.
        seeds: Number of seeds that would decide it, at least 2; None if no number does, or with one seed.
    """

    claimed: float
    ours: Crossed
    verdict: str
    seeds: int | None


@dataclass(frozen=True)
class Claim:
    """What one row of a printed table claims about the method, and the verdict of the study."""

    says: str
    row: str
    system: str
    base: str
    seeds: int
    images: int
    decided: Mapping[str, Decided]

    @property
    def counts(self) -> str:
        """The number of metrics with each verdict, in words."""
        found = Counter(one.verdict for metric, one in self.decided.items() if metric != WINS)
        return ", ".join(f"{found[word]} {word}" for word in (CONFIRMED, REFUTED, UNDECIDED) if found[word])


def decide(entry: Mapping[str, Any], table: published.Beside, groups: Mapping[str, Sequence[Group]]) -> list[Claim]:
    """Decide the claims that an entry of `report.published` lists, each compared with `base` of the same method."""
    texts = {line.name: dict(zip(table.metrics, line.cells, strict=True)) for line in table.lines}
    rows = {system: row for row, system in entry["rows"].items()}
    found = []
    for row, says in entry.get("claims", {}).items():
        system = entry["rows"][row]
        base = f"{system.partition('.')[0]}.base"
        whole, without = (_values(name, table, groups) for name in (base, system))
        apart = {
            metric: sign * statistics.difference(values, without[metric][1]) for metric, (sign, values) in whole.items()
        }
        if not apart:
            continue
        decided = {}
        for metric, values in apart.items():
            first, second = (float(texts[name][metric][0] or "nan") for name in (rows[base], row))
            claimed = whole[metric][0] * (first - second)
            if claimed and not math.isnan(claimed):
                decided[metric] = _decide(claimed, values)
        every = np.stack(list(apart.values()))  # (metrics, seeds, images)
        wins = np.mean((np.sign(every) + 1) / 2, axis=0) - 0.5
        decided[WINS] = _decide(math.nan, wins)
        found.append(Claim(says, row, system, base, len(wins), wins.shape[1], decided))
    return found


def _decide(claimed: float, apart: Array) -> Decided:
    """Compare a difference (seeds, images) with the claimed one; positive is better for the whole method."""
    known = apart[:, np.isfinite(apart).all(0)]
    ours = statistics.crossed(known)
    if len(apart) == 1 or ours.low <= 0 <= ours.high:
        verdict = UNDECIDED  # a single seed says nothing about other trainings
    else:
        verdict = CONFIRMED if (ours.low > 0) != (claimed < 0) else REFUTED
    seeds = statistics.seeds_to_decide(ours, known.shape[1])
    return Decided(claimed, ours, verdict, seeds)


def _values(
    system: str, table: published.Beside, groups: Mapping[str, Sequence[Group]]
) -> dict[str, tuple[int, Array]]:
    """Return each metric's better direction and its values (seeds, images), over the images of all datasets."""
    found = {}
    own = [published.group_of(groups[dataset], system) for dataset in table.datasets]
    for metric in table.metrics:
        places = published.places_of(own, metric, table.paper)
        if places is None or not (sign := own[0].members[0].metrics[places[0]].sign):
            continue
        values = [
            np.stack([member.values[place] for member in group.members])
            for group, place in zip(own, places, strict=True)
        ]
        found[metric] = (sign, np.concatenate(values, axis=1))
    return found


def words(one: Decided) -> tuple[str, ...]:
    """Return the lines of a cell: verdict, our difference, its interval, the paper's difference, and the seeds."""
    ours = one.ours
    if math.isnan(one.claimed):
        lines = [
            one.verdict,
            f"{50 + 100 * ours.mean:.0f} %",
            f"[{50 + 100 * ours.low:.0f}, {50 + 100 * ours.high:.0f}]",
        ]
    else:
        lines = [one.verdict, printed(ours.mean, 3), f"[{printed(ours.low, 3)}, {printed(ours.high, 3)}]"]
        lines.append(f"paper {printed(one.claimed, 3)}")
    if one.verdict == UNDECIDED and not math.isnan(ours.seeds):
        lines.append(number_of(one.seeds, "seed") if one.seeds else "more images")
    return tuple(lines)


def as_csv(found: Sequence[Claim]) -> str:
    """Return the claims with all digits, one line for each claim and metric."""
    names = ["claim", "row", "system", "base", "seeds", "images", "metric", "claimed", "measured", "low", "high"]
    rows = [[*names, "variance of seeds", "variance of images", "variance of the rest", "verdict", "seeds to decide"]]
    for claim in found:
        start = [claim.says, claim.row, claim.system, claim.base, str(claim.seeds), str(claim.images)]
        for metric, one in claim.decided.items():
            ours = one.ours
            numbers = digits((one.claimed, ours.mean, ours.low, ours.high, ours.seeds, ours.images, ours.rest))
            rows.append([*start, metric, *numbers, one.verdict, str(one.seeds or "")])
    return sheet_text(rows)


def as_latex(found: Sequence[Claim], caption: str, label: str) -> str:
    """Return the claims as a table: one row for each claim, one column for each metric."""
    metrics = columns(found)
    rows = []
    for claim in found:
        own = {metric: words(one) for metric, one in claim.decided.items()}
        depth = max(map(len, own.values()))
        for line in range(depth):
            start = latex.escape(claim.row) if not line else ""
            cells = [own.get(metric, (UNDEFINED,))[line : line + 1] for metric in metrics]
            rows.append([start, *(latex.marked("".join(cell), "small") for cell in cells)])
    heads = [[Head("Without"), *(Head(name) for name in metrics)]]
    return latex.table(caption, f"tab:{label}", heads, rows)


def columns(found: Sequence[Claim]) -> list[str]:
    """Return the metrics of the claims, `WINS` last."""
    metrics = dict.fromkeys(metric for claim in found for metric in claim.decided if metric != WINS)
    return [*metrics, WINS]

"""The first page: what a busy reader needs in a minute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmfuse.files.writing import sheet_text
from mmfuse.reporting import baselines, cases, dataset_cards, figures, latex, provenance
from mmfuse.reporting.latex import Head
from mmfuse.reporting.ranking import Ranking
from mmfuse.reporting.study import Page, Study, representatives
from mmfuse.study import plan
from mmfuse.words import number_of


def page(study: Study, others: Sequence[Page]) -> Page:
    """Return the overview; `others` are the pages that it links to."""
    rows = [_row(study, dataset) for dataset in study.groups]
    matches = [row["match"] for row in rows if row["match"]]
    names = ["dataset", "task", "test images", "first", "not significantly behind", "behind", "critical difference"]
    names.append("best network and best training-free baseline")
    study.sheets["overview.csv"] = sheet_text([names, *(_line(row) for row in rows)])
    caption = "Which methods lead; in brackets, the mean rank over the metrics, 1 is best. Not significantly behind: "
    caption += "within the critical difference from the first (Nemenyi's test, level 0.05). Last column: the best "
    caption += "network compared with the best training-free baseline by the same rule."
    lines = [[latex.escape(str(text)) for text in _line(row)] for row in rows]
    study.sheets["overview.tex"] = latex.table(
        caption, "tab:overview", [[Head(n) for n in names]], lines, left=len(names)
    )
    ranked = {dataset: board.ranking for dataset, board in study.boards.items()}
    sets = {dataset: polygons(study, dataset, found) for dataset, found in ranked.items() if found}
    counts = provenance.counted(study.runs)
    members = [group.members[0] for groups in study.groups.values() for group in groups]
    shown = {
        "name": study.parameters["study"]["name"],
        "seeds": study.parameters["study"]["seeds"],
        "opening": baselines.opening(matches, [row["dataset"] for row in rows if not row["match"]]),
        "matches": matches,
        "outside": any(member.system.variant == plan.EXTERNAL for member in members),
        "cases": cases.shown(study),
        "rows": rows,
        "methods": list(dict.fromkeys(g.method for groups in study.groups.values() for g in groups)),
        "systems": len({(g.method, g.variant) for groups in study.groups.values() for g in groups}),
        "counts": counts,
        "downstream": [p for p in others if p.template == "downstream.html.jinja"],
        "radar": figures.radar(study.album, sets) if sets else None,
        **provenance.overview(study.runs, study.parameters),
    }
    return Page("overview", "Overview", "overview.html.jinja", shown)


def _row(study: Study, dataset: str) -> dict[str, Any]:
    """Return the ranking on one dataset: the first system, those not significantly behind it, and the rest."""
    groups, ranked = study.groups[dataset], study.boards[dataset].ranking
    card = dataset_cards.card(study.catalog, dataset, study.root)
    row: dict[str, Any] = {
        "dataset": dataset,
        "anchor": provenance.anchor("data", dataset),
        "task": card.task,
        "roles": card.roles,
        "images": len(groups[0].members[0].images),
        "first": [],
        "near": [],
        "behind": [],
        "critical": "",
        "wins": "",
        "match": baselines.match(study, dataset),
    }
    if ranked is None:
        return row
    for number in np.argsort(ranked.ranks, kind="stable"):
        place = {"best": "first", "tied": "near", "": "behind"}[ranked.marks[number]]
        row[place].append((groups[number].label, f"{ranked.ranks[number]:.2f}"))
    best = int(np.argmin(ranked.ranks))
    row["critical"] = f"{ranked.critical:.2f}"
    row["wins"] = f"best mean on {ranked.firsts[best]} of {number_of(len(ranked.counted), 'metric')}"
    row["wins"] += f", on {ranked.alone[best]} significantly" if ranked.firsts[best] else ""
    return row


def _line(row: dict[str, Any]) -> list[Any]:
    listed = ["; ".join(f"{label} ({rank})" for label, rank in row[place]) for place in ("first", "near", "behind")]
    words = row["match"].words if row["match"] else ""
    return [row["dataset"], row["task"], row["images"], *listed, row["critical"], words]


def polygons(study: Study, dataset: str, ranked: Ranking) -> figures.Polygons:
    """Return the radar of one dataset: one line for each method, and one for each system with given weights."""
    groups = study.groups[dataset]
    shown = representatives(study.parameters, groups)
    numbers = [groups.index(group) for group in shown]
    columns = [standing.column for standing in ranked.counted]
    return figures.Polygons([g.label for g in shown], columns, figures.shares(ranked, numbers))

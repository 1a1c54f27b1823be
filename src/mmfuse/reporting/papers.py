"""The pages of the papers: each of their tables that the study asks for, with its numbers beside the printed ones."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmfuse import plan
from mmfuse.reporting import published, published_sets, trained
from mmfuse.reporting.study import Page, Study


def pages(study: Study) -> list[Page]:
    """Return a page for each paper of which the study re-makes a table."""
    tables, systems = [], trained.read(study)  # each table with its caption
    for entry in study.settings.get("published", []):
        if "protocol" in entry:
            table = published_sets.build(entry, study.printed, study.parameters, study.seen(entry["protocol"]))
            tables.append((table, published_sets.caption(study, entry["protocol"], table, systems)))
        else:
            table = published.build(entry, study.printed, study.groups)
            tables.append((table, _caption(study, table, systems)))
    study.sheets["published.csv"] = published.as_csv([table for table, _ in tables])
    found = []
    for paper in dict.fromkeys(table.paper for table, _ in tables):
        own = []
        for table, caption in ((table, caption) for table, caption in tables if table.paper == paper):
            name = f"published.{paper}.{table.table}.{re.sub('[^a-z0-9]+', '_', table.of.lower()).strip('_')}"
            study.sheets[f"{name}.tex"] = published.as_latex(table, caption, name)
            study.sheets[f"{name}.csv"] = published.as_csv([table])
            own.append({"table": table, "file": name, "caption": caption})
        shown = {"paper": published.TITLES.get(paper, paper), "tables": own, "beside": published.beside}
        title = f"Paper: {published.TITLES.get(paper, paper)}"
        found.append(Page(f"paper-{paper}", title, "paper.html.jinja", shown))
    return found


def _caption(study: Study, table: published.Beside, systems: Sequence[trained.Trained]) -> str:
    """Say what a table holds, on what ours was measured and trained, and why it may differ from the printed one."""
    parts = []
    for name in table.datasets:
        count = study.groups[name][0].values.shape[1]
        whole = study.catalog[name].pairs.get("test")
        parts.append(f"{count}{f' of the {whole}' if whole and whole != count else ''} test pairs of {name}")
    seeds = f", mean over {table.seeds} training seeds" if table.seeds > 1 else ", one training seed"
    task = plan.task_of(study.parameters, table.datasets[0])
    rows = {line.name: line.system for line in table.lines}
    text = f"{table.title}. Paper: as printed there. Measured: by this study on {' and '.join(parts)}"
    text += f"{trained.behind(systems, rows, task)}{seeds}; metrics by the convention "
    text += f"{table.convention}; in brackets the 95 % bootstrap interval of the mean over the images. "
    return text + published.ending(table)

"""The pages of the papers: each of their tables named in the study, with our numbers beside the printed ones."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmfuse.reporting import claims, given_weights, published, published_sets, training_data
from mmfuse.reporting.study import Page, Study
from mmfuse.study import plan
from mmfuse.words import number_of

_CLAIMS = (
    "The claims of this table. Each difference is the whole method minus the row, positive where the whole method is "
    "better. A claim is confirmed if our difference has the sign of the paper's and its 95 % interval over images and "
    "seeds excludes 0, refuted if it has the other sign and the interval excludes 0, and undecided otherwise. The "
    "number of seeds is the one that would decide it if the mean and the variances stayed the same. Metrics won is the "
    "share of the metrics in which the whole method is better, over all images and seeds. There is no correction for "
    "the number of claims, so about one interval in twenty misses the true value."
)


def pages(study: Study) -> list[Page]:
    """Return a page for each paper of which the study reproduces a table."""
    systems = training_data.read(study)
    tables: list[tuple[published.Beside, str, list[claims.Claim]]] = []  # each table with its caption and its claims
    for entry in study.settings.get("published", []):
        if "protocol" in entry:
            table = published_sets.build(entry, study.printed, study.parameters, study.seen(entry["protocol"]))
            tables.append((table, published_sets.caption(study, entry["protocol"], table, systems), []))
        else:
            table = published.build(entry, study.printed, study.groups)
            tables.append((table, _caption(study, table, systems), claims.decide(entry, table, study.groups)))
    study.sheets["published.csv"] = published.as_csv([table for table, *_ in tables])
    found = []
    for paper in dict.fromkeys(table.paper for table, *_ in tables):
        own = []
        for table, caption, decided in (entry for entry in tables if entry[0].paper == paper):
            name = f"published.{paper}.{table.table}.{re.sub('[^a-z0-9]+', '_', table.of.lower()).strip('_')}"
            study.sheets[f"{name}.tex"] = published.as_latex(table, caption, name)
            study.sheets[f"{name}.csv"] = published.as_csv([table])
            if decided:
                study.sheets[f"claims.{name}.tex"] = claims.as_latex(decided, _CLAIMS, f"claims.{name}")
                study.sheets[f"claims.{name}.csv"] = claims.as_csv(decided)
            own.append({"table": table, "file": name, "caption": caption, "claims": decided})
        shown = {
            "paper": published.TITLES.get(paper, paper),
            "tables": own,
            "beside": published.beside,
            "columns": claims.columns,
            "words": claims.words,
            "said": _CLAIMS,
        }
        title = f"Paper: {published.TITLES.get(paper, paper)}"
        found.append(Page(f"paper-{paper}", title, "paper.html.jinja", shown))
    return found


def _caption(study: Study, table: published.Beside, systems: Sequence[training_data.Trained]) -> str:
    """Return a table's caption: its content, our data for testing and training, and why our numbers may differ."""
    parts = []
    for name in table.datasets:
        count = study.groups[name][0].values.shape[1]
        whole = study.catalog[name].pairs.get("test") or count
        of = f"{count} of the " if whole != count else ""
        parts.append(f"{of}{number_of(whole, 'test pair')} of {name}")
    seeds = f", mean over {table.seeds} training seeds" if table.seeds > 1 else ", one training seed"
    task = plan.task_of(study.parameters, table.datasets[0])
    rows = {line.name: line.system for line in table.lines}
    text = f"{table.title}. Paper: as printed there. Measured: by this study on {' and '.join(parts)}"
    text += training_data.behind(systems, rows, task)
    text += f"{given_weights.behind(given_weights.read(study), rows, task)}{seeds}"
    text += f"; metrics by the convention {table.convention}"
    text += "; in brackets, the 95 % bootstrap interval of the mean over the images. "
    return text + published.ending(table)

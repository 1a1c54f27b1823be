"""The pages of the report in their order, rendered into one HTML file. A new page is one more line here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mmfuse.files.writing import sheet_text
from mmfuse.progress import progress
from mmfuse.reporting import (
    ablations,
    analyses,
    dataset_cards,
    datasets,
    downstream,
    efficiency,
    latex,
    overview,
    papers,
    provenance,
    trainings,
)
from mmfuse.reporting.latex import Head
from mmfuse.reporting.study import Page, Study


def _provenance(study: Study) -> list[Page]:
    """Return the page on how each number was made."""
    lines = provenance.as_lines(study.runs)
    study.sheets["provenance.csv"] = sheet_text(lines)
    heads = [Head(text) for text in ("Stage", "Job", "Commit", "Seed", "MLflow run", "First output", "SHA-256")]
    rows = []
    for run in study.runs:
        output, digest = min((run.record["outputs"] or {"": ""}).items())
        seed, tracked = run.record["seed"], run.record["mlflow"].get("run_id", "")
        commit = provenance.commit_of(run)[:10]
        texts = (run.stage, run.title, commit, "" if seed is None else seed, tracked[:8], output, digest[:12])
        rows.append([latex.escape(str(text)) for text in texts])
    caption = "How each result was made: the runs in the order of the stages."
    study.sheets["provenance.tex"] = latex.table(caption, "tab:provenance", [heads], rows, left=7)
    made = provenance.makers(study.runs)
    shown = {
        **provenance.overview(study.runs, study.parameters),
        "tracked": provenance.tracked(study.runs),
        "sections": [provenance.section(run, made) for run in study.runs],
    }
    return [Page("provenance", "How each number was made", "provenance.html.jinja", shown)]


BUILDERS: Sequence[Callable[[Study], list[Page]]] = (
    datasets.pages,
    papers.pages,
    ablations.pages,
    downstream.pages,
    efficiency.pages,
    trainings.pages,
    analyses.pages,
    dataset_cards.pages,
    _provenance,
)


def pages(study: Study) -> list[Page]:
    """Return all pages for which the study has content, the overview first."""
    found = [page for build in progress(BUILDERS, "write pages", unit="kinds of pages") for page in build(study)]
    return [overview.page(study, found), *found]


def render(study: Study, found: Sequence[Page]) -> str:
    """Return the pages as one HTML file; every value is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mmfuse.reporting", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    shown = {"study": study.parameters["study"]["name"], "settings": study.settings, "pages": found}
    return environment.get_template("report.html.jinja").render(shown)

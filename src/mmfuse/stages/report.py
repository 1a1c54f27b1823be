"""Stage `report`: pages that show the data, the numbers, the pictures and their origin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmfuse.data.catalog import load_catalog
from mmfuse.files.writing import whole_folder, write_json, write_text
from mmfuse.pipeline.jobs import Work
from mmfuse.reporting import viewer
from mmfuse.reporting.means import study_means
from mmfuse.reporting.pages import pages, render
from mmfuse.reporting.scores import Group
from mmfuse.reporting.study import read_study
from mmfuse.study.integrity import check_records
from mmfuse.study.parameters import flatten
from mmfuse.study.set_checks import check_fused
from mmfuse.study.types import Parameters
from mmfuse.tracking import STUDY, results


def work(job: Work) -> None:
    """Run the job of the stage."""
    parameters, out = job.parameters, job.outputs["page"].parent
    check_records(Path(), parameters)
    check_fused(parameters)
    groups = run(
        parameters=parameters, root=Path(), out=out, catalog=Path("data/catalog.yaml"), printed=job.read("printed")
    )
    means = study_means(parameters, Path(), groups)
    write_json(job.outputs["means"], means)  # compared by `dvc metrics diff`
    tracker = job.running.tracker
    tracker.log_above(STUDY, flatten(means, separator="/"))
    tracker.keep_above(STUDY, lambda file: results.pack(Path(), job.params, parameters, file), results.ARCHIVE)
    print(job.outputs["page"].resolve())


def run(
    *,
    parameters: Parameters,
    root: Path,
    out: Path,
    catalog: Path,
    printed: Path,
) -> Mapping[str, Sequence[Group]]:
    """Write `index.html`, `tables/` (CSV, LaTeX), `figures/` (SVG, PDF, PNG), `viewer.html` and `viewer/` into `out`.

    Nothing is written until everything is ready, and the page comes last, so that its tables are from the same run.

    Args:
        parameters: The study's parameters.
        root: The project's folder, with all results at the stages' paths.
        out: The folder of the report.
        catalog: The catalog of datasets.
        printed: The tables printed in the papers.

    Returns:
        The scores, by dataset.

    Raises:
        UserError: something that the study names is missing (the message names the stage that creates it), or scores
            cannot be combined in one table.
    """
    entries = load_catalog(catalog)
    study = read_study(parameters, root, entries, printed)
    page = render(study, pages(study))
    viewer.write(out, parameters=parameters, catalog=entries, root=root, groups=study.groups, linked=study.linked)
    with whole_folder(out / "tables") as folder:
        for name, text in study.sheets.items():
            (folder / name).write_text(text, encoding="utf-8")
    with whole_folder(out / "figures") as folder:
        for name, content in study.album.files.items():
            path = folder / Path(name).relative_to("figures")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
    write_text(out / "index.html", page)
    if study.album.kept:
        study.album.kept.remove_others()
    return study.groups

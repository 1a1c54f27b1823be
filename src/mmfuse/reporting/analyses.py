"""The page of the analyses of trained networks."""

from __future__ import annotations

from typing import Any

from mmfuse import analyses
from mmfuse.files.reading import read_json
from mmfuse.reporting import provenance
from mmfuse.reporting.scores import existing
from mmfuse.reporting.study import Page, Study
from mmfuse.study import plan
from mmfuse.study.plan import System


def pages(study: Study) -> list[Page]:
    """Return the page of the analyses, if the study has any."""
    results: dict[tuple[str, str], dict[System, Any]] = {}
    for name, dataset, system in plan.analysed(study.parameters):
        path = existing(study.analysis(name, dataset, system), "analyse")
        results.setdefault((name, dataset), {})[system] = read_json(path, fix="run the stage `analyse` for it again")
    shown = [
        {
            "dataset": dataset,
            "card": analyses.load(name).CARD,
            "figures": [
                study.album.draw(dataset, f"{name}_{number}", d.title, d.caption, (d.width, d.height), d.paint)
                for number, d in enumerate(analyses.load(name).draw(found), start=1)
            ],
            "runs": [(s.label, provenance.anchor("run", "analyse", dataset, name, s.label)) for s in found],
        }
        for (name, dataset), found in results.items()
    ]
    return [Page("analysis", "Analyses", "analyses.html.jinja", {"analysed": shown})] if shown else []

"""The page of the trainings: losses over steps, with bands over the seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mmfuse.reporting import dataset_cards, figures, given_weights, training_data
from mmfuse.reporting.scores import existing
from mmfuse.reporting.study import Page, Study
from mmfuse.study import plan
from mmfuse.study.plan import System
from mmfuse.study.stages import TRAIN


def pages(study: Study) -> list[Page]:
    """Return the page of the trainings, if the study trains anything or has given weights."""
    parameters = study.parameters
    trained: dict[tuple[str, str, str], list[System]] = {}
    for task in parameters["study"]["tasks"]:
        for system in plan.systems_of(parameters, task):
            if plan.is_trained(parameters, system):
                trained.setdefault((task, system.method, system.variant), []).append(system)
    shown = [_entry(study, *what, systems) for what, systems in trained.items()]
    several = len(parameters["study"]["seeds"]) > 1
    elsewhere = given_weights.shown(study, given_weights.read(study))
    if not shown and not elsewhere:
        return []
    sets = training_data.shown(study, training_data.read(study)) if shown else []
    found = {"trained": shown, "several": several, "sets": sets, "given": elsewhere}
    return [Page("training", "Training", "training.html.jinja", found)]


def _entry(study: Study, task: str, method: str, variant: str, seeds: list[System]) -> dict[str, Any]:
    """Return the curves of one system; variants that share a part repeat it."""
    parts, histories, runs = plan.parts_of(study.parameters, method), [], []
    for part in parts:
        trained = [plan.training_of(study.parameters, system, part) for system in seeds]
        paths = [existing(study.path(TRAIN, "history", asdict(one)), "train") for one in trained]
        histories.append([figures.read_history(path, part) for path in paths])
        for one in trained:
            name = part if len(seeds) == 1 else f"{part}, seed {one.seed}"
            runs.append((name, study.training_anchor(one), "" if one.variant == variant else one.variant))
    label = method if variant == "base" else f"{method}.{variant}"
    words = "Total loss of each part over its steps (if there are many, means over blocks of steps)"
    if len(seeds) > 1:
        words += f"; the line is the mean of {len(seeds)} seeds, the band extends from their lowest to their highest"
    words += f". {_kept(study, method, variant, histories)}"
    title = f"{label}, {dataset_cards.TASKS.get(task, task)}"
    figure = figures.curves(study.album, "training", f"{task}.{method}.{variant}", title, words, histories)
    return {"figure": figure, "runs": runs, "parts": len(parts)}


def _kept(study: Study, method: str, variant: str, histories: Sequence[Sequence[figures.History]]) -> str:
    """Say which step's weights are used, part by part, and what the dotted line is."""
    blocks = plan.settings_of(study.parameters, method, variant)["parts"]
    last = [part for part, block in blocks.items() if block.get("weights", "best") == "last"]
    dotted = "Dotted: the step with the lowest validation loss"
    if not last:
        return f"{dotted}, whose weights are used."
    if len(last) < len(blocks):
        return f"{dotted}, whose weights are used, except in {', '.join(last)}, which uses those of the last step."
    validated = any(one.val.size for seeds in histories for one in seeds)
    return "The weights of the last step are used." + (f" {dotted}." if validated else " There was no validation.")

"""The means of a whole study in one small tree, for `dvc metrics diff` and for the study's run in MLflow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmfuse.files.reading import read_json
from mmfuse.reporting.downstream_scores import MEANS, mean, numbers, set_name, summaries
from mmfuse.reporting.scores import Group, average, existing
from mmfuse.study import plan
from mmfuse.study.types import Parameters

Means = dict[str, dict[str, dict[str, float]]]


def study_means(parameters: Parameters, root: Path, groups: Mapping[str, Sequence[Group]]) -> dict[str, Any]:
    """Return the means of all systems, by dataset, and under `downstream` those of all image sets, by protocol.

    Args:
        parameters: The study's parameters.
        root: The project's folder.
        groups: The scores, by dataset.

    Raises:
        UserError: a result is missing or damaged.
    """
    found: dict[str, Any] = dict(score_means(groups))
    return found | ({"downstream": protocol_means(parameters, root)} if plan.protocols(parameters) else {})


def score_means(groups: Mapping[str, Sequence[Group]]) -> Means:
    """Return the mean of each metric of the main convention over images and seeds, by dataset and METHOD.VARIANT."""
    return {
        dataset: {
            f"{group.method}.{group.variant}": {
                metric.name: float(np.mean([average(member.values[number]) for member in group.members]))
                for number, metric in enumerate(group.members[0].metrics)
                if metric.name == metric.plain
            }
            for group in found
        }
        for dataset, found in groups.items()
    }


def protocol_means(parameters: Parameters, root: Path) -> Means:
    """Return the measures of each image set on its own test images, averaged over the seeds, by protocol and set.

    Raises:
        UserError: a result is missing or damaged.
    """
    found: Means = {}
    for protocol, block in plan.protocols(parameters).items():
        for label in plan.image_sets(parameters, protocol):
            paths = [root / path for path in summaries(parameters, protocol, label)]
            fix = f"run the stage `{block['goal']}` for it again"
            read = [read_json(existing(path, block["goal"]), fix=fix)["results"][label] for path in paths]
            means = {key: mean(numbers(one[key] for one in read)) for key in MEANS[block["goal"]]}
            defined = {key: value for key, value in means.items() if math.isfinite(value)}
            found.setdefault(protocol, {})[set_name(label)] = defined
    return found

"""The means of a whole study in one small tree, for `dvc metrics diff` and for the study's run in MLflow."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from mmfuse.files.reading import read_json
from mmfuse.reporting.downstream_scores import MEANS, mean, numbers, set_name, summaries
from mmfuse.reporting.scores import average, existing, read_scores
from mmfuse.study import plan
from mmfuse.study.types import Parameters

Means = dict[str, dict[str, dict[str, float]]]


def study_means(parameters: Parameters, root: Path) -> dict[str, Any]:
    """Return the means of all systems, by dataset, and under `downstream` those of all image sets, by protocol.

    Raises:
        UserError: a result is missing or damaged.
    """
    found: dict[str, Any] = dict(score_means(parameters, root))
    return found | ({"downstream": protocol_means(parameters, root)} if plan.protocols(parameters) else {})


def score_means(parameters: Parameters, root: Path) -> Means:
    """Return the mean of each metric of the main convention over images and seeds, by dataset and METHOD.VARIANT."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for dataset, system in plan.scored_pairs(parameters):
        scores = read_scores(root, dataset, system)
        means = found.setdefault(dataset, {}).setdefault(f"{system.method}.{system.variant}", {})
        for metric, values in zip(scores.metrics, scores.values, strict=True):
            if metric.name == metric.plain:
                means.setdefault(metric.name, []).append(average(values))
    return {
        dataset: {
            name: {metric: float(np.mean(values)) for metric, values in means.items()} for name, means in of.items()
        }
        for dataset, of in found.items()
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

"""`mmfuse register`: put the best trained system of the study into MLflow's registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from mmfuse.data.images import luminance
from mmfuse.data.packs import Pack
from mmfuse.errors import UserError
from mmfuse.files.records import read_record
from mmfuse.files.writing import checksum
from mmfuse.nn.pair import PairModel
from mmfuse.pipeline.lineage import parents
from mmfuse.progress import steps
from mmfuse.reporting.scores import Column, average, read_scores
from mmfuse.study import plan
from mmfuse.study.parameters import load_parameters
from mmfuse.study.plan import System
from mmfuse.study.stages import EVALUATE, FUSE, PREPARE, TRAIN, key_of
from mmfuse.study.types import Parameters
from mmfuse.tracking import Tracker
from mmfuse.tracking.models import register as register_model
from mmfuse.training.checkpoints import load_method

_SIDE = 64  # of the example, which MLflow stores as text


def register(params: Path, *, dataset: str, metric: str, name: str | None, study: str | None) -> list[str]:
    """Register the trained system with the best mean of a metric on a dataset, and return lines on what was done.

    Raises:
        UserError: the study has no such dataset or metric, its results are not those of its weights, or MLflow is
            not available.
    """
    with steps("register", 3) as begin:
        return _register(params, dataset, metric, name, study, begin)


def _register(
    params: Path, dataset: str, metric: str, name: str | None, study: str | None, begin: Callable[[str], None]
) -> list[str]:
    begin("compare scores")
    parameters = load_parameters(params)
    own = parameters["study"]["name"]
    if study not in {None, own}:
        raise UserError(
            f"{params} is not the study {study}.", expected=study, found=own, fix="give its file with --params"
        )
    system, mean, means = best(parameters, dataset, metric)
    part = plan.parts_of(parameters, system.method)[-1]
    weights = Path(TRAIN.path("best", asdict(plan.training_of(parameters, system, part))))
    begin("check files")
    check_made_by(system, dataset, weights)
    method, card = load_method(weights)
    pair = Pack(Path(PREPARE.path("test", {"dataset": dataset})))[0]
    layers = [luminance(pair[key])[:_SIDE, :_SIDE] for key in ("a", "b")]
    example = (np.stack(layers)[None] / 255).astype(np.float32)  # (1, 2, h, w)
    digest = checksum(weights)
    tags = {
        "study": own, "system": system.label, "dataset": dataset, "metric": metric, "mean": repr(mean),
        "weights": digest,
    }  # fmt: skip
    tracker = Tracker(
        Path.cwd(),
        own,
        f"register {system.task}/{system.label}",
        fingerprint=f"register:{digest[:32]}",
        tags={
            "level": "job", "stage": "register", "task": system.task, "method": system.method,
            "variant": system.variant, "seed": system.seed,
        },
        parameters={"dataset": dataset, "metric": metric, "network": card.network},
        parents=parents(parameters, system),
    )  # fmt: skip
    chosen = name or f"{own}-{system.task}"
    begin("store the model")
    with tracker:
        version = register_model(tracker, PairModel(method), name=chosen, example=example, weights=weights, tags=tags)
    others = ", ".join(f"{label} {value:.4g}" for label, value in means.items() if label != system.label)
    return [
        f"registered {chosen}, version {version}: {system.label} with {metric} {mean:.4g} on {dataset}",
        *([f"behind it: {others}"] if others else []),
        f'load it: mlflow.pytorch.load_model("models:/{chosen}@best")',
        "it is a pickle, which runs code when it is loaded: load only models registered by somebody you trust",
    ]


def best(parameters: Parameters, dataset: str, metric: str) -> tuple[System, float, dict[str, float]]:
    """Return the trained system with the best mean, that mean, and the means of all of them, best first.

    Raises:
        UserError: the study does not test on the dataset, trains nothing for it, or has no such metric.
    """
    trained = [(name, s) for name, s in plan.scored_pairs(parameters) if plan.is_trained(parameters, s)]
    systems = [system for name, system in trained if name == dataset]
    if not systems:
        raise UserError(
            f"The study has no trained system that is measured on {dataset!r}.",
            expected=", ".join(dict.fromkeys(name for name, _ in trained)),
            found=dataset,
        )
    found: dict[System, float] = {}
    for system in systems:
        scores = read_scores(Path(), dataset, system)
        column = _column(scores.metrics, metric)
        found[system] = average(scores.values[scores.metrics.index(column)])
    order = sorted(found, key=lambda system: -column.sign * found[system])
    return order[0], found[order[0]], {system.label: found[system] for system in order}


def _column(columns: tuple[Column, ...], metric: str) -> Column:
    column = next((column for column in columns if column.name == metric), None)
    if column is None or not column.sign:
        raise UserError(
            f"Systems cannot be ranked by {metric!r}.",
            expected=", ".join(column.name for column in columns if column.sign),
            found=metric if column is None else f"{metric}, for which neither higher nor lower is better",
        )
    return column


def check_made_by(system: System, dataset: str, weights: Path | None) -> None:
    """Check that the scores belong to the images that these weights, or a training-free method, produced.

    Raises:
        UserError: the weights or the images have changed since.
    """
    key = key_of(dataset, system)
    images = Path(FUSE.path("folder", key))
    steps = [(Path(EVALUATE.path("record", key)), images)]
    if weights is not None:
        steps.insert(0, (Path(FUSE.path("record", key)), weights))
    for record, needed in steps:
        known = read_record(record, fix="run the study to its end first")["inputs"] if record.is_file() else {}
        if not needed.exists() or known.get(needed.as_posix()) != checksum(needed):
            raise UserError(
                f"The scores of {system.label} on {dataset} are not those of its weights or images.",
                expected=f"{needed} with the checksum in {record}",
                found="another file, or none",
                fix="run the study to its end first",
            )

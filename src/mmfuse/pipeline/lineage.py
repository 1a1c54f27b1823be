"""The MLflow runs that a job belongs to: the study in its present state, and one of its systems.

A state is one set of parameters, catalog entries and code. Whatever can change a number starts a new state, so that
comparing two runs of a study, or of a system, shows both what was changed and its effect.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from mmfuse.files.writing import sha256
from mmfuse.study import plan
from mmfuse.study.code_lists import PACKAGE, PLUMBING
from mmfuse.study.parameters import pick_all
from mmfuse.study.settings import merged
from mmfuse.study.training_sets import BOTH
from mmfuse.study.types import Parameters
from mmfuse.tracking import STUDY, SYSTEM, Parent

# the source of the data and the look of the report do not change any number
_UNSEEN = {"download", "report"}
_PRESENTATION = {"reporting", "benchmarks", "leaderboard", "stages/report"}


def parents(parameters: Parameters, system: plan.System | None = None, trained_on: str | None = None) -> list[Parent]:
    """Return the runs that a job belongs to: the study, and below it the system, if the job has a single one.

    Args:
        parameters: The parameters of the study.
        system: The system; the task of a training is that of its training set.
        trained_on: The training set of a training; by default the one that the system's variant chooses for its task.
    """
    settings = {key: value for key, value in parameters.items() if key not in _UNSEEN}
    entries = pick_all(parameters, [f"data/catalog.yaml:datasets.{name}" for name in plan.datasets_of(parameters)])
    state = _digest([settings, entries, _code()])
    name = parameters["study"]["name"]
    found = [Parent(STUDY, state, name, {}, settings)]
    if system is not None:
        tags = {"task": system.task, "method": system.method, "variant": system.variant, "seed": system.seed}
        if plan.is_trained(parameters, system):
            trained_on = trained_on or plan.trained_on(parameters, system.method, system.variant, system.task)
            tags["trained_on"] = trained_on
        label = f"{system.label} {system.task}"
        found.append(Parent(SYSTEM, _digest([state, label]), label, tags, _settings(parameters, system, trained_on)))
    return found


def _settings(parameters: Parameters, system: plan.System, trained_on: str | None) -> dict[str, Any]:
    """Return the parameters that one system's scores depend on, under the names that they have in the study."""
    names = {
        "prepare": ("val_fraction", "val_pairs", "skip_broken", "subset", "patches"),
        "evaluate": ("convention", "beside"),
    }
    every: Mapping[str, Any] = {**parameters}
    chosen = {block: {k: every[block][k] for k in keys if k in every[block]} for block, keys in names.items()}
    # a training set may be for both tasks, or for one that the study does not test
    tasks = {name: task for name, task in every["study"]["tasks"].items() if system.task in {name, BOTH}}
    study: dict[str, Any] = {"tasks": tasks}
    if trained_on is not None:
        block = "tasks" if trained_on in every["study"]["tasks"] else "training_sets"
        study = merged(study, {block: {trained_on: every["study"][block][trained_on]}})
    task = {"study": study}
    if system.variant == plan.EXTERNAL:
        return {**task, **chosen}
    own = plan.settings_of(parameters, system.method, system.variant)
    return {**task, **chosen, "train": parameters["train"], "methods": {system.method: own}}


@cache
def _code() -> dict[str, str]:
    """Return the checksum of each file of the package that can change a number."""
    names = {path: path.relative_to(PACKAGE).with_suffix("").as_posix() for path in sorted(PACKAGE.rglob("*.py"))}
    left_out = PLUMBING | _PRESENTATION
    return {n: sha256(path) for path, n in names.items() if n not in left_out and n.partition("/")[0] not in left_out}


def _digest(parts: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]

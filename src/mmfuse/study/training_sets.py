"""Training sets: the pairs that a system is trained on and validated with, by name.

Each task has one of the same name, with the datasets under `study.tasks.TASK.train`. `study.training_sets` defines
others. This module only looks up parameters, as `plan` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmfuse.errors import unknown_name
from mmfuse.study.types import Parameters

BOTH = "both"  # the task of a set with datasets of either task


@dataclass(frozen=True)
class TrainingSet:
    """The datasets that a training reads.

    Attributes:
        name: Its name, which is part of the paths of weights.
        task: The task of its pairs, or `BOTH`.
        train: Datasets whose training pairs are used together.
        val: Datasets whose validation pairs are used; none without validation.
        key: The dotted key of the parameters that defines it.
        pairs: Number of training pairs used from a dataset; all pairs of a dataset that is not named.
    """

    name: str
    task: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    key: str
    pairs: Mapping[str, int] = field(default_factory=dict)

    @property
    def datasets(self) -> tuple[str, ...]:
        """Every dataset of it, once."""
        return tuple(dict.fromkeys((*self.train, *self.val)))


def training_sets(parameters: Parameters) -> dict[str, TrainingSet]:
    """Return every training set of the study by name: those of the tasks, then the others."""
    found = {}
    for task, entry in parameters["study"]["tasks"].items():
        datasets = tuple(entry["train"])
        found[task] = TrainingSet(task, task, datasets, datasets, f"study.tasks.{task}.train")
    for name, own in (parameters["study"].get("training_sets") or {}).items():
        key = f"study.training_sets.{name}"
        found[name] = TrainingSet(
            name, own["task"], tuple(own["train"]), tuple(own["val"]), key, own.get("pairs") or {}
        )
    return found


def training_set(parameters: Parameters, name: str) -> TrainingSet:
    """Return one training set.

    Raises:
        UserError: the study has none of that name.
    """
    known = training_sets(parameters)
    if name not in known:
        problem = f"The study has no training set {name!r}."
        raise unknown_name(problem, name, known, "define it under study.training_sets")
    return known[name]


def chosen(settings: Mapping[str, Any], task: str) -> str:
    """Return the name of the training set that a method's settings choose for a task.

    `trained_on` is one name for all tasks, or a name for each task; a task without a name uses its own set.
    """
    choice = settings.get("trained_on", task)
    return str(choice.get(task, task) if isinstance(choice, Mapping) else choice)

"""Training sets: the pairs that a system is trained on and validated with, by name.

Each task has one that bears its name, made of the datasets under `study.tasks.TASK.train`. `study.training_sets` names
others. Pure look-ups in the parameters, as in `plan`.
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
        name: Its name, which the paths of weights begin with.
        task: The task that its pairs serve, or `BOTH`.
        train: Datasets whose training pairs are used together.
        val: Datasets whose validation pairs are used; none where nothing is validated.
        key: The dotted key of the parameters that defines it.
        pairs: How many training pairs are taken of a dataset; all of those that it does not name.
    """

    name: str
    task: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    key: str
    pairs: Mapping[str, int] = field(default_factory=dict)

    @property
    def datasets(self) -> tuple[str, ...]:
        """Every dataset that it reads, once."""
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
    """Return the name of the training set that a method's settings choose where it serves a task.

    `trained_on` is one name for every task, or a name for each task; a task that it does not name has its own set.
    """
    choice = settings.get("trained_on", task)
    return str(choice.get(task, task) if isinstance(choice, Mapping) else choice)

"""Shipped weights: which exist, what each was trained on, and the default of each task.

They are in `mmfuse/weights` with an index and a card for each; `workflow/scripts/ship_weights.py` writes all of it.
This module never reads a tensor, so that the engines can query it at every start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmfuse.errors import UserError, closest
from mmfuse.files.reading import read_yaml
from mmfuse.files.writing import sha256

INDEX = "index.yaml"
FOLDER = Path(__file__).parent
IN_PROJECT = Path("src/mmfuse/weights")
WORD = "shipped"  # used in a study's parameters instead of a file: `shipped`, or `shipped:NAME`
TASKS = ("ivif", "mif")
_REINSTALL = "install mmfuse again"


@dataclass(frozen=True)
class Data:
    """Pairs on which weights were trained or validated: `use` is `training` or `validation`."""

    dataset: str
    split: str
    pairs: int
    use: str
    licence: str


@dataclass(frozen=True)
class Shipped:
    """One file of shipped weights, as described in the index.

    Attributes:
        name: The name for `mmfuse fuse --weights NAME`.
        file: The file's name within the folder.
        sha256: The file's checksum.
        method: The method of the network.
        variant: The variant of the method in the study that trained it.
        tasks: The tasks that it fuses: `ivif`, `mif`, or both.
        summary: One line for users.
        data: The data on which it was trained and validated.
        training: Study, configuration, commit, seed and hours of the training.
        scores: The mean of each metric, by test dataset.
    """

    name: str
    file: str
    sha256: str
    method: str
    variant: str
    tasks: tuple[str, ...]
    summary: str
    data: tuple[Data, ...]
    training: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Index:
    """Contents of a folder of shipped weights: the weights by name, and the default of each task."""

    weights: Mapping[str, Shipped]
    defaults: Mapping[str, str]


def read_index(folder: Path | None = None) -> Index:
    """Read the index of shipped weights; without an index there are none.

    Args:
        folder: The folder of the weights; by default that of the installed package.

    Raises:
        UserError: the index is damaged.
    """
    path = (folder or FOLDER) / INDEX
    if not path.is_file():
        return Index({}, {})
    seen = path.stat()
    return _read(path, seen.st_mtime_ns, seen.st_size)


@lru_cache(maxsize=8)
def _read(path: Path, _time: int, _bytes: int) -> Index:
    """Read an index; cached, because planning a study calls it for each system."""
    content = read_yaml(path)
    try:
        found = {name: _entry(name, block) for name, block in content["weights"].items()}
        defaults = dict(content["defaults"])
        wrong = [f"the default for {task}: {name}" for task, name in defaults.items() if task not in found[name].tasks]
        wrong += [
            f"{one.name}: tasks {', '.join(one.tasks)}" for one in found.values() if not set(one.tasks) <= {*TASKS}
        ]
        wrong += [f"{one.name}: file {one.file}" for one in found.values() if Path(one.file).name != one.file]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        wrong = [f"{type(error).__name__}: {error}"]
    if wrong:
        raise UserError(
            f"Damaged index of shipped weights: {path}",
            expected="the output of `workflow/scripts/ship_weights.py`",
            found="; ".join(wrong),
            fix=_REINSTALL,
        )
    return Index(found, defaults)


def _entry(name: str, block: Mapping[str, Any]) -> Shipped:
    data = tuple(Data(**{**one, "pairs": int(one["pairs"])}) for one in block["data"])
    texts = {key: str(block[key]) for key in ("file", "sha256", "method", "variant", "summary")}
    return Shipped(
        name=name,
        tasks=tuple(block["tasks"]),
        data=data,
        training=dict(block["training"]),
        scores={dataset: dict(means) for dataset, means in block["scores"].items()},
        **texts,
    )


def named(name: str, folder: Path | None = None) -> Shipped:
    """Return shipped weights by name.

    Raises:
        UserError: there are none with that name.
    """
    known = read_index(folder).weights
    if name not in known:
        raise UserError(
            f"There are no shipped weights named {name!r}.",
            expected=", ".join(known) or "a name from `mmfuse list weights`, which lists none here",
            found=name,
            fix=closest(name, known, "see `mmfuse list weights`; give a weights file with its suffix"),
        )
    return known[name]


def default(task: str, folder: Path | None = None) -> Shipped:
    """Return the default weights of a task.

    Raises:
        UserError: none are shipped for the task.
    """
    index = read_index(folder)
    if task not in index.defaults:
        raise UserError(
            f"No weights for {task} come with this installation of mmfuse.",
            expected=f"a default for {task} in {(folder or FOLDER) / INDEX}",
            found=f"weights for {', '.join(index.defaults) or 'no task'}",
            fix="give weights with --weights FILE, or a training-free method with --method laplacian",
        )
    return index.weights[index.defaults[task]]


def of_method(method: str, task: str, folder: Path | None = None) -> Shipped:
    """Return a method's shipped weights for a task: the task's default if it is of this method, else the only ones.

    Raises:
        UserError: there are none, or several without a default.
    """
    index = read_index(folder)
    fitting = [one for one in index.weights.values() if one.method == method and task in one.tasks]
    preferred = [one for one in fitting if one.name == index.defaults.get(task)] or fitting
    if len(preferred) == 1:
        return preferred[0]
    if fitting:
        raise UserError(
            f"Several weights of {method} for {task} are shipped, none of which is the default.",
            expected=" or ".join(f"{WORD}:{one.name}" for one in fitting),
            found=WORD,
            fix="choose one by name",
        )
    others = {one.method for one in index.weights.values() if task in one.tasks}
    raise UserError(
        f"No weights of {method} for {task} are shipped.",
        expected=", ".join(sorted(others)) or f"weights for {task}, but there are none",
        found=method,
        fix="train the method, or give a weights file; see `mmfuse list weights`",
    )


def verified(one: Shipped, folder: Path | None = None) -> Path:
    """Return the file of shipped weights after comparing its checksum with the index.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = (folder or FOLDER) / one.file
    if not path.is_file():
        raise UserError(f"The shipped weights {one.name} are missing.", expected=path, found="no file", fix=_REINSTALL)
    found = sha256(path)
    if found != one.sha256:
        raise UserError(
            f"The shipped weights {one.name} are damaged: {path}",
            expected=f"SHA-256 {one.sha256}",
            found=f"{found} ({path.stat().st_size} bytes)",
            fix=_REINSTALL,
        )
    return path


def is_shipped(choice: str) -> bool:
    """Return whether a choice of weights in a study's parameters refers to shipped weights."""
    return choice == WORD or choice.startswith(f"{WORD}:")


def study_folder() -> Path:
    """Return the folder from which a study takes shipped weights: the project's, relative to its root.

    Outside a project's root, it is the folder of the installed package.
    """
    return IN_PROJECT if (IN_PROJECT / INDEX).is_file() else FOLDER


def chosen(choice: str, method: str, task: str) -> Shipped:
    """Return the shipped weights that a study's parameters choose: `shipped`, or `shipped:NAME`.

    Raises:
        UserError: there are none, or they belong to another method or task.
    """
    folder, name = study_folder(), choice.partition(":")[2]
    one = named(name, folder) if name else of_method(method, task, folder)
    if one.method != method or task not in one.tasks:
        raise UserError(
            f"The shipped weights {one.name} do not fit methods.{method} on {task}.",
            expected=f"weights of {method} for {task}",
            found=f"weights of {one.method} for {' and '.join(one.tasks)}",
            fix="choose others from `mmfuse list weights`",
        )
    return one


def study_file(one: Shipped) -> Path:
    """Return the path of shipped weights for a study's jobs, relative to the project's root."""
    return IN_PROJECT / one.file


def study_index() -> Path:
    """Return the path of the index for a study's report, relative to the project's root."""
    return IN_PROJECT / INDEX

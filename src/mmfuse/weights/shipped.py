"""Trained weights that come with the package: which there are, what each was trained on, and which one a task takes.

They lie in `mmfuse/weights` with an index and a card for each. `workflow/scripts/ship_weights.py` writes all of it.
Nothing here reads a tensor, so that the engines can ask at every start.
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
WORD = "shipped"  # what a study's parameters say in place of a file: `shipped`, or `shipped:NAME`
TASKS = ("ivif", "mif")
_REINSTALL = "install mmfuse again"


@dataclass(frozen=True)
class Data:
    """Pairs that weights were trained on, or validated with: `use` is `training` or `validation`."""

    dataset: str
    split: str
    pairs: int
    use: str
    licence: str


@dataclass(frozen=True)
class Shipped:
    """One file of shipped weights, as the index describes it.

    Attributes:
        name: Its name, as `mmfuse fuse --weights NAME` takes it.
        file: The file's name within the folder.
        sha256: The file's checksum.
        method: The method of the network.
        variant: The variant of the method in the study that trained it.
        tasks: What it fuses: `ivif`, `mif`, or both.
        summary: One line for people.
        data: What it was trained on and validated with.
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
    """What a folder of shipped weights holds: the weights by name, and the default of each task."""

    weights: Mapping[str, Shipped]
    defaults: Mapping[str, str]


def read_index(folder: Path | None = None) -> Index:
    """Read the index of shipped weights; a folder without one has none.

    Args:
        folder: The folder of the weights; that of the installed package if left out.

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
    """Read an index; the plan of a study asks for it with every system."""
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
            expected="what `workflow/scripts/ship_weights.py` writes",
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
        UserError: there are none of that name.
    """
    known = read_index(folder).weights
    if name not in known:
        raise UserError(
            f"There are no shipped weights {name!r}.",
            expected=", ".join(known) or "a name of `mmfuse list weights`, which lists none here",
            found=name,
            fix=closest(name, known, "see `mmfuse list weights`; a file of weights is named with its ending"),
        )
    return known[name]


def default(task: str, folder: Path | None = None) -> Shipped:
    """Return the weights that a task takes unless others are named.

    Raises:
        UserError: none are shipped for it.
    """
    index = read_index(folder)
    if task not in index.defaults:
        raise UserError(
            f"No weights for {task} come with this installation of mmfuse.",
            expected=f"a default for {task} in {(folder or FOLDER) / INDEX}",
            found=f"weights for {', '.join(index.defaults) or 'no task'}",
            fix="name weights by --weights FILE, or a method without weights by --method laplacian",
        )
    return index.weights[index.defaults[task]]


def of_method(method: str, task: str, folder: Path | None = None) -> Shipped:
    """Return a method's shipped weights for a task: the task's default if it is of this method, else the only ones.

    Raises:
        UserError: there are none, or several of which none is the default.
    """
    index = read_index(folder)
    fitting = [one for one in index.weights.values() if one.method == method and task in one.tasks]
    preferred = [one for one in fitting if one.name == index.defaults.get(task)] or fitting
    if len(preferred) == 1:
        return preferred[0]
    if fitting:
        raise UserError(
            f"Several weights of {method} for {task} are shipped, and none of them is the default.",
            expected=" or ".join(f"{WORD}:{one.name}" for one in fitting),
            found=WORD,
            fix="choose one by its name",
        )
    others = {one.method for one in index.weights.values() if task in one.tasks}
    raise UserError(
        f"No weights of {method} for {task} are shipped.",
        expected=", ".join(sorted(others)) or f"weights for {task}, of which there are none",
        found=method,
        fix="train the method, or name a file of weights; see `mmfuse list weights`",
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
    """Return whether a choice of weights in a study's parameters asks for shipped ones."""
    return choice == WORD or choice.startswith(f"{WORD}:")


def study_folder() -> Path:
    """Return the folder that a study takes shipped weights from: the project's, by a path relative to its root.

    Outside a project's root it is that of the installed package.
    """
    return IN_PROJECT if (IN_PROJECT / INDEX).is_file() else FOLDER


def chosen(choice: str, method: str, task: str) -> Shipped:
    """Return the shipped weights that a study's parameters choose: `shipped`, or `shipped:NAME`.

    Raises:
        UserError: there are none, or they are those of another method or task.
    """
    folder, name = study_folder(), choice.partition(":")[2]
    one = named(name, folder) if name else of_method(method, task, folder)
    if one.method != method or task not in one.tasks:
        raise UserError(
            f"The shipped weights {one.name} do not fit methods.{method} on {task}.",
            expected=f"weights of {method} for {task}",
            found=f"weights of {one.method} for {' and '.join(one.tasks)}",
            fix="choose others of `mmfuse list weights`",
        )
    return one


def study_file(one: Shipped) -> Path:
    """Return the path of shipped weights as a study's jobs name it, relative to the project's root."""
    return IN_PROJECT / one.file


def study_index() -> Path:
    """Return the path of the index as a study's report names it, relative to the project's root."""
    return IN_PROJECT / INDEX

"""The boards: their images and metrics, and the stored scores of other methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmfuse.errors import UserError
from mmfuse.files.reading import damaged, read_table, read_yaml
from mmfuse.files.schema import check_against_schema
from mmfuse.metrics import resolve
from mmfuse.reporting.scores import Array, Column, Scores
from mmfuse.words import number_of

SCHEMA = Path("workflow/schemas/leaderboard.schema.yaml")
DIGITS = 6  # significant digits of every score used, as in the stored files
_SHOWN = 5


@dataclass(frozen=True)
class Stored:
    """Methods whose scores are stored; the schema explains each key.

    Attributes:
        kind: `published` or `baseline`.
        datasets: The datasets with scores.
        methods: Their names, each with a paper or a short description.
        pictures: Where the fused images are published, or what produces them.
        licence: That of the fused images.
        note: What a reader has to know; may be empty.
    """

    kind: str
    datasets: tuple[str, ...]
    methods: Mapping[str, str]
    pictures: str
    licence: str
    note: str


@dataclass(frozen=True)
class Board:
    """One board: title, datasets and a note; its images are those of the stored scores."""

    name: str
    title: str
    datasets: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class Boards:
    """The content of boards.yaml, with its folder, which also has the stored scores."""

    folder: Path
    convention: str
    columns: tuple[Column, ...]
    boards: Mapping[str, Board]
    stored: tuple[Stored, ...]

    def file(self, dataset: str, method: str) -> Path:
        """Return the file of stored scores."""
        return self.folder / dataset / f"{method}.csv"

    def methods(self, dataset: str) -> dict[str, str]:
        """Return the methods with stored scores on a dataset, each with its kind."""
        return {name: one.kind for one in self.stored if dataset in one.datasets for name in one.methods}


def load(path: Path, *, schema: Path = SCHEMA) -> Boards:
    """Read and check the boards.

    Raises:
        UserError: the file is missing or does not match the schema, or names an unknown metric, method or dataset.
    """
    content = read_yaml(path)
    check_against_schema(content, read_yaml(schema), str(path), path)
    found = Boards(
        path.parent,
        content["convention"],
        _columns(content["convention"], content["metrics"]),
        {name: _board(name, entry) for name, entry in content["boards"].items()},
        tuple(_stored(entry) for entry in content["scores"]),
    )
    _check(found, path)
    return found


def _columns(convention: str, metrics: Sequence[str]) -> tuple[Column, ...]:
    found = resolve(convention, metrics)
    return tuple(Column(name, metric.name, metric.card.better, convention) for name, metric in found.items())


def _board(name: str, entry: Mapping[str, Any]) -> Board:
    return Board(name, entry["title"], tuple(entry["datasets"]), entry.get("note", ""))


def _stored(entry: Mapping[str, Any]) -> Stored:
    datasets, texts = tuple(entry["datasets"]), (entry["pictures"], entry["licence"], entry.get("note", ""))
    return Stored(entry["kind"], datasets, entry["methods"], *texts)


def _check(found: Boards, path: Path) -> None:
    """Check what a schema cannot check: that the entries are consistent."""
    problems = [f"metrics: {c.name} ({c.definition}) has no better direction" for c in found.columns if not c.sign]
    named: set[tuple[str, str]] = set()
    for one in found.stored:
        for place in ((dataset, method) for dataset in one.datasets for method in one.methods):
            problems += [f"scores: {place[1]} occurs twice on {place[0]}"] if place in named else []
            named.add(place)
    known = {dataset for dataset, _ in named}
    for board in found.boards.values():
        for dataset in board.datasets:
            if dataset not in known:
                problems.append(f"boards.{board.name}: no scores are stored for {dataset}, so its images are unknown")
    if problems:
        raise UserError(
            f"{path}: the entries contradict each other.",
            found="; ".join(problems),
            fix=f"correct them; {SCHEMA} explains each key",
        )


def rounded(values: Array) -> Array:
    """Return numbers rounded to `DIGITS`, so that a stored score and a measured one compare as equal."""
    return np.array([float(f"{value:.{DIGITS}g}") for value in values.ravel()]).reshape(values.shape)


def read_stored(boards: Boards, dataset: str, method: str) -> tuple[tuple[str, ...], Array]:
    """Read the stored scores of one method: the names of its images, sorted, and the values.

    Shape: the values are (metrics, images).

    Raises:
        UserError: the file is missing or damaged, or holds an image twice or something that is not a number.
    """
    path, metrics = boards.file(dataset, method), [column.name for column in boards.columns]
    fix = f"measure the images with `mmfuse evaluate --convention {boards.convention}` and put its CSV there"
    rows = sorted(read_table(path, ("name", *metrics), fix=fix), key=lambda row: row["name"])
    names = tuple(row["name"] for row in rows)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or not names:
        raise damaged(path, "one line for each image", twice or "no image", fix)
    try:
        values = np.array([[float(row[name]) for row in rows] for name in metrics], dtype=np.float64)
    except ValueError as error:
        raise damaged(path, "numbers", error, fix) from error
    return names, finite(values, names, metrics, str(path))


def finite(values: Array, names: Sequence[str], metrics: Sequence[str], of: str) -> Array:
    """Return the values rounded, if all of them are finite; shape (metrics, images).

    Raises:
        UserError: one is not finite; ranks need all values.
    """
    if not np.isfinite(values).all():
        metric, image = np.argwhere(~np.isfinite(values))[0]
        raise UserError(
            f"{of} has no value for every image.",
            expected="a number for each image and metric: ranks need all of them",
            found=f"{names[image]}: {metrics[metric]} is {values[metric, image]}",
            fix="measure this image again",
        )
    return rounded(values)


def images_of(boards: Boards, dataset: str) -> tuple[str, ...]:
    """Return the names of the images of a dataset on the boards: those of its stored scores.

    Raises:
        UserError: stored scores do not agree on the images.
    """
    first, *others = boards.methods(dataset)
    names = read_stored(boards, dataset, first)[0]
    for other in others:
        missing, more = differing(names, read_stored(boards, dataset, other)[0])
        if missing or more:
            raise UserError(
                f"The stored scores on {dataset} are not of the same images.",
                expected=f"the {number_of(len(names), 'image')} of {boards.file(dataset, first)}",
                found=f"{boards.file(dataset, other)}: lacks {listed(missing)}; also has {listed(more)}",
                fix="measure the same images",
            )
    return names


def differing(wanted: Sequence[str], found: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return what is missing in `found`, and what it has in addition."""
    return [name for name in wanted if name not in set(found)], [name for name in found if name not in set(wanted)]


def listed(names: Sequence[str]) -> str:
    """Return the first few names as text."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) + more) or "none"


def picked(scores: Scores, names: Sequence[str], columns: Sequence[Column], of: str) -> Array:
    """Return the values of some images by the board's metrics, which are matched by their definitions.

    Shape: (metrics, images), not rounded.

    Raises:
        UserError: the scores lack a metric; the images must exist.
    """
    defined = {column.definition: number for number, column in reversed(list(enumerate(scores.metrics)))}
    missing = [f"{c.name} ({c.definition})" for c in columns if c.definition not in defined]
    if missing:
        convention = columns[0].convention
        raise UserError(
            f"{of} is not measured by all metrics of the board.",
            expected=", ".join(column.name for column in columns) + f" by the convention {convention}",
            found=f"no {', '.join(missing)}",
            fix=f"measure it with `--convention {convention}`; in a study, add to evaluate.metrics or evaluate.beside",
        )
    where = {name: number for number, name in enumerate(scores.images)}
    return scores.values[[defined[c.definition] for c in columns]][:, [where[name] for name in names]]

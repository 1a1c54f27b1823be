"""The rows of a board: systems of a run, given tables of scores, and the stored scores of other methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmfuse.errors import UserError
from mmfuse.leaderboard.boards import Board, Boards, differing, finite, images_of, listed, picked, read_stored
from mmfuse.reporting.scores import Array, Group, Scores, read_one
from mmfuse.study.plan import EXTERNAL, System
from mmfuse.words import number_of

Groups = Mapping[str, Mapping[str, Group]]  # by dataset and name
SYSTEM, BASELINE, PUBLISHED = "system", "baseline", "published"
KINDS = (SYSTEM, EXTERNAL, BASELINE, PUBLISHED)


@dataclass(frozen=True)
class Row:
    """One row of a board: its name, its kind (one of `KINDS`), and its scores on the board's images and metrics."""

    name: str
    kind: str
    group: Group


def read_given(texts: Sequence[str]) -> dict[str, dict[str, Group]]:
    """Read tables that `mmfuse evaluate` wrote, given as DATASET/NAME=FILE; return groups by dataset and name.

    Raises:
        UserError: a text has another form, a row is given twice, or a file is missing or damaged.
    """
    found: dict[str, dict[str, Group]] = {}
    for text in texts:
        place, _, file = text.partition("=")
        dataset, _, name = place.partition("/")
        if not (dataset and name and file) or "/" in name:
            raise UserError("A row has the wrong form.", expected="DATASET/NAME=FILE.csv", found=text)
        if name in found.get(dataset, {}):
            raise UserError("A row is given twice.", expected="one file for each dataset and name", found=place)
        scores = read_one(Path(file), System(name, EXTERNAL, "", 0), again="run `mmfuse evaluate` for it again")
        found.setdefault(dataset, {})[name] = Group(name, "base", (scores,), scores.values)
    return found


def collect(
    boards: Boards, board: Board, run: Groups, given: Groups, *, allow_missing: bool
) -> tuple[list[Row], list[str]]:
    """Return the rows of one board, and notes on which were left out.

    A baseline of the run replaces the stored one of the same name if it has scores of all images.

    Args:
        boards: The content of boards.yaml.
        board: The board.
        run: The systems of a run.
        given: Given tables of scores.
        allow_missing: Leave out rows that lack some of the images, instead of raising an error.

    Raises:
        UserError: a row lacks some of the board's images or a metric, or has the name of another one.
    """
    images = {dataset: images_of(boards, dataset) for dataset in board.datasets}
    stored = _stored(boards, board, images)
    known = {row.name: row for row in stored}
    rows: dict[str, Row] = {}
    left_out: dict[str, list[str]] = {}
    for groups, own in ((run, True), (given, False)):
        for name in dict.fromkeys(label for dataset in board.datasets for label in _by_label(groups, dataset)):
            kind = known[name].kind if name in known else (SYSTEM if own else EXTERNAL)
            if name in rows or (name in known and not (own and kind == BASELINE)):
                raise UserError(
                    f"{board.name}: two rows have the name {name}.",
                    expected="a unique name for each row",
                    found=f"a {kind} row of that name",
                    fix="choose another name for yours",
                )
            of = {dataset: _by_label(groups, dataset).get(name) for dataset in board.datasets}
            is_baseline = kind == BASELINE  # if it does not fit, the stored one remains
            why = _lacks(board, name, of, images, allow_missing=allow_missing or is_baseline)
            if why:
                left_out.setdefault(why, []).extend([] if is_baseline else [name])
                continue
            group = _joined(boards, board, name, of, images)
            rows[name] = Row(name, EXTERNAL if group.variant == EXTERNAL else kind, group)
    notes = [f"left out, {why}: {', '.join(names)}" for why, names in left_out.items() if names]
    return [*rows.values(), *(row for row in stored if row.name not in rows)], notes


def _by_label(groups: Groups, dataset: str) -> dict[str, Group]:
    """Return the groups of a dataset by their names in tables."""
    return {group.label: group for group in groups.get(dataset, {}).values()}


def _lacks(
    board: Board,
    name: str,
    of: Mapping[str, Group | None],
    images: Mapping[str, Sequence[str]],
    *,
    allow_missing: bool,
) -> str:
    """Return why a row is left out; an empty text if it is not.

    Raises:
        UserError: it lacks images of a dataset on which it has scores, unless that is allowed.
    """
    unknown = [dataset for dataset, group in of.items() if group is None]
    if unknown:
        return f"without scores on {', '.join(unknown)}"
    for dataset, group in of.items():
        missing = differing(images[dataset], group.members[0].images)[0] if group else []
        if missing and not allow_missing:
            raise UserError(
                f"{board.name}: {name} lacks {len(missing)} of the board's "
                f"{number_of(len(images[dataset]), 'image')} of {dataset}.",
                expected="scores of all of them, with the same names",
                found=f"nothing for {listed(missing)}",
                fix="fuse and measure these pairs, too, or leave out such rows with --allow-missing",
            )
        if missing:
            return f"without {len(missing)} of the {number_of(len(images[dataset]), 'image')} of {dataset}"
    return ""


def _joined(
    boards: Boards,
    board: Board,
    name: str,
    of: Mapping[str, Group | None],
    images: Mapping[str, Sequence[str]],
) -> Group:
    """Concatenate the scores of one row on all datasets of a board, seed by seed."""
    groups = [(dataset, group) for dataset, group in of.items() if group]
    metrics, names = [column.name for column in boards.columns], _names(images)
    counts = {dataset: len(group.members) for dataset, group in groups}
    if len(set(counts.values())) > 1:
        raise UserError(
            f"{board.name}: {name} does not have the same seeds on all datasets of the board.",
            expected="scores of each seed on each dataset",
            found=", ".join(f"{dataset}: {number_of(count, 'seed')}" for dataset, count in counts.items()),
            fix="run the stage `evaluate` for the whole study",
        )
    seeds = []
    for members in zip(*(group.members for _, group in groups), strict=True):
        parts = [
            picked(member, images[dataset], boards.columns, f"{board.name}: {name}")
            for member, (dataset, _) in zip(members, groups, strict=True)
        ]
        values = np.concatenate(parts, axis=1)
        seeds.append(Scores(members[0].system, boards.convention, boards.columns, names, values))
    mean = finite(np.mean([seed.values for seed in seeds], axis=0), names, metrics, f"{board.name}: {name}")
    return Group(name, groups[0][1].variant, tuple(seeds), mean)


def _names(images: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the names of a board's images, prefixed with the dataset if there are several."""
    if len(images) == 1:
        return tuple(next(iter(images.values())))
    return tuple(f"{dataset}/{name}" for dataset, names in images.items() for name in names)


def _stored(boards: Boards, board: Board, images: Mapping[str, Sequence[str]]) -> list[Row]:
    """Return the rows whose scores are stored for all datasets of a board."""
    kinds = {dataset: boards.methods(dataset) for dataset in board.datasets}
    first, *others = kinds.values()
    rows = []
    for name in (name for name in first if all(name in other for other in others)):
        parts: list[Array] = []
        for dataset, wanted in images.items():
            names, values = read_stored(boards, dataset, name)
            parts.append(values[:, [names.index(image) for image in wanted]])
        values = np.concatenate(parts, axis=1)
        scores = Scores(System(name, first[name], "", 0), boards.convention, boards.columns, _names(images), values)
        rows.append(Row(name, first[name], Group(name, first[name], (scores,), values)))
    return rows

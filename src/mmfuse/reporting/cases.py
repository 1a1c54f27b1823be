"""Pictures for the first page: the best, the typical and the worst test image of each task's best network.

The images are chosen only by the scores, so that six fused images of a task are read, however many there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import numpy as np

from mmfuse.data.images import read_image
from mmfuse.files.writing import sheet_text
from mmfuse.reporting import baselines, dataset_cards, latex, pictures, provenance, statistics, tables, viewer
from mmfuse.reporting.latex import Head
from mmfuse.reporting.pictures import Picture
from mmfuse.reporting.scores import Array, Column, Group, existing
from mmfuse.reporting.study import Study
from mmfuse.study.plan import System
from mmfuse.study.stages import FUSE, key_of
from mmfuse.study.types import Parameters
from mmfuse.words import number_of

Key = tuple[str, str]  # method and variant
Groups = Mapping[Key, Group]
_CASES = ("best", "typical", "worst")


@dataclass(frozen=True)
class Board:
    """The ranks of the systems of one task on each of its test images.

    Attributes:
        groups: The groups of each test set by method and variant.
        systems: The systems that all test sets have.
        metrics: The metrics with a better direction and a value for each of these systems on each image.
        images: Dataset and name of each image, test set by test set.
        ranks: The ranks among these systems, averaged over the metrics; (systems, images).
    """

    groups: Mapping[str, Groups]
    systems: tuple[Key, ...]
    metrics: tuple[Column, ...]
    images: tuple[tuple[str, str], ...]
    ranks: Array

    def label(self, system: int) -> str:
        """Return the short name of a system."""
        return self.group(self.images[0][0], system).label

    def group(self, dataset: str, system: int) -> Group:
        """Return a system's scores on a test set."""
        return self.groups[dataset][self.systems[system]]


@dataclass(frozen=True)
class Choice:
    """The systems to show, and the images in the order of the network's mean rank, ties by name and test set.

    Attributes:
        shown: The best network, by its mean rank over all images; the best of all systems if there is no network.
        kind: Its kind, see `baselines.kind`.
        baseline: The best training-free system; None if there is none other than `shown`.
        order: Numbers of the images.
        cases: Position of the first, middle and last image in that order, each with its name; equal ones share a name.
    """

    shown: int
    kind: str
    baseline: int | None
    order: tuple[int, ...]
    cases: Mapping[int, str]


def board(tests: Mapping[str, Sequence[Group]]) -> Board | None:
    """Rank the systems of one task on each image of its test sets; None if there is nothing to compare."""
    if not tests:
        return None
    groups = {name: {(group.method, group.variant): group for group in found} for name, found in tests.items()}
    systems = tuple(key for key in next(iter(groups.values())) if all(key in one for one in groups.values()))
    scores = next(iter(tests.values()))[0].members[0]
    columns = tables.heads(scores.metrics, scores.convention)[0].columns
    metrics = tuple(column for column in columns if column.sign and _everywhere(column, systems, groups))
    if len(systems) < 2 or not metrics:
        return None
    ranks = [_mean_places(one, systems, metrics) for one in groups.values()]
    images = [(name, image) for name, found in tests.items() for image in found[0].members[0].images]
    return Board(groups, systems, metrics, tuple(images), np.concatenate(ranks, axis=1))


def _series(group: Group, column: Column) -> Array:
    """Return the values of a metric by image."""
    values: Array = group.values[group.members[0].metrics.index(column)]
    return values


def _everywhere(column: Column, systems: Sequence[Key], groups: Mapping[str, Groups]) -> bool:
    """Return whether all systems have a value of a metric on all images."""
    found = [one[key] for one in groups.values() for key in systems]
    return all(column in group.members[0].metrics and np.isfinite(_series(group, column)).all() for group in found)


def _mean_places(groups: Groups, systems: Sequence[Key], metrics: Sequence[Column]) -> Array:
    """Return the ranks of the systems on each image, averaged over the metrics; (systems, images)."""
    total = sum(
        statistics.places(np.stack([_series(groups[key], column) for key in systems]), column.sign)
        for column in metrics
    )
    return np.asarray(total) / len(metrics)


def chosen(parameters: Parameters, groups: Mapping[str, Sequence[Group]]) -> dict[str, tuple[Board, Choice]]:
    """Return what to show for each task in which systems can be ranked.

    Args:
        parameters: The study's parameters.
        groups: The scores of each test set by method and variant.
    """
    found: dict[str, tuple[Board, Choice]] = {}
    for task, entry in parameters["study"]["tasks"].items():
        one = board({name: groups[name] for name in entry["test"] if name in groups})
        if one:
            found[task] = one, choose(one, [baselines.kind(parameters, system) for system in _systems(one)])
    return found


def pairs(parameters: Parameters, groups: Mapping[str, Sequence[Group]]) -> dict[str, list[str]]:
    """Return the names of the images to show, by test set."""
    names: dict[str, list[str]] = {}
    for found, choice in chosen(parameters, groups).values():
        for place in choice.cases:
            dataset, name = found.images[choice.order[place]]
            names.setdefault(dataset, []).append(name)
    return names


def _systems(found: Board) -> list[System]:
    """Return each system with its first seed."""
    return [found.group(found.images[0][0], number).members[0].system for number in range(len(found.systems))]


def choose(found: Board, kinds: Sequence[str]) -> Choice:
    """Choose the systems and the images to show; `kinds` has the kind of each system."""
    means = found.ranks.mean(axis=1)
    order = [int(i) for i in np.argsort(means, kind="stable")]
    shown = next((i for i in order if kinds[i] in baselines.NETWORKS), order[0])
    baseline = None if kinds[shown] == baselines.FREE else next((i for i in order if kinds[i] == baselines.FREE), None)
    count = len(found.images)
    own = found.ranks[shown]
    images = sorted(range(count), key=lambda i: (float(own[i]), found.images[i][1], found.images[i][0]))
    cases: dict[int, list[str]] = {}
    for name, place in zip(_CASES, (0, (count - 1) // 2, count - 1), strict=True):
        cases.setdefault(place, []).append(name)
    named = {place: baselines.listed(names).capitalize() for place, names in cases.items()}
    return Choice(shown, kinds[shown], baseline, tuple(images), named)


def shown(study: Study) -> list[dict[str, Any]]:
    """Return what the first page shows for each task; store the order of the images as tables.

    Raises:
        UserError: a fused image is missing or damaged.
    """
    return [_task(study, task, *found) for task, found in chosen(study.parameters, study.groups).items()]


def _task(study: Study, task: str, found: Board, choice: Choice) -> dict[str, Any]:
    every = list(dict.fromkeys(group.label for one in found.groups.values() for group in one.values()))
    ranked = [found.label(i) for i in range(len(found.systems))]
    study.sheets[f"cases.{task}.csv"] = _csv(found, choice)
    study.sheets[f"cases.{task}.tex"] = _latex(task, found, choice)
    return {
        "task": dataset_cards.TASKS.get(task, task),
        "sheet": f"cases.{task}",
        "network": ranked[choice.shown],
        "kind": choice.kind,
        "learned": choice.kind in baselines.NETWORKS,
        "mean": f"{found.ranks[choice.shown].mean():.2f}",
        "baseline": None if choice.baseline is None else ranked[choice.baseline],
        "against": None if choice.baseline is None else f"{found.ranks[choice.baseline].mean():.2f}",
        "datasets": list(found.groups),
        "images": len(found.images),
        "systems": len(found.systems),
        "metrics": [column.name for column in found.metrics],
        "without": [label for label in every if label not in ranked],
        "seeds": len(found.group(found.images[0][0], choice.shown).members),
        "cases": [_case(study, found, choice, place, title) for place, title in choice.cases.items()],
    }


def _case(study: Study, found: Board, choice: Choice, place: int, title: str) -> dict[str, Any]:
    """Return one row of pictures: both sources, the baseline, the network."""
    number = choice.order[place]
    dataset, name = found.images[number]
    pack, roles = study.pack(dataset), study.catalog[dataset].roles
    sample = pack[pack.names.index(name)]
    views = {f"{roles[key]} ({key})": sample[key] for key in ("a", "b")}
    layers = ["b"]
    for system in (choice.baseline, choice.shown):
        if system is not None:
            member = found.group(dataset, system).members[0].system
            layers.append(member.label)
            path = existing(study.path(FUSE, "folder", key_of(dataset, member)) / f"{name}.png", "fuse")
            views[f"{found.label(system)}, mean rank {found.ranks[system, number]:.2f}"] = read_image(path)
    asked = {"dataset": dataset, "image": name, "a": layers[-2], "b": layers[-1]}
    study.linked.setdefault(dataset, []).append(name)
    width = int(study.settings["width"])
    tiles: list[tuple[str, Picture]] = [
        (caption, pictures.picture(pixels, width, f"{title} case, image {name} of {dataset}: {caption}"))
        for caption, pixels in views.items()
    ]
    return {
        "title": title,
        "dataset": dataset,
        "anchor": provenance.anchor("data", dataset),
        "name": name,
        "place": place + 1,
        "rank": f"{found.ranks[choice.shown, number]:.2f}",
        "viewer": f"{viewer.PAGE}#{urlencode(asked)}",
        "tiles": tiles,
    }


def _csv(found: Board, choice: Choice) -> str:
    """Return all images in the order from which the cases are chosen."""
    systems = [i for i in (choice.shown, choice.baseline) if i is not None]
    names = [f"mean rank of {found.label(i)}" for i in systems]
    lines: list[list[Any]] = [["place", "dataset", "image", *names, "case"]]
    for place, number in enumerate(choice.order):
        case = choice.cases.get(place, "").lower()
        lines.append([place + 1, *found.images[number], *tables.digits(found.ranks[systems, number]), case])
    return sheet_text(lines)


def _latex(task: str, found: Board, choice: Choice) -> str:
    systems = [i for i in (choice.shown, choice.baseline) if i is not None]
    heads = [Head("Case"), Head("Test set"), Head("Image"), *(Head(found.label(i)) for i in systems)]
    rows = []
    for place, title in choice.cases.items():
        number = choice.order[place]
        ranks = [f"{found.ranks[i, number]:.2f}" for i in systems]
        rows.append([latex.escape(text) for text in (title, *found.images[number], *ranks)])
    caption = f"Best, typical and worst of {number_of(len(found.images), 'test image')} by the mean rank of "
    caption += f"{found.label(choice.shown)} among {number_of(len(found.systems), 'system')}, "
    caption += f"over {number_of(len(found.metrics), 'metric')}."
    return latex.table(caption, f"tab:cases-{task}", [heads], rows, left=3)

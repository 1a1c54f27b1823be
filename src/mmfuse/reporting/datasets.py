"""A page for each test dataset: scores with tests and ranks, pictures with an enlarged window, distributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmfuse.data.images import read_image
from mmfuse.data.packs import Sample
from mmfuse.errors import UserError
from mmfuse.reporting import (
    dataset_cards,
    figures,
    given_weights,
    pictures,
    provenance,
    ranking,
    statistics,
    tables,
    training_data,
)
from mmfuse.reporting.pictures import Picture, Window
from mmfuse.reporting.scores import existing
from mmfuse.reporting.study import Page, Study, representatives
from mmfuse.study import plan
from mmfuse.study.stages import FUSE, key_of


@dataclass(frozen=True)
class Tile:
    """One column of the picture grid: a whole picture and its zoomed window."""

    label: str
    whole: Picture
    zoomed: Picture


def pages(study: Study) -> list[Page]:
    """Return the page of each test dataset."""
    systems = training_data.read(study)
    return [
        Page(provenance.anchor("data", dataset), dataset, "dataset.html.jinja", _shown(study, dataset, systems))
        for dataset in study.groups
    ]


def _shown(study: Study, dataset: str, systems: Sequence[training_data.Trained]) -> dict[str, Any]:
    settings, groups = study.settings, study.groups[dataset]
    card = dataset_cards.card(study.catalog, dataset, study.root)
    table, pack = study.boards[dataset], study.pack(dataset)
    names = pictures.chosen(settings["images"], dataset, pack.names)
    shown = representatives(study.parameters, groups)
    folders = {g.label: study.path(FUSE, "folder", key_of(dataset, g.members[0].system)) for g in shown}
    images = len(groups[0].members[0].images)
    meanings = tables.legend(groups[0].members[0].metrics)
    study.sheets.update(
        {
            f"{dataset}.csv": tables.as_csv(groups, table),
            f"{dataset}.tex": tables.as_latex(dataset, images, table),
            f"{dataset}.pairs.csv": tables.pairs_as_csv(groups, table),
            f"{dataset}.pairs.tex": tables.pairs_as_latex(dataset, table),
        }
    )
    return {
        "name": dataset,
        "card": card,
        "table": table,
        "legend": meanings,
        "words": {m.definition: m.words for m in meanings},
        "images": images,
        "too_few": len(groups) > 1 and not statistics.can_differ(len(groups), images),
        "verdict": ranking.verdict(groups, table.ranking),
        "trained": training_data.on_dataset(systems, dataset),
        "given": given_weights.on_dataset(given_weights.read(study), plan.task_of(study.parameters, dataset), dataset),
        "grid": [
            (name, _tiles(pack[pack.names.index(name)], card.roles, folders, settings, dataset)) for name in names
        ],
        "by_rule": isinstance(pictures.wish_for(settings["images"], dataset), int),
        "placed": sorted(settings.get("places", {}).get(dataset, {})),
        "reduced": len(shown) < sum(len(g.members) for g in groups),
        "boxes": figures.boxes(study.album, dataset, groups, table.heads[0].columns),
        "ranks": figures.ranks(study.album, dataset, groups, table.ranking) if table.ranking else None,
    }


def _tiles(
    sample: Sample, roles: tuple[str, str], folders: Mapping[str, Path], settings: Mapping[str, Any], dataset: str
) -> list[Tile]:
    """Return the sources and each method's result on one pair, all with the same zoomed window."""
    name = sample["name"]
    shown = {f"{roles[0]} (a)": sample["a"], f"{roles[1]} (b)": sample["b"]}
    for label, folder in folders.items():
        shown[label] = read_image(existing(folder / f"{name}.png", "fuse"))
    window = _window(sample, settings, dataset)
    width = int(settings["width"])
    return [
        Tile(
            label,
            pictures.picture(pixels, width, f"{label}, image {name}, with the zoomed window framed", window),
            pictures.patch(pixels, window, f"{label}, image {name}, zoomed window"),
        )
        for label, pixels in shown.items()
    ]


def _window(sample: Sample, settings: Mapping[str, Any], dataset: str) -> Window:
    """Return the window to enlarge: the one set in the parameters, else the one where the sources differ most.

    Raises:
        UserError: the window would extend beyond the image.
    """
    name, side = sample["name"], int(settings["patch"])
    place: Sequence[int] | None = settings.get("places", {}).get(dataset, {}).get(name)
    if place is None:
        return pictures.disagreement(sample["a"], sample["b"], side)
    height, width = sample["a"].shape[:2]
    if place[0] + side > height or place[1] + side > width:
        raise UserError(
            f"report.places: the window on {name} of {dataset} extends beyond the image.",
            expected=f"[top, left] of at most [{height - side}, {width - side}], for report.patch: {side}",
            found=list(place),
        )
    return Window(place[0], place[1], side, side)

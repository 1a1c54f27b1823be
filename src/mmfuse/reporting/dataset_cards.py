"""What a dataset is: its entry in the catalog and the pairs that were prepared from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmfuse.data.catalog import SPLITS, Dataset, Source
from mmfuse.data.packs import Pack
from mmfuse.errors import UserError
from mmfuse.files.reading import read_table
from mmfuse.files.writing import csv_text
from mmfuse.reporting import comparisons, latex, pictures, provenance
from mmfuse.reporting.latex import Head
from mmfuse.reporting.scores import existing
from mmfuse.reporting.study import Page, Study
from mmfuse.study import plan
from mmfuse.study.stages import PREPARE

TASKS = {"ivif": "infrared-visible fusion", "mif": "medical image fusion"}


@dataclass(frozen=True)
class DatasetCard:
    """One dataset, ready for the page.

    `dropped` says which pairs could not be used and why. `counts` has a (split, pairs, what the whole set holds or
    None, image sizes in words) for each split; `mask_classes` and `box_classes` are (name, ink) pairs.
    """

    name: str
    title: str
    task: str
    roles: tuple[str, str]
    licence: str
    citation: str
    sources: tuple[str, ...]
    defects: tuple[str, ...]
    dropped: tuple[str, ...]
    counts: tuple[tuple[str, int, int | None, str], ...]
    mask_classes: tuple[tuple[str, str], ...]
    box_classes: tuple[tuple[str, str], ...]


def _counts(rows: Sequence[Mapping[str, str]], whole: Mapping[str, int]) -> list[tuple[str, int, int | None, str]]:
    found = []
    for split in SPLITS:
        sizes = Counter(f"{row['width']}×{row['height']}" for row in rows if row["split"] == split)
        if sizes:
            most = sizes.most_common(1)[0][0]
            words = most if len(sizes) == 1 else f"{len(sizes)} sizes, most often {most}"
            found.append((split, sizes.total(), whole.get(split), words))
    return found


def _source(source: Source) -> str:
    """Say in one line where data come from, as plain text: the page loads nothing and leads nowhere."""
    if source.kind == "generator":
        return f"made by {source.address}"
    commit = f" at commit {source.commit}" if source.commit else ""
    return f"{source.address}{commit}" + (" (fetched by hand)" if source.kind == "manual" else "")


def _classes(dataset: Dataset, kind: str) -> tuple[tuple[str, str], ...]:
    """Return the classes of a label with their inks; class 0 of a mask is the background and has none."""
    classes = dataset.labels[kind].classes if kind in dataset.labels else {}
    return tuple((name, pictures.ink(kind, number)) for number, name in classes.items() if number or kind != "mask")


def card(catalog: Mapping[str, Dataset], name: str, root: Path) -> DatasetCard:
    """Put together what the page says about one dataset.

    Raises:
        UserError: the catalog has no such dataset, or it is not prepared.
    """
    if name not in catalog:
        raise UserError(f"The catalog has no dataset {name!r}.", expected=", ".join(sorted(catalog)), found=name)
    dataset = catalog[name]
    table = existing(root / PREPARE.path("pairs", {"dataset": name}), "prepare")
    rows = read_table(table, ("name", "split"), fix="run the stage `prepare` for it again")
    return DatasetCard(
        name,
        dataset.title,
        TASKS.get(dataset.task, dataset.task),
        (dataset.roles["a"], dataset.roles["b"]),
        dataset.licence,
        dataset.citation,
        tuple(_source(source) for source in dataset.sources),
        dataset.defects,
        tuple(row["name"] for row in rows if row["split"] == "dropped"),
        tuple(_counts(rows, dataset.pairs)),
        _classes(dataset, "mask"),
        _classes(dataset, "boxes"),
    )


def pages(study: Study) -> list[Page]:
    """Return the page of the data cards: the test datasets, then those that are only trained on."""
    names = list(dict.fromkeys([*study.groups, *plan.datasets_of(study.parameters)]))
    found = [card(study.catalog, name, study.root) for name in names]
    study.sheets["data.csv"] = _csv(found)
    study.sheets["data.tex"] = _latex(found)
    entries = [_entry(study, one) for one in found]
    return [Page("data-cards", "Data", "data.html.jinja", {"entries": entries})]


def _entry(study: Study, one: DatasetCard) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "card": one,
        "anchor": provenance.anchor("card", one.name),
        "prepare": provenance.anchor("run", "prepare", one.name),
        "examples": [],
        "greys": None,
    }
    if one.name in study.groups:
        pack = study.pack(one.name)
        count = len(pictures.chosen(study.settings["images"], one.name, pack.names))
        entry["examples"] = _examples(pack, one.roles, int(study.settings["width"]), count + count % 2)
        entry["greys"] = comparisons.modalities(study.album, one.name, pack, one.roles)
    return entry


def _examples(pack: Pack, roles: tuple[str, str], width: int, count: int) -> list[dict[str, Any]]:
    """Return a strip of pairs with their labels, others than those of the picture grid where there are enough."""
    strip: list[dict[str, Any]] = []
    for name in pictures.evenly(pack.names, count, offset=0.0):
        sample = pack[pack.names.index(name)]
        views = [
            pictures.picture(sample["a"], width, f"{roles[0]}, image {name}"),
            pictures.picture(sample["b"], width, f"{roles[1]}, image {name}"),
        ]
        labels = pictures.labelled(sample, width, f"labels of image {name} over the mean of both sources")
        strip.append(
            {
                "name": name,
                "views": [*views, *([labels] if labels else [])],
                "labels": [k for k in ("mask", "boxes") if k in sample],
            }
        )
    return strip


def _csv(found: Sequence[DatasetCard]) -> str:
    head = ["dataset", "task", "a", "b", "split", "pairs used", "pairs of the whole set", "sizes", "licence", "source"]
    lines: list[list[Any]] = [head]
    for one in found:
        start, end = [one.name, one.task, *one.roles], [one.licence, "; ".join(one.sources)]
        lines += [[*start, split, count, whole or count, words, *end] for split, count, whole, words in one.counts]
    return csv_text(lines)


def _latex(found: Sequence[DatasetCard]) -> str:
    rows = [
        [latex.escape(str(cell)) for cell in (one.name, ", ".join(one.roles), split, words, count, whole or count)]
        for one in found
        for split, count, whole, words in one.counts
    ]
    heads = [Head(text) for text in ("Dataset", "Modalities", "Split", "Sizes", "Pairs used", "of")]
    return latex.table("The data of this study.", "tab:data", [heads], rows, left=4)

"""What a dataset is: its entry in the catalog and the pairs that were prepared from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmfuse.catalog import SPLITS, Dataset, Source
from mmfuse.errors import UserError
from mmfuse.plain import read_table
from mmfuse.reporting import pictures
from mmfuse.reporting.scores import existing

TASKS = {"ivif": "infrared-visible fusion", "mif": "medical image fusion"}


@dataclass(frozen=True)
class Card:
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


def card(catalog: Mapping[str, Dataset], name: str, prepared: Path) -> Card:
    """Put together what the page says about one dataset.

    Raises:
        UserError: the catalog has no such dataset, or it is not prepared.
    """
    if name not in catalog:
        raise UserError(f"The catalog has no dataset {name!r}.", expected=", ".join(sorted(catalog)), found=name)
    dataset = catalog[name]
    table = existing(prepared / name / "pairs.csv", "prepare")
    rows = read_table(table, ("name", "split"), fix="run the stage `prepare` for it again")
    return Card(
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

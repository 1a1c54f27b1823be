"""The dataset catalog: what each dataset is, how its files lie, and where they come from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from mmfuse.errors import UserError, closest
from mmfuse.files.reading import read_yaml

CATALOG = Path("data/catalog.yaml")
SCHEMA = Path("workflow/schemas/catalog.schema.yaml")
SPLITS = ("train", "val", "test")
FILMS = {".mp4": "mp4", ".mov": "mov", ".avi": "avi", ".mkv": "matroska"}  # a film's suffix, and FFmpeg's reader for it


@dataclass(frozen=True)
class Layout:
    """Path patterns below data/raw/DATASET, with `{split}` and `{name}` to fill in.

    A pattern that ends in `.*` takes any file type. Where `a` and `b` are one file, `channels` says which of its
    channels (counted from zero) make up each image; otherwise it is empty. Where `a` and `b` are films, `every` says
    that each frame whose number it divides is a pair; otherwise it is None.
    """

    a: str
    b: str
    mask: str | None
    boxes: str | None
    channels: Mapping[str, tuple[int, ...]]
    every: int | None


@dataclass(frozen=True)
class Splits:
    """How the names of a dataset are assigned to train, val and test.

    Attributes:
        by: `folder`, `list`, `all` or `every`.
        folders: For `folder`: split to the text that stands for `{split}` in the layout.
        lists: For `list`, and for `every` as exceptions to its rule: split to the file of names below data/raw/DATASET.
        rest: For `list`: the split of the names in no file, or None if those are left out.
        to: For `all`: the split of everything.
        number: For `every`: a regular expression whose first group is the number in a name, such as the patient, and
            whose second group is the position within it, such as the slice.
        step: For `every`: the divisor of that number.
        remainder: For `every`: the remainder of the numbers that go to test; all others go to train.
        apart: For `every`: names up to so many positions from a listed one of another split are left out.
    """

    by: str
    folders: Mapping[str, str]
    lists: Mapping[str, str]
    rest: str | None
    to: str | None
    number: str | None
    step: int
    remainder: int
    apart: int = 0

    @property
    def can_train(self) -> bool:
        """Whether any pair may belong to the split `train`."""
        return self.by == "every" or "train" in (*self.folders, *self.lists, self.rest, self.to)

    def assign(self, names: Iterable[str], folder: Path) -> dict[str, str]:
        """Map each name to its split; names that belong to none are left out.

        Args:
            names: The names of the pairs, without a suffix.
            folder: The dataset's folder below data/raw, where the list files lie.

        Raises:
            UserError: a list file is missing, lists a name of two splits, or a name holds no number.
            ValueError: the splits go by folder, so that a name alone does not say its split.
        """
        if self.by == "folder":
            raise ValueError("these splits go by folder: take the split from the path")
        if self.by == "all":
            return {name: cast(str, self.to) for name in names}
        listed = self.listed(folder)
        if self.by == "every":
            return self._by_number(names, listed)
        assigned = {name: listed.get(name, self.rest) for name in names}
        return {name: split for name, split in assigned.items() if split is not None}

    def _by_number(self, names: Iterable[str], listed: Mapping[str, str]) -> dict[str, str]:
        """Assign names by the rule `every`, listed ones by their lists, and leave out those that lie too close."""
        places: dict[int, list[tuple[int, str]]] = {}  # number to the positions that are listed, and their splits
        if self.apart:
            for name, split in listed.items():
                number, position = self._numbers(name)
                places.setdefault(number, []).append((position, split))
        assigned = {}
        for name in names:
            number, position = self._numbers(name)
            split = listed.get(name) or ("test" if number % self.step == self.remainder else "train")
            near = (other for at, other in places.get(number, ()) if abs(at - position) <= self.apart)
            if name in listed or all(other == split for other in near):
                assigned[name] = split
        return assigned

    def _numbers(self, name: str) -> tuple[int, int]:
        """Return the number in a name that the rule `every` looks at, and the position within it (zero without one)."""
        found = re.search(cast(str, self.number), name)
        if found is None:
            raise UserError(
                f"The name {name!r} does not say which split it belongs to.",
                expected=f"a name that matches {self.number}",
                fix="rename the file as the source has it",
            )
        return int(found[1]), int(found[2]) if self.apart else 0

    def listed(self, folder: Path) -> dict[str, str]:
        """Read the list files below a dataset's folder: name without suffix to split.

        Raises:
            UserError: a list file is missing, or lists a name of two splits.
        """
        listed: dict[str, str] = {}
        for split, file in self.lists.items():
            path = folder / file
            if not path.is_file():
                raise UserError(f"The list of names is missing: {path}", fix="download the dataset again")
            for line in path.read_text(encoding="utf-8").split():
                # lists give `00001D` or `FLIR_1.jpg`; only an image's suffix is cut, since names may hold dots
                name = re.sub(r"\.(png|jpe?g|bmp|tiff?)$", "", line, flags=re.IGNORECASE)
                if listed.setdefault(name, split) != split:
                    raise UserError(f"{path} lists {name}, which is already in the split {listed[name]}.")
        return listed


@dataclass(frozen=True)
class Labels:
    """The classes of one kind of annotation, by id, and for boxes their file format (`yolo` or `voc`)."""

    classes: Mapping[int, str]
    format: str | None


@dataclass(frozen=True)
class Source:
    """One place that files come from.

    Attributes:
        kind: `generator`, `git`, `https` or `manual`.
        address: The module, the repository, the file, or the page for a person.
        commit: For git: the commit, or None for the newest.
        sha256: For https: the checksum of the archive, or None if not known.
        take: The folder inside the repository or archive that holds the dataset, or None for all of it.
        into: The folder below data/raw/DATASET that receives the files, `.` for the top.
        instructions: For manual: what a person has to fetch.
        archives: For manual: archive name to the folder below data/raw/DATASET for its content.
    """

    kind: str
    address: str
    commit: str | None
    sha256: str | None
    take: str | None
    into: str
    instructions: str | None
    archives: Mapping[str, str]


@dataclass(frozen=True)
class Dataset:
    """One entry of the catalog; the schema (workflow/schemas/catalog.schema.yaml) says what each key means."""

    name: str
    title: str
    task: str
    roles: Mapping[str, str]
    layout: Layout
    common_size: str | None
    colour: Mapping[str, str]
    value_range: tuple[int, int]
    splits: Splits
    pairs: Mapping[str, int]
    labels: Mapping[str, Labels]
    licence: str
    citation: str
    mirror: str | None
    manifest: Path | None
    sources: tuple[Source, ...]
    written: Mapping[str, tuple[str, ...]]
    defects: tuple[str, ...]

    @property
    def generator(self) -> str | None:
        """The module that makes an embedded dataset, or None for one that is downloaded."""
        return next((source.address for source in self.sources if source.kind == "generator"), None)


def load_catalog(path: Path = CATALOG, *, schema: Path = SCHEMA) -> dict[str, Dataset]:
    """Read and check the dataset catalog.

    Raises:
        UserError: a file is missing or not YAML, or an entry does not fit the schema (the message names the key).
    """
    from mmfuse.files.schema import check_against_schema

    content = _with_text_keys(read_yaml(path))
    check_against_schema(content, read_yaml(schema), str(path), path)
    catalog = {name: _dataset(name, entry, path.parent) for name, entry in content["datasets"].items()}
    for entry in catalog.values():
        _check(entry, path)
    return catalog


def dataset(name: str, path: Path = CATALOG, *, schema: Path = SCHEMA) -> Dataset:
    """Return one dataset of the catalog.

    Raises:
        UserError: the catalog has no such dataset; the message suggests the nearest name.
    """
    catalog = load_catalog(path, schema=schema)
    if name in catalog:
        return catalog[name]
    raise UserError(
        f"The catalog has no dataset {name!r}.",
        expected=f"one of {', '.join(sorted(catalog))}",
        fix=closest(name.lower().replace("-", "_"), catalog, f"choose one of them, or add an entry to {path}"),
    )


def _with_text_keys(value: Any) -> Any:
    """Return nested data with every key as text: class ids are numbers in YAML, and JSON Schema knows only text."""
    if isinstance(value, dict):
        return {str(key): _with_text_keys(item) for key, item in value.items()}
    return [_with_text_keys(item) for item in value] if isinstance(value, list) else value


def _dataset(name: str, entry: dict[str, Any], folder: Path) -> Dataset:
    """Build one dataset from its checked entry; `folder` is where the catalog lies."""
    layout, splits, manifest = entry["layout"], entry["splits"], entry["manifest"]
    return Dataset(
        name=name,
        title=entry["title"],
        task=entry["task"],
        roles=entry["roles"],
        layout=Layout(
            a=layout["a"],
            b=layout["b"],
            mask=layout.get("mask"),
            boxes=layout.get("boxes"),
            channels={side: tuple(numbers) for side, numbers in layout.get("channels", {}).items()},
            every=layout.get("frames", {}).get("every"),
        ),
        common_size=entry["common_size"],
        colour=entry["colour"],
        value_range=(entry["value_range"][0], entry["value_range"][1]),
        splits=Splits(
            by=splits["by"],
            folders=splits.get("folders", {}),
            lists=splits.get("lists", {}),
            rest=splits.get("rest"),
            to=splits.get("to"),
            number=splits.get("number"),
            step=splits.get("step", 0),
            remainder=splits.get("remainder", 0),
            apart=splits.get("apart", 0),
        ),
        pairs=entry.get("pairs", {}),
        labels={
            kind: Labels({int(key): value for key, value in item["classes"].items()}, item.get("format"))
            for kind, item in entry.get("labels", {}).items()
        },
        licence=entry["licence"],
        citation=entry["citation"],
        mirror=entry["mirror"],
        manifest=None if manifest is None else folder / manifest,
        sources=tuple(_source(item) for item in entry["sources"]),
        written={file: tuple(lines) for file, lines in entry.get("written", {}).items()},
        defects=tuple(entry["defects"]),
    )


def _source(item: dict[str, Any]) -> Source:
    """Build one source from its checked entry."""
    kind = next(kind for kind in ("generator", "git", "https", "manual") if kind in item)
    return Source(
        kind=kind,
        address=item[kind],
        commit=item.get("commit"),
        sha256=item.get("sha256"),
        take=item.get("take"),
        into=item.get("into", "."),
        instructions=item.get("instructions"),
        archives=item.get("archives", {}),
    )


def _check(entry: Dataset, path: Path) -> None:
    """Check what a schema cannot say: how the keys of one entry fit together."""
    layout, problems = entry.layout, []
    patterns = {"a": layout.a, "b": layout.b, "mask": layout.mask, "boxes": layout.boxes}
    for key, pattern in patterns.items():
        if pattern is None:
            continue
        if "{name}" not in PurePosixPath(pattern).name:
            problems.append(f"layout.{key}: the file's name holds no {{name}}")
        if ("{split}" in pattern) != (entry.splits.by == "folder"):
            problems.append(f"layout.{key}: {{split}} belongs to splits by folder, and only there")
    if (layout.a == layout.b) != bool(layout.channels):
        problems.append("layout.channels: needed where a and b are one file, and only there")
    problems += _film_problems(layout)
    if entry.splits.apart and re.compile(str(entry.splits.number)).groups < 2:
        problems.append("splits.apart: needs a second group in splits.number, the position")
    for kind in ("mask", "boxes"):
        if (patterns[kind] is None) != (kind not in entry.labels):
            problems.append(f"labels.{kind} and layout.{kind} belong together")
    kinds = {source.kind for source in entry.sources}
    if len(kinds & {"generator", "manual"}) and len(entry.sources) > 1:
        problems.append("sources: a generator or a manual source stands alone")
    if (entry.mirror is None) != (entry.generator is not None):
        problems.append("mirror: null for generated datasets, and only there")
    if entry.manifest is not None and not entry.manifest.is_file():
        problems.append(f"manifest: {entry.manifest} does not exist")
    if problems:
        raise UserError(
            f"{path}: the entry {entry.name} contradicts itself.",
            found="; ".join(problems),
            fix=f"correct it; {SCHEMA} explains each key",
        )


def _film_problems(layout: Layout) -> list[str]:
    """Return what contradicts itself in the layout of films."""
    if layout.every is None:
        return []
    problems = []
    if layout.channels or layout.mask or layout.boxes:
        problems.append("layout.frames: films have no masks, no boxes and no channels")
    for side, pattern in {"a": layout.a, "b": layout.b}.items():
        if PurePosixPath(pattern).suffix not in FILMS:
            problems.append(f"layout.{side}: a film's name ends in {', '.join(FILMS)}")
    return problems

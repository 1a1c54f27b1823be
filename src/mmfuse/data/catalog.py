"""The dataset catalog: each dataset's content, file layout and sources."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from mmfuse.data.names import normal
from mmfuse.errors import UserError, closest
from mmfuse.files.reading import read_lines, read_yaml

CATALOG = Path("data/catalog.yaml")
_SECRET = re.compile("pass|pwd|secret|token|key|sig|cred|auth", re.IGNORECASE)  # in names of an address's query
SCHEMA = Path("workflow/schemas/catalog.schema.yaml")
SPLITS = ("train", "val", "test")
FILMS = {".mp4": "mp4", ".mov": "mov", ".avi": "avi", ".mkv": "matroska"}  # a film's suffix and FFmpeg's reader for it


@dataclass(frozen=True)
class Layout:
    """Path patterns below data/raw/DATASET, with `{split}` and `{name}` to fill in.

    A pattern that ends in `.*` matches any file type. If `a` and `b` are one file, `channels` gives the channels
    (counted from zero) of each image; otherwise it is empty. If `a` and `b` are films, each frame whose number is
    divisible by `every` is a pair; otherwise it is None.
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
        folders: For `folder`: split to the text that replaces `{split}` in the layout.
        lists: For `list`, and for `every` as exceptions to its rule: split to the file of names below data/raw/DATASET.
        rest: For `list`: the split of names that are in no file, or None to leave them out.
        to: For `all`: the split of all names.
        number: For `every`: a regular expression whose first group is the number in a name, such as the patient, and
            whose second group is the position within it, such as the slice.
        step: For `every`: the divisor of that number.
        remainder: For `every`: the remainder of the numbers in test; all others are in train.
        apart: For `every`: names up to this many positions from a listed name of another split are left out.
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
        """Map each name to its split; names without a split are left out.

        Args:
            names: The names of the pairs, without a suffix.
            folder: The dataset's folder below data/raw, with the list files.

        Raises:
            UserError: a list file is missing or lists a name in two splits, or a name contains no number.
            ValueError: the splits are by folder, so a name alone does not determine its split.
        """
        if self.by == "folder":
            raise ValueError("these splits are by folder: take the split from the path")
        if self.by == "all":
            return {name: cast(str, self.to) for name in names}
        names = list(names)
        listed = self.listed(folder, set(names))
        if self.by == "every":
            return self._by_number(names, listed)
        assigned = {name: listed.get(name, self.rest) for name in names}
        return {name: split for name, split in assigned.items() if split is not None}

    def _by_number(self, names: Iterable[str], listed: Mapping[str, str]) -> dict[str, str]:
        """Assign names by the rule `every` and listed names by their lists; leave out those that are too close."""
        places: dict[int, list[tuple[int, str]]] = {}  # number to the listed positions and their splits
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
        """Return the number in a name for the rule `every`, and the position within it (zero if there is none)."""
        found = re.search(cast(str, self.number), name)
        if found is None:
            raise UserError(
                f"The name {name!r} does not determine its split.",
                expected=f"a name that matches {self.number}",
                fix="rename the file as in the source",
            )
        return int(found[1]), int(found[2]) if self.apart else 0

    def listed(self, folder: Path, names: Collection[str] = ()) -> dict[str, str]:
        """Read the list files below a dataset's folder: name without suffix to split.

        A line is one name, which may contain blanks, or several of the given names with blanks between them.

        Raises:
            UserError: a list file is missing, is not text, or lists a name in two splits.
        """
        listed: dict[str, str] = {}
        for split, file in self.lists.items():
            path = folder / file
            if not path.is_file():
                raise UserError(f"The list of names is missing: {path}", fix="download the dataset again")
            try:
                lines = read_lines(path)
            except ValueError as error:
                raise UserError(
                    f"The list of names is not a text file: {path}", expected="UTF-8, with one name in a line",
                    found=error, fix="save it as UTF-8",
                ) from error  # fmt: skip
            for line in filter(None, map(str.strip, lines)):
                whole, parts = _listed_name(line), [_listed_name(part) for part in line.split()]
                for name in parts if whole not in names and all(part in names for part in parts) else [whole]:
                    if listed.setdefault(name, split) != split:
                        raise UserError(f"{path} lists {name}, which is already in the split {listed[name]}.")
        return listed


def _listed_name(text: str) -> str:
    """Return a name of a list without the suffix of an image; other suffixes stay, because names may contain dots."""
    return re.sub(r"\.(png|jpe?g|bmp|tiff?)$", "", normal(text), flags=re.IGNORECASE)


@dataclass(frozen=True)
class Labels:
    """The classes of one kind of annotation by id, and for boxes their file format (`yolo` or `voc`)."""

    classes: Mapping[int, str]
    format: str | None


@dataclass(frozen=True)
class Source:
    """One source of files.

    Attributes:
        kind: `generator`, `git`, `https` or `manual`.
        address: The module, the repository, the file, or a web page for manual download.
        commit: For git: the commit, or None for the newest.
        sha256: For https: the checksum of the archive, or None if unknown.
        take: The folder inside the repository or archive that holds the dataset, or None for all of it.
        into: The folder below data/raw/DATASET for the files, `.` for the top.
        instructions: For manual: what to download by hand.
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
    """One entry of the catalog; the schema (workflow/schemas/catalog.schema.yaml) describes each key."""

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
        """The module that generates an embedded dataset, or None for a downloaded dataset."""
        return next((source.address for source in self.sources if source.kind == "generator"), None)


def load_catalog(path: Path = CATALOG, *, schema: Path = SCHEMA) -> dict[str, Dataset]:
    """Read and check the dataset catalog; a process reads a file again only after a change.

    Raises:
        UserError: a file is missing or not YAML, or an entry violates the schema (the message names the key).
    """
    stats = tuple((s.st_mtime_ns, s.st_size) for s in (file.stat() for file in (path, schema) if file.is_file()))
    return dict(_read_catalog(path, schema, Path.cwd(), stats))


@lru_cache(maxsize=4)
def _read_catalog(path: Path, schema: Path, _folder: Path, _stats: object) -> dict[str, Dataset]:
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
    """Return nested data with all keys as text: class ids are numbers in YAML, but JSON Schema only supports text."""
    if isinstance(value, dict):
        return {str(key): _with_text_keys(item) for key, item in value.items()}
    return [_with_text_keys(item) for item in value] if isinstance(value, list) else value


def _dataset(name: str, entry: dict[str, Any], folder: Path) -> Dataset:
    """Build one dataset from its checked entry; `folder` is the catalog's folder."""
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
    """Check what a schema cannot express: whether the keys of one entry are consistent."""
    layout, problems = entry.layout, []
    patterns = {"a": layout.a, "b": layout.b, "mask": layout.mask, "boxes": layout.boxes}
    for key, pattern in patterns.items():
        if pattern is None:
            continue
        if "{name}" not in PurePosixPath(pattern).name:
            problems.append(f"layout.{key}: the file's name contains no {{name}}")
        if ("{split}" in pattern) != (entry.splits.by == "folder"):
            problems.append(f"layout.{key}: {{split}} is required for splits by folder, and only there")
    if (layout.a == layout.b) != bool(layout.channels):
        problems.append("layout.channels: required if a and b are one file, and only then")
    problems += _film_problems(layout)
    if entry.splits.apart and re.compile(str(entry.splits.number)).groups < 2:
        problems.append("splits.apart: needs a second group in splits.number, the position")
    for kind in ("mask", "boxes"):
        if (patterns[kind] is None) != (kind not in entry.labels):
            problems.append(f"labels.{kind} and layout.{kind} belong together")
    kinds = {source.kind for source in entry.sources}
    if len(kinds & {"generator", "manual"}) and len(entry.sources) > 1:
        problems.append("sources: a generator or a manual source must be the only source")
    problems += [
        f"sources: the address at {urlsplit(source.address).hostname} contains a secret, which records would show: use "
        "~/.netrc or git's credential helper, or fetch the files by hand"
        for source in entry.sources
        if _has_secret(source.address)
    ]
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


def _has_secret(address: str) -> bool:
    """Whether an address contains a login, or a token or signature in its query."""
    parts = urlsplit(address)
    names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    return "@" in parts.netloc or any(_SECRET.search(name) for name in names)


def _film_problems(layout: Layout) -> list[str]:
    """Return the contradictions in the layout of films."""
    if layout.every is None:
        return []
    problems = []
    if layout.channels or layout.mask or layout.boxes:
        problems.append("layout.frames: films have no masks, no boxes and no channels")
    for side, pattern in {"a": layout.a, "b": layout.b}.items():
        if PurePosixPath(pattern).suffix not in FILMS:
            problems.append(f"layout.{side}: a film's name must end in {', '.join(FILMS)}")
    return problems

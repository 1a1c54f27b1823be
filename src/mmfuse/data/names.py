"""Names of images: how the two images of a pair are named, and which files of a folder they are.

Names are compared in Unicode's composed form (NFC): archives made on a Mac contain the decomposed form, which looks the
same.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mmfuse.data.kinds import SUFFIXES
from mmfuse.errors import UserError
from mmfuse.files.writing import check_file_name
from mmfuse.words import number_of

ANY = "{name}.*"
_SHOWN = 3
# files that nobody expects to be read as images
_NO_IMAGES = {
    ".cfg", ".csv", ".db", ".doc", ".docx", ".htm", ".html", ".ini", ".json", ".lock", ".log", ".md", ".pdf", ".py",
    ".rst", ".safetensors", ".sh", ".tex", ".toml", ".tsv", ".txt", ".xlsx", ".xml", ".yaml", ".yml",
}  # fmt: skip


@dataclass(frozen=True)
class Naming:
    """How images are named in their folders.

    Attributes:
        patterns: For each key of a folder, a path below the folder with `{name}` for what the images of a pair have in
            common, such as `{name}_ir.png`. Its suffix may be missing or `.*`, for any type that is read. By default
            `{name}.*`.
        recursive: Whether to look in subfolders, too. The subfolder becomes part of the name.
    """

    patterns: Mapping[str, str] = field(default_factory=dict)
    recursive: bool = False


@dataclass(frozen=True)
class Images:
    """Images of a folder by name, and its other files and subfolders; hidden ones are in neither."""

    files: Mapping[str, Path]
    others: list[Path]
    subfolders: list[Path]


def normal(name: str) -> str:
    """Return a name in Unicode's composed form."""
    return unicodedata.normalize("NFC", name)


def find_images(folder: Path, pattern: str = ANY, *, recursive: bool = False) -> Images:
    """Find the images of a folder whose names match a pattern; see `Naming`.

    Raises:
        UserError: the folder is missing, two files have one name, a name cannot be used, or the pattern is wrong.
    """
    if not folder.is_dir():
        what = "this is a file" if folder.is_file() else None
        raise UserError(f"Folder not found: {folder}", expected="a folder of images", found=what)
    match = compiled(pattern, recursive=recursive, any_suffix=True)
    deep = recursive or "/" in pattern
    files: dict[str, Path] = {}
    others = []
    for path in _walk(folder, set()) if deep else sorted(p for p in folder.iterdir() if not p.is_dir()):
        hit = match.fullmatch(normal(path.relative_to(folder).as_posix()))
        if path.name.startswith("."):
            continue
        if hit is None or path.suffix.lower() not in SUFFIXES:
            others.append(path)
            continue
        check_file_name(path)
        name = (hit["above"] or "") + hit["name"]
        if name in files:
            raise UserError(
                f"Two images with the same name in {folder}.",
                expected="one file for each name",
                found=f"{files[name].relative_to(folder)} and {path.relative_to(folder)}",
                fix="remove or rename one of them",
            )
        files[name] = path
    subfolders = [] if deep else [p for p in sorted(folder.iterdir()) if p.is_dir() and _is_used(p)]
    return Images(dict(sorted(files.items())), others, subfolders)


def _is_used(folder: Path) -> bool:
    """Return whether a subfolder that is not hidden contains a file that may be an image."""
    return not folder.name.startswith(".") and any(may_be_image(path) for path in _walk(folder, set()))


def _walk(folder: Path, seen: set[str]) -> Iterator[Path]:
    """Yield the files below a folder, each real folder once, without hidden folders."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    for path in sorted(folder.iterdir()):
        if not path.is_dir():
            yield path
        elif not path.name.startswith("."):
            yield from _walk(path, seen)


def compiled(pattern: str, *, recursive: bool = False, any_suffix: bool = False) -> re.Pattern[str]:
    """Return a pattern as a regular expression for composed names, with the groups `above` (subfolders) and `name`.

    The letters of the suffix may be large or small.

    Args:
        pattern: A path with `{name}`; a suffix `.*` stands for any.
        recursive: Whether any subfolders may come before it.
        any_suffix: Whether the suffix may be missing, too; then one that is no image's belongs to the name.

    Raises:
        UserError: it contains no `{name}`.
    """
    if "{name}" not in pattern:
        raise UserError(
            f"The pattern {pattern!r} names no image.",
            expected="{name} for what the images of a pair have in common, as in {name}_ir.png",
            found="no {name}",
        )
    text = normal(pattern)
    suffix = PurePosixPath(text).suffix
    literal = suffix.lower() in SUFFIXES or (suffix != ".*" and not any_suffix)
    stem = text[: -len(suffix)] if literal or suffix == ".*" else text
    first, *rest = stem.split("{name}")
    inner = "(?P<name>[^/]+)" + "(?P=name)".join(map(re.escape, rest))
    end = f"(?i:{re.escape(suffix)})" if literal else r"\.[^./]+"
    above = "(?:.+/)?" if recursive else ""
    return re.compile(f"(?P<above>{above}){re.escape(first)}{inner}{end}", re.DOTALL)


def matching(folder: Path, pattern: str) -> Iterator[tuple[str, Path]]:
    """Yield the name and the path of each file below a folder that matches a pattern, sorted; hidden ones are left out.

    Args:
        folder: A folder.
        pattern: A path below it with `{name}` in the file's name, and a suffix; `.*` stands for any.
    """
    match = compiled(pattern)
    for path in sorted(folder.glob(str(PurePosixPath(pattern.replace("{name}", "*")).with_suffix(".*")))):
        hit = match.fullmatch(normal(path.relative_to(folder).as_posix()))
        if hit is not None and not path.name.startswith(".") and path.is_file():
            yield hit["name"], path


def left_out(folders: Mapping[str, Path], naming: Naming) -> Iterator[str]:
    """Yield a line on the files and subfolders of each folder that might be images and are not read."""
    by_folder: dict[Path, list[Images]] = {}
    for key, folder in folders.items():
        found = find_images(folder, naming.patterns.get(key, ANY), recursive=naming.recursive)
        by_folder.setdefault(folder.resolve(), []).append(found)
    names = {folder.resolve(): folder for folder in folders.values()}
    for place, found_there in by_folder.items():
        folder = names[place]
        taken = {path for one in found_there for path in one.files.values()}
        others = [p for p in found_there[0].others if p not in taken and may_be_image(p)]
        if others:
            listed = some(str(path.relative_to(folder)) for path in others)
            yield f"{folder}: {number_of(len(others), 'file')} of another type or name ({listed})"
        below = found_there[0].subfolders
        if below:
            listed = some(path.name for path in below)
            yield f"{folder}: {number_of(len(below), 'subfolder')} ({listed}); --recursive reads them"


def may_be_image(path: Path) -> bool:
    """Return whether a file might be an image, judging by its name."""
    return not path.name.startswith(".") and path.suffix.lower() not in _NO_IMAGES


def some(names: Iterable[str]) -> str:
    """Return the first of some names as text."""
    all_names = list(names)
    return ", ".join(all_names[:_SHOWN]) + (", ..." if len(all_names) > _SHOWN else "")

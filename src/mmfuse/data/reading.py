"""Finding and reading the pairs of a downloaded dataset, for any layout."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmfuse.data.catalog import Dataset, Layout
from mmfuse.data.colours import Colours
from mmfuse.data.films import FilmReader, count_frames, frame_name, pyav
from mmfuse.data.images import SCALE, Bytes, luminance, open_image, read_image
from mmfuse.data.kinds import SUFFIXES
from mmfuse.data.names import compiled, matching, may_be_image, normal, some
from mmfuse.data.packs import Sample
from mmfuse.data.pairs import check_equal_sizes, common_size
from mmfuse.errors import UserError, short
from mmfuse.files.reading import read_lines
from mmfuse.files.writing import check_file_name, files_below
from mmfuse.progress import progress
from mmfuse.words import number_of

SIDES = ("a", "b")
_GREY = {"grey", "grey_as_colour"}
_LARGEST = 1e9  # far beyond any pixel
_MOST_CLASSES = 1e7
_YOLO_VALUES = "class, centre x, centre y, width and height"
_YOLO = f"yolo format: a line for each box: {_YOLO_VALUES}, with blanks between them"
_VOC = "voc format: an XML file with an object for each box: name, and bndbox with xmin, ymin, xmax, ymax"


@dataclass(frozen=True)
class Files:
    """The files of one pair: its name, its split, and the path of each existing image and label.

    If the images are frames of two films, `frame` is their number, counted from zero; otherwise it is None.
    """

    name: str
    split: str
    paths: Mapping[str, Path]
    frame: int | None = None


@dataclass
class Found:
    """The complete pairs of a dataset, one line for each problem, and what differs from the catalog."""

    pairs: list[Files] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    def warn(self, name: str) -> None:
        """Print a warning about each difference from the catalog."""
        for line in self.differences:
            print(f"warning: {name}: {line}", file=sys.stderr)


def find_pairs(dataset: Dataset, folder: Path) -> Found:
    """List the pairs below data/raw/DATASET, sorted by split and name.

    Frames of one film are consecutive.

    Raises:
        UserError: the folder contains no pair, or two files for one image; or films cannot be read here.
    """
    found = Found()
    if dataset.layout.every is not None:
        pyav()  # if it is missing, that is not a problem of the film
    if dataset.splits.by == "folder":
        for split, text in dataset.splits.folders.items():
            for name, paths in _by_name(dataset, folder, text).items():
                _add(found, dataset, Files(name, split, paths))
    else:
        named = _by_name(dataset, folder, "")
        for name, split in sorted(dataset.splits.assign(named, folder).items()):
            _add(found, dataset, Files(name, split, named[name]))
        listed = dataset.splits.listed(folder, named) if dataset.splits.by == "list" else {}
        absent = [name for name in listed if name not in named]
        if absent:
            lists = " and ".join(dataset.splits.lists.values())
            found.differences.append(f"no files for {len(absent)} of {len(listed)} names in {lists} ({some(absent)})")
    if not found.pairs and not found.problems:
        raise UserError(
            f"No image pair of {dataset.name} in {folder}.",
            expected=f"files like {dataset.layout.a} and {dataset.layout.b}",
            found="; ".join(found.differences) or None,
            fix="run the stage `download` again, or correct `layout` in data/catalog.yaml",
        )
    _compare(found, dataset, folder)
    return found


def _compare(found: Found, dataset: Dataset, folder: Path) -> None:
    """Note the files beside the images that match no pattern, and numbers of pairs that differ from the catalog's."""
    layout = dataset.layout
    used = {path for files in found.pairs for path in files.paths.values()}
    tops = {pattern.partition("{")[0].rpartition("/")[0] for pattern in (layout.a, layout.b)}
    places = {folder / top for top in tops} if dataset.splits.by != "folder" else {path.parent for path in used}
    texts = dataset.splits.folders.values() if dataset.splits.by == "folder" else [""]
    patterns = [
        (pattern, compiled(pattern.replace("{split}", text)))
        for pattern in _patterns(layout).values()
        for text in texts
    ]
    others = sorted(
        relative
        for relative in {p.relative_to(folder) for place in places for p in files_below(place) if may_be_image(p)}
        if layout.every is None and not any(_fits(relative, *one) for one in patterns)
    )
    if others:
        names = some(path.as_posix() for path in others)
        found.differences.append(f"{number_of(len(others), 'file')} that no pattern of `layout` matches ({names})")
    counts = Counter(files.split for files in found.pairs)
    for split, count in dataset.pairs.items():
        if counts[split] != count and layout.every is None:
            found.differences.append(f"{number_of(counts[split], 'pair')} in {split}, where the catalog says {count}")


def _patterns(layout: Layout) -> dict[str, str]:
    patterns = {"a": layout.a, "b": layout.b, "mask": layout.mask, "boxes": layout.boxes}
    return {key: pattern for key, pattern in patterns.items() if pattern is not None}


def _fits(path: Path, pattern: str, match: re.Pattern[str]) -> bool:
    """Return whether a path matches a pattern, and has the type of an image if the pattern leaves the type open."""
    any_type = pattern.endswith(".*")
    return bool(match.fullmatch(normal(path.as_posix()))) and (not any_type or path.suffix.lower() in SUFFIXES)


def _by_name(dataset: Dataset, folder: Path, split: str) -> dict[str, dict[str, Path]]:
    """Map each name to its files under the layout's patterns."""
    names: dict[str, dict[str, Path]] = {}
    for key, pattern in _patterns(dataset.layout).items():
        any_type = pattern.endswith(".*") and key != "boxes"
        for name, path in matching(folder, pattern.replace("{split}", split)):
            if any_type and path.suffix.lower() not in SUFFIXES:  # such as Thumbs.db
                continue
            check_file_name(path)
            first = names.setdefault(name, {}).setdefault(key, path)
            if first != path:
                raise UserError(
                    f"Two images with the same name in {path.parent}.",
                    expected="one file for each name",
                    found=f"{first.name} and {path.name}",
                    fix="remove one of them",
                )
    # a label without any image is not an incomplete pair: label folders are often shared by several selections
    return {name: paths for name, paths in sorted(names.items()) if "a" in paths or "b" in paths}


def _add(found: Found, dataset: Dataset, files: Files) -> None:
    missing = [side for side in SIDES if side not in files.paths]
    if not missing:
        found.pairs += [files] if dataset.layout.every is None else _frames(found, files, dataset.layout.every)
        return
    there = next(files.paths[side] for side in SIDES if side in files.paths)
    found.problems.append(f"{there}: its {dataset.roles[missing[0]]} counterpart is missing")


def _frames(found: Found, films: Files, every: int) -> list[Files]:
    """Return the pairs that two films form; add the reason to the problems if they form none."""
    try:
        counts = {side: count_frames(films.paths[side]) for side in SIDES}
    except UserError as error:
        found.problems.append(short(error))
        return []
    if counts["a"] != counts["b"]:
        a, b = (f"{counts[side]} in {films.paths[side]}" for side in SIDES)
        found.problems.append(f"The two films of {films.name} have unequal numbers of frames ({a}, {b})")
        return []
    return [
        Files(frame_name(films.name, number), films.split, films.paths, number)
        for number in range(0, counts["a"], every)
    ]


def read_pair(
    dataset: Dataset, files: Files, films: FilmReader | None = None, colours: Colours | None = None
) -> Sample:
    """Read one pair with its labels: images of one size, grey where the catalog says so.

    Args:
        dataset: The catalog's entry.
        files: The pair.
        films: Reader of film frames; keeping one for all pairs decodes each film only once.
        colours: Looks at the images before any conversion to grey.

    Raises:
        UserError: a file is damaged, or the sizes differ and the catalog names no common size.
    """
    if films is None:
        with FilmReader() as reader:
            return read_pair(dataset, files, reader, colours)
    images = {side: _pixels(dataset, files, side, films) for side in SIDES}
    if colours is not None:
        colours.add(files.name, images)
    images = {side: _as_described(dataset.colour[side], pixels) for side, pixels in images.items()}
    images = common_size(images, dataset.common_size if dataset.common_size in SIDES else None)
    check_equal_sizes(*((files.paths[side], images[side]) for side in SIDES))
    sample: Sample = {"name": files.name, **images}  # type: ignore[typeddict-item]
    if "mask" in files.paths:
        sample["mask"] = _mask(files.paths["mask"], images["a"].shape[:2])
    if "boxes" in files.paths:
        sample["boxes"] = _boxes(dataset, files.paths["boxes"], images["a"].shape[:2])
    return sample


def read_pairs(
    dataset: Dataset, pairs: Sequence[Files], what: str, problems: list[str]
) -> Iterator[tuple[Files, Sample]]:
    """Read pairs one at a time with a progress bar; add the reasons for unusable pairs to `problems`.

    Colours that contradict the catalog give a warning.
    """
    grey = {side: dataset.roles[side] for side in SIDES if dataset.colour[side] in _GREY}
    colours = Colours(grey)
    with FilmReader() as films:
        for files in progress(pairs, f"{dataset.name} {what}", unit="pairs"):
            try:
                sample = read_pair(dataset, files, films, colours)
            except UserError as error:
                problems.append(short(error) if files.frame is None else f"{files.name}: {short(error)}")
            else:
                yield files, sample
    colours.warn(f"{dataset.name} {what}")


def _pixels(dataset: Dataset, files: Files, side: str, films: FilmReader) -> Bytes:
    """Read one image as it is stored."""
    path = files.paths[side]
    channels = dataset.layout.channels.get(side)
    if files.frame is not None:
        return films.frame(side, path, files.frame)
    return _channels(path, channels) if channels else read_image(path)


def _as_described(kind: str, pixels: Bytes) -> Bytes:
    """Return an image as grey or in colour, as the catalog's `colour` says."""
    if kind == "grey" or (kind == "mixed" and pixels.ndim == 3 and not np.ptp(pixels, axis=2).any()):
        return luminance(pixels)
    return np.repeat(pixels[..., None], 3, axis=2) if kind == "colour" and pixels.ndim == 2 else pixels


def _channels(path: Path, channels: tuple[int, ...]) -> Bytes:
    """Read some channels of an image that holds both modalities (MFNet: the fourth channel is thermal)."""
    with open_image(path) as image:
        pixels = np.asarray(image)
    if pixels.dtype != np.uint8:
        raise UserError(f"Cannot use the image {path}.", expected="8 bits per channel", found=f"{pixels.dtype} values")
    if pixels.ndim != 3 or pixels.shape[2] <= max(channels):
        raise UserError(
            f"{path} does not contain both modalities.",
            expected=f"at least {max(channels) + 1} channels",
            found=f"an array of shape {pixels.shape}",
        )
    return np.ascontiguousarray(pixels[..., channels[0]] if len(channels) == 1 else pixels[..., list(channels)])


def _mask(path: Path, shape: tuple[int, ...]) -> Bytes:
    """Read class ids as stored: a palette's indices, not its colours, and grey values of 1, 2 or 4 bits unstretched."""
    with open_image(path) as image:
        single = image.mode in {"P", "L", "I", "I;16", "I;16B"}
        if not single and np.ptp(np.asarray(image.convert("RGB")), axis=2).any():
            raise UserError(
                f"The mask {path} contains colours.",
                expected="a class id for each pixel, as grey level or palette index",
                found=f"pixel format {image.mode!r}",
                fix="convert the colours to the ids in data/catalog.yaml",
            )
        ids = np.asarray(image if single else image.convert("L")) // image.info[SCALE]
    if ids.min(initial=0) < 0 or ids.max(initial=0) > 255:
        raise UserError(
            f"The mask {path} contains values that are not class ids.",
            expected="0 to 255",
            found=f"{ids.min()} to {ids.max()}",
            fix="save it with one byte per pixel",
        )
    if ids.shape != tuple(shape):
        raise UserError(f"The mask {path} differs in size from its images.", expected=shape, found=ids.shape)
    return ids.astype(np.uint8)


def _boxes(dataset: Dataset, path: Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Read boxes as rows of class id, centre x, centre y, width and height relative to the image."""
    labels = dataset.labels["boxes"]
    try:
        rows = list(_voc(path, labels.classes, shape)) if labels.format == "voc" else list(_yolo(path))
    except (OSError, ValueError, ArithmeticError, ET.ParseError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            f"Unreadable boxes: {path}",
            expected=_VOC if labels.format == "voc" else _YOLO,
            found=error,
            fix="check its permissions, or download it again" if isinstance(error, OSError) else "correct the file",
        ) from error
    return np.array(rows, np.float32).reshape(-1, 5)


def _yolo(path: Path) -> Iterator[tuple[float, ...]]:
    for number, line in enumerate(read_lines(path), start=1):
        try:
            if line.strip():
                kind, *sides = line.split()
                if "," in line:
                    raise ValueError(f"there are commas in {line.strip()!r}, where blanks separate {_YOLO_VALUES}")
                if len(sides) != 4:
                    raise ValueError(f"{len(sides) + 1} values, where it has {_YOLO_VALUES}")
                x, y, width, height = map(_number, sides)
                yield _class(kind), x, y, width, height
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error


def _number(text: str) -> float:
    """Return a finite number in plain digits: Python also takes 1_0 and the digits of other scripts."""
    if not re.fullmatch(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?", text) or abs(float(text)) > _LARGEST:
        raise ValueError(f"{text!r} is not a number of a label")
    return float(text)


def _class(text: str) -> float:
    """Return a class id, which a pack keeps in single precision; programs write it as 1, 1.0 or 1.000e+00."""
    number = _number(text)
    if not number.is_integer() or abs(number) >= _MOST_CLASSES:
        raise ValueError(f"{text!r} is not a class id")
    return number


def _voc(path: Path, classes: Mapping[int, str], shape: tuple[int, ...]) -> Iterator[tuple[float, ...]]:
    ids = {name.lower(): number for number, name in classes.items()}
    objects = ET.fromstring(path.read_bytes()).iter("object")  # noqa: S314 - expat limits expansion
    for count, item in enumerate(objects, start=1):
        name = item.findtext("name", "").strip().lower()
        if name not in ids:
            raise ValueError(f"object {count}: the catalog has no class {name!r}")
        texts = {side: item.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")}
        lacking = [side for side, text in texts.items() if text is None]
        if lacking:
            raise ValueError(f"object {count}: no {' and no '.join(lacking)} in a bndbox")
        try:
            left, top, right, bottom = (_number(str(text).strip()) for text in texts.values())
        except ValueError as error:
            raise ValueError(f"object {count}: {error}") from error
        height, width = shape
        yield (
            float(ids[name]),
            (left + right) / 2 / width,
            (top + bottom) / 2 / height,
            (right - left) / width,
            (bottom - top) / height,
        )

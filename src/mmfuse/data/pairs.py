"""Matching images: folders by file name, equal sizes, and reading a triple to measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, overload

from mmfuse.data.colours import Colours
from mmfuse.data.images import Bytes, luminance, read_image, resize
from mmfuse.data.kinds import SUFFIXES
from mmfuse.data.names import ANY, Naming, find_images, left_out, may_be_image, normal
from mmfuse.errors import UserError, first_of, short
from mmfuse.progress import progress
from mmfuse.words import number_of

if TYPE_CHECKING:
    from torch import Tensor

PLAIN = Naming()
_LISTED = 40  # unusable images in one message


class Matched(NamedTuple):
    """Images with the same name: the common stem, and the path in each folder under the folder's key."""

    name: str
    paths: dict[str, Path]


@overload
def match_folders(*, allow_missing: Literal[False] = ..., naming: Naming = ..., **folders: Path) -> list[Matched]: ...


@overload
def match_folders(
    *, allow_missing: Literal[True], naming: Naming = ..., **folders: Path
) -> tuple[list[Matched], list[str]]: ...


def match_folders(
    *, allow_missing: bool = False, naming: Naming = PLAIN, **folders: Path
) -> list[Matched] | tuple[list[Matched], list[str]]:
    """Match the images of several folders by name without suffix, regardless of file type.

    Args:
        allow_missing: Continue with the names that all folders have, and also return the report on the others.
        naming: How the images are named in each folder.
        **folders: Key to folder, such as fused=..., infrared=..., visible=...

    Returns:
        The matched images sorted by name; with `allow_missing` also one line for each name left out.

    Raises:
        UserError: a folder is missing, a name lacks a counterpart (unless allowed), or nothing matches at all.
    """
    found = {
        key: find_images(folder, naming.patterns.get(key, ANY), recursive=naming.recursive)
        for key, folder in folders.items()
    }
    files = {key: images.files for key, images in found.items()}
    unread = {
        key: {normal(path.stem): path.name for path in images.others if may_be_image(path)}
        for key, images in found.items()
    }
    names = sorted(set().union(*files.values()))
    matched = [
        Matched(n, {key: of[n] for key, of in files.items()}) for n in names if all(n in f for f in files.values())
    ]
    missing = [
        f"{next(of[name] for of in files.values() if name in of)}: no image with this name in "
        + " or ".join(
            f"{folders[key]}" + (f" ({unread[key][name]} is not read)" if name in unread[key] else "")
            for key, of in files.items()
            if name not in of
        )
        for name in names
        if any(name not in of for of in files.values())
    ]
    if missing and (not allow_missing or not matched):
        raise UserError(
            f"No counterpart in every folder for {len(missing)} of {number_of(len(names), 'image')}.",
            expected="the same file names in all folders (suffixes may differ)"
            if not naming.patterns
            else "files whose names agree in {name}",
            found=first_of(missing),
            fix="convert the files that are not read to PNG or TIFF"
            if any("is not read)" in line for line in missing)
            else "add the missing files or rename them; or explicitly allow missing images"
            if matched
            else "the folders have no name in common: rename the files, or describe their names with a pattern such as "
            "{name}_ir.png",
        )
    if not matched:
        wanted, others = [naming.patterns.get(key, ANY) for key in folders], list(left_out(folders, naming))
        raise UserError(
            "There are no images to match.",
            expected=f"files ending in {', '.join(SUFFIXES)}"
            + (f", with names like {' and '.join(wanted)}" if naming.patterns else ""),
            found="; ".join([f"none in {', '.join(map(str, folders.values()))}", *others]) if folders else "no folder",
            fix="convert other types to PNG or TIFF, or describe other names with --pattern" if others else None,
        )
    return (matched, missing) if allow_missing else matched


def find_own_pairs(
    sources: Mapping[str, Path], naming: Naming = PLAIN, *, allow_missing: bool = False
) -> tuple[list[Matched], list[str]]:
    """Match folders that a user gives by name, or files as they are given.

    Args:
        sources: Key to folder, or key to file. Those with the keys `a` and `b` must differ.
        naming: How the images are named in each folder.
        allow_missing: Continue with the names that all folders have.

    Returns:
        The matched images sorted by name, and one line on each name, file and subfolder that is left out.

    Raises:
        UserError: a file or folder is missing or given twice, a name lacks a counterpart (unless allowed), or nothing
            matches at all.
    """
    absent = next((path for path in sources.values() if not path.exists()), None)
    if absent is not None:
        what = "Image" if any(path.is_file() for path in sources.values()) else "Folder"
        raise UserError(f"{what} not found: {absent}", expected="folders of images, or images", fix="check the name")
    kinds = {path: "a folder" if path.is_dir() else "a file" for path in sources.values()}
    if len({*kinds.values()}) > 1:
        raise UserError(
            "Files and folders cannot be matched with each other.",
            expected="only folders, or only files",
            found=", ".join(f"{path} is {kind}" for path, kind in kinds.items()),
        )
    alike = naming.patterns.get("a", ANY) == naming.patterns.get("b", ANY)
    if {"a", "b"} <= sources.keys() and sources["a"].samefile(sources["b"]) and alike:
        kind = kinds[sources["a"]]
        raise UserError(
            f"Both images of each pair would be the same: {kind} is given twice.",
            expected="the images of two modalities",
            found=f"{sources['a']} and {sources['b']}",
            fix="if the folder contains both, describe their names: --pattern '{name}_ir.png' '{name}_vis.png'"
            if kind == "a folder"
            else "give the other image",
        )
    if kinds[next(iter(sources.values()))] == "a folder":
        matched, missing = match_folders(allow_missing=True, naming=naming, **sources)
        if missing and not allow_missing:
            match_folders(allow_missing=False, naming=naming, **sources)
        return matched, [*missing, *left_out(sources, naming)]
    if naming != PLAIN:
        raise UserError(
            "A pattern and --recursive have no effect on files.", expected="folders",
            found=", ".join(map(str, sources.values())), fix="leave them out",
        )  # fmt: skip
    return [Matched(normal(next(iter(sources.values())).stem), dict(sources))], []


def read_pixels(paths: Mapping[str, Path], resize_to: str | None = None) -> dict[str, Bytes]:
    """Read the images of one pair, all of one size.

    Args:
        paths: Key to file.
        resize_to: The key, `a` or `b`, to whose size the other of the two is resized.

    Raises:
        UserError: an image cannot be read, or their sizes differ.
    """
    images = {key: read_image(path) for key, path in paths.items()}
    images |= common_size({key: images[key] for key in ("a", "b")}, resize_to)
    check_equal_sizes(*((paths[key], image) for key, image in images.items()))
    return images


def common_size(images: Mapping[str, Bytes], to: str | None) -> dict[str, Bytes]:
    """Return images resized to the size of the one under the key `to`; as they are without it."""
    if to is None:
        return dict(images)
    height, width = images[to].shape[:2]
    return {key: resize(image, height, width) for key, image in images.items()}


def check_all(
    pairs: Sequence[Matched],
    resize_to: str | None = None,
    *,
    check: Callable[[Mapping[str, Path]], object] | None = None,
) -> None:
    """Read all images once, before anything is written.

    Args:
        pairs: The images.
        resize_to: See `read_pixels`.
        check: What to do with the files of a pair instead of `read_pixels`, which requires one size.

    Raises:
        UserError: images cannot be read or differ in size; all of them are listed.
    """
    errors: dict[str, UserError] = {}
    for _, paths in progress(pairs, "check", total=len(pairs), unit="pairs"):
        try:
            read_pixels(paths, resize_to) if check is None else check(paths)
        except UserError as error:
            errors[str(error)] = error
    if len(errors) == 1:
        raise next(iter(errors.values()))
    if errors:
        fixes = {error.fix: None for error in errors.values() if error.fix}
        raise UserError(
            f"Of {number_of(len(pairs), 'pair')}, {len(errors)} cannot be used; nothing was written.",
            expected="readable images" + (", those of one pair of one size" if check is None else ""),
            found=first_of([short(error) for error in errors.values()], shown=_LISTED),
            fix="; ".join(fixes),
        )


def check_equal_sizes(*images: tuple[Path, Bytes]) -> None:
    """Check that images have the same height and width.

    Raises:
        UserError: two differ; the message has both paths and sizes.
    """
    for path, pixels in images[1:]:
        first_path, first = images[0]
        if pixels.shape[:2] != first.shape[:2]:
            raise UserError(
                "Images of one pair differ in size.",
                expected=f"{first.shape[0]}x{first.shape[1]} (height x width), like {first_path}",
                found=f"{pixels.shape[0]}x{pixels.shape[1]} in {path}",
                fix="align them (`mmfuse align`, `mmfuse fuse --align`); if they show the same field of view already, "
                "resize them (--resize-to a or b)",
            )


def read_triple(
    fused: Path, a: Path, b: Path, colours: Colours | None = None, resize_to: str | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Read a fused image and its sources as luminance, ready for measurement.

    Shape: three times (1, H, W), float64 in [0, 1].

    Args:
        fused: The fused image.
        a: Its first source.
        b: Its second source.
        colours: To which the sources are added before they become luminance.
        resize_to: The source, `a` or `b`, to whose size the other is resized; the fused image must have it.

    Raises:
        UserError: an image cannot be read, or their sizes differ.
    """
    import torch

    images = read_pixels({"fused": fused, "a": a, "b": b}, resize_to)
    if colours is not None:
        colours.add(a.stem, {"a": images["a"], "b": images["b"]})
    grey = (luminance(image).astype("float64") / 255 for image in images.values())
    first, second, third = (torch.from_numpy(image)[None] for image in grey)
    return first, second, third

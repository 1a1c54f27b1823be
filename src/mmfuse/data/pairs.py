"""Matching images: folders by file name, equal sizes, and reading a triple to measure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, overload

from mmfuse.data.colours import Colours
from mmfuse.data.images import SUFFIXES, Bytes, image_files, luminance, read_image
from mmfuse.errors import UserError
from mmfuse.words import number_of

if TYPE_CHECKING:
    from torch import Tensor

_SHOWN = 10


class Matched(NamedTuple):
    """Images with the same name: the common stem, and the path in each folder under the folder's key."""

    name: str
    paths: dict[str, Path]


@overload
def match_folders(*, allow_missing: Literal[False] = ..., **folders: Path) -> list[Matched]: ...


@overload
def match_folders(*, allow_missing: Literal[True], **folders: Path) -> tuple[list[Matched], list[str]]: ...


def match_folders(*, allow_missing: bool = False, **folders: Path) -> list[Matched] | tuple[list[Matched], list[str]]:
    """Match the images of several folders by name without suffix, regardless of file type.

    Args:
        allow_missing: Continue with the names that all folders have, and also return the report on the others.
        **folders: Key to folder, such as fused=..., infrared=..., visible=...

    Returns:
        The matched images sorted by name; with `allow_missing` also one line for each name left out.

    Raises:
        UserError: a folder is missing, a name lacks a counterpart (unless allowed), or nothing matches at all.
    """
    files = {key: image_files(folder) for key, folder in folders.items()}
    names = sorted(set().union(*files.values()))
    matched = [
        Matched(n, {key: of[n] for key, of in files.items()}) for n in names if all(n in f for f in files.values())
    ]
    missing = [
        f"{next(of[name] for of in files.values() if name in of)}: no image with this name in "
        + " or ".join(str(folders[key]) for key, of in files.items() if name not in of)
        for name in names
        if any(name not in of for of in files.values())
    ]
    if missing and (not allow_missing or not matched):
        more = [f"and {len(missing) - _SHOWN} more"] if len(missing) > _SHOWN else []
        raise UserError(
            f"No counterpart in every folder for {len(missing)} of {number_of(len(names), 'image')}.",
            expected="the same file names in all folders (suffixes may differ)",
            found="\n            ".join(missing[:_SHOWN] + more),
            fix="add the missing files or rename them; or explicitly allow missing images"
            if matched
            else "the folders have no name in common: rename the files",
        )
    if not matched:
        raise UserError(
            "There are no images to match.",
            expected=f"files ending in {', '.join(SUFFIXES)}",
            found=f"none in {', '.join(str(folder) for folder in folders.values())}" if folders else "no folder",
        )
    return (matched, missing) if allow_missing else matched


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
                fix="register and crop them to the same field of view; resizing would misalign them",
            )


def read_triple(fused: Path, a: Path, b: Path, colours: Colours | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Read a fused image and its sources as luminance, ready for measurement.

    Shape: three times (1, H, W), float64 in [0, 1].

    Args:
        fused: The fused image.
        a: Its first source.
        b: Its second source.
        colours: To which the sources are added before they become luminance.

    Raises:
        UserError: an image cannot be read, or their sizes differ.
    """
    import torch

    paths = (fused, a, b)
    images = [read_image(path) for path in paths]
    check_equal_sizes(*zip(paths, images, strict=True))
    if colours is not None:
        colours.add(a.stem, {"a": images[1], "b": images[2]})
    first, second, third = (torch.from_numpy(luminance(image).astype("float64") / 255)[None] for image in images)
    return first, second, third

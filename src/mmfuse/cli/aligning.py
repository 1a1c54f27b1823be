"""`mmfuse align`, `mmfuse transform-points`, and the alignment in `mmfuse fuse --align`."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mmfuse.alignment.registration import align, align_frames, check_image
from mmfuse.alignment.transform import Transform, read_transform, write_transform
from mmfuse.cli.own_images import check_not_overwritten, check_out, is_image_name, matched_images
from mmfuse.data.images import Bytes, read_image, write_image
from mmfuse.data.names import Naming
from mmfuse.data.pairs import PLAIN, Matched
from mmfuse.errors import UserError, first_of
from mmfuse.files.reading import damaged, read_table
from mmfuse.files.writing import csv_text, write_text
from mmfuse.progress import progress
from mmfuse.words import number_of

_RIG = "transform.json"
_FRAMES = 12  # from which the one transform of two fixed cameras is found
_ADVICE = (
    "look at the images: they may not show the same; give --model rigid or similarity; or use the transform of another "
    "pair from the same cameras with --transform, or one for all with --fixed-rig"
)


class Aligner:
    """Moves one image of each pair onto the other, and remembers which pairs it could not align.

    Args:
        moving: Key of the images that are moved, `a` or `b`.
        model: See `mmfuse.alignment.registration.align`.
        deformable: Also bend the image.
        transform: The file of a transform to use for all pairs instead of looking for one.
        one_size: Whether all images of a modality must have one size.

    Raises:
        UserError: the file is missing or damaged.
    """

    def __init__(
        self,
        *,
        moving: str = "a",
        model: str = "auto",
        deformable: bool = False,
        transform: Path | None = None,
        one_size: bool = False,
    ) -> None:
        self.moving, self.model, self.deformable = moving, model, deformable
        self.given = None if transform is None else read_transform(transform)
        self.one_size, self.sizes = one_size, dict[str, tuple[Path, tuple[int, ...]]]()
        self.found: dict[str, Transform] = {}

    def check(self, paths: Mapping[str, Path]) -> None:
        """Check that the images of a pair can be read, and aligned as far as their sizes tell.

        Raises:
            UserError: they cannot.
        """
        for key, path in paths.items():
            image = read_image(path)
            check_image(image, str(path))
            if self.given is not None:
                self.given.check_size(image.shape, str(path), fixed=key != self.moving)
            first, shape = self.sizes.setdefault(key, (path, image.shape[:2]))
            if self.one_size and image.shape[:2] != shape:
                raise UserError(
                    "The images of one camera differ in size.",
                    expected=f"{shape[0]}x{shape[1]} (height x width), like {first}",
                    found=f"{image.shape[0]}x{image.shape[1]} in {path}", fix="leave --fixed-rig out",
                )  # fmt: skip

    def transform_of(self, name: str, moving: Bytes, fixed: Bytes) -> Transform:
        """Return the transform of a pair, which is searched once; it may not be aligned."""
        if self.given is not None:
            return self.given
        if name not in self.found:
            self.found[name] = align(moving, fixed, model=self.model, deformable=self.deformable)
        return self.found[name]

    def aligned(self, pairs: list[Matched]) -> list[Matched]:
        """Find the transforms of all pairs, and return the pairs that are aligned.

        Raises:
            UserError: none is.
        """
        if self.given is not None:
            return pairs
        found = [pair for pair in progress(pairs, "align", total=len(pairs), unit="pairs") if self.read(pair)]
        if not found:
            self.check_all_aligned("nothing is written")
        return found

    def read(self, pair: Matched) -> tuple[Bytes, Bytes] | None:
        """Return both images of a pair with one of them moved onto the other, None if they cannot be aligned.

        Raises:
            UserError: an image cannot be read.
        """
        images = {key: read_image(path) for key, path in pair.paths.items()}
        other = "b" if self.moving == "a" else "a"
        transform = self.transform_of(pair.name, images[self.moving], images[other])
        if not transform.aligned:
            return None
        images[self.moving] = transform.warp(images[self.moving])
        return images["a"], images["b"]

    def check_all_aligned(self, what: str) -> None:
        """Report the pairs that could not be aligned.

        Raises:
            UserError: there are some; `what` says what was not written for them.
        """
        failed = [f"{name}: confidence {one.confidence:.2f}" for name, one in self.found.items() if not one.aligned]
        if failed:
            raise UserError(
                f"Of {number_of(len(self.found), 'pair')}, {len(failed)} cannot be aligned; {what}.",
                found=first_of(failed),
                fix=_ADVICE,
            )


def align_folders(
    moving: Path,
    fixed: Path,
    out: Path,
    *,
    model: str = "auto",
    deformable: bool = False,
    fixed_rig: bool = False,
    transform: Path | None = None,
    allow_missing: bool = False,
    naming: Naming = PLAIN,
) -> None:
    """Move the images of one folder (or file) onto those of another, as OUT/NAME.png with OUT/NAME.json.

    Args:
        moving: Images to move.
        fixed: Images that stay.
        out: Folder of the moved images and of the transforms; for two files also the image to write.
        model: `auto`, `rigid`, `similarity` or `affine`.
        deformable: Also bend the image.
        fixed_rig: Find one transform for all pairs, OUT/transform.json.
        transform: Use this transform for all pairs.
        allow_missing: Leave out images that lack a counterpart.
        naming: How the images are named in `moving` (key a) and `fixed` (key b).

    Raises:
        UserError: images are missing or damaged, a source would be overwritten, or pairs are not aligned; those that
            are have been written.
    """
    if transform is not None and (fixed_rig or deformable or model != "auto"):
        raise UserError(
            "With --transform nothing is searched, so that --fixed-rig, --model and --deformable have no effect.",
            fix="leave them out, or --transform",
        )
    check_out(moving, fixed, out, naming)
    aligner = Aligner(model=model, deformable=deformable, transform=transform, one_size=fixed_rig)
    pairs = matched_images({"a": moving, "b": fixed}, naming, allow_missing=allow_missing, check=aligner.check)
    targets = {name: out if is_image_name(out) else out / f"{name}.png" for name, _ in pairs}
    check_not_overwritten(pairs, targets.values())
    if fixed_rig:
        aligner.given = _of_rig(pairs, model=model, deformable=deformable)
        write_transform(out.with_suffix(".json") if is_image_name(out) else out / _RIG, aligner.given)
    written = 0
    for pair in progress(pairs, "align", total=len(pairs), unit="pairs"):
        images = aligner.read(pair)
        if images is None:
            continue
        write_image(targets[pair.name], images[0])
        if aligner.given is None:
            write_transform(targets[pair.name].with_suffix(".json"), aligner.found[pair.name])
        written += 1
    if written:
        used = aligner.found.values() if aligner.given is None else [aligner.given]
        sure = [one.confidence for one in used if one.aligned]
        print(f"{number_of(written, 'aligned image')} in {out} (confidence {min(sure):.2f} to {max(sure):.2f})")
    aligner.check_all_aligned("nothing is written for them")


def _of_rig(pairs: list[Matched], *, model: str, deformable: bool) -> Transform:
    """Return the transform of two fixed cameras, from frames evenly spread over the pairs.

    Raises:
        UserError: the images of a camera differ in size, or no transform is found.
    """
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(_FRAMES, len(pairs))).round().astype(int))
    frames = [(read_image(pairs[number].paths["a"]), read_image(pairs[number].paths["b"])) for number in chosen]
    found = align_frames(frames, model=model, deformable=deformable)
    print(f"one transform from {len(frames)} of {len(pairs)} pairs, confidence {found.confidence:.2f}", file=sys.stderr)
    if not found.aligned:
        raise UserError(
            "The pairs are not aligned; nothing is written.", found=f"confidence {found.confidence:.2f}",
            fix="look at the images: the cameras may have moved, so that each pair needs its own transform (leave out "
            "--fixed-rig); or give --model rigid or similarity",
        )  # fmt: skip
    return found


def transform_points(transform: Path, source: Path, out: Path) -> int:
    """Map the columns x and y of a CSV file from the moving into the fixed image; other columns stay.

    Returns:
        The number of positions.

    Raises:
        UserError: a file is missing or damaged, or a position is not two finite numbers.
    """
    made = read_transform(transform)
    fix = "give a CSV file with the columns x and y: pixels of the moving image, from 0, x to the right, y down"
    rows = read_table(source, ("x", "y"), fix=fix)
    if out.resolve() in {transform.resolve(), source.resolve()}:
        raise UserError("The positions would overwrite an input.", found=str(out), fix="choose another file")
    cells = [[_number(source, row[axis], number, fix) for axis in "xy"] for number, row in enumerate(rows, 1)]
    points = np.array(cells)
    mapped = made.to_fixed(points.reshape(-1, 2)).round(4).tolist()
    header = list(rows[0]) if rows else ["x", "y"]
    lines = [{**row, "x": x, "y": y} for row, (x, y) in zip(rows, mapped, strict=True)]
    write_text(out, csv_text([header, *([line[name] for name in header] for line in lines)]))
    return len(rows)


def _number(path: Path, text: str, row: int, fix: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) > 1e9:
        raise damaged(path, "a position in pixels in each row", f"{text!r} in row {row}", fix)
    return value

"""`mmfuse align`, `mmfuse transform-points`, and the alignment in `mmfuse fuse --align`."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

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
        moving: Key of the images that are moved, in the paths of a pair that `aligned` gets.
        model: See `mmfuse.alignment.registration.align`.
        deformable: Also bend the image.
        transform: A transform, or its file, to use for all pairs instead of looking for one.

    Raises:
        UserError: the file is missing or damaged.
    """

    def __init__(
        self,
        *,
        moving: str = "a",
        model: str = "auto",
        deformable: bool = False,
        transform: Transform | Path | None = None,
    ) -> None:
        self.moving, self.model, self.deformable = moving, model, deformable
        self.given = read_transform(transform) if isinstance(transform, Path) else transform
        self.found: dict[str, Transform] = {}

    def read(self, pair: Matched) -> tuple[Bytes, Bytes] | None:
        """Read both images of a pair and align them, see `aligned`.

        Raises:
            UserError: an image cannot be read or aligned, or does not fit the given transform.
        """
        return self.aligned(pair.name, pair.paths, read_image(pair.paths["a"]), read_image(pair.paths["b"]))

    def aligned(self, name: str, paths: Mapping[str, Path], a: Bytes, b: Bytes) -> tuple[Bytes, Bytes] | None:
        """Return both images of a pair with one of them moved onto the other, None if they cannot be aligned.

        Args:
            name: The pair's name.
            paths: Its files, with the keys a and b.
            a: The first image.
            b: The second one.

        Raises:
            UserError: an image cannot be aligned or does not fit the given transform.
        """
        other = "b" if self.moving == "a" else "a"
        moving, fixed = (a, b) if self.moving == "a" else (b, a)
        transform = self.given or self.found.get(name)
        if transform is None:
            from mmfuse.alignment.registration import align

            transform = align(moving, fixed, model=self.model, deformable=self.deformable)
            self.found[name] = transform
        transform.check_size(moving.shape, str(paths[self.moving]))
        transform.check_size(fixed.shape, str(paths[other]), fixed=True)
        if not transform.aligned:
            return None
        moved = transform.warp(moving)
        return (moved, fixed) if self.moving == "a" else (fixed, moved)

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
    pairs = matched_images({"a": moving, "b": fixed}, naming, allow_missing=allow_missing, equal=False)
    targets = {name: out if is_image_name(out) else out / f"{name}.png" for name, _ in pairs}
    check_not_overwritten(pairs, targets.values())
    given = read_transform(transform) if transform is not None else None
    if fixed_rig:
        given = _of_rig(pairs, model=model, deformable=deformable)
        write_transform(out.with_suffix(".json") if is_image_name(out) else out / _RIG, given)
    aligner = Aligner(model=model, deformable=deformable, transform=given)
    written = 0
    for pair in progress(pairs, "align", total=len(pairs), unit="pairs"):
        images = aligner.read(pair)
        if images is None:
            continue
        write_image(targets[pair.name], images[0])
        if given is None:
            write_transform(targets[pair.name].with_suffix(".json"), aligner.found[pair.name])
        written += 1
    if written:
        used = [given] if given is not None else aligner.found.values()
        sure = [one.confidence for one in used if one.aligned]
        print(f"{number_of(written, 'aligned image')} in {out} (confidence {min(sure):.2f} to {max(sure):.2f})")
    aligner.check_all_aligned("nothing is written for them")


def _of_rig(pairs: list[Matched], *, model: str, deformable: bool) -> Transform:
    """Return the transform of two fixed cameras, from frames evenly spread over the pairs.

    Raises:
        UserError: the images of a camera differ in size, or no transform is found.
    """
    from mmfuse.alignment.registration import align_frames

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

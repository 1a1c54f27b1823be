"""The commands `mmfuse align` and `mmfuse transform-points`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mmfuse.cli.pair_options import Pattern, Recursive, naming


class Model(StrEnum):
    """Kind of map between two images."""

    auto = "auto"
    rigid = "rigid"
    similarity = "similarity"
    affine = "affine"


def align(
    moving: Annotated[Path, typer.Argument(help="Folder (or file) of the images to move.")],
    fixed: Annotated[Path, typer.Argument(help="Folder (or file) of the images that stay.")],
    out: Annotated[
        Path,
        typer.Argument(
            help="Folder for the moved images, NAME.png, and the transforms, NAME.json; or an image, for two files."
        ),
    ],
    model: Annotated[
        Model,
        typer.Option(help="rigid: rotation and shift; similarity: and scale; auto: rigid for scans, else affine."),
    ] = Model.auto,
    deformable: Annotated[bool, typer.Option("--deformable", help="Also bend the images smoothly.")] = False,
    fixed_rig: Annotated[
        bool, typer.Option("--fixed-rig", help="Find one transform for all pairs of two fixed cameras, transform.json.")
    ] = False,
    transform: Annotated[Path | None, typer.Option(help="Use this transform for all pairs, and search none.")] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out images that lack a counterpart.")
    ] = False,
    pattern: Pattern = None,
    recursive: Recursive = False,
) -> None:
    """Move images onto those of another modality, pair by pair; pairs that do not agree are reported, not written."""
    from mmfuse.cli.aligning import align_folders

    align_folders(
        moving, fixed, out, model=model, deformable=deformable, fixed_rig=fixed_rig, transform=transform,
        allow_missing=allow_missing, naming=naming(pattern, recursive),
    )  # fmt: skip


def transform_points(
    transform: Annotated[Path, typer.Argument(help="A transform, made with `mmfuse align`.")],
    source: Annotated[Path, typer.Argument(help="CSV with the columns x and y, pixels of the moving image.")],
    out: Annotated[Path, typer.Argument(help="CSV to write, with x and y in the fixed image.")],
) -> None:
    """Map positions in a moving image into the fixed image; (0, 0) is the centre of the upper left pixel."""
    from mmfuse.cli import aligning

    print(f"{aligning.transform_points(transform, source, out)} positions in {out}")

"""`mmfuse fuse`: images, films and volumes of one's own."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mmfuse.cli.pair_options import Pattern, Recursive, ResizeTo, Side, naming
from mmfuse.errors import UserError


class Task(StrEnum):
    """What a network fuses: infrared and visible, or medical images."""

    ivif = "ivif"
    mif = "mif"


class Backend(StrEnum):
    """What computes the network."""

    torch = "torch"
    compile = "compile"
    onnxruntime = "onnxruntime"
    openvino = "openvino"


class Precision(StrEnum):
    """Arithmetic of the network."""

    fp32 = "fp32"
    bf16 = "bf16"
    auto = "auto"


class Quality(StrEnum):
    """How much of a film's detail is kept when it is written."""

    small = "small"
    high = "high"
    lossless = "lossless"


class Plane(StrEnum):
    """Plane of the slices of a volume."""

    axial = "axial"
    coronal = "coronal"
    sagittal = "sagittal"


def fuse(
    a: Annotated[
        Path, typer.Argument(help="Folder (or file) of the first modality, such as infrared or MRI; or a volume.")
    ],
    b: Annotated[
        Path, typer.Argument(help="Folder (or file) of the second modality, such as visible, CT, PET or SPECT.")
    ],
    out: Annotated[
        Path,
        typer.Argument(
            help="Folder for the fused images, NAME.png; a file for two files; a film for two films; .nii.gz for two "
            "volumes."
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option(help="NAME of shipped weights (`mmfuse list weights`), or FILE with those of a trained method."),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Training-free method instead of weights, such as laplacian.")
    ] = None,
    task: Annotated[Task | None, typer.Option(help="Task of the shipped weights; by default, from the images.")] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out images that lack a counterpart.")
    ] = False,
    pattern: Pattern = None,
    recursive: Recursive = False,
    resize_to: ResizeTo = None,
    backend: Annotated[
        Backend,
        typer.Option(help="What computes the network; onnxruntime and openvino need the extra mmfuse[backends]."),
    ] = Backend.torch,
    precision: Annotated[
        Precision,
        typer.Option(help="auto: bf16 if the processor or GPU has it and a check at the start agrees with fp32."),
    ] = Precision.fp32,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Memory limit, such as 4GiB: larger images are fused in tiles. Default: the machine's."
        ),
    ] = None,
    align: Annotated[
        Side | None, typer.Option(help="First move the images of A or of B onto the other ones; see `mmfuse align`.")
    ] = None,
    transform: Annotated[
        Path | None, typer.Option(help="With --align: move them by this transform, made with `mmfuse align`.")
    ] = None,
    quality: Annotated[Quality | None, typer.Option(help="Of a fused film; high by default.")] = None,
    frames: Annotated[
        int | None, typer.Option(min=2, help="Fuse only so many frames of films, from the first.")
    ] = None,
    axis: Annotated[Plane | None, typer.Option(help="Plane of the slices of volumes; by default axial.")] = None,
    value_range: Annotated[
        str | None,
        typer.Option(
            "--range", metavar="RANGE",
            help="Values of volumes that become black and white: auto (default), full, LO:HI or percentile:P; two with "
            "a comma, if A and B need different ones.",
        ),
    ] = None,
) -> None:  # fmt: skip
    """Fuse image pairs of any size, in colour: two folders matched by file name, two files, or two films.

    Or two volumes, slice by slice (NIfTI files or folders of DICOM series; needs the extra mmfuse[medical]). Fused
    volumes are not for diagnosis.
    """
    from mmfuse.cli import own_volumes
    from mmfuse.cli.own_films import are_films, fuse_own_films
    from mmfuse.cli.own_images import fuse_folders

    common: dict[str, Any] = {
        "weights": weights, "method": method, "task": task, "resize_to": resize_to, "backend": backend,
        "precision": precision,
    }  # fmt: skip
    matched: dict[str, Any] = {
        "allow_missing": allow_missing, "naming": naming(pattern, recursive), "memory": memory
    }  # fmt: skip
    if own_volumes.are_volumes(a, b, out):
        own_volumes.check_unused(
            pattern=pattern, recursive=recursive, allow_missing=allow_missing, memory=memory, align=align,
            transform=transform, quality=quality, frames=frames,
        )  # fmt: skip
        own_volumes.fuse(a, b, out, axis=axis, value_range=value_range, **common)
        return
    own_volumes.check_unused(axis=axis, range=value_range)
    if are_films(a, b, out):
        if align is not None or transform is not None:
            raise UserError("Films are not aligned.", expected="aligned films", fix="leave out --align and --transform")
        fuse_own_films(a, b, out, quality=(quality or Quality.high).value, frames=frames, **common, **matched)
    elif quality is not None or frames is not None:
        raise UserError(
            "--quality and --frames have no effect on images.", expected="two films", found=a, fix="leave them out"
        )
    else:
        fuse_folders(a, b, out, align=align, transform=transform, **common, **matched)

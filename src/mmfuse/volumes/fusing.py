"""Fusion of two volumes, slice by slice, into a NIfTI file."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmfuse.errors import UserError
from mmfuse.files.writing import remove_leftovers
from mmfuse.inference.fusing import fuse_pair
from mmfuse.inference.half_precision import Fuse
from mmfuse.progress import progress
from mmfuse.terminal import wrapped
from mmfuse.volumes.dicom import read_dicom
from mmfuse.volumes.grids import Slice, overlap, own_slices, resampled_slices, same_grid
from mmfuse.volumes.kinds import NIFTI, check_packages, has_nifti_name, is_nifti, is_volume
from mmfuse.volumes.nifti import NOT_FOR_DIAGNOSIS, output_header, read_nifti, written
from mmfuse.volumes.ranges import parsed, range_of
from mmfuse.volumes.volume import PLANES, Layout, Volume, layout

_SIDE = 16  # pixels of the smallest side of a slice
_FRAMES = "the two series have different frames of reference: their positions agree only if they have been registered"
_PATIENTS = "the two series have different patient IDs"


def check_volumes(a: Path, b: Path, out: Path) -> None:
    """Check that two volumes are given, and a NIfTI file to write that is neither of them.

    Raises:
        UserError: one of the paths is something else, or the packages for volumes are missing.
    """
    for path in (a, b):
        if not path.exists():
            raise UserError(f"Volume not found: {path}", fix="check the name and the folder")
        if not is_volume(path):
            raise UserError(
                f"{path} is not a volume.", expected="a NIfTI file (.nii, .nii.gz), or the folder of a DICOM series",
                found="a folder without DICOM files" if path.is_dir() else "another kind of file",
                fix="give two volumes, or two images (or folders of them) and an image or folder to write",
            )  # fmt: skip
    if not has_nifti_name(out) or out.is_dir():
        raise UserError(
            f"Cannot write the fused volume to {out}.", expected=f"a name ending in {' or '.join(NIFTI)}",
            found="a folder" if out.is_dir() else f"{out.name}", fix="choose another name for the output",
        )  # fmt: skip
    if a.resolve() == b.resolve():
        raise UserError("The same volume is given twice.", found=a, fix="give two volumes")
    if out.resolve() in {a.resolve(), b.resolve()}:
        raise UserError("The fused volume would overwrite its source.", found=out, fix="choose another name")
    check_packages()


def read_volume(path: Path) -> Volume:
    """Read a NIfTI file or a DICOM series.

    Raises:
        UserError: see `read_nifti` and `read_dicom`.
    """
    return read_nifti(path) if path.is_file() and is_nifti(path) else read_dicom(path)


class Pair:
    """Two volumes on one grid, ready to be fused: everything is read and checked.

    Args:
        a: The first volume.
        b: The second volume.
        axis: Plane of the slices: axial, coronal or sagittal.
        value_range: See `ranges.parsed`.
        grid: `a` or `b`: whose grid the fused volume has.

    Raises:
        UserError: a volume cannot be used, or the two do not fit together.
    """

    def __init__(self, a: Path, b: Path, *, axis: str, value_range: str, grid: str) -> None:
        choices = parsed(value_range)
        self.axis = axis
        self.volumes = [read_volume(path) for path in (a, b)]
        self.same = same_grid(*self.volumes)
        self.target, self.moved = self.volumes if grid == "a" else self.volumes[::-1]
        self.layout = layout(self.target, axis)
        _check_slices(self.target, self.layout, axis)
        self.ranges = [range_of(volume, choice) for volume, choice in zip(self.volumes, choices, strict=True)]
        self.slices = [self._slices(volume) for volume in self.volumes]
        self.colour = any(volume.colour for volume in self.volumes)

    def _slices(self, volume: Volume) -> Slice:
        if volume is self.target or self.same:
            return own_slices(volume, self.layout)
        return resampled_slices(volume, self.target, self.layout)

    def __len__(self) -> int:
        """Return the number of slices."""
        return self.target.shape[self.layout.axes[0]]

    def __iter__(self) -> Iterator[list[NDArray[np.float32]]]:
        """Yield each slice of both volumes, (rows, columns) or (rows, columns, 3), in [0, 1]."""
        for number in range(len(self)):
            yield [self.ranges[i].unit(self.slices[i](number)) for i in range(2)]

    def told(self) -> list[str]:
        """Return what was decided, one line each: slices, value ranges, resampling, and what is unusual."""
        lines = [f"{len(self)} {self.axis} slices, {self.target.described()}"]
        for volume, limits in zip(self.volumes, self.ranges, strict=True):
            shown = f"{limits.low:.6g} (black) to {limits.high:.6g} (white)"
            lines.append(f"value range of {volume.name}: {shown}, {limits.source}")
        if not self.same:
            share = overlap(self.moved, self.target)
            outside = "" if share > 0.995 else f"; {1 - share:.0%} of this grid lie outside of it and become black"
            source, grid = f"{self.moved.name} ({self.moved.described()})", f"the grid of {self.target.name}"
            lines.append(f"resampled {source} to {grid}{outside}")
        first, second = (volume.identity for volume in self.volumes)
        if first.get("PatientID") and second.get("PatientID") and first["PatientID"] != second["PatientID"]:
            lines.append(f"warning: {_PATIENTS}")
        if first and second and first["FrameOfReferenceUID"] != second["FrameOfReferenceUID"]:
            lines.append(f"warning: {_FRAMES}")
        return lines + [f"note: {volume.name}: {note}" for volume in self.volumes for note in volume.notes]

    def record(self, how: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the fused file records about itself; of paths, only the last part."""
        sources = [
            {"name": Path(volume.name).name, "black": limits.low, "white": limits.high, "range": limits.source}
            for volume, limits in zip(self.volumes, self.ranges, strict=True)
        ]
        moved = None if self.same else Path(self.moved.name).name
        return {"sources": sources, "axis": self.axis, "resampled": moved, "use": NOT_FOR_DIAGNOSIS, **how}


def _check_slices(volume: Volume, cut: Layout, axis: str) -> None:
    rows, columns = (volume.shape[number] for number in cut.axes[1:])
    if min(rows, columns) < _SIDE:
        others = [
            plane for plane in PLANES if min(volume.shape[number] for number in layout(volume, plane).axes[1:]) >= _SIDE
        ]
        raise UserError(
            f"The {axis} slices of {volume.name} are too small.",
            expected=f"slices of at least {_SIDE} x {_SIDE} voxels",
            found=f"{rows} x {columns}",
            fix=f"choose --axis {' or '.join(others)}" if others else "such a volume cannot be fused",
        )


@torch.inference_mode()
def fuse_volumes(pair: Pair, out: Path, fuse: Fuse, device: torch.device, how: Mapping[str, Any]) -> None:
    """Fuse two volumes slice by slice into a NIfTI file on the grid of one of them.

    Grey volumes give float32 from 0 to 1. If one is in colour, the result is RGB with the colours of that one (of the
    second, if both are).

    Args:
        pair: The volumes.
        out: File to write, .nii or .nii.gz.
        fuse: What fuses luminance.
        device: Where it computes.
        how: What else is recorded in the file, such as the name of the weights.

    Raises:
        UserError: the network gives a value that is not finite, or the file cannot be written.
    """
    remove_leftovers(out)
    header = output_header(pair.target, colour=pair.colour, told=pair.record(how))
    with written(out, header) as voxels:
        view = pair.layout.slices(voxels)
        for number, images in enumerate(progress(pair, "fuse", total=len(pair), unit="slices")):
            view[number] = _fused(fuse, images, device, colour=pair.colour)


def _fused(fuse: Fuse, images: list[NDArray[np.float32]], device: torch.device, *, colour: bool) -> NDArray[Any]:
    """Return a fused slice: (rows, columns) in [0, 1], or (rows, columns, 3) uint8."""
    fused = fuse_pair(fuse, images[0], images[1], device, value_range=(0, 1))
    if not colour:
        return fused
    rgb = fused if fused.ndim == 3 else np.repeat(fused[..., None], 3, axis=2)
    return np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8)


def print_told(pair: Pair) -> None:
    """Print what was decided, and that the result is not for diagnosis."""
    for line in (*pair.told(), f"{NOT_FOR_DIAGNOSIS}."):
        print(wrapped(line) if sys.stderr.isatty() else line, file=sys.stderr)

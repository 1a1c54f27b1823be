"""DICOM series: a folder with one file for each slice, ordered by position, as one volume in millimetres."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mmfuse.errors import UserError, first_of
from mmfuse.files.writing import no_space
from mmfuse.progress import progress
from mmfuse.volumes.kinds import is_dicom
from mmfuse.volumes.volume import Values, Volume, check_affine
from mmfuse.words import number_of

_ANGLE = 1e-3  # difference between direction cosines that rounding explains
_EVEN = 0.02  # share of the spacing by which positions of slices may be off
_CONVERT = "convert the series to NIfTI with a tool that knows it, such as dcm2niix, and fuse that"
_AGAIN = "export the series again"
_SAME = ("Rows", "Columns", "PhotometricInterpretation", "SamplesPerPixel")


def read_dicom(path: Path) -> Volume:
    """Read a series from a folder, or a single slice from a file.

    Values are rescaled by the slope and intercept of their slice, in the unit of the scanner (CT: Hounsfield units).
    They are kept in a temporary file as float32.

    Raises:
        UserError: a file is damaged or cannot be unpacked; the files belong to several series, show several images at
            one position, or lack a slice; or they have no positions.
    """
    files, notes = _files(path)
    slices = _ordered(path, files)
    affine = _affine(path, slices)
    first = slices[0][1]
    colour = first.get("SamplesPerPixel", 1) == 3
    shape = (len(slices), int(first.Rows), int(first.Columns), *((3,) if colour else ()))
    dtype = np.dtype(np.uint8 if colour else "<f4")
    stream: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - the volume keeps it
    for file, _ in progress(slices, f"read {path.name}", unit="slices"):
        stream.write(np.ascontiguousarray(_pixels(file, shape[1:]), dtype).tobytes())
    stream.flush()
    data = np.memmap(stream, dtype, "r", 0, shape, "C")
    axes = (2, 1, 0, *((3,) if colour else ()))
    windows = [window for _, dataset in slices if (window := _window(dataset)) is not None]
    if any("VOILUTSequence" in dataset for _, dataset in slices) and not windows:
        notes.append("the table for display (VOI LUT) is not used")
    window = (min(low for low, _ in windows), max(high for _, high in windows)) if windows else None
    return Volume(
        str(path), data.transpose(axes), affine, window=window,
        window_source="the window of the series" if len({*windows}) == 1 else "the windows of all slices together",
        inverted=first.get("PhotometricInterpretation") == "MONOCHROME1", notes=notes,
        identity={key: str(first.get(key) or "") for key in ("PatientID", "FrameOfReferenceUID")},
    )  # fmt: skip


def _files(path: Path) -> tuple[list[tuple[Path, Any]], list[str]]:
    """Return the images of a series with their headers, and notes on what is left out."""
    if not path.is_dir():
        return [(path, _dataset(path))], []
    images, others = [], []
    for file in sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")):
        dataset = _dataset(file) if is_dicom(file) else None
        if dataset is None or "Rows" not in dataset or "Columns" not in dataset:
            others.append(file.name)
        else:
            images.append((file, dataset))
    folders = [folder.name for folder in sorted(path.iterdir()) if folder.is_dir()]
    if not images:
        raise UserError(
            f"There are no DICOM images in {path}.", expected="a folder with the files of one series",
            found=f"{number_of(len(others), 'other file')}"
            + (f" and the subfolders {first_of(folders, 3)}" if folders else ""),
            fix="give the folder of the series itself",
        )  # fmt: skip
    _check_one_series(path, images)
    notes = [f"left out, no DICOM image: {name}" for name in others if name.upper() != "DICOMDIR"]
    return images, notes


def _dataset(path: Path) -> Any:
    """Read the header of a DICOM file, without its pixels; files without preamble are read, too."""
    import pydicom

    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        str(dataset.get("Rows")), str(dataset.get("InstanceNumber"))
    except Exception as error:  # a damaged file can fail in any way
        raise _damaged(path, error) from error
    if not len(dataset):
        raise _damaged(path, "no DICOM element")
    return dataset


def _check_one_series(path: Path, images: Sequence[tuple[Path, Any]]) -> None:
    series = Counter(str(dataset.get("SeriesInstanceUID", "")) for _, dataset in images)
    if len(series) > 1:
        names = {
            str(dataset.get("SeriesInstanceUID", "")): f"{dataset.get('Modality', 'unknown modality')}, series "
            f"{dataset.get('SeriesNumber', '?')} ({dataset.get('SeriesDescription', 'no description')})"
            for _, dataset in images
        }
        raise UserError(
            f"The folder {path} contains several series.",
            expected="the files of one series",
            found=first_of([f"{names[uid]}: {number_of(count, 'file')}" for uid, count in series.items()]),
            fix="move each series to a folder of its own",
        )


def _ordered(path: Path, images: Sequence[tuple[Path, Any]]) -> list[tuple[Path, Any]]:
    """Return the slices sorted along their normal.

    Raises:
        UserError: slices differ in size, kind or direction, have no position, or several have the same.
    """
    first = images[0][1]
    for file, dataset in images:
        for key in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            if dataset.get(key) is None:
                several = int(dataset.get("NumberOfFrames") or 1) > 1
                found = "several frames in one file" if several else f"no {key}"
                raise _unusable(file, "slices with position, orientation and pixel spacing, one in each file", found)
        if int(dataset.get("NumberOfFrames") or 1) > 1:
            raise _unusable(file, "one slice in each file", "several frames in one file")
        for key in _SAME:
            if dataset.get(key) != first.get(key):
                found = f"{key}: {first.get(key)} in {images[0][0].name}, {dataset.get(key)} in {file.name}"
                raise _unusable(path, "slices of one size and kind", found, "keep the files of one volume")
        for key, tolerance in (("ImageOrientationPatient", _ANGLE), ("PixelSpacing", 1e-3)):
            if not np.allclose(_numbers(file, dataset, key), _numbers(file, first, key), 1e-3, tolerance):
                found = f"{key}: {first.get(key)} in {images[0][0].name}, {dataset.get(key)} in {file.name}"
                raise _unusable(path, "parallel slices of one spacing", found, "leave out localizers and other series")
    normal = _normal(images[0][0], first)
    distances = [float(_numbers(file, dataset, "ImagePositionPatient") @ normal) for file, dataset in images]
    order = np.argsort(distances, kind="stable")
    same = [(int(i), int(j)) for i, j in pairwise(order) if distances[j] - distances[i] < 1e-3]
    if same:
        i, j = same[0]
        raise _unusable(
            path, "one image at each position",
            f"{number_of(len(same), 'position')} with several images, such as {images[i][0].name} and "
            f"{images[j][0].name}: time points, echoes, or one file twice",
            "keep the files of one volume",
        )  # fmt: skip
    return [images[int(number)] for number in order]


def _numbers(file: Path, dataset: Any, key: str) -> Values:
    """Return the numbers of an element."""
    try:
        numbers = np.asarray([float(number) for number in dataset.get(key)], np.float64)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if len(numbers) != {"PixelSpacing": 2, "ImageOrientationPatient": 6}.get(key, 3) or not np.isfinite(numbers).all():
        raise _unusable(file, f"numbers in {key}", repr(dataset.get(key)))
    return numbers


def _normal(file: Path, dataset: Any) -> Values:
    """Return the unit normal of a slice, in LPS."""
    cosines = _numbers(file, dataset, "ImageOrientationPatient")
    normal = np.cross(cosines[:3], cosines[3:])
    if not 0.99 < np.linalg.norm(normal) < 1.01:
        raise _unusable(file, "two directions of unit length at right angles", f"ImageOrientationPatient: {cosines}")
    return normal / np.linalg.norm(normal)


def _affine(path: Path, slices: Sequence[tuple[Path, Any]]) -> Values:
    """Return the affine from (column, row, slice) to RAS+.

    The last axis follows the positions: with a tilted gantry, it is oblique to the slices.

    Raises:
        UserError: a slice is missing, or the positions are not evenly spaced on a line.
    """
    file, first = slices[0]
    cosines = _numbers(file, first, "ImageOrientationPatient")
    rows, columns = _numbers(file, first, "PixelSpacing")
    positions = np.array([_numbers(file, dataset, "ImagePositionPatient") for file, dataset in slices])
    normal = _normal(file, first)
    if len(slices) > 1:
        step = (positions[-1] - positions[0]) / (len(slices) - 1)
        _check_even(path, slices, positions, normal)
    else:
        thickness = first.get("SpacingBetweenSlices") or first.get("SliceThickness") or 1
        step = normal * abs(float(thickness))
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2], affine[:3, 3] = (
        cosines[:3] * columns,
        cosines[3:] * rows,
        step,
        positions[0],
    )
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # LPS to RAS
    check_affine(str(path), affine)
    return affine


def _check_even(path: Path, slices: Sequence[tuple[Path, Any]], positions: Values, normal: Values) -> None:
    gaps = np.diff(positions @ normal)
    usual = float(np.median(gaps))
    off = np.flatnonzero(np.abs(gaps - usual) > _EVEN * usual + 1e-3)
    if off.size:
        number = int(off[0])
        ratio = gaps[number] / usual
        missing = ratio > 1.5 and abs(ratio - round(ratio)) < 0.1
        between = f"{gaps[number]:.4g} mm between {slices[number][0].name} and {slices[number + 1][0].name}"
        lost = f" ({number_of(round(ratio) - 1, 'slice')} missing there)" if missing else ""
        raise _unusable(
            path,
            f"slices {usual:.4g} mm apart",
            f"{between}{lost}" + (f", and {number_of(off.size - 1, 'further gap')}" if off.size > 1 else ""),
            "export the series again, with all of its slices" if missing else
            "resample it to an even spacing with a tool that knows such series",
        )  # fmt: skip
    line = positions[0] + np.outer(np.arange(len(slices)) / (len(slices) - 1), positions[-1] - positions[0])
    aside = float(np.linalg.norm(positions - line, axis=1).max())
    if aside > max(_EVEN * usual * len(slices), 0.1):
        raise _unusable(path, "slices whose corners lie on a line", f"one lies {aside:.3g} mm beside it", _CONVERT)


def _pixels(file: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the rescaled values of a slice, (rows, columns) float64, or (rows, columns, 3) uint8.

    Raises:
        UserError: the file is damaged, or compressed in a way that cannot be undone here.
    """
    import pydicom
    from pydicom.pixels import apply_modality_lut

    syntax = None
    try:
        dataset = pydicom.dcmread(file, force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:  # a file without preamble
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        syntax = dataset.file_meta.TransferSyntaxUID
        stored = dataset.pixel_array
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        if no_space(error):
            raise
        if syntax is not None and syntax.is_compressed and isinstance(error, RuntimeError | NotImplementedError):
            raise UserError(
                f"Cannot unpack {file}.", expected="a transfer syntax that pydicom reads here", found=syntax.name,
                fix="pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg; or unpack it with `gdcmconv --raw`",
            ) from error  # fmt: skip
        raise _damaged(file, error) from error
    kind = str(dataset.get("PhotometricInterpretation", ""))
    if stored.shape != shape or (stored.ndim == 3 and stored.dtype != np.uint8) or kind == "PALETTE COLOR":
        found = f"{kind}, {stored.dtype} values of shape {stored.shape}"
        raise _unusable(file, "grey values, or RGB with 8 bits per channel", found, _CONVERT)
    if stored.ndim == 3:
        return stored
    values = apply_modality_lut(stored, dataset).astype(np.float64)
    padding = _padding(dataset)
    if padding is not None:
        values[(stored >= padding[0]) & (stored <= padding[1])] = np.nan
    return values


def _padding(dataset: Any) -> tuple[int, int] | None:
    """Return the range of stored values that mark pixels outside of the image."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return None
    limit = dataset.get("PixelPaddingRangeLimit", value)
    return min(int(value), int(limit)), max(int(value), int(limit))


def _window(dataset: Any) -> tuple[float, float] | None:
    """Return the first window of a slice as the values that become black and white (DICOM PS3.3, C.11.2.1.2)."""
    try:
        centre, width = (float(np.ravel(dataset.get(key))[0]) for key in ("WindowCenter", "WindowWidth"))
    except (TypeError, ValueError, IndexError):
        return None
    if dataset.get("VOILUTFunction", "LINEAR") == "LINEAR":
        centre, width = centre - 0.5, width - 1
    return (centre - width / 2, centre + width / 2) if width > 0 else None


def _unusable(path: Path, expected: str, found: object, fix: str = _CONVERT) -> UserError:
    return UserError(f"Cannot use {path} as a volume.", expected=expected, found=found, fix=fix)


def _damaged(path: Path, found: object) -> UserError:
    text = f"{type(found).__name__}: {found}" if isinstance(found, Exception) else found
    return UserError(
        f"Damaged or unreadable DICOM file: {path}", expected="a complete DICOM image", found=text, fix=_AGAIN
    )

"""NIfTI files: read without loading them into memory, and written slice by slice."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mmfuse.errors import UserError
from mmfuse.files.writing import no_space, whole_file
from mmfuse.volumes.volume import Volume, affines_agree, check_affine

NOT_FOR_DIAGNOSIS = "Not for diagnosis"
_HEADER = 540  # bytes of the longer header
_MOST_PACKED = 1032  # bytes that one byte of a .gz file can become
_MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
_SAME_SPACE = {3, 4, 5}  # codes of template spaces: a qform beside them usually still says where the scanner was
_COMMENT = 6  # code of a header extension with text
_AGAIN = "check the file with nib-diff or another reader; copy or convert it again"


def read_nifti(path: Path) -> Volume:
    """Read a NIfTI-1 or NIfTI-2 file; its voxels stay on the disk, unpacked to a temporary file if they are packed.

    Raises:
        UserError: the file is damaged or cut off, or contains something other than one volume of real values or RGB.
    """
    stream, size = _unpacked(path)
    with _readable(path):
        header = _header(path, stream)
        shape = _three(path, header.get_data_shape())
        dtype = _dtype(path, header.get_data_dtype())
        slope, intercept = header.get_slope_inter()
        affine = _affine(path, header, shape)
        start = header.get_data_offset()
    expected = start + dtype.itemsize * int(np.prod(shape, dtype=object))
    if size < expected or start < header.sizeof_hdr:
        raise _damaged(path, f"{size} bytes" if size < expected else f"voxels from byte {start}", f"{expected} bytes")
    data: Any
    if dtype.names:
        data = np.memmap(stream, np.uint8, "r", start, (dtype.itemsize, *shape), "F")
        data = np.moveaxis(data, 0, -1)[..., :3]
    else:
        data = np.memmap(stream, dtype, "r", start, shape, "F")
    real = float(1 if slope is None else slope), float(intercept or 0)
    window = float(header["cal_min"]), float(header["cal_max"])
    return Volume(
        str(path), data, affine, located=_codes(header) != (0, 0), slope=real[0], intercept=real[1],
        window=window if window[0] < window[1] and np.isfinite(window).all() else None,
        window_source="the file's display range", header=header, notes=_notes(header, affine, shape),
    )  # fmt: skip


def _unpacked(path: Path) -> tuple[IO[bytes], int]:
    """Return a stream of the file's unpacked bytes and their number; a packed file is unpacked to its end and checked.

    The temporary file has no name, so that nothing is left of it whatever happens.
    """
    stream: IO[bytes] = path.open("rb")
    packed = stream.read(2) == b"\x1f\x8b"
    stream.seek(0)
    if packed:
        with _readable(path), stream, gzip.open(stream) as content:
            start = content.read(_HEADER)
            most = _expected_size(start)
            if most > _MOST_PACKED * path.stat().st_size + _HEADER:
                raise _damaged(path, f"{path.stat().st_size} bytes, packed", f"at least {most} bytes when unpacked")
            stream = tempfile.TemporaryFile()  # noqa: SIM115 - the volume keeps it
            stream.write(start)
            shutil.copyfileobj(content, stream, 1 << 20)
            stream.flush()
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    return stream, size


def _kind(start: bytes) -> tuple[Any, bytes]:
    """Return nibabel's class for a header, and its magic bytes."""
    import nibabel as nib

    second = start[4:8] in {b"n+2\0", b"ni2\0"}
    return (nib.Nifti2Header, start[4:8]) if second else (nib.Nifti1Header, start[344:348])


def _expected_size(start: bytes) -> int:
    """Return how many bytes a NIfTI file needs, by its header; 0 if that is damaged, which reading it tells."""
    kind, _ = _kind(start)
    try:
        header = kind(start[: kind.template_dtype.itemsize], check=False)
        count = np.prod([int(n) for n in header.get_data_shape()], dtype=object)
        return int(header.get_data_offset()) + int(header.get_data_dtype().itemsize * count)
    except Exception:  # nibabel has many ways to fail
        return 0


def _header(path: Path, stream: IO[bytes]) -> Any:
    from nibabel.imageglobals import LoggingOutputSuppressor

    kind, magic = _kind(stream.read(_HEADER))
    stream.seek(0)
    if magic in {b"ni1\0", b"ni2\0", b"\0\0\0\0"}:
        raise UserError(
            f"Cannot use the volume {path}.",
            expected="a NIfTI file with header and voxels in one (.nii or .nii.gz)",
            found="the header of a pair .hdr and .img, or an Analyze file, which has no positions",
            fix="convert it to .nii.gz",
        )
    with LoggingOutputSuppressor():
        return kind.from_fileobj(stream)


def _three(path: Path, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the shape of a single volume.

    Raises:
        UserError: there are several volumes, or none.
    """
    sides = [int(n) for n in shape]
    while len(sides) > 3 and sides[-1] == 1:
        sides.pop()
    sides += [1] * (3 - len(sides))
    if len(sides) > 3 or min(sides) < 1:
        raise UserError(
            f"Cannot use {path}.",
            expected="one volume of three dimensions",
            found=f"{len(sides)} dimensions: {' x '.join(map(str, sides))}"
            + (", such as a time series" if len(sides) == 4 else ""),
            fix="save the volume that you mean, such as one time point or the mean, as a file of its own",
        )
    return sides[0], sides[1], sides[2]


def _dtype(path: Path, dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.names and dtype.names[:3] == ("R", "G", "B"):
        return dtype
    if dtype.names or dtype.kind not in "iuf":
        raise UserError(
            f"Cannot use the volume {path}.",
            expected="real numbers, or RGB with 8 bits per channel",
            found="complex numbers" if dtype.kind == "c" else f"values of the type {dtype}",
            fix="save the part that you mean, such as the magnitude, as a file of its own",
        )
    return dtype


def _codes(header: Any) -> tuple[int, int]:
    return int(header["sform_code"]), int(header["qform_code"])


def _affine(path: Path, header: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the affine in millimetres: the sform, else the qform, else voxel sizes alone.

    Raises:
        UserError: it cannot be used, or sform and qform contradict each other.
    """
    affine = np.asarray(header.get_best_affine(), np.float64)
    check_affine(str(path), affine)
    sform, qform = _codes(header)
    if sform and qform and sform == qform:
        other = np.asarray(header.get_qform(), np.float64)
        if not affines_agree(affine, other, shape):
            raise UserError(
                f"The geometry of {path} is contradictory.",
                expected="a sform and a qform that agree, because both have the code " + str(sform),
                found=f"sform {_text(affine)}, qform {_text(other)}",
                fix="find out which one is right, and set the other to it (set_qform or set_sform of nibabel)",
            )
    factor = _MILLIMETRES.get(header.get_xyzt_units()[0], 1.0)
    return np.diag([factor, factor, factor, 1.0]) @ affine


def _text(affine: NDArray[np.float64]) -> str:
    return np.array2string(affine[:3], precision=3, suppress_small=True).replace("\n", "")


def _notes(header: Any, affine: NDArray[np.float64], shape: tuple[int, ...]) -> list[str]:
    sform, qform = _codes(header)
    if not sform and not qform:
        return ["the file has voxel sizes, but no positions and no orientation: axes are taken for right, anterior and "
                "superior"]  # fmt: skip
    if sform and qform and sform != qform and not affines_agree(affine, np.asarray(header.get_qform()), shape):
        return [f"the sform (code {sform}) is used; the qform (code {qform}) says other positions"]
    return []


def output_header(volume: Volume, *, colour: bool, told: Mapping[str, Any]) -> Any:
    """Return the header of a fused volume on the grid of another one: its geometry is kept to the bit.

    Names, comments and extensions of the source, which may say whose volume it is, are left out.

    Args:
        volume: The volume whose grid it is.
        colour: Whether the result is in colour; else it holds numbers from 0 to 1.
        told: What is recorded in the file, as JSON in a comment.
    """
    import nibabel as nib

    if volume.header is None:
        header = nib.Nifti1Header()
        header.set_data_shape(volume.shape)
        header.set_zooms(volume.spacing)
        header.set_sform(volume.affine, 1)
        header.set_qform(volume.affine, 1)
        if not affines_agree(np.asarray(header.get_sform()), np.asarray(header.get_qform()), volume.shape):
            header["qform_code"] = 0  # a gantry tilt, which a qform cannot express
        header.set_xyzt_units("mm")
    else:
        header = volume.header.as_byteswapped("<")
        header.extensions.clear()
        header["dim"][:] = [3, *volume.shape, 1, 1, 1, 1]
        for key in ("intent_name", "aux_file", "db_name"):
            if key in header:
                header[key] = b""
        header.set_intent("none")
    header.set_data_dtype(np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]) if colour else np.float32)
    header.set_slope_inter(1, 0)
    header["cal_min"], header["cal_max"] = (0, 255) if colour else (0, 1)
    header["descrip"] = f"Fused by mmfuse. {NOT_FOR_DIAGNOSIS}.".encode()
    text = json.dumps(told, sort_keys=True, ensure_ascii=False).encode()
    header.extensions.append(nib.nifti1.Nifti1Extension(_COMMENT, text))
    header.set_data_offset(0)  # the smallest one that leaves room for the comment
    return header


@contextlib.contextmanager
def written(target: Path, header: Any) -> Iterator[NDArray[Any]]:
    """Provide the voxels of a NIfTI file to fill; the file exists, complete, when the block ends without an error.

    Voxels are (X, Y, Z) float32 or (X, Y, Z, 3) uint8, mapped from a file: they take no memory of their own.

    Raises:
        UserError: the file cannot be written.
    """
    shape = tuple(header.get_data_shape())
    dtype = header.get_data_dtype().newbyteorder("<")
    packed = target.name.lower().endswith(".gz")
    with whole_file(target) as temporary, contextlib.ExitStack() as stack:
        stream: Any
        if packed:
            stream = stack.enter_context(tempfile.TemporaryFile(dir=temporary.parent))
        else:
            stream = stack.enter_context(temporary.open("w+b"))
        header.write_to(stream)
        start = header.get_data_offset()
        # reserved beforehand: a full disk would end a process that writes to mapped memory
        os.posix_fallocate(stream.fileno(), 0, start + dtype.itemsize * int(np.prod(shape)))
        kind, sides = (np.dtype(np.uint8), (3, *shape)) if dtype.names else (dtype, shape)
        raw = np.memmap(stream, kind, "r+", start, sides, "F")
        yield np.moveaxis(raw, 0, -1) if dtype.names else raw
        raw.flush()
        if packed:
            stream.seek(0)
            with temporary.open("wb") as out, gzip.GzipFile("", "wb", 6, out, mtime=0) as content:
                shutil.copyfileobj(stream, content, 1 << 20)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn errors of gzip and nibabel about a file into one clear error."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # nibabel has many ways to fail
        if no_space(error):
            raise
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _damaged(path: Path, found: str, expected: str = "a complete NIfTI file (.nii or .nii.gz)") -> UserError:
    return UserError(f"Damaged or unreadable volume: {path}", expected=expected, found=found, fix=_AGAIN)

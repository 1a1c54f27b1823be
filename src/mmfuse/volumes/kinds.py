"""Which files and folders are volumes, judged without the packages that read them."""

from __future__ import annotations

import gzip
import re
import zlib
from importlib.util import find_spec
from pathlib import Path

from mmfuse.data.kinds import SUFFIXES
from mmfuse.errors import UserError

NIFTI = (".nii.gz", ".nii")
DICOM = (".dcm", ".ima", ".dicom")
PACKAGES = ("nibabel", "pydicom", "SimpleITK")
_START = 352  # bytes of a NIfTI-1 header
_MAGIC = re.compile(rb".{344}n[+i]1\0|.{4}n[+i]2\0", re.DOTALL)


def check_packages() -> None:
    """Check that the packages that read volumes are installed.

    Raises:
        UserError: one of them is missing.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(
            "Volumes need packages that are not installed.",
            expected="the optional extra mmfuse[medical]",
            found=f"no {', no '.join(missing)}",
            fix="pip install 'mmfuse[medical]'",
        )


def has_nifti_name(path: Path) -> bool:
    """Return whether a path ends in .nii or .nii.gz."""
    return path.name.lower().endswith(NIFTI)


def is_nifti(path: Path) -> bool:
    """Return whether a file is a NIfTI volume by its name or its first bytes."""
    return has_nifti_name(path) or bool(_MAGIC.match(_start(path)))


def is_dicom(path: Path) -> bool:
    """Return whether a file is a DICOM file by its name or its first bytes."""
    return path.suffix.lower() in DICOM or _start(path)[128:132] == b"DICM"


def is_volume(path: Path) -> bool:
    """Return whether a path is a NIfTI file, a DICOM file, or a folder that contains DICOM files and no images."""
    if not path.is_dir():
        return is_nifti(path) or is_dicom(path)
    files = [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")]
    return not any(file.suffix.lower() in SUFFIXES for file in files) and any(map(is_dicom, files))


def _start(path: Path) -> bytes:
    """Return the first bytes of a file, unpacked; fewer if it cannot be read."""
    try:
        with path.open("rb") as stream:
            start = stream.read(_START)
        if not start.startswith(b"\x1f\x8b"):
            return start
        with gzip.open(path) as packed:
            return packed.read(_START)
    except (OSError, EOFError, zlib.error):
        return b""

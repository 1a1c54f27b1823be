"""Safe unpacking of untrusted archives: only plain files inside the target folder, and no archive bombs."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NoReturn, cast

from mmfuse.errors import UserError
from mmfuse.progress import progress

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
_CHUNK = 1 << 16
# errors of the readers for bytes that are not an archive; ValueError for invalid names and numbers
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, ValueError,
    struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """Limits beyond which an archive counts as a bomb.

    Attributes:
        files: Number of members.
        total: Total number of unpacked bytes.
        ratio: Unpacked bytes per byte of the archive; images are already compressed, so normal archives are far below.
        spare: Bytes that any archive may unpack to regardless of its ratio, because text files compress very well.
    """

    files: int = 200_000
    total: int = 64 << 30
    ratio: int = 200
    spare: int = 16 << 20


def is_archive(path: Path) -> bool:
    """Say whether a file has the name of an archive that `extract` reads."""
    return path.name.lower().endswith(ARCHIVES)


def extract(archive: Path, folder: Path, *, limits: Limits | None = None) -> int:
    """Unpack a zip or tar archive into an empty folder and return the number of its files.

    Raises:
        UserError: the archive is damaged, or a member is a link or a device, is encrypted, leaves the folder, occurs
            twice, or makes the archive exceed the limits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unpacking = _Unpacking(archive, folder, limits or Limits())
    try:
        if archive.name.lower().endswith(".zip"):
            unpacking.zip()
        else:
            unpacking.tar()
    except _DAMAGE as error:
        unpacking.damaged(error)
    except OSError as error:
        if error.errno in {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL}:
            unpacking.refuse("has a name that cannot be stored with the others")
        if error.errno is None:  # raised by gzip and bz2 for bad data
            unpacking.damaged(error)
        raise
    return unpacking.files


class _Unpacking:
    """An archive being unpacked into a folder, with the running totals of its members."""

    def __init__(self, archive: Path, folder: Path, limits: Limits) -> None:
        self.archive, self.folder, self.limits = archive, folder, limits
        self.allowed = min(limits.total, max(limits.spare, limits.ratio * archive.stat().st_size))
        self.files = self.bytes = 0
        self.member = "(none yet)"
        self.seen: set[str] = set()

    def refuse(self, why: str) -> NoReturn:
        """Stop at the current member."""
        raise UserError(
            f"Refused to unpack {self.archive}: the member {self.member!r} {why}.",
            expected="plain files and folders inside the archive's own root",
            fix="nothing was kept; download the archive from its original source",
        )

    def damaged(self, error: Exception) -> NoReturn:
        """Stop because the archive cannot be read."""
        raise UserError(
            f"The archive is damaged: {self.archive}",
            found=f"{type(error).__name__}: {error} (last member: {self.member!r})",
            fix="delete it and download it again",
        ) from error

    def admit(self, name: str, size: int) -> PurePosixPath:
        """Check the next member's name and declared size; return its path below the folder."""
        self.member = name
        path = PurePosixPath(name)
        # a backslash or a colon is a separator or a drive on some systems, and control characters hide a name
        unsafe = r"[\\:\x00-\x1f\x7f-\x9f\ud800-\udfff]"
        if not path.parts or path.is_absolute() or ".." in path.parts or re.search(unsafe, name):
            self.refuse("has an unsafe name")
        if path.as_posix().casefold() in self.seen:
            self.refuse("occurs twice (upper and lower case are treated as equal)")
        self.seen.add(path.as_posix().casefold())
        self.files += 1
        if self.files > self.limits.files:
            self.refuse(f"is one too many: more than {self.limits.files} members")
        self.spend(size, only_ask=True)
        return path

    def spend(self, size: int, *, only_ask: bool = False) -> None:
        """Count unpacked bytes."""
        if self.bytes + size > self.allowed:
            self.refuse(
                f"would unpack {self.bytes + size} bytes from an archive of {self.archive.stat().st_size} "
                f"(at most {self.allowed} are allowed)"
            )
        self.bytes += 0 if only_ask else size

    def zip(self) -> None:
        """Unpack a zip archive."""
        with zipfile.ZipFile(self.archive) as archive:
            for info in progress(archive.infolist(), f"unpack {self.archive.name}", unit="files"):
                if info.orig_filename == "./":
                    continue
                path = self.admit(info.orig_filename, info.file_size)
                if stat.S_IFMT(info.external_attr >> 16) not in {0, stat.S_IFREG, stat.S_IFDIR}:
                    self.refuse("is a link or a device")
                if info.flag_bits & 1:
                    self.refuse("is encrypted")
                target = self.folder / path
                if info.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as source, target.open("xb") as stream:
                    while chunk := source.read(_CHUNK):
                        self.spend(len(chunk))
                        stream.write(chunk)

    def tar(self) -> None:
        """Unpack a tar archive, compressed or not, in one pass."""
        with _decompressed(self.archive) as source, tarfile.open(fileobj=_Metered(source, self), mode="r|") as archive:
            for member in progress(archive, f"unpack {self.archive.name}", unit="files"):
                if member.isdir() and member.name == ".":  # the first member written by `tar -C folder .`
                    continue
                path = self.admit(member.name, member.size)
                if not member.isdir() and (not member.isreg() or member.issparse()):
                    self.refuse("is a link, a device or a sparse file")
                if member.isreg():
                    self.spend(member.size)
                member.name = path.as_posix()
                # PEP 706's filter repeats these checks in the standard library
                archive.extract(member, self.folder, set_attrs=False, filter="data")


def _decompressed(archive: Path) -> BinaryIO:
    """Open a tar file with the decompressor that its first bytes indicate."""
    with archive.open("rb") as stream:
        start = stream.read(6)
    if start.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.open(archive))
    if start.startswith(b"BZh"):
        return cast(BinaryIO, bz2.open(archive))
    if start == b"\xfd7zXZ\x00":
        return cast(BinaryIO, lzma.open(archive))
    return archive.open("rb")


class _Metered(io.RawIOBase):
    """A reader that stops at a bomb made of headers alone, which the totals of the members do not include."""

    def __init__(self, source: BinaryIO, unpacking: _Unpacking) -> None:
        super().__init__()
        self.source, self.unpacking, self.read_so_far = source, unpacking, 0

    def read(self, size: int = -1) -> bytes:
        """Read more bytes."""
        data = self.source.read(size)
        self.read_so_far += len(data)
        if self.read_so_far > self.unpacking.allowed + 4096 * self.unpacking.files + (1 << 20):
            self.unpacking.refuse("is followed by more headers than files")
        return data

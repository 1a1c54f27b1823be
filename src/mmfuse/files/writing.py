"""Write files completely or not at all, and compute their checksums."""

from __future__ import annotations

import contextlib
import csv
import ctypes
import errno
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from mmfuse.errors import UserError, causes

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux: relative to the current folder; swap two names
_OLD = ".old.part"
_FORMULA = "=+-@\t\uff1d\uff0b\uff0d\uff20"  # first characters of a spreadsheet's formula, also in full width


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_below(folder: Path) -> list[Path]:
    """List all files below a folder, sorted by their relative path; hidden ones (a leading dot) are left out."""
    found = (p for p in folder.rglob("*") if p.is_file())
    relative = sorted(p.relative_to(folder) for p in found)
    return [folder / p for p in relative if not any(part.startswith(".") for part in p.parts)]


def checksum(path: Path, digest_of: Callable[[Path], str] = sha256) -> str:
    """Return one SHA-256 for a file, or for a folder's relative names and contents together.

    Args:
        path: A file or a folder.
        digest_of: Returns the checksum of one file.
    """
    if path.is_file():
        return digest_of(path)
    digest = hashlib.sha256()
    for file in files_below(path):
        digest.update(f"{file.relative_to(path).as_posix()}\0{digest_of(file)}\n".encode())
    return digest.hexdigest()


def check_file_name(path: Path) -> None:
    """Check that a file's name can be used in tables, lists and pages: text without control characters.

    Raises:
        UserError: it cannot.
    """
    if re.search(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]", path.name):
        raise UserError(
            f"A file name in {str(path.parent)!a} cannot be used.",
            expected="a name in UTF-8 without line breaks, marks of writing direction and other control characters",
            found=ascii(path.name),
            fix="rename it",
        )


_NO_SPACE = {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG}


def no_space(error: BaseException) -> str | None:
    """Return the operating system's message if an error comes from a full or read-only disk, else None.

    A limit on the size of files counts as well. Some libraries keep only the system's message.
    """
    words = [os.strerror(number) for number in _NO_SPACE]
    for inner in causes(error):
        if isinstance(inner, OSError) and inner.errno in _NO_SPACE:
            return inner.strerror or words[0]
        said = next((word for word in words if word in str(inner)), None)
        if said:
            return said
    return None


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Turn the operating system's errors about an unwritable target into one clear error."""
    try:
        yield
    except (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError) as error:
        raise UserError(
            f"Cannot write {target}.",
            expected="a folder that this user may write to",
            found=f"{type(error).__name__}: {error.strerror or error}",
            fix="choose another output folder or change its permissions",
        ) from error
    except Exception as error:
        found = None if isinstance(error, UserError) else no_space(error)
        if found is None:
            raise
        raise UserError(
            f"Cannot write {target}.",
            expected="a writable disk with free space",
            found=found,
            fix="free some space, raise the limit on the size of files (ulimit -f) or choose another output folder, "
            "then run the same command again",
        ) from error


def _prefix(target: Path) -> str:
    """Return the prefix of a target's temporary files: unique to it, and short, because its own name may be long."""
    own = hashlib.sha256(target.name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f".{target.name[:40]}.{own}."


def remove_leftovers(target: Path) -> None:
    """Remove the temporary files and folders that a killed process left beside a target.

    Call this only where no other process can be writing the same target.
    """
    if target.parent.is_dir():
        for path in [p for p in target.parent.iterdir() if p.name.startswith(_prefix(target)) and p.suffix == ".part"]:
            if path.name.endswith(_OLD) and not target.exists():  # stopped while two folders were swapped
                path.replace(target)
            else:
                remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _temporary_beside(target: Path, *, folder: bool) -> Path:
    """Make an empty hidden file or folder beside the target."""
    prefix = _prefix(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if folder:
            return Path(tempfile.mkdtemp(prefix=prefix, suffix=".part", dir=target.parent))
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=".part", dir=target.parent)
    except FileNotFoundError as error:  # raised in /proc and the like
        raise PermissionError("nothing can be created there") from error
    os.close(handle)
    return Path(name)


def _sync(path: Path) -> None:
    """Flush a file or folder to the disk, so that after a power cut no renamed file lacks its content."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(new: Path, old: Path) -> None:
    """Swap the names of two folders: in one step on Linux, so that a stop at any time leaves a whole one at `old`."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None, use_errno=True)
        names = (os.fsencode(path.absolute()) for path in (new, old))
        if libc.renameat2(_AT_FDCWD, next(names), _AT_FDCWD, next(names), _RENAME_EXCHANGE) == 0:
            return
    # other systems and some network file systems
    aside = new.with_name(f"{new.stem}{_OLD}")
    old.replace(aside)
    new.replace(old)
    aside.replace(new)


@contextlib.contextmanager
def _whole(target: Path, *, folder: bool) -> Iterator[Path]:
    """Yield a temporary file or folder beside `target`, which takes the target's name if there is no error."""
    with _writing(target):
        temporary = _temporary_beside(target, folder=folder)
        try:
            yield temporary
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod((0o777 if folder else 0o666) & ~mask)
            for file in files_below(temporary) if folder else [temporary]:
                _sync(file)
            if folder and target.exists():
                _exchange(temporary, target)
            else:
                temporary.replace(target)
            _sync(target.parent)
        finally:
            remove(temporary)


def whole_file(target: Path) -> contextlib.AbstractContextManager[Path]:
    """Provide a temporary path beside `target`; it takes the target's name when the block ends without an error.

    Raises:
        UserError: the target cannot be written.
    """
    return _whole(target, folder=False)


def whole_folder(target: Path) -> contextlib.AbstractContextManager[Path]:
    """Provide a temporary folder beside `target`; it replaces the target when the block ends without an error.

    Raises:
        UserError: the target cannot be written.
    """
    return _whole(target, folder=True)


def behind_link(path: Path) -> Path:
    """Return the file that a link points to, or the path itself: for files that people keep and commands edit.

    Results replace links instead, because these may point into DVC's cache.
    """
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def write_text(target: Path, text: str) -> None:
    """Write a text file (UTF-8), completely or not at all."""
    with whole_file(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def csv_text(lines: Iterable[Iterable[Any]]) -> str:
    """Return lines as CSV for programs; every digit of a number and every name is kept, None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def sheet_text(lines: Iterable[Iterable[Any]]) -> str:
    """Return lines as CSV for people, who open it in a spreadsheet: as `csv_text`, but no cell becomes a formula.

    A text that a spreadsheet would run as a formula, such as the image name `=1+2`, gets a leading apostrophe.
    """
    return csv_text([[_no_formula(cell) for cell in line] for line in lines])


def _no_formula(cell: Any) -> Any:
    if not isinstance(cell, str) or len(cell) < 2 or cell[0] not in _FORMULA:
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def write_json(target: Path, value: Any) -> None:
    """Write a JSON file, completely or not at all; keys are sorted, so that equal values give equal bytes."""
    write_text(target, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_manifest(path: Path) -> dict[str, str]:
    """Read a checksum list in the format of sha256sum: relative name to hexadecimal digest.

    Raises:
        UserError: a line is not `<64 hexadecimal digits>  <name>`.
    """
    entries: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name:
            raise UserError(
                f"{path}, line {number} is not a checksum line.", expected="<sha256>  <file name>", found=line
            )
        entries[name] = digest
    return entries


def write_manifest(path: Path, folder: Path, files: Iterable[Path]) -> None:
    """Write a checksum list of files below a folder in the format of sha256sum."""
    lines = [f"{sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in sorted(files)]
    write_text(path, "".join(lines))

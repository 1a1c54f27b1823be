"""Checksums of files that the engines ask for at every start, without reading the files each time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from mmfuse.errors import UserError
from mmfuse.files.writing import checksum, sha256, write_json

FOLDER = Path(".mmfuse/checksums")
_SETTLED = 2_000_000_000  # ns: a file changed again within the resolution of the clock may have the same times


def remembered_checksum(path: Path, folder: Path = FOLDER) -> str:
    """Return the same as `checksum`, but read only files whose size, times or inode have changed since the last call.

    Args:
        path: A file or a folder.
        folder: Where the checksums are kept, in one file for each path.
    """
    memory = folder / f"{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.json"
    known, seen = _read(memory), {}

    def digest(file: Path) -> str:
        state = file.stat()
        # the inode and the time of its last change differ even if a copy kept the times of its original
        key = f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino} {file}"
        found = known.get(key) or sha256(file)
        if time.time_ns() - state.st_ctime_ns > _SETTLED:
            seen[key] = found
        return str(found)

    whole = checksum(path, digest)
    if seen != known:
        with contextlib.suppress(UserError, OSError):  # such as on a read-only disk: they are computed again
            write_json(memory, seen)
    return whole


def _read(memory: Path) -> dict[str, Any]:
    """Return the checksums that an earlier call has kept; none if the file is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(memory.read_text(encoding="utf-8"))
        return known if isinstance(known, dict) else {}
    return {}

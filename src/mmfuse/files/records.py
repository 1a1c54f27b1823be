"""The records of jobs, run.json, as plain data: every entry has its kind, and a flipped bit is noticed.

The entry `digest` is the SHA-256 of all others. Records of earlier versions do not have it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmfuse.files.reading import damaged, read_json
from mmfuse.files.writing import write_json

_Check = Callable[[object], bool]


def read_record(path: Path, *, fix: str) -> dict[str, Any]:
    """Read a run.json.

    Returns:
        Its entries by name. What the job did not record is {} for entries that have names of their own, else None.

    Raises:
        UserError: the file is missing or not such JSON, was changed after it was written, or has an entry of the wrong
            kind; `fix` says how to create it again.
    """
    written = read_json(path, fix=fix)
    digest = written.pop("digest", None)
    if digest is not None and digest != _digest(written):
        raise damaged(path, "the entries that the job wrote", "others: their digest differs", fix)
    record = {name: value for name, value in written.items() if value is not None}
    for name, (kind, is_right) in _ENTRIES.items():
        if name in record and not is_right(record[name]):
            raise damaged(path, f"{name}: {kind}", f"{name}: {record[name]!r}", fix)
    return {name: {} if is_right({}) else None for name, (_, is_right) in _ENTRIES.items()} | record


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a run.json with its digest, completely or not at all."""
    write_json(path, {**record, "digest": _digest(record)})


def _digest(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a record as JSON would give it back."""
    read = json.loads(json.dumps(record))
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _each(is_right: _Check) -> _Check:
    return lambda value: isinstance(value, dict) and all(is_right(inner) for inner in value.values())


_CHECKSUMS = ("a checksum for each path", _each(_is_text))
_ENTRIES: Mapping[str, tuple[str, _Check]] = {
    "stage": ("a text", _is_text),
    "command": ("a text", _is_text),
    "inputs": _CHECKSUMS,
    "outputs": _CHECKSUMS,
    "parameters": ("values by name", _each(lambda _: True)),
    "versions": ("a version for each library", _each(_is_text)),
    "commit": ("a text or null", _is_text),
    "dirty": ("true or false", lambda value: isinstance(value, bool)),
    "changes": ("a text or null", _is_text),
    "seed": ("a whole number or null", _is_whole),
    "machine": ("texts and numbers by name", _each(lambda value: value is None or _is_text(value) or _is_whole(value))),
    "mlflow": ("texts by name, or null", _each(_is_text)),
    "measured": ("a finite number or a text for each name", _each(lambda value: _is_number(value) or _is_text(value))),
}

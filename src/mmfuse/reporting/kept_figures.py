"""Figures of the last report, used again where nothing that they depend on has changed."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import pickle
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from mmfuse.errors import UserError
from mmfuse.files.writing import files_below, remove, whole_file

FOLDER = Path(".mmfuse/figures")
_PACKAGE = Path(__file__).parents[1]
_LIBRARIES = ("matplotlib", "numpy", "pillow", "fonttools", "kiwisolver")
_BYTES = 32  # of a SHA-256
Files = dict[str, bytes]  # by suffix


class KeptFigures:
    """Figures in a folder, one file for each; its name is a checksum of everything that the figure depends on.

    That is the data, the function that draws them, the style and its fonts, the code of this package, and the versions
    of the libraries. A file that is damaged, or that has the name of another figure, is not used.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._used: set[str] = set()
        versions = [sys.version, zlib.ZLIB_RUNTIME_VERSION, *map(importlib.metadata.version, _LIBRARIES)]
        self._around = hashlib.sha256("\0".join(versions).encode() + _CODE).digest()

    def files(self, paint: Callable[..., None], style: Any, draw: Callable[[], Files]) -> Files:
        """Return the files of a figure, drawn only if they are not kept.

        Args:
            paint: Draws the figure. Only calls of this package's own functions, made with `functools.partial`, are
                kept: the code of others is not part of the checksum.
            style: What else the files depend on.
            draw: Returns the files.
        """
        name = self._name(paint, style)
        if name is None:
            return draw()
        self._used.add(name)
        path = self._folder / name
        found = _read(path)
        if found is None:
            found = draw()
            body = save({ending: np.frombuffer(content, np.uint8) for ending, content in found.items()})
            with contextlib.suppress(UserError, OSError), whole_file(path) as temporary:
                temporary.write_bytes(_checksum(name, body) + body)
        return found

    def remove_others(self) -> None:
        """Remove the figures that this report does not show."""
        with contextlib.suppress(UserError, OSError):
            for path in self._folder.iterdir():
                if path.name not in self._used:
                    remove(path)

    def _name(self, paint: Callable[..., None], style: Any) -> str | None:
        if not isinstance(paint, partial) or paint.func.__module__.partition(".")[0] != _PACKAGE.name:
            return None
        digest = hashlib.sha256(self._around)
        sink: Any = SimpleNamespace(write=digest.update)  # the scores of a large study are not copied
        try:
            pickle.Pickler(sink, pickle.HIGHEST_PROTOCOL).dump((style, paint))
        except (pickle.PicklingError, AttributeError, TypeError):  # such as a function inside a function
            return None
        return digest.hexdigest()


def _read(path: Path) -> Files | None:
    """Return the files of a kept figure; None if there is none or it is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    known, body = content[:_BYTES], content[_BYTES:]
    if known != _checksum(path.name, body):
        return None
    return {ending: values.tobytes() for ending, values in load(body).items()}


def _checksum(name: str, body: bytes) -> bytes:
    return hashlib.sha256(name.encode() + body).digest()


def _code(package: Path) -> bytes:
    """Return a checksum of all code of a package."""
    digest = hashlib.sha256()
    for path in (file for file in files_below(package) if file.suffix == ".py"):
        digest.update(f"\0{path.relative_to(package)}\0".encode() + path.read_bytes())
    return digest.digest()


_CODE = _code(_PACKAGE)  # at the start of the process, whose code stays the same when a file is edited

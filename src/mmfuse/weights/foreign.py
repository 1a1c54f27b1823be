"""Checkpoints written by others, read without running anything in them.

`torch.load` with `weights_only` builds only tensors and plain containers. It rejects a file that refers to any other
class or function, such as the `argparse.Namespace` that many training scripts save with the tensors. Here `Inert`
replaces each such name, which is never looked up, called or imported, so that the tensors can be read.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from mmfuse.errors import UserError

_ZIP, _PREFIX = b"PK\x03\x04", "module."  # the latter is the prefix that a data-parallel wrapper adds to each name
_LEGACY_HEAD = 4  # pickles before the storages in a file from torch before 1.6: magic number, version, system, content
_DEPTH = 3  # maximum nesting depth of a dictionary of tensors


class Inert:
    """Placeholder for an object of a class, or the result of a function, that is not looked up."""

    def __new__(cls, *_args: object, **_more: object) -> Inert:
        """Accept and discard any arguments."""
        return super().__new__(cls)

    def __init__(self, *_args: object, **_more: object) -> None: ...

    def __setstate__(self, _state: object) -> None:
        """Discard the state."""


@dataclass(frozen=True)
class Dictionary:
    """A dictionary of tensors in a file.

    Args:
        file: The file.
        place: The keys that lead to it; empty if it is the whole file.
        tensors: The tensors by name, without a prefix `module.`.
        beside: The other keys at the file's top level.
    """

    file: Path
    place: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    beside: tuple[str, ...]

    def __str__(self) -> str:
        """Return the file's name, with the keys if there are any."""
        return self.file.name + (f" [{'.'.join(self.place)}]" if self.place else "")


def dictionaries(path: Path) -> list[Dictionary]:
    """Return the dictionaries of tensors in a torch checkpoint or a safetensors file.

    Raises:
        UserError: the file is missing, damaged or something else, or contains no such dictionary.
    """
    if not path.is_file():
        raise UserError(f"Checkpoint not found: {path}", fix="name the file that the authors publish")
    try:
        content = _content(path)
    except UserError:
        raise
    except Exception as error:  # an untrusted file can raise any error in its reader
        said = str(error).strip().partition("\n")[0] or "no further information"
        raise UserError(
            f"Not a readable checkpoint: {path}",
            expected="a complete file written by torch.save or safetensors",
            found=f"{type(error).__name__}: {said} ({path.stat().st_size} bytes)",
            fix="download the file again and compare its checksum; nothing in it was run",
        ) from error
    top = tuple(str(key) for key in content) if isinstance(content, Mapping) else ()
    found = [
        Dictionary(path, place, tensors, tuple(key for key in top if place and key != place[0]))
        for place, tensors in _tensors_in(content, ())
    ]
    if not found:
        raise UserError(
            f"{path} contains no dictionary of tensors.",
            expected="tensors by name, at the top level or under a key such as `model` or `state_dict`",
            found=f"the keys {', '.join(top[:10])}" if top else f"an object ({type(content).__name__})",
            fix="save the network's `state_dict()` with the authors' code, and import that file",
        )
    return found


def _content(path: Path) -> Any:
    with path.open("rb") as stream:
        head = stream.read(9)
    if head[8:] == b"{":
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    zipped = head[:4] == _ZIP
    strange = get_unsafe_globals_in_checkpoint(str(path)) if zipped else _globals_of_legacy(path)
    with warnings.catch_warnings(), safe_globals([(Inert, name) for name in strange]):
        warnings.simplefilter("ignore")  # torch's warning about the pickle's version
        # mapped: the optimiser's state, which may be twice as large as the network, stays on disk
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipped)


def _globals_of_legacy(path: Path) -> set[str]:
    """Return the classes and functions that the pickles of an old file refer to, by disassembling them."""
    with path.open("rb") as stream:
        return {
            str(argument).replace(" ", ".")
            for _ in range(_LEGACY_HEAD)
            for opcode, argument, _ in pickletools.genops(stream)
            if opcode.name == "GLOBAL"
        }


def _tensors_in(value: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Yield the tensors directly in a mapping, and those of nested mappings, with the keys that lead there."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return
    tensors = {key: inner for key, inner in value.items() if isinstance(inner, Tensor)}
    if tensors:
        yield place, _without_prefix(tensors)
    if len(place) < _DEPTH:
        for key, inner in value.items():
            yield from _tensors_in(inner, (*place, key))


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    plain = {name.removeprefix(_PREFIX): value for name, value in tensors.items()}
    return plain if len(plain) == len(tensors) else tensors

"""Checkpoints that others wrote, read without running anything that they hold.

`torch.load` with `weights_only` builds tensors and plain containers and nothing else. It refuses a file as soon as that
names any other class or function, such as the `argparse.Namespace` that many training scripts save beside the tensors.
Here every such name stands for `Inert`, which is never looked up, called or imported, so that the tensors can be read.
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

_ZIP, _PREFIX = b"PK\x03\x04", "module."  # the latter is what a data-parallel wrapper puts before every name
_LEGACY_HEAD = 4  # pickles before the storages in a file of torch before 1.6: magic number, version, system, content
_DEPTH = 3  # how far below the top a dictionary of tensors may lie


class Inert:
    """Stands for an object of a class, or the result of a function, that is not looked up."""

    def __new__(cls, *_args: object, **_more: object) -> Inert:
        """Take any arguments and keep none."""
        return super().__new__(cls)

    def __init__(self, *_args: object, **_more: object) -> None: ...

    def __setstate__(self, _state: object) -> None:
        """Keep nothing of the state."""


@dataclass(frozen=True)
class Dictionary:
    """A dictionary of tensors in a file.

    Args:
        file: The file.
        place: The keys that lead to it; none where it is the whole file.
        tensors: The tensors by name, without a prefix `module.`.
        beside: The other keys at the file's top.
    """

    file: Path
    place: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    beside: tuple[str, ...]

    def __str__(self) -> str:
        """Return the file's name, with the keys if there are any."""
        return self.file.name + (f" [{'.'.join(self.place)}]" if self.place else "")


def dictionaries(path: Path) -> list[Dictionary]:
    """Return the dictionaries of tensors in a checkpoint of torch or a file of safetensors.

    Raises:
        UserError: the file is missing, damaged or something else, or holds no such dictionary.
    """
    if not path.is_file():
        raise UserError(f"Checkpoint not found: {path}", fix="name the file that the authors publish")
    try:
        content = _content(path)
    except UserError:
        raise
    except Exception as error:  # a stranger's file can make its reader say anything
        said = str(error).strip().partition("\n")[0] or "no more is known"
        raise UserError(
            f"Not a readable checkpoint: {path}",
            expected="a file that torch.save or safetensors wrote, complete",
            found=f"{type(error).__name__}: {said} ({path.stat().st_size} bytes)",
            fix="fetch the file again and compare its checksum; nothing in it was run",
        ) from error
    top = tuple(str(key) for key in content) if isinstance(content, Mapping) else ()
    found = [
        Dictionary(path, place, tensors, tuple(key for key in top if place and key != place[0]))
        for place, tensors in _tensors_in(content, ())
    ]
    if not found:
        raise UserError(
            f"{path} holds no dictionary of tensors.",
            expected="tensors by name, at the top or below a key such as `model` or `state_dict`",
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
        warnings.simplefilter("ignore")  # what torch thinks of the pickle's version
        # mapped: the optimizer's state, which may be twice as large as the network, stays on the disk
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipped)


def _globals_of_legacy(path: Path) -> set[str]:
    """Return the classes and functions that the pickles of an old file name, by taking them apart."""
    with path.open("rb") as stream:
        return {
            str(argument).replace(" ", ".")
            for _ in range(_LEGACY_HEAD)
            for opcode, argument, _ in pickletools.genops(stream)
            if opcode.name == "GLOBAL"
        }


def _tensors_in(value: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Yield the tensors directly in a mapping, and those of the mappings below it, with the keys that lead there."""
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

"""Packs: the image pairs of one split in one memory-mapped file.

A pack is a safetensors file (opening it runs no code) with tensors `000000.a`, `000000.b` and, if the dataset has
labels, `000000.mask` and `000000.boxes`; its metadata contain the names of the samples.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mmfuse.errors import UserError
from mmfuse.files.writing import whole_file

T = TypeVar("T")
_DTYPES = {"U8": np.uint8, "F32": np.float32}
_KINDS = (("a", "U8", (2, 3)), ("b", "U8", (2, 3)), ("mask", "U8", (2,)), ("boxes", "F32", (2,)))  # and numbers of axes


class _Sample(TypedDict):
    name: str
    a: NDArray[np.uint8]
    b: NDArray[np.uint8]


class Sample(_Sample, total=False):
    """One pair: `a`, `b` (H, W) or (H, W, 3) uint8; `mask` (H, W) uint8; `boxes` (n, 5) float32 class, cx, cy, w, h."""

    mask: NDArray[np.uint8]
    boxes: NDArray[np.float32]


def patch_name(name: str, top: int, left: int) -> str:
    """Return the name of a patch: the name of its pair and the position of its top left corner."""
    return f"{name}@{top},{left}"


def pair_of(patch: str) -> str:
    """Return the name of the pair from which a patch was cut."""
    return patch.rpartition("@")[0]


def spread(items: Sequence[T], count: int, what: str, asked: str) -> list[T]:
    """Return `count` of the items, evenly spread over their order, so that each case or scene is represented.

    Args:
        items: What to choose from.
        count: How many.
        what: Description of the pairs, for the message.
        asked: The parameter that sets the number.

    Raises:
        UserError: there are fewer items.
    """
    if count > len(items):
        raise UserError(
            f"{what}: there are fewer pairs than {asked} requires.",
            expected=f"at least {count}",
            found=len(items),
            fix="lower the number in params.yaml, or remove it to use all pairs",
        )
    return [items[number * len(items) // count] for number in range(count)]


@contextlib.contextmanager
def pack_writer(path: Path) -> Iterator[Callable[[Sample], None]]:
    """Yield a function that adds a sample to a pack; the pack is written when the block ends without an error.

    Samples first go to an unnamed file on the same disk, so that only one of them is in memory at a time.

    Raises:
        UserError: the path is not writable.
    """
    names: list[str] = []
    kept: list[tuple[str, np.dtype[Any], tuple[int, ...], int]] = []  # key, dtype, shape and offset
    with whole_file(path) as temporary, tempfile.TemporaryFile(dir=path.parent) as spool:

        def add(sample: Sample) -> None:
            for key, value in sample.items():
                if isinstance(value, np.ndarray):
                    kept.append((f"{len(names):06d}.{key}", value.dtype, value.shape, spool.tell()))
                    spool.write(np.ascontiguousarray(value).data)
            names.append(sample["name"])

        yield add
        spool.flush()
        os.fsync(spool.fileno())  # a full network disk may report it only now, and lost data cannot be mapped
        stored = np.memmap(spool, np.uint8, "r") if spool.tell() else np.empty(0, np.uint8)
        tensors = {
            key: stored[begin : begin + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
            for key, dtype, shape, begin in kept
        }
        save_file(tensors, temporary, metadata={"names": json.dumps(names, ensure_ascii=False)})


def write_pack(path: Path, samples: Iterable[Sample]) -> None:
    """Write a pack atomically; equal samples give equal bytes."""
    with pack_writer(path) as add:
        for sample in samples:
            add(sample)


class Pack:
    """Read access to a pack; arrays are read-only views of the memory-mapped file, so opening costs nothing.

    Args:
        path: The file that `write_pack` wrote.

    Raises:
        UserError: the file is missing or not a pack.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise UserError(f"Pack not found: {path}", fix="run the stages `download` and `prepare` for this dataset")
        try:
            with safe_open(path, framework="numpy") as checked:  # accepts only well-formed offsets and shapes
                self.names: list[str] = json.loads(checked.metadata()["names"])
            with path.open("rb") as stream:
                start = 8 + int.from_bytes(stream.read(8), "little")
                self._entries: dict[str, dict[str, Any]] = json.loads(stream.read(start - 8))
            self._check()
        except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise UserError(
                f"Not a readable pack: {path}",
                expected="a .safetensors file written by the stage `prepare`",
                found=f"{type(error).__name__}: {error}",
                fix="delete it and run the stage `prepare` again",
            ) from error
        self._bytes = np.memmap(path, np.uint8, "r")[start:]

    def _check(self) -> None:
        """Check what safetensors does not: that names are valid file names, and that each has two images."""
        if not isinstance(self.names, list):
            raise TypeError("the names are not a list")
        for number, name in enumerate(self.names):
            if name in {"", ".."} or name != Path(name).name:  # it becomes the name of a file
                raise ValueError(f"{name!r} is not a valid name of an image")
            for key, kind, ranks in _KINDS:
                entry = self._entries.get(f"{number:06d}.{key}")
                if entry is None and key in {"a", "b"}:
                    raise ValueError(f"{name} lacks its image {key}")
                if entry is not None and (entry["dtype"] != kind or len(entry["shape"]) not in ranks):
                    raise ValueError(f"{name} has an invalid {key}: {entry['dtype']} of shape {entry['shape']}")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        sample: dict[str, Any] = {"name": self.names[index]}
        for key in ("a", "b", "mask", "boxes"):
            entry = self._entries.get(f"{index:06d}.{key}")
            if entry is not None:
                begin, end = entry["data_offsets"]
                sample[key] = self._bytes[begin:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
        return sample  # type: ignore[return-value]

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

"""Memory: limits as people write them, what the machine has, and what a network needs for an image of a size."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import resource
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmfuse.errors import UserError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SHARE = 0.8  # of the machine's memory, without a limit
_SIDES = (64, 128)  # of the images with which the need is measured
# libraries hold copies of features in other memory layouts, which torch does not count: the shipped network takes 1.9
# times as much as torch counts
_UNSEEN = 2.5


def parsed(limit: str | int) -> int:
    """Return a limit such as `4 GiB`, `500MB` or a number of bytes in bytes.

    Raises:
        UserError: it is no positive number with a known unit.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*([A-Za-z]*)\s*", str(limit))
    factor = _UNITS.get(match[2].upper()) if match else None
    if match is None or factor is None or float(match[1]) * factor < 1:
        raise UserError(
            "The memory limit is wrong.", expected="a number with a unit, such as 4GiB or 500MB; without unit, bytes",
            found=limit, fix="correct it",
        )  # fmt: skip
    return int(float(match[1]) * factor)


def as_text(amount: float) -> str:
    """Return an amount of memory for people."""
    return f"{amount / 2**30:.1f} GiB" if amount >= 2**30 else f"{amount / 2**20:.0f} MiB"


def of_machine() -> int:
    """Return most of the memory that the machine, or its container, has, in bytes."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no container, or no limit
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return int(_SHARE * total)


def in_use() -> int:
    """Return the memory that this process uses, in bytes; where that is not known, its peak."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)


@dataclass
class Limit:
    """How much memory the process may use.

    Attributes:
        most: Bytes.
        asked: Whether a user set it; otherwise it is what the machine has.
        say: Takes a message when an image is fused in tiles.
        base: Bytes that the process uses besides images, once that is known.
    """

    most: int
    asked: bool = True
    say: Callable[[str], None] = lambda _: None
    base: int | None = None

    def room(self, images: int, held: int) -> int:
        """Return the bytes that remain for a network.

        The process itself is measured at the first call: later, it may keep memory that it can use again.

        Args:
            images: Bytes of the images that are in memory.
            held: Bytes that these images need further, for their results.
        """
        if self.base is None:
            self.base = in_use() - images
        return self.most - self.base - images - held


def limit(asked: str | int | None, say: Callable[[str], None] = lambda _: None) -> Limit:
    """Return a limit that a user sets, such as `4 GiB`, or else that of the machine.

    Raises:
        UserError: the limit is no positive number with a known unit.
    """
    return Limit(of_machine() if asked is None else parsed(asked), asked is not None, say)


@dataclass(frozen=True)
class Need:
    """Memory of a network for an image, in bytes: a part that all sizes have, and a part for each pixel."""

    fixed: float
    pixel: float

    def of(self, pixels: int) -> float:
        """Return the bytes for an image."""
        return self.fixed + self.pixel * pixels

    def pixels(self, room: float) -> int:
        """Return the largest number of pixels that fit."""
        return max(0, int((room - self.fixed) / self.pixel))


@torch.inference_mode()
def need(fuse: Callable[[Tensor, Tensor], Tensor], device: torch.device) -> Need:
    """Measure the memory that a network needs, with two small images.

    A copy runs, because layers keep what they have computed for a size of image.
    """
    fuse, most = copy.deepcopy(fuse), []
    for side in _SIDES:
        with _Peak() as peak:
            fuse(*(torch.full((1, 1, side, side), value, device=device) for value in (0.25, 0.5)))
        most.append(peak.most)
    small, large = (side**2 for side in _SIDES)
    pixel = max(1.0, (most[1] - most[0]) / (large - small))
    fixed = max(0.0, most[1] - pixel * large)
    return Need(_UNSEEN * fixed, _UNSEEN * pixel)


class _Peak(TorchDispatchMode):
    """Count the bytes of all tensors that exist at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else (out,):
            if isinstance(one, Tensor):
                self._count(one.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key in self.seen:
            return
        size = storage.nbytes()
        self.seen.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size

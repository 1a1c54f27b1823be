"""Memory limits of the fast layers, and their shared buffers.

The first write to a new tensor of many megabytes is slow, because the system allocates its pages one by one. The large
buffers are therefore kept and shared by all layers, one set for each thread.
"""

from __future__ import annotations

import ctypes
import math
import threading
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Limits:
    """Memory of this process in addition to inputs, outputs and weights, in MiB.

    Args:
        workspace: Buffers for one evaluation of a layer; larger work is done in bands of the image.
        spectra: Transformed weights that layers keep in eval mode; those that do not fit are recomputed at each call.
    """

    workspace: float = 256.0
    spectra: float = 4096.0


LIMITS = Limits()


def set_limits(*, workspace: float | None = None, spectra: float | None = None) -> None:
    """Change the memory limits (MiB) for the layers of this process; limits that are not given stay the same."""
    LIMITS.workspace = LIMITS.workspace if workspace is None else workspace
    LIMITS.spectra = LIMITS.spectra if spectra is None else spectra


class _Buffers(threading.local):
    def __init__(self) -> None:
        self.flat: dict[tuple[str, torch.dtype], Tensor] = {}


_BUFFERS = _Buffers()


def buffer(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return this thread's CPU buffer of a name, with arbitrary contents; the next call may return the same memory.

    A buffer grows to the largest requested size.
    """
    count = math.prod(shape)
    flat = _BUFFERS.flat.get((name, dtype))
    if flat is None or flat.numel() < count:
        _BUFFERS.flat.pop((name, dtype), None)  # frees the old buffer first
        with torch.inference_mode(False):  # otherwise it could not be used outside inference mode
            flat = _BUFFERS.flat[name, dtype] = torch.empty(count, dtype=dtype)
    return flat[:count].view(shape)


def keep_freed_memory() -> None:
    """Let this process reuse the memory of freed tensors, with glibc; with other C libraries nothing happens.

    By default, glibc returns large blocks to the system and requests new ones, whose pages the system allocates one by
    one. This takes several times as long as an addition of two feature maps.
    """
    no_mapping, no_trimming = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(no_mapping, 0)
    mallopt(no_trimming, 2**31 - 1)

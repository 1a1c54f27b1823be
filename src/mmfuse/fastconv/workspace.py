"""How much memory the fast layers may take, and the buffers that they share.

A fresh tensor of many megabytes is slow to write the first time, since the system hands out its pages one by one. The
large buffers are therefore kept and shared by all layers, one set for each thread.
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
    """Memory of this process beyond inputs, outputs and weights, in MiB.

    Args:
        workspace: Buffers of one layer's evaluation; what does not fit at once is done in bands of the image.
        spectra: Transformed weights that layers keep in eval mode; where they do not fit, they are made anew each time.
    """

    workspace: float = 256.0
    spectra: float = 4096.0


LIMITS = Limits()


def set_limits(*, workspace: float | None = None, spectra: float | None = None) -> None:
    """Change how much memory (MiB) the layers of this process may take; what is not named stays as it is."""
    LIMITS.workspace = LIMITS.workspace if workspace is None else workspace
    LIMITS.spectra = LIMITS.spectra if spectra is None else spectra


class _Buffers(threading.local):
    def __init__(self) -> None:
        self.flat: dict[tuple[str, torch.dtype], Tensor] = {}


_BUFFERS = _Buffers()


def buffer(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Return this thread's buffer of a name on the CPU, with whatever it holds; the next call may use the same memory.

    A buffer grows to the largest size that was asked for.
    """
    count = math.prod(shape)
    flat = _BUFFERS.flat.get((name, dtype))
    if flat is None or flat.numel() < count:
        _BUFFERS.flat.pop((name, dtype), None)  # frees the old one first
        with torch.inference_mode(False):  # else it could not be used outside inference mode
            flat = _BUFFERS.flat[name, dtype] = torch.empty(count, dtype=dtype)
    return flat[:count].view(shape)


def keep_freed_memory() -> None:
    """Let this process reuse the memory of freed tensors, where the C library is glibc; elsewhere nothing happens.

    By default glibc gives large blocks back to the system and asks for them anew. That the system then hands out their
    pages one by one takes several times as long as an addition of two feature maps.
    """
    no_mapping, no_trimming = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(no_mapping, 0)
    mallopt(no_trimming, 2**31 - 1)

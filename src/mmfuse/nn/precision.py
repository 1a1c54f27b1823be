"""At least single precision, regardless of the precision of the surrounding network."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import torch
from torch import Tensor

Arguments = ParamSpec("Arguments")


def at_least_single(values: Tensor) -> Tensor:
    """Return half-precision values in single precision, and others unchanged."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def in_full_precision(function: Callable[Arguments, Tensor]) -> Callable[Arguments, Tensor]:
    """Make a function of images work in at least single precision, even under autocast.

    Local variance is the difference of two nearly equal means, which bf16 cannot resolve.
    """

    @wraps(function)
    def guarded(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Tensor:
        images = [at_least_single(value) if isinstance(value, Tensor) else value for value in args]
        device = next(value.device.type for value in images if isinstance(value, Tensor))
        with torch.autocast(device, enabled=False):
            return function(*images, **kwargs)  # type: ignore[arg-type] # the same arguments in another dtype

    return guarded

"""Elementary functions, from the faster of two libraries.

On a CPU with AVX-512, NumPy's logarithm takes a third of the time of torch's, and its arctangent a quarter; elsewhere
torch's is as fast or the only one. Both are accurate to the last digit or the one before it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"


def log(values: Tensor) -> Tensor:
    """Return the natural logarithms of positive values."""
    if _AVX512 and values.device.type == "cpu":
        logarithms = torch.empty_like(values)
        np.log(values.numpy(), out=logarithms.numpy())
        return logarithms
    return values.log()


def atan_(values: Tensor) -> Tensor:
    """Replace values with their arctangents, in place."""
    if _AVX512 and values.device.type == "cpu":
        np.arctan(values.numpy(), out=values.numpy())
        return values
    return values.atan_()

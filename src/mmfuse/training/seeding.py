"""Random numbers that depend only on the seed and on their purpose.

Step 500 of a training draws the same numbers whether or not the job was killed at step 400, so no generator
state needs to be saved.
"""

from __future__ import annotations

import random

import numpy as np
import torch


def derived_seed(seed: int, *stream: int) -> int:
    """Return a 63-bit seed for one purpose: the same arguments always give the same number."""
    words = np.random.SeedSequence([seed, *stream]).generate_state(2, np.uint32)
    return int(words[0]) << 31 ^ int(words[1])


def seed_everything(seed: int, *stream: int) -> None:
    """Seed Python, NumPy and torch (all devices) for one purpose."""
    value = derived_seed(seed, *stream)
    random.seed(value)
    np.random.seed(value % 2**32)  # noqa: NPY002 - third-party code may still draw from the global generator
    torch.manual_seed(value)

"""The cost of a network, counted without running it."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmfuse.fastconv.large_kernel import plain


def multiply_adds(network: nn.Module, height: int, width: int) -> int:
    """Count the multiply-adds for one pair of images, in convolutions and matrix products computed directly.

    The network is copied to the device `meta`, so that counting is instant for networks of any size.
    """
    counted = plain(copy.deepcopy(network).to("meta").eval())
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        counted(*torch.zeros(2, 1, 1, height, width))
    return counter.get_total_flops() // 2

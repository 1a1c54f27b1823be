"""What a network costs, counted without computing."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmfuse.fastconv.large_kernel import plain


def multiply_adds(network: nn.Module, height: int, width: int) -> int:
    """Count the multiply-adds of fusing one pair of images: those of convolutions and matrix products, done directly.

    The network is copied to the device `meta`, so that networks of any size are counted at once.
    """
    counted = plain(copy.deepcopy(network).to("meta").eval())
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        counted(*torch.zeros(2, 1, 1, height, width))
    return counter.get_total_flops() // 2

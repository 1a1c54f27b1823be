"""A copy of a trained network for inference: the same function in less time.

The original network is not changed. In the copy, layers that only training needs (dropout, batch statistics) are
removed, features have another memory layout, and some layers are computed differently.
`mmfuse.fastconv.large_kernel` speeds up large kernels automatically, in training too.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mmfuse.fastconv.group_norm import StableGroupNorm
from mmfuse.fastconv.large_kernel import LargeKernelConv2d
from mmfuse.fastconv.pointwise import PointwiseConv2d
from mmfuse.fastconv.small_kernel import SmallKernelConv2d
from mmfuse.inference.smfnet_blocks import BANDED
from mmfuse.nn.stochastic_depth import StochasticDepth

Network = TypeVar("Network", bound=nn.Module)
_ONLY_IN_TRAINING = (nn.Dropout, nn.Dropout2d, StochasticDepth)
_WIDE = 128  # channels of a dense layer
_GIVES_A_NEW_TENSOR = (nn.Conv2d, nn.ConvTranspose2d, nn.GroupNorm, nn.BatchNorm2d, nn.InstanceNorm2d, nn.Linear)


def for_inference(network: Network) -> Network:
    """Return a copy that gives the same outputs up to rounding, for inference only.

    - Batch norms are folded into the preceding convolutions.
    - A ReLU after a layer that returns a new tensor works in place.
    - Dropout is removed.
    - On a CPU, group norm uses a variance that is accurate with channels last. In wide networks, dense convolutions use
      channels-last memory, as large kernels always do, 3x3 kernels with many channels use tiles, and SMFNet's blocks
      run in bands; see docs/decisions/0017-inference-copy.md.
    """
    fast = copy.deepcopy(network).eval().requires_grad_(False)
    for module in list(fast.modules()):
        if type(module).forward is nn.Sequential.forward:
            _simplify(module)
    if any(parameter.device.type != "cpu" for parameter in fast.parameters()):
        return fast
    wide = _is_wide(fast)
    _replace(fast, wide=wide)
    for module in fast.modules():
        if wide and isinstance(module, nn.Conv2d) and not isinstance(module, LargeKernelConv2d):
            module.to(memory_format=torch.channels_last)
    return fast


def _is_wide(network: nn.Module) -> bool:
    """Say whether channels last pays: not with group norm, which takes longer there, unless a layer has many channels.

    All other changes of a narrow network would cost time, so that its copy does what the network itself does.
    """
    modules = list(network.modules())
    dense = [module for module in modules if isinstance(module, nn.Conv2d) and module.groups == 1]
    most = max((min(layer.in_channels, layer.out_channels) for layer in dense), default=0)
    return most >= _WIDE or not any(isinstance(module, nn.GroupNorm) for module in modules)


def _replace(network: nn.Module, *, wide: bool) -> None:
    """Replace layers and blocks with equivalents that are faster or more accurate on a CPU."""
    for name, module in network.named_children():
        if type(module) is nn.GroupNorm:
            setattr(network, name, StableGroupNorm(module))
        elif wide and type(module) is nn.Conv2d and SmallKernelConv2d.fits(module):
            setattr(network, name, SmallKernelConv2d(module))
        elif wide and type(module) is nn.Conv2d and PointwiseConv2d.fits(module):
            setattr(network, name, PointwiseConv2d(module))
        elif wide and type(module) in BANDED:
            setattr(network, name, BANDED[type(module)](module))
        _replace(getattr(network, name), wide=wide)


def _simplify(sequence: nn.Module) -> None:
    """Remove, fold and reuse memory in consecutive layers; the layers keep their indices."""
    for name, layer in sequence.named_children():
        if isinstance(layer, _ONLY_IN_TRAINING):
            setattr(sequence, name, nn.Identity())
    for (first, layer), (second, after) in pairwise(_at_work(sequence)):
        if type(layer) is nn.Conv2d and isinstance(after, nn.BatchNorm2d) and after.track_running_stats:
            setattr(sequence, first, fuse_conv_bn_eval(layer, after))
            setattr(sequence, second, nn.Identity())
    for (_, layer), (_, after) in pairwise(_at_work(sequence)):
        if isinstance(layer, _GIVES_A_NEW_TENSOR) and isinstance(after, nn.ReLU):
            after.inplace = True


def _at_work(sequence: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, layer) for name, layer in sequence.named_children() if not isinstance(layer, nn.Identity)]

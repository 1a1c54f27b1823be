"""How far convolutions see."""

from __future__ import annotations

from torch import nn


def spread(modules: nn.Module | nn.ModuleList, *, scale: int = 1) -> int:
    """Return how many pixels away the input of consecutive convolutions affects their output, along one axis.

    Args:
        modules: Modules; all convolutions in them count as consecutive.
        scale: Factor by which the resolution decreases from each module of a list to the next.
    """
    if scale > 1 and isinstance(modules, nn.ModuleList):
        return sum(spread(module) * scale**number for number, module in enumerate(modules))
    layers = (module for module in modules.modules() if isinstance(module, nn.Conv2d))
    return sum(layer.dilation[0] * (layer.kernel_size[0] // 2) for layer in layers)

"""Cost of each variant of a method, counted without running it: parameters and multiply-adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mmfuse.benchmarks.network import options_of
from mmfuse.nn.counting import multiply_adds
from mmfuse.study.parameters import load_parameters
from mmfuse.study.plan import settings_of
from mmfuse.training.checkpoints import build


def run(method: str, *, params: Path, height: int, width: int) -> list[dict[str, Any]]:
    """Count the parameters for inference and the multiply-adds for one pair, for each variant.

    Nothing is computed, so that counting is instant for networks of any size. Multiply-adds are those of convolutions
    and matrix products, computed directly.

    Raises:
        UserError: the parameters do not contain the method, or cannot build a variant.
    """
    parameters = load_parameters(params)
    settings_of(parameters, method, "base")
    found = []
    for variant in parameters["methods"].get(method, {}).get("variants", {"base": {}}):
        with torch.device("meta"):
            network = build(method, options_of(method, params, variant, []))
        modules = network.deployed_modules().values()
        found.append(
            {
                "variant": variant,
                "parameters": sum(values.numel() for module in modules for values in module.parameters()),
                "multiply_adds": multiply_adds(network, height, width),
            }
        )
    return found


def lines(method: str, found: Sequence[Mapping[str, Any]], height: int, width: int) -> Iterator[str]:
    """Yield the result of `run` as a table."""
    yield f"| {method} | parameters | multiply-adds for a pair of {height} x {width}, billions |"
    yield "|---|---|---|"
    for row in found:
        yield f"| {row['variant']} | {row['parameters']:,} | {row['multiply_adds'] / 1e9:,.2f} |"

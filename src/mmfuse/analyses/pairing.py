"""The levels of MMA-UNet's two encoders that a trained network fuses with each other.

Source: MMA-UNet 3.2 and Table 4 for manual pairings; adaptive and learned ones are ours (5.2 leaves them open).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mmfuse.analyses.base import AnalysisCard, Drawing
from mmfuse.data.packs import Pack
from mmfuse.study.plan import System

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CARD = AnalysisCard(
    title="Fused pairs of levels",
    source="MMA-UNet 3.2 and Table 4; adaptive and learned pairings are this project's",
    words="Weight of each pair of a visible and an infrared level in the fused levels: 1 for a pair chosen by hand or "
    "by the CKA of both trained encoders; otherwise its learned share of the fused level.",
    methods=("mma_unet",),
)
LEVELS = 5
DIGITS = 4


def analyse(network: Any, pack: Pack) -> dict[str, Any]:  # noqa: ARG001 - every analysis gets the test pairs
    """Return the weight of each pair VISIBLE-INFRARED in each fused level, from shallow to deep."""
    found = network.fusion.pair_weights()
    return {"pairs": [{pair: round(weight, DIGITS) for pair, weight in level.items()} for level in found]}


def draw(results: Mapping[System, dict[str, Any]]) -> list[Drawing]:
    """Return one figure with the first seed of each variant; the caption names the strongest pairs of each seed."""
    words: list[str] = []
    shown: dict[str, list[dict[str, float]]] = {}
    for system, result in results.items():
        strongest = [max(level, key=lambda pair: level[pair]) for level in result["pairs"]]
        words.append(f"{system.label}: {', '.join(strongest)}")
        shown.setdefault(f"{system.method}.{system.variant}", result["pairs"])
    caption = f"Strongest pair (visible-infrared) of each fused level: {'; '.join(words)}."
    across = min(4, len(shown))
    lines = -(-len(shown) // across)
    return [Drawing("Weights of the pairs", caption, 2.6 * across, 2.7 * lines, partial(_paint, shown, across, lines))]


def _paint(shown: Mapping[str, list[dict[str, float]]], across: int, lines: int, figure: Figure) -> None:
    grid = figure.subplots(lines, across, squeeze=False)
    for axes, (name, levels) in zip(grid.flat, shown.items(), strict=False):
        weights = np.zeros((LEVELS, LEVELS))
        for pair, weight in ((pair, weight) for level in levels for pair, weight in level.items()):
            visible, infrared = (int(level) for level in pair.split("-"))
            weights[visible - 1, infrared - 1] = weight
        edges = (0.5, LEVELS + 0.5)
        axes.imshow(weights, vmin=0, vmax=1, cmap="Blues", origin="lower", extent=(*edges, *edges))
        axes.set(title=name.partition(".")[2], xlabel="infrared level", ylabel="visible level")
        axes.grid(visible=False)
        for visible, infrared in zip(*np.nonzero(weights >= 0.005), strict=True):
            ink = "white" if weights[visible, infrared] > 0.5 else "black"
            text = f"{weights[visible, infrared]:.2f}"
            axes.text(infrared + 1, visible + 1, text, ha="center", va="center", color=ink, fontsize=7)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)

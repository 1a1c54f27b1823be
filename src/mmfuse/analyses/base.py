"""What every analysis offers.

CARD: a `AnalysisCard`.
analyse(network, pack, *, ...) -> dict: the result for one trained network on one test pack, as JSON can hold it; its
    options are keyword arguments, given under `analyse.NAME.options` in params.yaml. Numbers under `summary` (a flat
    mapping) also go to MLflow. Equal inputs give equal results: round what depends on the order of a sum.
draw(results) -> list[Drawing]: the figures of the report for one dataset, from the results of all systems in the order
    of the study, by their `System`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class AnalysisCard:
    """What an analysis says about itself.

    Attributes:
        title: What it shows, as a heading of the report.
        source: Where it comes from.
        words: What is computed, in a sentence or two for the report.
        methods: The methods that it can look into.
    """

    title: str
    source: str
    words: str
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Drawing:
    """One figure of the report.

    Attributes:
        title: Its heading.
        caption: What it shows, with the numbers that it is about.
        width: Its width in inches.
        height: Its height in inches.
        paint: Draws into an empty matplotlib figure.
    """

    title: str
    caption: str
    width: float
    height: float
    paint: Callable[[Figure], None]

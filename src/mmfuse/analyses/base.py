"""The interface of all analyses.

CARD: an `AnalysisCard`.
analyse(network, pack, *, ...) -> dict: the result for one trained network on one test pack, JSON-serialisable; its
    options are keyword arguments, set under `analyse.NAME.options` in params.yaml. Numbers under `summary` (a flat
    mapping) also go to MLflow. Equal inputs give equal results: round values that depend on the order of a sum.
draw(results) -> list[Drawing]: the report's figures for one dataset, from the results of all systems in the order of
    the study, by their `System`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class AnalysisCard:
    """Metadata of an analysis.

    Attributes:
        title: Heading in the report.
        source: Its publication.
        words: Description for the report, in a few sentences.
        methods: The methods that it supports.
    """

    title: str
    source: str
    words: str
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Drawing:
    """One figure of the report.

    Attributes:
        title: Heading.
        caption: What it shows, with the numbers behind it.
        width: Width in inches.
        height: Height in inches.
        paint: Draws into an empty matplotlib figure.
    """

    title: str
    caption: str
    width: float
    height: float
    paint: Callable[[Figure], None]

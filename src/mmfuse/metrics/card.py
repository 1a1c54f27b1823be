"""Metadata of a metric besides its formula: the card on each function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Function = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]


@dataclass(frozen=True)
class MetricCard:
    """What a reader of a table needs to know about one definition of a metric.

    Args:
        better: Whether a higher or a lower value is better.
        range: Smallest and largest possible value for 8-bit images.
        source: The publication that defines the metric.
        used_by: The evaluators and tables that use exactly this definition.
        name: A plain name that no published convention defines: every convention without a formula of this name uses
            this definition.
        ordered: Whether the value depends on which source is `a` (infrared or MRI).
        directed: Whether mirroring or transposing all three images changes the value.
    """

    better: Literal["higher", "lower"]
    range: tuple[float, float]
    source: str
    used_by: str
    name: str = ""
    ordered: bool = False
    directed: bool = False


@dataclass(frozen=True)
class Metric:
    """One definition of a metric: its name, the function that computes it, and its card."""

    name: str
    function: Function
    card: MetricCard


def metric(card: MetricCard) -> Callable[[Function], Function]:
    """Add a card to a function, which makes it a definition that `mmfuse.metrics.definitions` finds."""

    def put(function: Function) -> Function:
        function.card = card  # type: ignore[attr-defined]
        return function

    return put

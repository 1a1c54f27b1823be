"""Metrics of image fusion: each definition has its own name, and conventions give the plain names a meaning.

A definition is one function `(fused, a, b) -> value`: three batches (B, 1, H, W) with values in [0, 1], of any
floating-point type, on a CPU or a GPU, to (B,) in float64. Nothing is averaged over images here. Values are defined for
constant images too; an image that is too small is a `UserError` with the smallest valid size.
"""

from __future__ import annotations

import ast
import functools
import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mmfuse.errors import MmfuseError, UserError, UserValueError, closest, python_errors
from mmfuse.metrics.card import Metric, MetricCard
from mmfuse.metrics.conventions import CONVENTIONS
from mmfuse.metrics.sharing import sharing
from mmfuse.words import number_of

if TYPE_CHECKING:
    from torch import Tensor

    from mmfuse.data.arrays import Image, Range

__all__ = [
    "CONVENTIONS",
    "Metric",
    "MetricCard",
    "definitions",
    "descriptions",
    "evaluate",
    "plain_names",
    "resolve",
    "resolve_names",
    "score",
]


@functools.cache
def definitions() -> dict[str, Metric]:
    """Return all definitions by name: the functions in this package's modules that have a card."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        members = vars(importlib.import_module(f"{__name__}.{module.name}"))
        cards = {name: getattr(member, "card", None) for name, member in members.items() if callable(member)}
        found.update(
            {name: Metric(name, members[name], card) for name, card in cards.items() if isinstance(card, MetricCard)}
        )
    return dict(sorted(found.items()))


@functools.cache
def descriptions() -> dict[str, tuple[str, str]]:
    """Return the first line of each definition's docstring and its card's `used_by`.

    They are read from the programs' text: importing the metrics would also load torch, half a gigabyte.
    """
    try:
        return dict(_described())
    except ValueError:  # a card that is not written out in the decorator
        return {
            name: ((metric.function.__doc__ or "").partition("\n")[0], metric.card.used_by)
            for name, metric in definitions().items()
        }


def _described() -> Iterator[tuple[str, tuple[str, str]]]:
    for module in pkgutil.iter_modules(__path__):
        for function in ast.parse(Path(__path__[0], f"{module.name}.py").read_text(encoding="utf-8")).body:
            if not isinstance(function, ast.FunctionDef):
                continue
            for decorator in function.decorator_list:
                if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "metric":
                    words = (ast.get_docstring(function, clean=False) or "").partition("\n")[0]
                    named = {one.arg: one.value for one in getattr(decorator.args[0], "keywords", ())}
                    yield function.name, (words, str(ast.literal_eval(named.get("used_by", ast.Name("unknown")))))


def plain_names(convention: str) -> dict[str, str]:
    """Return a convention's plain names with their definitions: its own, then those of metrics that set a plain name.

    Raises:
        UserError: an unknown convention.
    """
    own = _own_names(convention)
    brought = {metric.card.name: name for name, metric in definitions().items() if metric.card.name}
    return {**own, **{plain: name for plain, name in brought.items() if plain not in own}}


def resolve_names(convention: str, names: Iterable[str], beside: Iterable[str] = ()) -> dict[str, str]:
    """Return the names of the definitions behind plain names such as EN or SSIM, in the order of the names.

    Each convention in `beside` adds its own definitions for the plain names that it has, as NAME.CONVENTION
    (SSIM.cddfuse). The same form selects a single definition, even if the main convention has no such metric
    (Qcb.mma_unet). The metrics themselves are imported only if a name is in no convention.

    Raises:
        UserError: an unknown convention or name, no plain name, or a convention in `beside` that adds nothing.
    """
    asked, meaning = list(names), _own_names(convention)
    plain = [name for name in asked if "." not in name]
    if not plain:
        raise UserError(f"No metric of the convention {convention} is requested.", expected="a plain name such as EN")
    if not meaning.keys() >= set(plain):
        meaning = plain_names(convention)
    for name in plain:
        if name not in meaning:
            raise _unknown("metric", name, meaning, _elsewhere(name))
    resolved = {name: meaning[name] for name in plain}
    for other in beside:
        theirs = _own_names(other)
        if other == convention or not set(plain) & set(theirs):
            raise UserError(
                f"The convention {other} cannot be added to {convention}.",
                expected=f"another convention that has one of {', '.join(plain)}",
                found="the same convention" if other == convention else f"{other} has {', '.join(theirs)}",
            )
        resolved.update({f"{name}.{other}": theirs[name] for name in plain if name in theirs})
    for name in (name for name in asked if "." in name):
        single, _, other = name.partition(".")
        theirs = _own_names(other)
        if other == convention:
            raise UserError(f"{name} belongs to the main convention.", expected=single, found=name)
        if single not in theirs:
            raise _unknown("metric", name, [f"{known}.{other}" for known in theirs])
        resolved[name] = theirs[single]
    return resolved


def resolve(convention: str, names: Iterable[str], beside: Iterable[str] = ()) -> dict[str, Metric]:
    """Return the definitions behind plain names, by the names of `resolve_names`.

    Raises:
        UserError: as `resolve_names`.
    """
    found = resolve_names(convention, names, beside)
    return {name: definitions()[definition] for name, definition in found.items()}


def _elsewhere(name: str) -> str | None:
    """Return how to request a name that the main convention lacks; None if no convention has it."""
    others = [f"{name}.{other}" for other, theirs in CONVENTIONS.items() if name in theirs]
    return f"add the convention: {', '.join(others)}" if others else None


def _own_names(convention: str) -> Mapping[str, str]:
    if convention not in CONVENTIONS:
        raise _unknown("convention", convention, CONVENTIONS)
    return CONVENTIONS[convention]


def _unknown(kind: str, name: str, known: Iterable[str], fix: str | None = None) -> UserError:
    known = list(known)
    fix = fix or closest(name, known, "take one of these")
    return UserError(f"Unknown {kind}: {name!r}.", expected=f"one of {', '.join(known)}", fix=fix)


@python_errors
def evaluate(
    fused: Image,
    a: Image,
    b: Image,
    *,
    convention: str = "lkc_funet",
    metrics: Iterable[str] | None = None,
    value_range: Range | None = None,
) -> dict[str, float]:
    """Measure a fused image against its sources, as the command `mmfuse evaluate` does: on luminance.

    Shape: three NumPy arrays (H, W) or (H, W, 3), or three tensors (C, H, W) or (1, C, H, W) with C 1 or 3, of one size
    and type.
    Range: 0 to 255 for uint8, 0 to 65535 for uint16, 0 to 1 for floating-point values, or `value_range`.

    Args:
        fused: The fused image.
        a: First source.
        b: Second source.
        convention: What the names mean; one of `CONVENTIONS`.
        metrics: Names such as `EN`, or `SSIM.cddfuse` for another convention; by default all of the convention.
        value_range: The values of black and white.

    Returns:
        The value of each metric by name.

    Raises:
        UserError: the images cannot be measured, or a name is unknown; also a ValueError or a TypeError.
    """
    import numpy as np
    import torch

    from mmfuse.data.arrays import alike, unit_luminance
    from mmfuse.metrics.sharing import one_thread

    if isinstance(metrics, str):
        metrics = metrics.split(",")
    meaning = resolve(convention, plain_names(convention) if metrics is None else metrics)
    batches, form = alike({"fused": fused, "a": a, "b": b}, value_range)
    if len(batches[0]) != 1:
        raise UserValueError(
            "Only one image can be measured at a time.",
            expected="a batch of one",
            found=number_of(len(batches[0]), "image"),
            fix="measure them one by one",
        )
    planes = [unit_luminance(image, form.value_range, np.float64) for (image,) in batches]
    first, second, third = (torch.from_numpy(plane)[None, None] for plane in planes)
    with one_thread():
        return {name: value.item() for name, value in score(first, second, third, meaning).items()}


def score(fused: Tensor, a: Tensor, b: Tensor, metrics: Mapping[str, Metric]) -> dict[str, Tensor]:
    """Measure a batch of fused images with several metrics; a definition with several names is computed once.

    Shape: three (B, 1, H, W) in [0, 1]; returns (B,) float64 under each key of `metrics`.

    Raises:
        UserError: not a valid batch of images, or images too small for one of the metrics.
        MmfuseError: a metric returned a non-finite number (a bug of the metric).
    """
    values: dict[str, Tensor] = {}
    done: dict[str, Tensor] = {}  # one definition may have several names
    with sharing():
        # related metrics, which share most intermediate results, in sequence
        for name in sorted(metrics, key=lambda name: metrics[name].function.__module__):
            metric = metrics[name]
            if metric.name not in done:
                done[metric.name] = _measured(name, metric, fused, a, b)
            values[name] = done[metric.name]
    return {name: values[name] for name in metrics}


def _measured(name: str, metric: Metric, fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
    try:
        value = metric.function(fused, a, b)
    except UserError as error:
        raise UserError(
            f"{name}: {error.problem}", expected=error.expected, found=error.found, fix=error.fix
        ) from error
    if not value.isfinite().all():
        raise MmfuseError(f"{name} ({metric.name}) returned {value.tolist()}: please report this as a bug.")
    return value

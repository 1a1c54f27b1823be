"""What a variant of a method is: the method's block of the parameters with the variant's changes laid over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from mmfuse.errors import UserError
from mmfuse.study.types import Parameters

ADAPTIVE = "adaptive"  # the value of an option that a part finds from its training images


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes` laid over it, block by block."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def settings_of(parameters: Parameters, method: str, variant: str) -> dict[str, Any]:
    """Return a method's block with the changes of one variant laid over it.

    Raises:
        UserError: the method has no such variant.
    """
    block: dict[str, Any] = {**parameters["methods"].get(method, {})}
    variants = block.pop("variants", {"base": {}})
    if variant not in variants:
        raise UserError(f"Unknown variant {variant!r} of {method}.", expected=", ".join(variants), found=variant)
    return merged(block, variants[variant])


def choice_of_weights(parameters: Parameters, method: str, variant: str, task: str) -> str | None:
    """Return what `weights` of a variant says for a task: a file, or which shipped weights; None where it says nothing.

    Raises:
        UserError: the method has no such variant.
    """
    block = parameters["methods"].get(method, {})
    if "weights" not in block and "weights" not in block.get("variants", {}).get(variant, {}):
        return None  # so it is for most, and asked often
    given = settings_of(parameters, method, variant)["weights"]
    return given.get(task) if isinstance(given, Mapping) else given


def place(parameters: Parameters, method: str, variant: str, option: str) -> float:
    """Return where a variant stands along an option of its network: the number, or the largest of several.

    Raises:
        UserError: the method's block does not give the option, or not as a number.
    """
    value = settings_of(parameters, method, variant).get("network", {}).get(option)
    numbers = value if isinstance(value, list) else [value]
    if not numbers or not all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers):
        raise UserError(
            f"report.sweeps: {method}.{variant} has no number at the option {option!r}.",
            expected=f"an option under methods.{method}.network that is a number or a list of numbers",
            found=value,
            fix="correct `x` of the sweep",
        )
    return float(max(numbers))


def network_options(settings: Mapping[str, Any], part: str | None = None) -> dict[str, Any]:
    """Return what the method's constructor gets: the shared options, and those of every part up to `part`.

    Options of later parts stay at their defaults, so that they do not show in the weights of earlier ones.
    """
    options = dict(settings.get("network", {}))
    for name, block in settings.get("parts", {}).items():
        options |= block.get("network", {})
        if name == part:
            break
    return options


def without_adaptive(network: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options without those that are found from training images."""
    return {name: value for name, value in network.items() if value != ADAPTIVE}


def assigned(texts: Sequence[str]) -> dict[str, Any]:
    """Return options that are given as KEY=VALUE, the values read as YAML.

    Raises:
        UserError: one has no `=`, or its value is no YAML.
    """
    options: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError("An option has no value.", expected="KEY=VALUE", found=text)
        try:
            options[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"The value of {key} cannot be read.", expected="KEY=VALUE", found=text) from error
    return options

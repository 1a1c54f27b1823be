"""The settings of a variant: the method's block of the parameters with the variant's changes applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmfuse.errors import UserError
from mmfuse.files.reading import parse_yaml
from mmfuse.study.types import Parameters

ADAPTIVE = "adaptive"  # the value of an option that is determined from training images


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes` merged into it, block by block."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def settings_of(parameters: Parameters, method: str, variant: str) -> dict[str, Any]:
    """Return a method's block with the changes of one variant applied.

    Raises:
        UserError: the method has no such variant.
    """
    block: dict[str, Any] = {**parameters["methods"].get(method, {})}
    variants = block.pop("variants", {"base": {}})
    if variant not in variants:
        raise UserError(f"Unknown variant {variant!r} of {method}.", expected=", ".join(variants), found=variant)
    return merged(block, variants[variant])


def choice_of_weights(parameters: Parameters, method: str, variant: str, task: str) -> str | None:
    """Return the `weights` of a variant for a task: a file, or the choice of shipped weights; None if not given.

    Raises:
        UserError: the method has no such variant.
    """
    block = parameters["methods"].get(method, {})
    if "weights" not in block and "weights" not in block.get("variants", {}).get(variant, {}):
        return None  # the usual case, and this is called often
    given = settings_of(parameters, method, variant)["weights"]
    return given.get(task) if isinstance(given, Mapping) else given


def place(parameters: Parameters, method: str, variant: str, option: str) -> float:
    """Return a variant's value of an option of its network: the number, or the largest of several.

    Raises:
        UserError: the method's block lacks the option, or its value is not a number.
    """
    value = settings_of(parameters, method, variant).get("network", {}).get(option)
    numbers = value if isinstance(value, list) else [value]
    if not numbers or not all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers):
        raise UserError(
            f"report.sweeps: {method}.{variant} has no number for the option {option!r}.",
            expected=f"an option under methods.{method}.network that is a number or a list of numbers",
            found=value,
            fix="correct `x` of the sweep",
        )
    return float(max(numbers))


def network_options(settings: Mapping[str, Any], part: str | None = None) -> dict[str, Any]:
    """Return the arguments of the method's constructor: the shared options, and those of every part up to `part`.

    Options of later parts keep their defaults, so that the weights of earlier parts do not depend on them.
    """
    options = dict(settings.get("network", {}))
    for name, block in settings.get("parts", {}).items():
        options |= block.get("network", {})
        if name == part:
            break
    return options


def without_adaptive(network: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options without those that are determined from training images."""
    return {name: value for name, value in network.items() if value != ADAPTIVE}


def assigned(texts: Sequence[str]) -> dict[str, Any]:
    """Return options given as KEY=VALUE, with the values read as YAML.

    Raises:
        UserError: one has no `=`, its value is not YAML, or a key is given twice.
    """
    options: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError("An option has no value.", expected="KEY=VALUE", found=text)
        if key in options:
            raise UserError("An option is given twice.", expected="each once", found=text)
        try:
            options[key] = parse_yaml(value, key)
        except UserError as error:
            problem = f"The value of {key} cannot be read."
            raise UserError(problem, expected="KEY=VALUE, with a YAML value", found=f"{text}: {error.found}") from error
    return options

"""What the commands of the stages share: their options, and what each job depends on."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from mmfuse import plan
from mmfuse.code import code_of
from mmfuse.errors import UserError
from mmfuse.parameters import pick_all

Params = Annotated[Path, typer.Option("--params", help="The study's parameters.")]
DatasetName = Annotated[str, typer.Option("--dataset", help="Dataset of data/catalog.yaml.")]
MethodName = Annotated[str, typer.Option("--method", help="Method; see `mmfuse list methods`.")]
Variant = Annotated[str, typer.Option("--variant", help="Variant of the method.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the training.")]
Out = Annotated[Path, typer.Option("--out", help="What the stage writes.")]
Raw = Annotated[Path, typer.Option("--raw", help="The dataset's folder in data/raw.")]
TestPack = Annotated[Path, typer.Option("--test", help="Pack of the test pairs.")]
Fused = Annotated[Path, typer.Option("--fused", help="Folder of the fused images.")]
DEFAULT_PARAMS = Path("params.yaml")


class Task(StrEnum):
    """What a network fuses: infrared and visible, or medical images."""

    ivif = "ivif"
    mif = "mif"


def sources(stage: str, *entries: str) -> list[Path]:
    """Return the source files that a record lists; none where the package is installed without them."""
    return [path for path in map(Path, code_of(stage, *entries)) if path.is_file()]


def watched(parameters: dict[str, Any], stage: str, **what: Any) -> dict[str, Any]:
    """Return the parameters that a job depends on."""
    return pick_all(parameters, plan.watched(parameters, stage, **what))


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

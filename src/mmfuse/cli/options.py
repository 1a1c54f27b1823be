"""What the commands of the stages share: their options, and what each job depends on."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mmfuse.study import plan
from mmfuse.study.code import code_of
from mmfuse.study.parameters import pick_all

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

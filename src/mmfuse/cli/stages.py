"""`mmfuse stage NAME`: one job of a stage, as the engines run it.

The options identify the job; everything else follows from the study.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from mmfuse.study.planned import VARIABLE
from mmfuse.study.stage import KEYS, Stage
from mmfuse.study.stages import STAGES

app = typer.Typer(help="Run one job of the study, as the engines do.", no_args_is_help=True)
_DEFAULTS = {"variant": "base", "seed": "0"}


def _command(stage: Stage) -> Callable[..., None]:
    """Return the command of a stage: an option for each name of its key."""

    def command(params: Path, **key: str) -> None:
        from mmfuse.pipeline.jobs import run

        module = import_module(f"mmfuse.stages.{stage.module or stage.name}")
        run(stage, key, params, module.work)

    options: dict[str, Any] = {
        name: Annotated[str, typer.Option(f"--{name.replace('_', '-')}", help=KEYS[name][1])] for name in stage.key
    }
    options["params"] = Annotated[Path, typer.Option("--params", envvar=VARIABLE, help="The study's parameters.")]
    defaults = {**_DEFAULTS, "params": Path("params.yaml")}
    signature = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=annotation,
            default=defaults.get(name, inspect.Parameter.empty),
        )
        for name, annotation in options.items()
    ]
    command.__annotations__ = options
    command.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    return command


for _stage in STAGES.values():
    app.command(_stage.name.replace("_", "-"), help=_stage.summary)(_command(_stage))

"""Stage `analyse`: one analysis of one trained system on the test pairs of one dataset."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmfuse import analyses
from mmfuse.data.packs import Pack
from mmfuse.errors import UserError
from mmfuse.files.writing import write_json
from mmfuse.inference.fusing import best_device
from mmfuse.pipeline.jobs import Running, Work
from mmfuse.study.plan import System
from mmfuse.training.checkpoints import load_method


def work(job: Work) -> None:
    """Run one job of the stage."""
    name = job.key["analysis"]
    run(
        name,
        job.system,
        options=job.parameters["analyse"][name]["options"],
        weights=job.read("weights"),
        test=job.read("test"),
        threads=job.parameters["fuse"]["threads"],
        out=job.outputs["result"],
        running=job.running,
    )


def run(
    name: str,
    system: System,
    *,
    options: Mapping[str, Any],
    weights: Path,
    test: Path,
    threads: int,
    out: Path,
    running: Running,
) -> None:
    """Write OUT, the analysis's result as JSON.

    Args:
        name: The analysis.
        system: The system to analyse.
        options: The analysis's options.
        weights: Complete weights of the system.
        test: data/prepared/DATASET/test.safetensors.
        threads: Number of CPU threads.
        out: reports/analysis/DATASET/NAME.SYSTEM.json.
        running: The job's MLflow run.

    Raises:
        UserError: the analysis is unknown, does not take these options, or does not support this method.
    """
    torch.set_num_threads(threads)
    analysis = analyses.load(name)
    if system.method not in analysis.CARD.methods:
        raise UserError(
            f"The analysis {name} does not support {system.method}.",
            expected=", ".join(analysis.CARD.methods),
            found=system.method,
            fix=f"correct analyse.{name}.systems",
        )
    network, card = load_method(weights)
    if card.method != system.method:
        raise UserError(f"{weights} contains another method.", expected=system.method, found=card.method)
    pack = Pack(test)
    try:
        inspect.signature(analysis.analyse).bind(network, pack, **options)
    except TypeError as error:
        raise UserError(
            f"The analysis {name} does not take these options.",
            found=error,
            fix=f"correct analyse.{name}.options in params.yaml",
        ) from error
    result = analysis.analyse(network.to(best_device()), pack, **options)
    write_json(out, result)
    running.tracker.log_metrics(result.get("summary", {}))

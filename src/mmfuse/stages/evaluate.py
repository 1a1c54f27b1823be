"""Stage `evaluate`: metrics of one system's fused images against both sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mmfuse.data.images import Bytes, luminance, read_image
from mmfuse.data.packs import Pack
from mmfuse.data.pairs import check_equal_sizes
from mmfuse.metrics import resolve
from mmfuse.metrics.tables import score_images, summarise, write_scores
from mmfuse.pipeline.jobs import Running, Work
from mmfuse.study.plan import System


def work(job: Work) -> None:
    """Run one job of the stage."""
    block = job.parameters["evaluate"]
    run(
        job.system,
        job.key["dataset"],
        test=job.read("test"),
        fused=job.read("fused"),
        out=job.outputs["table"],
        convention=block["convention"],
        beside=block["beside"],
        metrics=block["metrics"],
        workers=block["workers"],
        running=job.running,
    )


def run(
    system: System,
    dataset: str,
    *,
    test: Path,
    fused: Path,
    out: Path,
    convention: str,
    beside: Sequence[str],
    metrics: Sequence[str],
    workers: int,
    running: Running,
) -> None:
    """Write OUT (one row per image) and its .json (mean, spread and definition of each metric).

    Args:
        system: The system of the images.
        dataset: The dataset of the test pairs.
        test: data/prepared/DATASET/test.safetensors.
        fused: data/fused/DATASET/SYSTEM.
        out: reports/scores/DATASET/SYSTEM.csv.
        convention: The meaning of the plain metric names.
        beside: Further conventions whose variants are also measured, as NAME.CONVENTION.
        metrics: Plain names.
        workers: Number of images measured at once.
        running: The job's MLflow run.
    """
    pack, meaning = Pack(test), resolve(convention, metrics, beside)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    frame = score_images(pack.names, _triples(pack, fused), meaning, device=device, workers=workers)
    scores = summarise(frame, meaning, convention)
    summary = {
        "dataset": dataset,
        "task": system.task,
        "method": system.method,
        "variant": system.variant,
        "seed": system.seed,
        "convention": convention,
        "images": len(frame),
        "metrics": scores,
    }
    write_scores(frame, summary, csv=out, json=out.with_suffix(".json"))
    means = {name: value["mean"] for name, value in scores.items()}
    running.tracker.log_metrics(means)
    running.tracker.log_above("system", {f"{dataset}/{name}": mean for name, mean in means.items()})


def _triples(pack: Pack, fused: Path) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield fused image and sources as luminance, (1, H, W) in [0, 1]."""
    for sample in pack:
        path = fused / f"{sample['name']}.png"
        image = read_image(path, colour=False)
        check_equal_sizes((pack.path, luminance(sample["a"])), (path, image))
        yield _grey(image), _grey(sample["a"]), _grey(sample["b"])


def _grey(image: Bytes) -> Tensor:
    return torch.from_numpy(luminance(image).astype("float64") / 255)[None]

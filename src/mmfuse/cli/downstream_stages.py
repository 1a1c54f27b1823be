"""`mmfuse stage label`, `divide`, `detect` and `segment`: detectors and segmenters on each image set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mmfuse.cli.options import DEFAULT_PARAMS, DatasetName, Out, Params, Raw, Seed, sources, watched
from mmfuse.errors import UserError
from mmfuse.pipeline.jobs import Job, Running, execute
from mmfuse.pipeline.lineage import parents
from mmfuse.study import plan
from mmfuse.study.parameters import load_parameters

Protocol = Annotated[str, typer.Option("--protocol", help="A protocol under `downstream` in the parameters.")]
Labelled = Annotated[Path, typer.Option("--labelled", help="Pack of the labelled pairs.")]
Folds = Annotated[Path, typer.Option("--folds", help="Which pairs train and which test.")]
SetLabel = Annotated[str, typer.Option("--set", help="Image set to train on: a, b, or a system's label.")]
FusedFolders = Annotated[
    list[Path] | None, typer.Option("--fused", help="Folder of fused images; may be given several times.")
]


def _protocol(parameters: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the block of a protocol.

    Raises:
        UserError: there is none.
    """
    known = plan.protocols(parameters)
    if name not in known:
        raise UserError(f"There is no protocol {name!r}.", expected=", ".join(known) or "none", found=name)
    return dict(known[name])


def label(dataset: DatasetName, raw: Raw, out: Out, params: Params = DEFAULT_PARAMS) -> None:
    """Pack the labelled pairs of one dataset, in colour, for detectors and segmenters."""
    from mmfuse.data import catalog
    from mmfuse.stages import label as stage

    parameters = load_parameters(params)
    entry = catalog.dataset(dataset)
    splits = sorted({split for block in plan.protocols(parameters, dataset).values() for split in block["splits"]})
    job = Job(
        stage="label",
        name=dataset,
        inputs=[*sources("label"), raw],
        outputs=[out, out.with_suffix(".csv")],
        record=out.with_suffix(".run.json"),
        parameters=watched(parameters, "label", dataset=dataset),
        tags={"task": entry.task, "dataset": dataset},
        study=parameters["study"]["name"],
        parents=parents(parameters),
    )
    skip = parameters["prepare"]["skip_broken"]
    execute(job, lambda _: stage.run(entry, raw=raw, out=out, splits=splits, skip_broken=skip))


def divide(protocol: Protocol, labelled: Labelled, out: Out, params: Params = DEFAULT_PARAMS) -> None:
    """Check the labels of a downstream protocol, and write down which pairs train and which test."""
    from mmfuse.data import catalog
    from mmfuse.stages import divide as stage

    parameters = load_parameters(params)
    block = _protocol(parameters, protocol)
    entry = catalog.dataset(block["dataset"])
    job = Job(
        stage="divide",
        name=protocol,
        inputs=[*sources("divide"), labelled, labelled.with_suffix(".csv")],
        outputs=[out],
        record=out.with_suffix(".run.json"),
        parameters=watched(parameters, "divide", protocol=protocol),
        tags={"task": entry.task, "dataset": entry.name, "protocol": protocol},
        study=parameters["study"]["name"],
        parents=parents(parameters),
    )
    chosen = {key: block[key] for key in ("goal", "splits", "division")}
    execute(job, lambda _: stage.run(entry, pack=labelled, out=out, **chosen))


def detect(
    protocol: Protocol,
    image_set: SetLabel,
    labelled: Labelled,
    folds: Folds,
    out: Out,
    seed: Seed = 0,
    fused: FusedFolders = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Train a detector on one image set and measure its average precision."""
    from mmfuse.stages import detect as stage

    _execute("detect", stage.run, protocol, image_set, seed, labelled, folds, fused or [], out, params)


def segment(
    protocol: Protocol,
    image_set: SetLabel,
    labelled: Labelled,
    folds: Folds,
    out: Out,
    seed: Seed = 0,
    fused: FusedFolders = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Train a segmenter on one image set and measure its intersection over union."""
    from mmfuse.stages import segment as stage

    _execute("segment", stage.run, protocol, image_set, seed, labelled, folds, fused or [], out, params)


def _execute(
    stage: str,
    run: Callable[..., None],
    protocol: str,
    image_set: str,
    seed: int,
    labelled: Path,
    folds: Path,
    fused: list[Path],
    out: Path,
    params: Path,
) -> None:
    """Train and test one detector or segmenter; OUT is the summary, and the other results lie beside it."""
    from mmfuse.data import catalog
    from mmfuse.downstream.task import Task

    parameters = load_parameters(params)
    block = _protocol(parameters, protocol)
    if block["goal"] != stage:
        raise UserError(f"The protocol {protocol} is not one of {stage}.", expected=stage, found=block["goal"])
    entry = catalog.dataset(block["dataset"])
    stem = out.with_suffix("")
    # outside the declared outputs: both engines delete those before they start a job again
    resume = Path("data/resume/downstream") / protocol / f"{stem.name}.pt"
    modalities: dict[str, str | Path] = {name: name for name in plan.MODALITIES if name in block["sets"]}
    seen = modalities if block["transfer"] else {k: v for k, v in modalities.items() if k == image_set}
    job = Job(
        stage=stage,
        name=f"{protocol}/{stem.name}",
        inputs=[*sources(stage), labelled, folds, *fused],
        outputs=[out, stem.with_name(f"{stem.name}.csv"), stem.with_name(f"{stem.name}.pictures")],
        record=stem.with_name(f"{stem.name}.run.json"),
        parameters=watched(parameters, stage, protocol=protocol),
        tags={"task": entry.task, "dataset": entry.name, "protocol": protocol, "set": image_set, "seed": seed},
        study=parameters["study"]["name"],
        parents=parents(parameters, plan.image_sets(parameters, protocol).get(image_set)),
    )

    def work(running: Running) -> None:
        task = Task(
            dataset=entry,
            block=block,
            pack=labelled,
            folds=folds,
            sources={**seen, **{folder.name: folder for folder in fused}},
            own=image_set,
            seed=seed,
            out=stem,
            resume=resume,
        )
        run(task, running=running)

    execute(job, work)
    resume.unlink(missing_ok=True)

"""`mmfuse stage …`: what the engines run. Paths come in as options, numbers from the parameters."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mmfuse.cli.downstream_stages import detect, divide, label, segment
from mmfuse.cli.options import (
    DEFAULT_PARAMS,
    DatasetName,
    Fused,
    MethodName,
    Out,
    Params,
    Raw,
    Seed,
    TestPack,
    Variant,
)
from mmfuse.cli.options import sources as _sources
from mmfuse.cli.options import watched as _watched
from mmfuse.errors import UserError
from mmfuse.files.writing import write_json
from mmfuse.pipeline.jobs import Job, Running, execute, rank
from mmfuse.pipeline.lineage import parents
from mmfuse.study import plan
from mmfuse.study.parameters import flatten, load_parameters
from mmfuse.study.set_checks import check_fused, check_inputs
from mmfuse.study.training_sets import training_set
from mmfuse.tracking import STUDY, results

app = typer.Typer(help="One stage of the study, as the engines run it.", no_args_is_help=True)
PUBLISHED = Path("data/published.csv")  # what the papers print

for _stage in (label, divide, detect, segment):
    app.command()(_stage)


@app.command()
def download(dataset: DatasetName, out: Out, params: Params = DEFAULT_PARAMS) -> None:
    """Bring one dataset to data/raw: generated, from a mirror, or from its source; verified by checksum."""
    from mmfuse.data import catalog
    from mmfuse.stages import download as stage

    parameters = load_parameters(params)
    mirror = os.environ.get("MMFUSE_MIRROR") or parameters["download"]["mirror"]
    entry = catalog.dataset(dataset)
    generator = [entry.generator.removeprefix("mmfuse.")] if entry.generator else []
    job = Job(
        stage="download",
        name=dataset,
        inputs=[*_sources("download", *generator), *([entry.manifest] if entry.manifest else [])],
        outputs=[out],
        record=out.with_name(f"{out.name}.run.json"),
        parameters=_watched(parameters, "download", dataset=dataset),
        tags={"task": entry.task, "dataset": dataset},
        study=parameters["study"]["name"],
        parents=parents(parameters),
    )
    generate = parameters["generate"].get(dataset)
    execute(
        job,
        lambda _: stage.run(dataset=dataset, out=out, mirror=Path(mirror) if mirror else None, generate=generate),
    )


@app.command()
def prepare(
    dataset: DatasetName,
    raw: Raw,
    out: Out,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Pair the images by name, bring them to one size, write the splits down, and pack them."""
    from mmfuse.data import catalog
    from mmfuse.stages import prepare as stage

    parameters = load_parameters(params)
    entry = catalog.dataset(dataset)
    outputs = [out / f"{split}.safetensors" for split in stage.SPLITS]
    job = Job(
        stage="prepare",
        name=dataset,
        inputs=[*_sources("prepare"), raw],
        outputs=[*outputs, out / "pairs.csv"],
        record=out / "run.json",
        parameters=_watched(parameters, "prepare", dataset=dataset),
        tags={"task": entry.task, "dataset": dataset},
        study=parameters["study"]["name"],
        parents=parents(parameters),
    )
    block = parameters["prepare"]
    execute(
        job,
        lambda _: stage.run(
            entry,
            raw=raw,
            out=out,
            val_fraction=block["val_fraction"],
            val_pairs=block.get("val_pairs", {}).get(dataset),
            skip_broken=block["skip_broken"],
            subset=block.get("subset", {}).get(dataset),
        ),
    )


@app.command()
def crop(
    dataset: DatasetName,
    patches: Annotated[str, typer.Option("--patches", help="Patch set of the parameters.")],
    pack: Annotated[Path, typer.Option("--pack", help="Pack of the training pairs.")],
    out: Out,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Cut the training pairs into patches, masks and boxes with them."""
    from mmfuse.stages import crop as stage

    parameters = load_parameters(params)
    job = Job(
        stage="crop",
        name=f"{dataset}/{patches}",
        inputs=[*_sources("crop"), pack],
        outputs=[out],
        record=out.with_suffix(".run.json"),
        parameters=_watched(parameters, "crop", patches=patches),
        tags={"dataset": dataset, "patches": patches},
        study=parameters["study"]["name"],
        parents=parents(parameters),
    )
    execute(job, lambda _: stage.run(pack=pack, out=out, patches=parameters["prepare"]["patches"][patches]))


@app.command()
def train(
    trained_on: Annotated[
        str, typer.Option("--trained-on", help="Training set: ivif or mif for a task's own, or another by name.")
    ],
    method: MethodName,
    part: Annotated[str, typer.Option("--part", help="Training part of the method.")],
    train: Annotated[list[Path], typer.Option("--train", help="Pack to train on; may be given several times.")],
    out: Out,
    val: Annotated[
        list[Path] | None, typer.Option("--val", help="Pack to validate with; may be given several times.")
    ] = None,
    variant: Variant = "base",
    seed: Seed = 0,
    start: Annotated[
        list[Path] | None, typer.Option("--start", help="Weights of an earlier part; may be given several times.")
    ] = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Train one part of a method; a killed training goes on where it was last saved."""
    from mmfuse.stages import train as stage

    parameters = load_parameters(params)
    used = training_set(parameters, trained_on)
    system = plan.System(method, variant, used.task, seed)
    training = plan.Training(trained_on, method, variant, seed, part)
    val, start = val or [], start or []
    check_inputs(parameters, training, train=train, val=val, start=start)
    job = Job(
        stage="train",
        name=f"{trained_on}/{system.label}/{part}",
        inputs=[*_sources("train", f"methods.{method}"), *train, *val, *start],
        outputs=[out, out.with_suffix(".last.safetensors"), out.with_suffix(".history.csv")],
        record=out.with_suffix(".run.json"),
        parameters=_watched(parameters, "train", **asdict(training)),
        tags={"task": used.task, **asdict(training)},
        study=parameters["study"]["name"],
        parents=parents(parameters, system),
    )
    # outside the declared outputs: both engines delete those before they start a job again
    resume = Path(f"data/resume/{training.stem}.pt")

    def work(running: Running) -> None:
        stage.run(
            system,
            part,
            settings=plan.settings_of(parameters, method, variant),
            loop=parameters["train"],
            train=train,
            pairs_of=used.pairs,
            val=val,
            start=start,
            out=out,
            resume=resume,
            running=running,
        )

    execute(job, work)
    if not rank():
        resume.unlink(missing_ok=True)


@app.command()
def fuse(
    dataset: DatasetName,
    method: MethodName,
    test: TestPack,
    out: Out,
    variant: Variant = "base",
    seed: Seed = 0,
    weights: Annotated[Path | None, typer.Option("--weights", help="Weights of a trained method.")] = None,
    external: Annotated[Path | None, typer.Option("--external", help="Folder of images fused elsewhere.")] = None,
    pairs: Annotated[str, typer.Option("--pairs", help="Which pairs they are: test, or labelled.")] = "test",
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Apply one system to the test or labelled pairs of one dataset, or take over images that were fused elsewhere."""
    from mmfuse.stages import fuse as stage
    from mmfuse.stages.train import network_options

    parameters = load_parameters(params)
    task = plan.task_of(parameters, dataset)
    system = plan.System(method, variant, task, seed)
    if (variant == plan.EXTERNAL) != (external is not None):
        raise UserError("`--external FOLDER` and `--variant external` go together.", found=f"--variant {variant}")
    job = Job(
        stage="fuse",
        name=f"{dataset}/{system.label}" + ("" if pairs == "test" else f"/{pairs}"),
        inputs=[
            *_sources("fuse", *([] if external else [f"methods.{method}"])),
            test,
            *(path for path in (weights, external) if path),
        ],
        outputs=[out],
        record=out.with_name(f"{out.name}.run.json"),
        parameters=_watched(parameters, "fuse", method=method, variant=variant),
        tags={"task": task, "dataset": dataset, "method": method, "variant": variant, "seed": seed},
        study=parameters["study"]["name"],
        parents=parents(parameters, system),
    )

    def work(running: Running) -> None:
        if external:
            stage.take_over(external, test=test, out=out, pictures=parameters["fuse"]["pictures"], running=running)
            return
        stage.run(
            method,
            network=network_options(plan.settings_of(parameters, method, variant)),
            weights=weights,
            test=test,
            out=out,
            threads=parameters["fuse"]["threads"],
            pictures=parameters["fuse"]["pictures"],
            running=running,
        )

    execute(job, work)


@app.command()
def evaluate(
    dataset: DatasetName,
    method: MethodName,
    test: TestPack,
    fused: Fused,
    out: Out,
    variant: Variant = "base",
    seed: Seed = 0,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Measure the fused images of one system against their sources."""
    from mmfuse.stages import evaluate as stage

    parameters = load_parameters(params)
    system = plan.System(method, variant, plan.task_of(parameters, dataset), seed)
    block = parameters["evaluate"]
    job = Job(
        stage="evaluate",
        name=f"{dataset}/{system.label}",
        inputs=[*_sources("evaluate", "metrics.*"), test, fused],
        outputs=[out, out.with_suffix(".json")],
        record=out.with_suffix(".run.json"),
        parameters=_watched(parameters, "evaluate"),
        tags={"task": system.task, "dataset": dataset, "method": method, "variant": variant, "seed": seed},
        study=parameters["study"]["name"],
        parents=parents(parameters, system),
    )

    def work(running: Running) -> None:
        stage.run(
            system,
            dataset,
            test=test,
            fused=fused,
            out=out,
            convention=block["convention"],
            beside=block["beside"],
            metrics=block["metrics"],
            workers=block["workers"],
            running=running,
        )

    execute(job, work)


@app.command()
def analyse(
    analysis: Annotated[str, typer.Option("--analysis", help="Analysis; see `mmfuse list analyses`.")],
    dataset: DatasetName,
    method: MethodName,
    test: TestPack,
    weights: Annotated[Path, typer.Option("--weights", help="Complete weights of the system.")],
    out: Out,
    variant: Variant = "base",
    seed: Seed = 0,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Look into a trained system with one analysis, on the test pairs of one dataset."""
    from mmfuse.stages import analyse as stage

    parameters = load_parameters(params)
    system = plan.System(method, variant, plan.task_of(parameters, dataset), seed)
    job = Job(
        stage="analyse",
        name=f"{analysis}/{dataset}/{system.label}",
        inputs=[*_sources("analyse", f"analyses.{analysis}", f"methods.{method}"), test, weights],
        outputs=[out],
        record=out.with_suffix(".run.json"),
        parameters=_watched(parameters, "analyse", analysis=analysis),
        tags={
            "task": system.task, "dataset": dataset, "method": method, "variant": variant, "seed": seed,
            "analysis": analysis,
        },
        study=parameters["study"]["name"],
        parents=parents(parameters, system),
    )  # fmt: skip

    def work(running: Running) -> None:
        stage.run(
            analysis,
            system,
            options=parameters["analyse"][analysis]["options"],
            weights=weights,
            test=test,
            threads=parameters["fuse"]["threads"],
            out=out,
            running=running,
        )

    execute(job, work)


@app.command()
def report(
    prepared: Annotated[Path, typer.Option("--prepared", help="Room of the prepared data.")],
    checkpoints: Annotated[Path, typer.Option("--checkpoints", help="Room of the weights and histories.")],
    fused: Annotated[Path, typer.Option("--fused", help="Room of the fused images.")],
    scores: Annotated[Path, typer.Option("--scores", help="Room of the scores.")],
    downstream: Annotated[Path, typer.Option("--downstream", help="Room of the detectors' and segmenters' results.")],
    analyses: Annotated[Path, typer.Option("--analyses", help="Room of the analyses.")],
    out: Out,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Write the pages that sum up the study, with their tables and figures."""
    from mmfuse.reporting.means import study_means
    from mmfuse.stages import report as stage

    parameters = load_parameters(params)
    job = Job(
        stage="report",
        name=parameters["study"]["name"],
        inputs=[
            *_sources("report", "reporting.*", "metrics.*", "analyses.*"),
            PUBLISHED,
            *map(Path, plan.report_inputs(parameters)),
        ],
        outputs=[out / name for name in ("index.html", "viewer.html", "viewer", "tables", "figures", "metrics.json")],
        record=out / "index.run.json",
        parameters=_watched(parameters, "report"),
        tags={},
        study=parameters["study"]["name"],
        parents=parents(parameters),
    )

    def work(running: Running) -> None:
        check_fused(parameters)
        stage.run(
            parameters=parameters, prepared=prepared, checkpoints=checkpoints, fused=fused, scores=scores,
            analyses=analyses, downstream=downstream, out=out, catalog=Path("data/catalog.yaml"),
            printed=PUBLISHED,
        )  # fmt: skip
        means = study_means(parameters, scores, downstream)
        write_json(out / "metrics.json", means)  # what `dvc metrics diff` compares
        running.tracker.log_above(STUDY, flatten(means, separator="/"))
        running.tracker.keep_above(STUDY, lambda file: results.pack(Path(), params, parameters, file), results.ARCHIVE)

    execute(job, work)
    print((out / "index.html").resolve())

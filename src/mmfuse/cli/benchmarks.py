"""`mmfuse benchmark WHAT`: one command for each module of `mmfuse.benchmarks`."""

from __future__ import annotations

from collections.abc import Iterable
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from mmfuse.errors import UserError

app = typer.Typer(help="How fast this machine does the heavy work.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON, with all digits.")]


@app.command()
def network(
    method: Annotated[str, typer.Argument(help="Method; see `mmfuse list methods`.")],
    height: Annotated[int | None, typer.Option(help="Of the images; 256, or 64 for a training step.")] = None,
    width: Annotated[int | None, typer.Option(help="Of the images, likewise.")] = None,
    batch: Annotated[int | None, typer.Option(help="Pairs at once; 1, or 8 for a training step.")] = None,
    train: Annotated[bool, typer.Option("--train", help="Measure a training step, not inference.")] = False,
    params: Annotated[Path | None, typer.Option(help="Take the method's options from these parameters.")] = None,
    variant: Annotated[str, typer.Option(help="Variant in these parameters.")] = "base",
    network: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE, an option of the method, as `--network channels=64`.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each way, by turns; the median counts.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads.")] = 2,
    workspace: Annotated[float, typer.Option(help="Limit of the layers' shared buffers, MiB.")] = 256,
    spectra: Annotated[float, typer.Option(help="Limit of the transformed weights that are kept, MiB.")] = 4096,
    json: Json = False,
) -> None:
    """Time a whole network with our layers and with torch's, and compare their outputs and peak memory."""
    from mmfuse.benchmarks import network as measured

    result = measured.run(
        measured.Case(
            method,
            measured.options_of(method, params, variant, network or []),
            height or (64 if train else 256),
            width or (64 if train else 256),
            batch or (8 if train else 1),
            train,
            repeats,
            threads,
            workspace,
            spectra,
        )
    )
    _show(result, measured.lines(result), json=json)


@app.command()
def convolution(json: Json = False) -> None:
    """Time the ways of a dense convolution, and compare what the choice between them rests on."""
    from mmfuse.benchmarks import convolution as measured

    result = measured.run()
    _show(result, measured.lines(result), json=json)


@app.command()
def metrics(
    height: Annotated[int, typer.Option(help="Height of the drawn images.")] = 480,
    width: Annotated[int, typer.Option(help="Width of the drawn images.")] = 640,
    repeats: Annotated[int, typer.Option(help="The shortest of so many times counts.")] = 3,
    threads: Annotated[int, typer.Option(help="Images measured at once, where all metrics are measured.")] = 2,
    fused: Annotated[Path | None, typer.Option(help="A fused image to measure instead of a drawn one.")] = None,
    a: Annotated[Path | None, typer.Option(help="Its first source.")] = None,
    b: Annotated[Path | None, typer.Option(help="Its second source.")] = None,
    json: Json = False,
) -> None:
    """Time the metrics against plain implementations, and all of them together."""
    from mmfuse.benchmarks import metrics as measured

    files = (fused, a, b) if fused and a and b else None
    if files is None and (fused or a or b):
        raise UserError("A triple is incomplete.", expected="--fused, --a and --b, or none of them")
    result = measured.run(height=height, width=width, repeats=repeats, threads=threads, files=files)
    _show(result, measured.lines(result), json=json)


@app.command()
def variants(
    method: Annotated[str, typer.Argument(help="Method; see `mmfuse list methods`.")],
    params: Annotated[Path, typer.Option(help="The parameters that have the variants.")] = Path("params.yaml"),
    height: Annotated[int, typer.Option(help="Of the images.")] = 256,
    width: Annotated[int, typer.Option(help="Of the images.")] = 256,
    json: Json = False,
) -> None:
    """Count the parameters and multiply-adds of each variant of a method."""
    from mmfuse.benchmarks import variants as measured

    result = measured.run(method, params=params, height=height, width=width)
    _show(result, measured.lines(method, result, height, width), json=json)


@app.command()
def cka(
    images: Annotated[list[int] | None, typer.Option(help="Numbers of images; 32, 64, 128 and 256.")] = None,
    height: Annotated[int, typer.Option(help="Of the images, a multiple of 16.")] = 96,
    width: Annotated[int, typer.Option(help="Of the images, likewise.")] = 128,
    batch: Annotated[int, typer.Option(help="Images in a minibatch.")] = 8,
    json: Json = False,
) -> None:
    """Time the similarity of all layers (CKA) by minibatches and at once, and compare memory and values."""
    from mmfuse.benchmarks import cka as measured

    result = measured.run(images=images or (32, 64, 128, 256), height=height, width=width, batch=batch)
    _show(result, measured.lines(result), json=json)


@app.command()
def scale(
    pairs: Annotated[int, typer.Option(help="Largest number of image pairs.")] = 10_000,
    systems: Annotated[int, typer.Option(help="Largest number of systems (methods and variants).")] = 50,
    datasets: Annotated[int, typer.Option(help="Largest number of datasets.")] = 20,
    sizes: Annotated[int, typer.Option(help="Sizes along each of them.")] = 3,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this: catalog, pairs, plan, report or engines; may be given again.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for scale.csv, scale.svg and scale.png.")] = None,
    json: Json = False,
) -> None:
    """Time pairing, plan, both engines' graphs and the report on simulated studies that grow."""
    from mmfuse.benchmarks import scale as measured

    largest = measured.Size(pairs, systems, datasets)
    result = measured.run(largest=largest, count=sizes, only=only or (), say=(lambda _: None) if json else print)
    if out is not None:
        measured.write(result, out)
    _show(result, measured.lines(result), json=json)


def _show(result: Any, lines: Iterable[str], *, json: bool) -> None:
    for line in [dumps(result, indent=2)] if json else lines:
        print(line)

"""`mmfuse benchmark WHAT`: one command for each module of `mmfuse.benchmarks`."""

from __future__ import annotations

from collections.abc import Iterable
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from mmfuse.errors import UserError
from mmfuse.terminal import wrapped

app = typer.Typer(help="Measure how fast this machine does the heavy work.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON, with all digits.")]


@app.command()
def network(
    method: Annotated[
        str, typer.Argument(help="Method (`mmfuse list methods`); with --backends, also shipped or other weights.")
    ],
    height: Annotated[
        int | None, typer.Option(help="Height of the images; by default 256, or 64 with --train.")
    ] = None,
    width: Annotated[int | None, typer.Option(help="Width of the images; the same defaults.")] = None,
    batch: Annotated[int | None, typer.Option(help="Pairs in a batch; by default 1, or 8 with --train.")] = None,
    train: Annotated[bool, typer.Option("--train", help="Measure a training step, not inference.")] = False,
    params: Annotated[Path | None, typer.Option(help="Take the method's options from these parameters.")] = None,
    variant: Annotated[str, typer.Option(help="Variant in these parameters.")] = "base",
    network: Annotated[
        list[str] | None, typer.Option(help="KEY=VALUE, an option of the method, such as `--network channels=64`.")
    ] = None,
    repeats: Annotated[
        int, typer.Option(min=1, help="Alternating measurements of each variant; the median counts.")
    ] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Processor threads.")] = 2,
    workspace: Annotated[float, typer.Option(help="Limit of the layers' shared buffers in MiB.")] = 256,
    spectra: Annotated[float, typer.Option(help="Limit of the cached transformed weights in MiB.")] = 4096,
    backends: Annotated[
        str | None,
        typer.Option(
            help="Compare these instead, separated by commas: `all`, or some of readable, copy, bf16, onnxruntime, "
            "openvino, compile, direct."
        ),
    ] = None,
    limit: Annotated[float, typer.Option(help="With --backends: seconds after which a backend is stopped.")] = 600,
    json: Json = False,
) -> None:
    """Time a whole network with our layers and with those of torch, and compare outputs and peak memory."""
    from mmfuse.benchmarks import backends as compared
    from mmfuse.benchmarks import network as measured

    case = measured.Case(
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
    if backends is None:
        result = measured.run(case)
        _show(result, measured.lines(result), json=json)
        return
    if case.train or case.batch > 1:
        raise UserError("--backends compares the inference of one pair.", fix="leave out --train and --batch")
    result = compared.run(case, compared.chosen(backends), limit=limit)
    _show(result, compared.lines(result), json=json)


@app.command()
def convolution(json: Json = False) -> None:
    """Time the implementations of a dense convolution, and check the rule that chooses among them."""
    from mmfuse.benchmarks import convolution as measured

    result = measured.run()
    _show(result, measured.lines(result), json=json)


@app.command()
def metrics(
    height: Annotated[int, typer.Option(help="Height of the synthetic images.")] = 480,
    width: Annotated[int, typer.Option(help="Width of the synthetic images.")] = 640,
    repeats: Annotated[int, typer.Option(help="Number of measurements; the shortest counts.")] = 3,
    threads: Annotated[int, typer.Option(help="Images measured in parallel when all metrics are measured.")] = 2,
    fused: Annotated[Path | None, typer.Option(help="A fused image to measure instead of a synthetic one.")] = None,
    a: Annotated[Path | None, typer.Option(help="Its first source.")] = None,
    b: Annotated[Path | None, typer.Option(help="Its second source.")] = None,
    json: Json = False,
) -> None:
    """Time the metrics against plain implementations, and all of them together."""
    from mmfuse.benchmarks import metrics as measured

    files = (fused, a, b) if fused and a and b else None
    if files is None and (fused or a or b):
        raise UserError("The triple is incomplete.", expected="--fused, --a and --b, or none of them")
    result = measured.run(height=height, width=width, repeats=repeats, threads=threads, files=files)
    _show(result, measured.lines(result), json=json)


@app.command()
def variants(
    method: Annotated[str, typer.Argument(help="Method; see `mmfuse list methods`.")],
    params: Annotated[Path, typer.Option(help="The parameters with the variants.")] = Path("params.yaml"),
    height: Annotated[int, typer.Option(help="Height of the images.")] = 256,
    width: Annotated[int, typer.Option(help="Width of the images.")] = 256,
    json: Json = False,
) -> None:
    """Count the parameters and multiply-adds of each variant of a method."""
    from mmfuse.benchmarks import variants as measured

    result = measured.run(method, params=params, height=height, width=width)
    _show(result, measured.lines(method, result, height, width), json=json)


@app.command()
def align(
    pairs: Annotated[Path, typer.Argument(help="Folder of pairs with known positions; see docs/how-to/align.md.")],
    model: Annotated[str, typer.Option(help="auto, rigid, similarity or affine.")] = "auto",
    deformable: Annotated[bool, typer.Option("--deformable", help="Also bend the images.")] = False,
    json: Json = False,
) -> None:
    """Measure how far known positions are from their true places before and after an alignment."""
    from mmfuse.benchmarks import align as measured

    result = measured.run(pairs, model=model, deformable=deformable)
    _show(result, measured.lines(result), json=json)


@app.command()
def cka(
    images: Annotated[list[int] | None, typer.Option(help="Numbers of images; by default 32, 64, 128 and 256.")] = None,
    height: Annotated[int, typer.Option(help="Height of the images, a multiple of 16.")] = 96,
    width: Annotated[int, typer.Option(help="Width of the images, a multiple of 16.")] = 128,
    batch: Annotated[int, typer.Option(help="Images in a minibatch.")] = 8,
    json: Json = False,
) -> None:
    """Time the similarity of all layers (CKA), in minibatches and at once, and compare memory and values."""
    from mmfuse.benchmarks import cka as measured

    result = measured.run(images=images or (32, 64, 128, 256), height=height, width=width, batch=batch)
    _show(result, measured.lines(result), json=json)


@app.command()
def scale(
    pairs: Annotated[int, typer.Option(help="Largest number of image pairs.")] = 10_000,
    systems: Annotated[int, typer.Option(help="Largest number of systems (methods and variants).")] = 50,
    datasets: Annotated[int, typer.Option(help="Largest number of datasets.")] = 20,
    sizes: Annotated[int, typer.Option(help="Number of sizes to measure along each.")] = 3,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this: catalog, pairs, plan, report or engines; may be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for scale.csv, scale.svg and scale.png.")] = None,
    json: Json = False,
) -> None:
    """Time pairing, plan, both engines' graphs and the report on simulated studies of growing size."""
    from mmfuse.benchmarks import scale as measured

    largest = measured.Size(pairs, systems, datasets)
    result = measured.run(
        largest=largest,
        count=sizes,
        only=only or (),
        say=(lambda _: None) if json else lambda line: print(wrapped(line)),
    )
    if out is not None:
        measured.write(result, out)
    _show(result, measured.lines(result), json=json)


def _show(result: Any, lines: Iterable[str], *, json: bool) -> None:
    print(dumps(result, indent=2) if json else "\n".join(map(wrapped, lines)))

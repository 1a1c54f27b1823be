"""The command `mmfuse`: for users, and `mmfuse stage …` for the engines."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from mmfuse import __version__
from mmfuse.cli import align as aligned
from mmfuse.cli import benchmarks, params, stages
from mmfuse.cli.fuse import Task, fuse
from mmfuse.cli.limits import outer_limit
from mmfuse.cli.pair_options import Pattern, Recursive, ResizeTo, naming
from mmfuse.errors import MmfuseError, UserError, causes
from mmfuse.leaderboard.command import leaderboard
from mmfuse.terminal import show_all_signs, stop_writing, wrapped

_PARAMS = Path("params.yaml")


app = typer.Typer(
    help="A reproducible benchmark of multimodal image fusion.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
)
app.add_typer(stages.app, name="stage")
app.add_typer(benchmarks.app, name="benchmark")
app.add_typer(params.app, name="params")
app.command()(fuse)
app.command()(leaderboard)
app.command()(aligned.align)
app.command()(aligned.transform_points)


def _version(asked: bool) -> None:
    if asked:
        print(f"mmfuse {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    log: Annotated[
        Path | None, typer.Option("--log", help="Write the command's output to this file; errors are also shown.")
    ] = None,
    _asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    if log is not None:
        if log.is_file() and log.suffix != ".log":
            raise UserError(
                f"Cannot write {log}: this file exists.", expected="a new file, or an earlier log (.log)",
                fix="choose another name for --log",
            )  # fmt: skip
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            # for the whole process: all further output, also that of libraries, belongs in the file
            sys.stdout = sys.stderr = log.open("w", encoding="utf-8", buffering=1)
        except OSError as error:
            raise UserError(
                f"Cannot write {log}.", found=error.strerror, fix="choose another file for --log"
            ) from error


@app.command()
def demo(out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("demo")) -> None:
    """Draw an image pair, fuse it with the shipped weights, and say what to do next."""
    from mmfuse.cli import demo as first

    for line in first.run(out):
        print(line)


@app.command()
def import_weights(
    method: Annotated[str, typer.Argument(help="Method; see `mmfuse list methods`.")],
    files: Annotated[list[Path], typer.Argument(help="The files that its authors publish, in any order.")],
    out: Annotated[Path, typer.Option(help="Weights file to write, NAME.safetensors.")],
    task: Annotated[Task | None, typer.Option(help="Task of the weights; by default, as the files suggest.")] = None,
    network: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE, an option that changes no tensor, such as `stretch=false`."),
    ] = None,
    every_name: Annotated[bool, typer.Option(help="List all tensors that do not match, however many.")] = False,
) -> None:
    """Convert checkpoints published by a method's authors into weights for `mmfuse fuse` and for a study."""
    from mmfuse.cli import importing
    from mmfuse.study.settings import assigned

    changes = assigned(network or [])
    for line in importing.run(method, files, out=out, task=task, changes=changes, every_name=every_name):
        print(line)


@app.command()
def evaluate(
    a: Annotated[Path, typer.Option(help="Folder (or file) of the first modality.")],
    b: Annotated[Path, typer.Option(help="Folder (or file) of the second modality.")],
    fused: Annotated[
        list[str],
        typer.Option(metavar="DIR", help="Folder (or file) of the fused images; NAME=DIR for each of several systems."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="CSV to write, one row for each image (with a JSON summary beside it) or for each of several systems."
        ),
    ],
    latex: Annotated[
        Path | None, typer.Option(help="Also write the table of several systems and their tests as LaTeX.")
    ] = None,
    metrics: Annotated[str, typer.Option(help="`all`, or plain names such as EN,SD,SSIM.")] = "all",
    convention: Annotated[
        str, typer.Option(help="What the plain names mean; see `mmfuse list metrics`.")
    ] = "lkc_funet",
    beside: Annotated[
        str, typer.Option(help="Other conventions such as cddfuse,vifb; adds columns such as SSIM.cddfuse.")
    ] = "",
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out images that lack a counterpart.")
    ] = False,
    pattern: Pattern = None,
    fused_pattern: Annotated[
        str | None, typer.Option(metavar="FUSED", help="Names of the fused images; by default '{name}.*'.")
    ] = None,
    recursive: Recursive = False,
    resize_to: ResizeTo = None,
    flow_side: Annotated[
        int | None,
        typer.Option(min=16, help="For films: reduce larger frames to so many pixels to find motion; 640 by default."),
    ] = None,
) -> None:
    """Measure any fused images or films against their sources; compare several systems in one table."""
    from mmfuse.cli import evaluating, film_scores
    from mmfuse.cli.own_films import are_films
    from mmfuse.data.pairs import PLAIN

    systems = evaluating.named_folders(fused)
    if are_films(a, b, *(systems.values() if systems else [Path(fused[0])])):
        if (
            latex is not None
            or beside
            or convention != "lkc_funet"
            or naming(pattern, recursive, fused_pattern) != PLAIN
        ):
            raise UserError(
                "Some of these options have no effect on films.",
                expected="none of --latex, --beside, --convention, --pattern, --fused-pattern and --recursive",
                fix="leave them out",
            )
        film_scores.evaluate_films(
            a, b, systems or {"": Path(fused[0])}, out, measures=metrics, allow_missing=allow_missing,
            resize_to=resize_to, side=flow_side,
        )  # fmt: skip
        return
    if flow_side is not None:
        raise UserError("--flow-side has no effect on images.", expected="films", found=a, fix="leave it out")
    how: Any = {"metrics": metrics, "convention": convention, "beside": beside, "allow_missing": allow_missing}
    how |= {"naming": naming(pattern, recursive, fused_pattern), "resize_to": resize_to}
    if systems:
        evaluating.evaluate_systems(a, b, systems, out, latex=latex, **how)
    elif latex is not None:
        raise UserError("--latex needs named systems.", expected="--fused NAME=DIR", found=f"--fused {fused[0]}")
    else:
        evaluating.evaluate_folders(a, b, Path(fused[0]), out, **how)


class Listed(StrEnum):
    """What `mmfuse list` can list."""

    methods = "methods"
    metrics = "metrics"
    datasets = "datasets"
    variants = "variants"
    analyses = "analyses"
    weights = "weights"
    studies = "studies"


@app.command(name="list")
def list_(
    what: Annotated[Listed, typer.Argument(help="What to list.")],
    params: Annotated[Path, typer.Option(help="The study's parameters (for variants).")] = _PARAMS,
) -> None:
    """List the available methods, metrics, datasets, variants, analyses or shipped weights, or the tracked studies."""
    from mmfuse.cli.own_images import listing

    for line in listing(what.value, params):
        print(wrapped(line))


@app.command()
def doctor(
    params: Annotated[Path, typer.Option(help="The study's parameters.")] = _PARAMS,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also compare all results of a finished study with its records.")
    ] = False,
) -> None:
    """Check the environment, the devices, the parameters and the data, with advice for each problem."""
    from mmfuse.cli.doctor import examine

    problems = 0
    for check in examine(params, deep=deep):
        print("\n".join(map(wrapped, str(check).splitlines())))
        problems += not check.good
    if problems:
        raise UserError(f"{problems} of the checks above failed.", fix="follow the `to do` lines, then run it again")


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Two or more: folders with results, commits, branches or tags, or names or ids of runs in MLflow."
        ),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with all digits.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the scores to this CSV, with all digits.")] = None,
) -> None:
    """Show what differs between runs (parameters, code, data) and the effect on the scores, relative to the first."""
    from mmfuse import comparing
    from mmfuse.comparing import output
    from mmfuse.files.writing import write_text

    found = comparing.compare(runs)
    if out is not None:
        write_text(out, output.as_csv(found))
    print(output.as_json(found) if json else "\n".join(output.lines(found)))


@app.command()
def register(
    dataset: Annotated[str, typer.Option(help="Test dataset of the study.")],
    metric: Annotated[str, typer.Option(help="Metric whose mean decides, such as Qabf.")],
    name: Annotated[str | None, typer.Option(help="Name in the registry; by default STUDY-TASK.")] = None,
    study: Annotated[str | None, typer.Option(help="The study's expected name; other parameters are refused.")] = None,
    params: Annotated[Path, typer.Option(help="The study's parameters.")] = _PARAMS,
) -> None:
    """Put the study's best trained system into MLflow's registry, ready for `mlflow.pytorch.load_model`."""
    from mmfuse.cli import registering

    for line in registering.register(params, dataset=dataset, metric=metric, name=name, study=study):
        print(wrapped(line))


@app.command()
def sync(
    write: Annotated[
        bool, typer.Option("--write-dvc", help="Only write dvc.yaml, for the jobs of params.yaml.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Only compare the jobs of both engines.")] = False,
    code: Annotated[
        bool, typer.Option("--code", help="Only list the code behind each job, as DVC's stage `code` does.")
    ] = False,
) -> None:
    """Make both engines agree: after a complete run of one, the other has nothing to do.

    After `snakemake --cores all`, it commits the results to DVC; after `dvc repro` or `dvc pull`, it renews Snakemake's
    records. It refuses if neither engine is up to date.
    """
    from mmfuse.cli.doctor import cache_elsewhere

    script = Path("workflow/scripts/sync.py")
    if not script.is_file():
        raise UserError("This is not the root of an mmfuse project.", expected=str(script))
    chosen = {"--write-dvc": write, "--check": check, "--code": code}
    words = [word for word, on in chosen.items() if on]
    run = subprocess.run([sys.executable, str(script), *words], env={**os.environ, **cache_elsewhere()}, check=False)
    raise typer.Exit(run.returncode)


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    """End as on a terminal's interrupt, so that half-written files are removed and the tracked run is closed."""
    _complain("error: Asked to stop (SIGTERM); run the same command again.")
    sys.exit(128 + signal.SIGTERM)


def main() -> None:
    """Run the command; exit code 2 for the user's mistakes, 1 for ours, 143 after SIGTERM, 141 if its reader left."""
    signal.signal(signal.SIGTERM, _stop)  # a training replaces it by its own handler, which first saves the state
    show_all_signs()
    try:
        _run()
    except BrokenPipeError:
        stop_writing()
        sys.exit(128 + signal.SIGPIPE)


def _run() -> None:
    """Run the command.

    Raises:
        BrokenPipeError: nobody reads its output any more.
    """
    try:
        app()
    except MmfuseError as error:
        _complain(_fitting(f"error: {error}"))
        sys.exit(error.exit_code)
    except SystemExit as leaving:  # a wrong option: typer has reported it, perhaps only in the log
        broken = next((error for error in causes(leaving) if isinstance(error, BrokenPipeError)), None)
        if broken is not None:
            raise broken from None
        sys.stdout.flush()
        if leaving.code and _logs():
            print(f"error: see {sys.stderr.name}", file=sys.__stderr__)
        raise
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        known = outer_limit(error)
        _complain(_fitting(f"error: {known}") if known else traceback.format_exc())
        sys.exit(known.exit_code if known else 1)


def _fitting(message: str) -> str:
    """Return a message whose lines fit the terminal; what goes elsewhere, such as to a log, keeps whole lines."""
    return "\n".join(map(wrapped, message.splitlines())) if sys.stderr.isatty() else message


def _complain(message: str) -> None:
    """Print an error to the terminal, and to the log if there is one."""
    with contextlib.suppress(OSError):  # the log's disk may be full
        print(message, file=sys.stderr)
    if _logs():
        print(message, file=sys.__stderr__)


def _logs() -> bool:
    """Whether messages go to a log instead of the terminal."""
    return getattr(sys.stderr, "name", None) not in {None, "<stderr>"}  # libraries wrap the terminal


if __name__ == "__main__":
    main()

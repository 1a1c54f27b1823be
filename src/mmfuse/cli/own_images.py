"""`mmfuse fuse`, for the user's own images, and `mmfuse list`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mmfuse.data.colours import Colours
from mmfuse.data.images import Bytes, read_image, write_image
from mmfuse.data.pairs import Matched, check_equal_sizes, match_folders
from mmfuse.errors import UserError
from mmfuse.inference.task_rule import task_of_images
from mmfuse.progress import progress
from mmfuse.weights import shipped

if TYPE_CHECKING:
    from mmfuse.cli.aligning import Aligner
    from mmfuse.methods.base import FusionMethod


def matched_images(folders: dict[str, Path], *, allow_missing: bool) -> list[Matched]:
    """Match folders by name; print which names are left out, if that is allowed."""
    if not allow_missing:
        return match_folders(allow_missing=False, **folders)
    matched, missing = match_folders(allow_missing=True, **folders)
    for line in missing:
        print(f"left out: {line}", file=sys.stderr)
    return matched


def fuse_folders(
    a: Path,
    b: Path,
    out: Path,
    *,
    weights: str | Path | None = None,
    method: str | None = None,
    task: str | None = None,
    allow_missing: bool = False,
    backend: str = "torch",
    precision: str = "fp32",
    align: str | None = None,
    transform: Path | None = None,
) -> None:
    """Fuse the pairs of two folders (or two files) into OUT/NAME.png.

    Args:
        a: Images of the first modality.
        b: Images of the second modality.
        out: Folder of the fused images.
        weights: A weights file, or the name of shipped weights.
        method: A training-free method instead of weights. Without both, the task's default weights are used.
        task: `ivif` or `mif`; determined from the images if needed and not given.
        allow_missing: Leave out images that lack a counterpart.
        backend: One of `inference.backends.BACKENDS`.
        precision: fp32, bf16 or auto; see `inference.backends.prepared`.
        align: `a` or `b`: move these images onto the other ones first.
        transform: With `align`, the transform to use for all pairs.

    Raises:
        UserError: images are missing, damaged or of unequal size, the weights cannot be used, the task is not clear, a
            source would be overwritten, or the backend cannot be used.
    """
    from mmfuse.fastconv.workspace import keep_freed_memory
    from mmfuse.inference.backends import prepared
    from mmfuse.inference.fusing import best_device, fuse_pair

    _check_choice(weights, method, task)
    aligner = _aligner(align, transform)
    sources = {"a": a, "b": b}
    single = a.is_file() and b.is_file()
    pairs = [Matched(a.stem, sources)] if single else matched_images(sources, allow_missing=allow_missing)
    net = _network(pairs, weights, method, task, aligner)
    check_not_overwritten(pairs, out)
    device = best_device()
    keep_freed_memory()
    fuse, record = prepared(net.to(device), device, backend=backend, precision=precision)
    if precision == "auto":
        print(f"precision: {record['precision']}", file=sys.stderr)
    colours = Colours({"a": "infrared or MRI"})
    fused = 0
    for name, first, second in progress(_read(pairs, aligner), "fuse", total=len(pairs), unit="pairs"):
        fused += 1
        colours.add(name, {"a": first, "b": second})
        write_image(out / f"{name}.png", fuse_pair(fuse, first, second, device))
    print(f"{fused} fused images in {out}")
    colours.warn("fuse")
    if aligner is not None:
        aligner.check_all_aligned("they are not fused")


def _aligner(moving: str | None, transform: Path | None) -> Aligner | None:
    """Return what aligns each pair, None if nothing does."""
    from mmfuse.cli.aligning import Aligner

    if moving is None and transform is not None:
        raise UserError("--transform has no effect without --align.", fix="add --align a or --align b")
    return None if moving is None else Aligner(moving=moving, transform=transform)


def _read(pairs: list[Matched], aligner: Aligner | None = None) -> Iterator[tuple[str, Bytes, Bytes]]:
    """Yield the name and the images of each pair, aligned if asked for; pairs that cannot be aligned are left out.

    Raises:
        UserError: an image is damaged, or two of a pair differ in size.
    """
    for name, paths in pairs:
        first, second = read_image(paths["a"]), read_image(paths["b"])
        if aligner is not None:
            aligned = aligner.aligned(name, paths, first, second)
            if aligned is None:
                continue
            first, second = aligned
        check_equal_sizes((paths["a"], first), (paths["b"], second))
        yield name, first, second


def _check_choice(weights: str | Path | None, method: str | None, task: str | None) -> None:
    """Check that every choice has an effect."""
    if weights is not None and method is not None:
        raise UserError(
            "Both weights and a method are given.",
            expected="only --weights, which include the method, or only --method, for a training-free one",
            found=f"--weights {weights} and --method {method}",
            fix="leave one of them out",
        )
    if task is not None and (method is not None or (weights is not None and _is_file(weights))):
        raise UserError(
            "The task has no effect here.",
            expected="--task with shipped weights, among which it chooses",
            found=f"--task {task} and " + (f"--method {method}" if method else f"--weights {weights}"),
            fix="leave --task out",
        )


def _is_file(weights: str | Path) -> bool:
    """Return whether weights are given as a file, not as the name of shipped weights."""
    path = Path(weights)
    return isinstance(weights, Path) or path.suffix != "" or len(path.parts) != 1 or path.is_file()


def _network(
    pairs: list[Matched], weights: str | Path | None, method: str | None, task: str | None, aligner: Aligner | None
) -> FusionMethod:
    """Return the network or training-free method that the user chose."""
    from mmfuse.training.checkpoints import build, load_method

    if method is not None:
        net = build(method, {}).eval()
        if net.parts:
            raise UserError(
                f"{method} needs trained weights.",
                expected="--weights FILE, or a name from `mmfuse list weights`",
                fix=f"give its {net.last_part()}.safetensors below data/checkpoints, or choose a training-free method",
            )
        return net
    if weights is not None and _is_file(weights):
        return load_method(Path(weights))[0]
    one = _shipped(pairs, None if weights is None else str(weights), task, aligner)
    return load_method(shipped.verified(one))[0]


def _shipped(pairs: list[Matched], name: str | None, task: str | None, aligner: Aligner | None) -> shipped.Shipped:
    """Return the shipped weights with a name, or the task's default ones, and print which they are."""
    if name is not None:
        one = shipped.named(name)
        if task is not None and task not in one.tasks:
            raise UserError(
                f"The shipped weights {name} are not for this task.", expected=" or ".join(one.tasks), found=task,
                fix="leave --task or --weights out",
            )  # fmt: skip
        return one
    defaults = shipped.read_index().defaults
    one_for_all = len(defaults) == len(shipped.TASKS) and len(set(defaults.values())) == 1
    told = ""
    if task is None and defaults and not one_for_all:
        read = progress(_read(pairs, aligner), "determine the task", total=len(pairs), unit="pairs")
        task, told = task_of_images(read), ", judging by the images; --task overrides it"
    one = shipped.default(task or shipped.TASKS[0])
    print(f"weights: {one.name} (method {one.method}, task {task or ' and '.join(one.tasks)}{told})", file=sys.stderr)
    return one


def check_not_overwritten(pairs: list[Matched], out: Path) -> None:
    """Check that no OUT/NAME.png is one of the sources.

    Raises:
        UserError: one is.
    """
    sources = {path.resolve() for _, paths in pairs for path in paths.values()}
    lost = [path for path in (out / f"{name}.png" for name, _ in pairs) if path.resolve() in sources]
    if lost:
        raise UserError(
            "The images would overwrite their sources.", found=str(lost[0]), fix="choose another output folder"
        )


def listing(what: str, params: Path) -> Iterator[str]:
    """Yield the lines of `mmfuse list WHAT`."""
    kinds = {
        "methods": _methods, "metrics": _metrics, "datasets": _datasets, "analyses": _analyses, "weights": _weights,
        "studies": _studies,
    }  # fmt: skip
    yield from kinds.get(what, lambda: _variants(params))()


def _methods() -> Iterator[str]:
    from mmfuse import methods

    for name in methods.available():
        method = methods.load(name)
        yield f"{name}: {method.summary} [{', '.join(method.tasks)}] ({method.source})"
        parts = [f"{part} (optional)" if part in method.optional_parts else part for part in method.parts]
        yield f"    parts: {', '.join(parts) or 'none, training-free'}"
        options = inspect.signature(method).parameters.values()
        listed = [f"{o.name}={o.default}" for o in options if o.default is not inspect.Parameter.empty]
        yield f"    options: {', '.join(listed) or 'none'}"


def _metrics() -> Iterator[str]:
    from mmfuse.metrics import CONVENTIONS, definitions, plain_names

    for name, metric in definitions().items():
        low, high = metric.card.range
        yield f"{name}: {metric.card.better} is better, {low:g} to {high:g} ({metric.card.source})"
    for convention in CONVENTIONS:
        meaning = plain_names(convention).items()
        yield f"convention {convention}: " + ", ".join(f"{plain} = {variant}" for plain, variant in meaning)


def _analyses() -> Iterator[str]:
    from mmfuse import analyses

    for name in analyses.available():
        analysis = analyses.load(name)
        yield f"{name}: {analysis.CARD.title} [{', '.join(analysis.CARD.methods)}] ({analysis.CARD.source})"
        options = [o.name for o in inspect.signature(analysis.analyse).parameters.values() if o.kind == o.KEYWORD_ONLY]
        yield f"    options: {', '.join(options) or 'none'}"


def _weights() -> Iterator[str]:
    index = shipped.read_index()
    for name, one in index.weights.items():
        chosen = [task for task, default in index.defaults.items() if default == name]
        note = f"; the default for {' and '.join(chosen)}" if chosen else ""
        yield f"{name}: {one.summary} [{', '.join(one.tasks)}] ({one.method}.{one.variant}{note})"
        pairs = ", ".join(f"{data.pairs} of {data.dataset}" for data in one.data if data.use == "training")
        yield f"    trained on: {pairs}"
    if not index.weights:
        yield "this installation has no shipped weights"


def _datasets() -> Iterator[str]:
    from mmfuse.data.catalog import load_catalog

    for name, entry in load_catalog().items():
        yield f"{name}: {entry.title} [{entry.task}] (licence: {entry.licence})"


def _studies() -> Iterator[str]:
    from mmfuse.tracking.reading import studies

    found = studies(Path.cwd())
    yield from (f"{name}: {page}" for name, page in found)
    if not found:
        yield "no study is tracked yet; MLflow tracks each job that `snakemake --cores all` or `dvc repro` runs"


def _variants(params: Path) -> Iterator[str]:
    from mmfuse.study.parameters import load_parameters

    for name, block in load_parameters(params)["methods"].items():
        for variant, changes in block.get("variants", {"base": {}}).items():
            yield f"{name}.{variant}: {changes or 'nothing changed'}"

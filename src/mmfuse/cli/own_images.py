"""`mmfuse fuse`, for the user's own images, and `mmfuse list`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mmfuse.data.colours import Colours
from mmfuse.data.images import Bytes, write_image
from mmfuse.data.kinds import SUFFIXES
from mmfuse.data.names import Naming
from mmfuse.data.pairs import PLAIN, Matched, check_all, find_own_pairs, read_pixels
from mmfuse.errors import UserError
from mmfuse.inference.task_rule import task_of_images
from mmfuse.progress import progress
from mmfuse.terminal import wrapped
from mmfuse.weights import shipped
from mmfuse.words import number_of

if TYPE_CHECKING:
    from mmfuse.cli.aligning import Aligner

# images of types that are not written
_NOT_WRITTEN = {
    ".avif", ".dcm", ".exr", ".gif", ".heic", ".heif", ".jp2", ".jxl", ".npy", ".pdf", ".pgm", ".pnm", ".ppm", ".svg",
    ".tga", ".webp",
}  # fmt: skip
_Images = Callable[[], "Iterator[tuple[str, Bytes, Bytes]]"]  # yields the name and both images of each pair
GREY = {"a": "infrared or MRI"}  # images of the first modality should have no colours


def matched_images(
    sources: Mapping[str, Path],
    naming: Naming = PLAIN,
    *,
    allow_missing: bool,
    resize_to: str | None = None,
    check: Callable[[Mapping[str, Path]], object] | None = None,
) -> list[Matched]:
    """Match folders, or take files as they are given; print what is left out.

    All images are read once, so that nothing is written if one of them cannot be used; `check` does it in another way.

    Raises:
        UserError: images are missing, cannot be read or differ in size.
    """
    matched, missing = find_own_pairs(sources, naming, allow_missing=allow_missing)
    for line in missing:
        print(wrapped(f"left out: {line}"), file=sys.stderr)
    check_all(matched, resize_to, check=check)
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
    naming: Naming = PLAIN,
    resize_to: str | None = None,
    backend: str = "torch",
    precision: str = "fp32",
    memory: str | None = None,
    align: str | None = None,
    transform: Path | None = None,
) -> None:
    """Fuse the pairs of two folders into OUT/NAME.png; or two files, then OUT may be a file, too.

    Args:
        a: Images of the first modality.
        b: Images of the second modality.
        out: Folder of the fused images; for two files also the file to write, with the suffix of an image.
        weights: A weights file, or the name of shipped weights.
        method: A training-free method instead of weights. Without both, the task's default weights are used.
        task: `ivif` or `mif`; determined from the images if needed and not given.
        allow_missing: Leave out images that lack a counterpart.
        naming: How the images are named in `a` and `b`.
        resize_to: `a` or `b`: resize the image of the other modality to the size of this one.
        backend: One of `inference.backends.BACKENDS`.
        precision: fp32, bf16 or auto; see `inference.backends.prepared`.
        memory: How much memory the command may use, such as `4 GiB`; by default, most of what the machine has. Images
            that do not fit are fused in tiles.
        align: `a` or `b`: move these images onto the other ones first.
        transform: With `align`, the transform to use for all pairs.

    Raises:
        UserError: images are missing, damaged or of unequal size, the weights cannot be used, the task is not clear, a
            source would be overwritten, the backend cannot be used, or the memory is too small.
    """
    from mmfuse.api.choosing import check_choice, chosen, network
    from mmfuse.fastconv.workspace import keep_freed_memory
    from mmfuse.inference.backends import prepared
    from mmfuse.inference.fusing import best_device, fuse_pair
    from mmfuse.inference.memory import limit

    room = limit(memory, lambda message: print(f"memory: {message}", file=sys.stderr))
    if memory is not None and backend != "torch":
        raise UserError(
            f"The memory of the backend {backend} cannot be limited.", expected="--memory with the backend torch",
            found=f"--memory {memory} --backend {backend}", fix="leave one of them out",
        )  # fmt: skip
    check_choice(weights, method, task)
    aligner = _aligner(align, transform, resize_to)
    check_out(a, b, out, naming)
    pairs = matched_images(
        {"a": a, "b": b},
        naming,
        allow_missing=allow_missing,
        resize_to=resize_to,
        check=None if aligner is None else aligner.check,
    )
    targets = {name: out if is_image_name(out) else out / f"{name}.png" for name, _ in pairs}
    check_not_overwritten(pairs, targets.values())
    pairs = pairs if aligner is None else aligner.aligned(pairs)
    read = partial(_read, pairs, resize_to, aligner)
    given = None if weights is None else str(weights)
    net = network(chosen(weights, method, task, lambda: _shipped(read, len(pairs), given, task)))
    device = best_device()
    if memory is None:
        keep_freed_memory()
    fuse, record = prepared(net.to(device), device, backend=backend, precision=precision)
    if precision == "auto":
        print(f"precision: {record['precision']}", file=sys.stderr)
    colours = Colours(GREY)
    for name, first, second in progress(read(), "fuse", total=len(pairs), unit="pairs"):
        colours.add(name, {"a": first, "b": second})
        write_image(targets[name], fuse_pair(fuse, first, second, device, memory=room))
    print(f"fused image: {out}" if is_image_name(out) else f"{number_of(len(pairs), 'fused image')} in {out}")
    colours.warn("fuse")
    if aligner is not None:
        aligner.check_all_aligned("they are not fused")


def is_image_name(out: Path) -> bool:
    """Return whether a path is the name of an image to write, and not of a folder."""
    return out.suffix.lower() in SUFFIXES and not out.is_dir()


def check_out(a: Path, b: Path, out: Path, naming: Naming) -> None:
    """Check that the output fits the input.

    Raises:
        UserError: one file is named for the images of folders, it would have a type that is not written, or the output
            would be found among the input the next time.
    """
    single = a.is_file() and b.is_file()
    foreign = out.suffix.lower() in _NOT_WRITTEN
    if not out.is_dir() and (foreign or (is_image_name(out) and not single) or (out.is_file() and not single)):
        raise UserError(
            f"Cannot write the images to {out}.",
            expected=f"a folder; or, for two files, a name ending in {', '.join(SUFFIXES)}",
            found=f"a file of the type {out.suffix}" if foreign else "a file for the images of folders",
            fix="choose another name for the output",
        )
    for folder in (a, b):
        if naming.recursive and folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                "The output is inside a folder of images that is read with its subfolders.",
                expected=f"an output folder outside {folder}", found=out, fix="choose another output folder",
            )  # fmt: skip


def _aligner(moving: str | None, transform: Path | None, resize_to: str | None) -> Aligner | None:
    """Return what aligns each pair, None if nothing does.

    Raises:
        UserError: the options do not go together, or the transform cannot be used.
    """
    if moving is None:
        if transform is not None:
            raise UserError("--transform has no effect without --align.", fix="add --align a or --align b")
        return None
    if resize_to is not None:
        raise UserError("--align and --resize-to exclude each other: an alignment also makes the sizes equal.",
                        fix="leave --resize-to out")  # fmt: skip
    from mmfuse.cli.aligning import Aligner

    return Aligner(moving=moving, transform=transform)


def _read(pairs: list[Matched], resize_to: str | None, aligner: Aligner | None) -> Iterator[tuple[str, Bytes, Bytes]]:
    """Yield the name and the images of each pair; those that cannot be aligned are left out.

    Raises:
        UserError: an image is damaged, or two of a pair differ in size.
    """
    for pair in pairs:
        if aligner is None:
            images = read_pixels(pair.paths, resize_to)
            yield pair.name, images["a"], images["b"]
        elif (moved := aligner.read(pair)) is not None:
            yield pair.name, *moved


def _shipped(read: _Images, count: int, name: str | None, task: str | None) -> shipped.Shipped:
    """Return the shipped weights with a name, or the task's default ones, and print which they are."""
    from mmfuse.api.choosing import shipped_weights

    found = []

    def find_task() -> str:
        images = progress(read(), "determine the task", total=count, unit="pairs")
        found.append(task_of_images(images))
        return found[0]

    one = shipped_weights(name, task, find_task)
    if name is None:
        known = task or " and ".join(found or one.tasks)
        told = ", judging by the images; --task overrides it" if found else ""
        text = f"weights: {one.name} (method {one.method}, task {known}{told})"
        print(wrapped(text) if sys.stderr.isatty() else text, file=sys.stderr)
    return one


def check_not_overwritten(pairs: list[Matched], targets: Iterable[Path]) -> None:
    """Check that no image to write is one of the sources.

    Raises:
        UserError: one is.
    """
    sources = {path.resolve() for _, paths in pairs for path in paths.values()}
    lost = [path for path in targets if path.resolve() in sources]
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

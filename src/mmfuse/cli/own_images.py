"""`mmfuse fuse`, for the user's own images, and `mmfuse list`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

from mmfuse.data.colours import Colours
from mmfuse.data.images import Bytes, read_image, write_image
from mmfuse.data.pairs import Matched, check_equal_sizes, match_folders
from mmfuse.errors import UserError
from mmfuse.inference.task_rule import task_of_images
from mmfuse.progress import progress
from mmfuse.weights import shipped


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
    memory: str | None = None,
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
        memory: How much memory the command may use, such as `4 GiB`; by default, most of what the machine has. Images
            that do not fit are fused in tiles.

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
    check_choice(weights, method, task)
    sources = {"a": a, "b": b}
    single = a.is_file() and b.is_file()
    pairs = [Matched(a.stem, sources)] if single else matched_images(sources, allow_missing=allow_missing)
    given = None if weights is None else str(weights)
    net = network(chosen(weights, method, task, lambda: _shipped(pairs, given, task)))
    _check_not_overwritten(pairs, out)
    device = best_device()
    if memory is None:
        keep_freed_memory()
    fuse, record = prepared(net.to(device), device, backend=backend, precision=precision)
    if precision == "auto":
        print(f"precision: {record['precision']}", file=sys.stderr)
    colours = Colours({"a": "infrared or MRI"})
    for name, first, second in progress(_read(pairs), "fuse", total=len(pairs), unit="pairs"):
        colours.add(name, {"a": first, "b": second})
        write_image(out / f"{name}.png", fuse_pair(fuse, first, second, device, memory=room))
    print(f"{len(pairs)} fused images in {out}")
    colours.warn("fuse")


def _read(pairs: list[Matched]) -> Iterator[tuple[str, Bytes, Bytes]]:
    """Yield the name and the images of each pair.

    Raises:
        UserError: an image is damaged, or two of a pair differ in size.
    """
    for name, paths in pairs:
        first, second = read_image(paths["a"]), read_image(paths["b"])
        check_equal_sizes((paths["a"], first), (paths["b"], second))
        yield name, first, second


def _shipped(pairs: list[Matched], name: str | None, task: str | None) -> shipped.Shipped:
    """Return the shipped weights with a name, or the task's default ones, and print which they are."""
    from mmfuse.api.choosing import shipped_weights

    found = []

    def find_task() -> str:
        read = progress(_read(pairs), "determine the task", total=len(pairs), unit="pairs")
        found.append(task_of_images(read))
        return found[0]

    one = shipped_weights(name, task, find_task)
    if name is None:
        known = task or " and ".join(found or one.tasks)
        told = ", judging by the images; --task overrides it" if found else ""
        print(f"weights: {one.name} (method {one.method}, task {known}{told})", file=sys.stderr)
    return one


def _check_not_overwritten(pairs: list[Matched], out: Path) -> None:
    sources = {path.resolve() for _, paths in pairs for path in paths.values()}
    lost = [path for path in (out / f"{name}.png" for name, _ in pairs) if path.resolve() in sources]
    if lost:
        raise UserError(
            "The fused images would overwrite their sources.", found=str(lost[0]), fix="choose another output folder"
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

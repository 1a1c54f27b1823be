"""Scores of a list of images: measurement, summary, and the two files that a stage writes."""

from __future__ import annotations

import io
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from mmfuse.errors import UserError
from mmfuse.fastconv.workspace import keep_freed_memory
from mmfuse.files.writing import write_json, write_text
from mmfuse.metrics import score
from mmfuse.metrics.card import Metric
from mmfuse.metrics.sharing import one_thread
from mmfuse.progress import progress

Triple = tuple[Tensor, Tensor, Tensor]
_GROUP_ON_GPU = 16


def score_images(
    names: Sequence[str],
    triples: Iterable[Triple],
    metrics: Mapping[str, Metric],
    *,
    device: str = "cpu",
    workers: int = 1,
    group: int | None = None,
) -> pd.DataFrame:
    """Measure images of any sizes and return one row per image: `name`, then one column per metric.

    On a CPU, neither the number of workers nor the other images change a digit: each worker computes in one thread, and
    each image separately unless `group` is larger.

    Shape: each image of a triple (fused, a, b) is (1, H, W) in [0, 1].

    Args:
        names: The images' names, all distinct.
        triples: One for each name, in the same order; read one at a time, so a generator keeps memory small.
        metrics: Plain name to definition, see `mmfuse.metrics.resolve`.
        device: Where to compute.
        workers: Number of images or groups measured at once.
        group: Largest number of consecutive images of equal size measured as one batch; by default 1 on a CPU and 16
            elsewhere.

    Raises:
        UserError: a duplicate name, not one triple per name, or an image that cannot be measured (with its name).
    """
    if len(set(names)) != len(names):
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        raise UserError("Some images have the same name.", expected="one name per image", found=", ".join(twice[:10]))
    if group is None:
        group = 1 if device == "cpu" else _GROUP_ON_GPU
    keep_freed_memory()
    columns: dict[str, list[Any]] = {"name": [], **{name: [] for name in metrics}}
    pending: deque[Future[dict[str, list[Any]]]] = deque()

    with (
        one_thread(),
        ThreadPoolExecutor(workers) as pool,
        progress(what="measure", total=len(names), unit="images") as bar,
    ):

        def collect() -> None:
            part = pending.popleft().result()
            for column, values in part.items():
                columns[column] += values
            bar.update(len(part["name"]))

        for group_names, group_triples in _groups(names, triples, group):
            pending.append(pool.submit(_score_group, group_names, group_triples, metrics, device))
            if len(pending) > 2 * workers:
                collect()
        while pending:
            collect()
    return pd.DataFrame(columns)


def _groups(names: Sequence[str], triples: Iterable[Triple], size: int) -> Iterator[tuple[list[str], list[Triple]]]:
    """Yield consecutive images of equal size together, at most `size` of them."""
    group_names: list[str] = []
    group: list[Triple] = []
    count = 0
    for count, triple in enumerate(triples, start=1):
        if count > len(names):
            raise UserError("More images than names.", expected=len(names))
        shapes = [image.shape for image in triple]
        if group and (len(group) == size or shapes != [image.shape for image in group[0]]):
            yield group_names, group
            group_names, group = [], []
        group_names.append(names[count - 1])
        group.append(triple)
    if count < len(names):
        raise UserError("Fewer images than names.", expected=len(names), found=count)
    if group:
        yield group_names, group


def _score_group(
    names: list[str], triples: list[Triple], metrics: Mapping[str, Metric], device: str
) -> dict[str, list[Any]]:
    try:
        fused, a, b = (torch.stack(images).to(device) for images in zip(*triples, strict=True))  # (B, 1, H, W)
        values = score(fused, a, b, metrics)
    except UserError as error:
        raise UserError(
            f"Cannot measure {', '.join(names)}. {error.problem}",
            expected=error.expected,
            found=error.found,
            fix=error.fix,
        ) from error
    return {"name": names, **{name: value.tolist() for name, value in values.items()}}


def summarise(frame: pd.DataFrame, metrics: Mapping[str, Metric], convention: str) -> dict[str, dict[str, Any]]:
    """Return convention, definition, direction, mean, deviation, median and count of each metric over all images.

    The standard deviation is that of the given images (divided by their number), so it is 0 for one image.

    Args:
        frame: The scores of `score_images`.
        metrics: The metrics that were measured, see `mmfuse.metrics.resolve`.
        convention: The meaning of the plain names; NAME.CONVENTION sets its own.

    Raises:
        UserError: no images, a column is missing, or a value is missing or not finite.
    """
    if frame.empty:
        raise UserError("There are no scores to summarise.", expected="at least one image")
    summary = {}
    for name, metric in metrics.items():
        if name not in frame:
            raise UserError(f"The scores have no column {name}.", found=", ".join(frame.columns))
        values = torch.tensor(frame[name].tolist(), dtype=torch.float64)
        if not values.isfinite().all():
            where = frame["name"][(~values.isfinite()).numpy()].tolist()
            raise UserError(f"Some scores of {name} are not finite numbers.", found=", ".join(where[:10]))
        summary[name] = {
            "convention": name.partition(".")[2] or convention,
            "definition": metric.name,
            "better": metric.card.better,
            "mean": values.mean().item(),
            "std": values.std(correction=0).item(),
            "median": values.quantile(0.5).item(),
            "count": len(values),
        }
    return summary


def write_scores(frame: pd.DataFrame, summary: Mapping[str, Any], *, csv: Path, json: Path) -> None:
    """Write the scores of each image as CSV and their summary as JSON; equal values give equal bytes.

    The CSV has every digit: `read_scores` returns exactly the same numbers.
    """
    text = io.StringIO()
    frame.to_csv(text, index=False, lineterminator="\n")
    write_text(csv, text.getvalue())
    write_json(json, dict(summary))


def read_scores(csv: Path) -> pd.DataFrame:
    """Read a CSV of `write_scores`; names stay text, even names such as 00537 and NA.

    Raises:
        UserError: the file is missing, or is not a table with a column `name` and otherwise numbers.
    """
    if not csv.is_file():
        raise UserError(f"Scores not found: {csv}", fix="run the stage evaluate first")
    try:
        frame = pd.read_csv(csv, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read the scores {csv}.", expected="a CSV file", found=error) from error
    if "name" not in frame:
        raise UserError(f"Cannot use the scores {csv}.", expected="a column `name`", found=", ".join(frame.columns))
    for column in frame.columns.drop("name"):
        try:
            # Python's own conversion is exact; that of pandas is not exact in every version
            frame[column] = [float(cell) for cell in frame[column]]
        except ValueError as error:
            raise UserError(
                f"Cannot use the scores {csv}.", expected=f"a number in each cell of {column}", found=error
            ) from error
    return frame

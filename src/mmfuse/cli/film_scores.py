"""`mmfuse evaluate` for films: how steady fused films are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmfuse.cli.evaluating import check_replaceable, check_scores_may_be_written, check_suffix
from mmfuse.data.films import FilmReader, frame_name
from mmfuse.data.images import Bytes
from mmfuse.data.pairs import check_equal_sizes, common_size
from mmfuse.errors import UserError, unknown_name
from mmfuse.files.writing import csv_text, write_json, write_text
from mmfuse.progress import progress
from mmfuse.terminal import wrapped
from mmfuse.video.steadiness import MEASURES, SIDE, measure
from mmfuse.video.timing import Film, match, read_film
from mmfuse.words import number_of


def evaluate_films(
    a: Path,
    b: Path,
    systems: Mapping[str, Path],
    out: Path,
    *,
    measures: str = "all",
    allow_missing: bool = False,
    resize_to: str | None = None,
    side: int | None = None,
) -> None:
    """Measure how steady fused films are; write OUT (CSV).

    For one film without a name, OUT has a line for each frame, with the means beside it (JSON). For several, it has the
    means of each, and the same two files are written for each as STEM.NAME.csv and STEM.NAME.json.

    Args:
        a: Film of the first modality.
        b: Film of the second modality.
        systems: The fused films by name.
        out: File to write, STEM.csv.
        measures: Names separated by commas, or `all`.
        allow_missing: Some films may be longer than others.
        resize_to: `a` or `b`: the source to whose size the other one is resized.
        side: As in `steadiness.optical_flow`.

    Raises:
        UserError: a file is no film or damaged, the films differ in their times or sizes, or a measure is unknown.
    """
    names = list(MEASURES) if measures == "all" else [name.strip() for name in measures.split(",")]
    for name in names:
        if name not in MEASURES:
            raise unknown_name(
                "This is not a measure of films.", name, MEASURES, "measure images, such as saved frames"
            )
    check_suffix(out, ".csv")
    own = {name: out.with_suffix(f".{name}.csv") if name else out for name in systems}
    for path in own.values():
        check_scores_may_be_written(path)
    if "" not in systems:
        check_replaceable(out, "system,frames")
    films = {"a": read_film(a), "b": read_film(b), **{f"fused {n}": read_film(path) for n, path in systems.items()}}
    fused = [name for name in films if name not in {"a", "b"}]
    numbers = _common(films, allow_missing=allow_missing)
    frames = progress(_frames(films, numbers, resize_to), "measure", total=len(numbers["b"]), unit="frames")
    found = list(measure(frames, fused, side or SIDE))
    lines: list[list[Any]] = [["system", "frames", *names]]
    for name, path in own.items():
        rows = [[line[f"fused {name}"].get(one) for one in names] for line in found]
        means = _write(path, frame_stem=b.stem, numbers=numbers["b"][1:], names=names, rows=rows, side=side or SIDE)
        lines.append([name, len(numbers["b"]), *(means[one]["mean"] for one in names)])
        for one in names:
            print(wrapped(f"{f'{name} ' if name else ''}{one} {means[one]['mean']:.5g} ± {means[one]['std']:.3g}"))
    if "" not in systems:
        write_text(out, csv_text(lines))
    print(f"{number_of(len(numbers['b']), 'frame')}, lower is better: {out}")


def _common(films: Mapping[str, Film], *, allow_missing: bool) -> dict[str, NDArray[np.int64]]:
    """Return the numbers of the frames that are shown at the same time in all films.

    Raises:
        UserError: films differ in their times, or have fewer than three such frames.
    """
    matched = {name: match(film, films["b"], allow_missing=allow_missing) for name, film in films.items()}
    shared = reduce(np.intersect1d, [one.b for one in matched.values()])
    if len(shared) < 3:
        raise UserError(
            "There are too few frames to measure how steady films are.", expected="at least three in all films",
            found=len(shared), fix="take longer films",
        )  # fmt: skip
    return {name: one.a[np.searchsorted(one.b, shared)] for name, one in matched.items()}


def _frames(
    films: Mapping[str, Film], numbers: Mapping[str, NDArray[np.int64]], resize_to: str | None
) -> Iterator[dict[str, Bytes]]:
    """Yield the frames that are shown at the same time.

    Raises:
        UserError: a film is damaged, or the sizes differ.
    """
    with FilmReader() as reader:
        for place in range(len(numbers["b"])):
            images = {name: reader.frame(name, film.path, int(numbers[name][place])) for name, film in films.items()}
            images |= common_size({key: images[key] for key in ("a", "b")}, resize_to)
            check_equal_sizes(*((films[name].path, image) for name, image in images.items()))
            yield images


def _write(
    path: Path,
    *,
    frame_stem: str,
    numbers: NDArray[np.int64],
    names: Sequence[str],
    rows: Sequence[Sequence[float | None]],
    side: int,
) -> dict[str, dict[str, Any]]:
    """Write the measures of one film; return their means with their definitions."""
    lines = [[frame_name(frame_stem, int(number)), *row] for number, row in zip(numbers, rows, strict=True)]
    write_text(path, csv_text([["name", *names], *lines]))
    means = {}
    for name, column in zip(names, zip(*rows, strict=True), strict=True):
        values = np.array([value for value in column if value is not None])
        card = MEASURES[name]
        means[name] = {
            "mean": float(values.mean()), "std": float(values.std()), "better": "lower", "definition": card.definition,
            "source": card.source,
        }  # fmt: skip
    summary = {"convention": "films", "frames": len(numbers) + 1, "flow_side": side, "metrics": means}
    write_json(path.with_suffix(".json"), summary)
    return means

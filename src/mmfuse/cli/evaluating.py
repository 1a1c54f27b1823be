"""`mmfuse evaluate`: one folder of fused images, or those of several systems in one table with paired tests."""

from __future__ import annotations

import math
import os
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mmfuse.cli.own_images import GREY, matched_images
from mmfuse.data.colours import Colours
from mmfuse.data.names import ANY, Naming, find_images
from mmfuse.data.pairs import PLAIN, Matched, read_triple
from mmfuse.errors import UserError
from mmfuse.files.writing import csv_text, write_text
from mmfuse.terminal import wrapped
from mmfuse.words import number_of

if TYPE_CHECKING:
    from torch import Tensor

    from mmfuse.metrics import Metric
    from mmfuse.reporting.scores import Group
    from mmfuse.reporting.tables import Table

_NAME = r"\w[\w.+-]*"
_SHOWN = 10  # missing images of one system
_WIDTH = 80  # characters of a line on the terminal
_MARKS = {"best": "*", "tied": "≈"}


def evaluate_folders(
    a: Path,
    b: Path,
    fused: Path,
    out: Path,
    *,
    metrics: str,
    convention: str,
    beside: str,
    allow_missing: bool,
    naming: Naming = PLAIN,
    resize_to: str | None = None,
) -> None:
    """Measure fused images (or one) against their sources; write OUT (CSV) and a summary beside it (JSON).

    `metrics` and `beside` are names separated by commas; `metrics` may be `all`, `beside` may be empty. `naming` has
    patterns for `a`, `b` and `fused`; `resize_to`, `a` or `b`, is the source to whose size the other is resized.

    Raises:
        UserError: images are missing, damaged or of unequal size, or a metric is unknown.
    """
    from mmfuse.metrics.tables import write_scores

    _check_suffix(out, ".csv")
    _check_scores_may_be_written(out)
    meaning = _meaning(metrics, convention, beside)
    matched = matched_images({"fused": fused, "a": a, "b": b}, naming, allow_missing=allow_missing, resize_to=resize_to)
    colours = Colours(GREY)
    frame, summary = _measure(matched, "fused", meaning, convention, colours, resize_to)
    write_scores(frame, summary, csv=out, json=out.with_suffix(".json"))
    scores = summary["metrics"]
    width = max(6, *map(len, scores))
    for name, value in scores.items():
        plain = name.partition(".")[0]
        # without the plain metric if a single one of another convention was asked for, such as Qcb.mma_unet
        if name != plain and plain in scores and value["definition"] == scores[plain]["definition"]:
            print(f"{name:>{width}} {'the same as':>12} {plain}")
            continue
        spread = f"{value['mean']:12.4f} ± {value['std']:.4f}"
        print(wrapped(f"{name:>{width}} {spread}  ({value['better']} is better; {value['definition']})"))
    print(f"{number_of(len(frame), 'image')}, convention {convention}: {out}")
    colours.warn("evaluate")


def named_folders(texts: Sequence[str]) -> dict[str, Path]:
    """Return folders given as NAME=FOLDER by name; none if there is a single one without a name.

    Raises:
        UserError: several folders of which one has no name, or a name that is given twice or is no valid name.
    """
    if len(texts) == 1 and ("=" not in texts[0] or Path(texts[0]).exists()):
        return {}
    found: dict[str, Path] = {}
    for text in texts:
        name, _, folder = text.partition("=")
        if not re.fullmatch(_NAME, name) or not folder or name == "tests":
            raise UserError(
                "A folder of fused images has no valid name.",
                expected="--fused NAME=FOLDER for each of several systems; a name has letters, digits and _ . + -, "
                "and `tests` is reserved",
                found=text,
            )
        if name in found:
            raise UserError("Two folders have the same name.", expected="a unique name for each", found=text)
        found[name] = Path(folder)
    return found


def evaluate_systems(
    a: Path,
    b: Path,
    systems: Mapping[str, Path],
    out: Path,
    *,
    latex: Path | None,
    metrics: str,
    convention: str,
    beside: str,
    allow_missing: bool,
    naming: Naming = PLAIN,
    resize_to: str | None = None,
) -> None:
    """Measure the fused images of several systems against their sources, and compare the systems on the same images.

    It writes the means, intervals and ranks as CSV, the paired tests as STEM.tests.csv, and the scores of each system
    as STEM.NAME.csv and STEM.NAME.json, as `evaluate_folders` does.

    Args:
        a: Images of the first modality.
        b: Images of the second modality.
        systems: The folder of the fused images of each system, by name.
        out: STEM.csv, or STEM.tex for the means and tests as LaTeX, too.
        latex: File for the means and tests as LaTeX.
        metrics: As in `evaluate_folders`.
        convention: The meaning of the plain names.
        beside: As in `evaluate_folders`.
        allow_missing: Leave out images that a folder lacks, for all systems.
        naming: As in `evaluate_folders`.
        resize_to: As in `evaluate_folders`.

    Raises:
        UserError: images are missing, damaged or of unequal size, a metric is unknown, or a file of another kind is in
            the way.
    """
    from mmfuse.metrics.tables import write_scores
    from mmfuse.reporting import tables
    from mmfuse.reporting.ranking import verdict
    from mmfuse.reporting.scores import Group, read_one
    from mmfuse.study.plan import EXTERNAL, System

    _check_suffix(out, ".csv", ".tex")
    if latex is not None:
        _check_suffix(latex, ".tex", option="--latex")
    if out.suffix == ".tex":
        if latex not in {None, out}:
            raise UserError("Two files are named for LaTeX.", expected="one of them", found=f"{out} and {latex}")
        latex = out
    means, tests = out.with_suffix(".csv"), out.with_suffix(".tests.csv")
    own = {name: out.with_suffix(f".{name}.csv") for name in systems}
    for path in own.values():
        _check_scores_may_be_written(path)
    _check_replaceable(means, "system,images")
    _check_replaceable(tests, "metric,convention")
    if latex is not None:
        _check_replaceable(latex, "% needs")
    meaning = _meaning(metrics, convention, beside)
    if not allow_missing and a.is_dir() and b.is_dir():
        _check_complete(systems, {*_names(a, "a", naming)} & {*_names(b, "b", naming)}, naming)
    numbered = {str(number): folder for number, folder in enumerate(systems.values())}
    patterns = dict(naming.patterns)
    if "fused" in patterns:
        patterns |= dict.fromkeys(numbered, patterns.pop("fused"))
    sources = {"a": a, "b": b, **numbered}
    matched = matched_images(
        sources, Naming(patterns, naming.recursive), allow_missing=allow_missing, resize_to=resize_to
    )
    colours = {number: Colours(GREY) for number in numbered}
    # nothing is written before all systems have been measured
    measured = [_measure(matched, number, meaning, convention, colours[number], resize_to) for number in numbered]
    groups = []
    for (frame, summary), (name, file) in zip(measured, own.items(), strict=True):
        write_scores(frame, summary, csv=file, json=file.with_suffix(".json"))
        scores = read_one(file, System(name, EXTERNAL, "", 0), again="run the command again")
        groups.append(Group(name, "base", (scores,), scores.values))
    table = tables.build(groups, str, lambda scores: scores.system.method)
    write_text(means, _as_csv(groups, table))
    write_text(tests, tables.pairs_as_csv(groups, table))
    lines = [*_lines(table)]
    if latex is not None:
        parts = [tables.as_latex(out.stem, len(matched), table)]
        parts += [tables.pairs_as_latex(out.stem, table)] if len(groups) > 1 else []
        write_text(latex, "\n".join(parts))
    files = ", ".join(map(str, [means, tests, *([latex] if latex else []), *own.values()]))
    for text in (verdict(groups, table.ranking), f"Convention {convention}: {files}"):
        lines += textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
    print("\n".join(lines))
    colours["0"].warn("evaluate")  # the sources are the same for all systems


def _meaning(metrics: str, convention: str, beside: str) -> dict[str, Metric]:
    from mmfuse.metrics import plain_names, resolve

    names = list(plain_names(convention)) if metrics == "all" else [n.strip() for n in metrics.split(",")]
    return resolve(convention, names, [n.strip() for n in beside.split(",")] if beside else [])


def _measure(
    matched: Sequence[Matched],
    key: str,
    meaning: Mapping[str, Metric],
    convention: str,
    colours: Colours,
    resize_to: str | None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Measure the fused images under one key; return their scores and the summary."""
    from mmfuse.metrics.tables import score_images, summarise

    def triples() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for _, paths in matched:
            yield read_triple(paths[key], paths["a"], paths["b"], colours, resize_to)

    cores = len(os.sched_getaffinity(0))
    frame = score_images([name for name, _ in matched], triples(), meaning, workers=cores)
    scores = summarise(frame, meaning, convention)
    return frame, {"convention": convention, "images": len(frame), "metrics": scores}


def _names(folder: Path, key: str, naming: Naming) -> Iterable[str]:
    return find_images(folder, naming.patterns.get(key, ANY), recursive=naming.recursive).files


def _check_complete(systems: Mapping[str, Path], names: set[str], naming: Naming) -> None:
    """Check that each system has a fused image for each pair.

    Raises:
        UserError: some lack images; the message names all these systems and their missing images.
    """
    lacking = []
    for system, folder in systems.items():
        missing = sorted(names - {*_names(folder, "fused", naming)})
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        if missing:
            lacking.append(f"{system} ({folder}) lacks {', '.join(missing[:_SHOWN])}{more}")
    if lacking:
        raise UserError(
            f"Fused images of {len(lacking)} of {number_of(len(systems), 'system')} are missing.",
            expected=f"an image for each of the {number_of(len(names), 'pair')}, with the name of the pair",
            found="\n            ".join(lacking),
            fix="add these images, or use --allow-missing, which leaves the pairs out for all systems",
        )


def _check_suffix(path: Path, *allowed: str, option: str = "--out") -> None:
    if path.suffix not in allowed:
        raise UserError(
            f"Cannot write {path}.", expected=f"a name ending in {' or '.join(allowed)}", found=path,
            fix=f"choose another name for {option}",
        )  # fmt: skip


def _check_scores_may_be_written(out: Path) -> None:
    """Check that the table and its summary replace nothing but an earlier table and summary.

    Raises:
        UserError: a file of another kind is there.
    """
    _check_replaceable(out, "name,")
    _check_replaceable(out.with_suffix(".json"), "{", '"convention"')


def _check_replaceable(path: Path, start: str, key: str = "") -> None:
    """Check that a path is free, or has an earlier file of the same kind: one with such a start and key.

    Raises:
        UserError: a file of another kind is there.
    """
    content = path.read_bytes().lstrip() if path.is_file() else b""
    if content and not (content.startswith(start.encode()) and key.encode() in content):
        raise UserError(
            f"Cannot write {path}: this file exists and contains no scores.",
            expected="a new name, or that of an earlier table of scores",
            fix="choose another name for the output",
        )


def _as_csv(groups: Sequence[Group], table: Table) -> str:
    """Return the means with all digits, one line for each system."""
    from mmfuse.reporting.tables import digits

    names = [
        f"{s.column.name} {word}" for s in table.standings for word in ("mean", "std", "low", "high", "rank", "mark")
    ]
    lines: list[list[Any]] = [["system", "images", "mean rank", *names]]
    for number, group in enumerate(groups):
        rank = table.ranking.ranks[number] if table.ranking else math.nan
        line = [group.label, group.values.shape[1], *digits([rank])]
        for s in table.standings:
            line += digits([s.means[number], s.stds[number], *s.intervals[number], s.ranks[number]])
            line.append(s.marks[number])
        lines.append(line)
    return csv_text(lines)


def _lines(table: Table) -> Iterator[str]:
    """Yield the means as text: a line for each system, in blocks of as many metrics as fit into a line."""
    arrows = {1: " ↑", -1: " ↓", 0: ""}
    columns = [["mean rank ↓", *(row.rank.mean if row.rank else "" for row in table.rows)]] if table.ranking else []
    standings = iter(table.standings)
    for part, head in enumerate(table.heads):
        for number, _ in enumerate(head.columns):
            column = next(standings).column
            cells = [row.cells[part][number] for row in table.rows]
            marked = [_MARKS.get(cell.mark, "") + cell.mean for cell in cells]
            columns.append([column.name + arrows[column.sign], *marked])
    labels = ["", *(row.label for row in table.rows)]
    left = max(map(len, labels))
    while columns:
        block: list[list[str]] = []
        room = _WIDTH - left
        while columns and (not block or _wide(columns[0]) <= room):
            room -= _wide(columns[0])
            block.append(columns.pop(0))
        for label, *texts in zip(labels, *block, strict=True):
            padded = [text.rjust(_wide(column)) for text, column in zip(texts, block, strict=True)]
            yield (label.ljust(left) + "".join(padded)).rstrip()
        yield ""
    if table.pairs:
        yield "* best mean; ≈ not significantly worse than it (Wilcoxon signed-rank test over"
        yield "the images, Holm's correction over all pairs of systems)"


def _wide(column: Sequence[str]) -> int:
    return 2 + max(map(len, column))

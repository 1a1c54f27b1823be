"""Accuracy of the registration on pairs with known positions: the target registration error before and after."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmfuse.data.images import read_image
from mmfuse.errors import UserError
from mmfuse.files.reading import damaged, read_table
from mmfuse.progress import progress

_LANDMARKS = ("moving_x", "moving_y", "fixed_x", "fixed_y")
_POINTS = ("moved_x", "moved_y", "aligned_x", "aligned_y")
_FIX = "give a folder as described in docs/how-to/align.md"
_WORSE = 1.0  # pixels: an alignment that is worse than none by more does harm


class Case(NamedTuple):
    """A pair with known positions: names of its group and its own, its images, and the table of positions."""

    group: str
    name: str
    moving: Path
    fixed: Path
    table: Path
    columns: tuple[str, ...]


def cases(folder: Path) -> list[Case]:
    """Find the pairs below a folder: GROUP/NAME/landmarks.csv, or GROUP/points/NAME.csv.

    Raises:
        UserError: there are none.
    """
    found = []
    for group in sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []:
        for table in sorted(group.glob("*/landmarks.csv")):
            own = table.parent
            found.append(Case(group.name, own.name, own / "moving.png", own / "fixed.png", table, _LANDMARKS))
        for table in sorted(group.glob("points/*.csv")):
            name = f"{table.stem}.png"
            moving, fixed = group / "infrared_moved" / name, group / "visible" / name
            found.append(Case(group.name, table.stem, moving, fixed, table, _POINTS))
    if not found:
        raise UserError(
            f"There are no pairs with known positions in {folder}.",
            expected="GROUP/NAME/landmarks.csv or GROUP/points/NAME.csv", fix=_FIX,
        )  # fmt: skip
    return found


def run(folder: Path, *, model: str = "auto", deformable: bool = False) -> dict[str, Any]:
    """Align each pair and measure the distances of its known positions from their true places.

    Args:
        folder: See `cases`.
        model: See `mmfuse.alignment.registration.align`.
        deformable: See there.

    Returns:
        `pairs`: a row for each pair; `groups`: a row for each group, see `_group`.

    Raises:
        UserError: a file is missing or damaged.
    """
    rows = [_measured(case, model, deformable) for case in progress(cases(folder), "align", unit="pairs")]
    groups = [_group(name, [row for row in rows if row["group"] == name]) for name in _groups(rows)]
    return {"model": model, "deformable": deformable, "pairs": rows, "groups": groups}


def _groups(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["group"] for row in rows))


def _measured(case: Case, model: str, deformable: bool) -> dict[str, Any]:
    from mmfuse.alignment.registration import align

    known = _positions(case)
    moving, fixed = read_image(case.moving), read_image(case.fixed)
    begun = time.process_time()
    transform = align(moving, fixed, model=model, deformable=deformable)
    seconds = time.process_time() - begun
    before = np.linalg.norm(known[:, :2] - known[:, 2:], axis=1)
    after = np.linalg.norm(transform.to_fixed(known[:, :2]) - known[:, 2:], axis=1)
    return {
        "group": case.group, "name": case.name, "aligned": transform.aligned, "confidence": transform.confidence,
        "before": _summary(before), "after": _summary(after), "seconds": seconds,
    }  # fmt: skip


def _positions(case: Case) -> NDArray[np.float64]:
    """Read the positions of a pair, (N, 4).

    Raises:
        UserError: the table is missing, damaged or empty.
    """
    table = read_table(case.table, case.columns, fix=_FIX)
    try:
        known = np.array([[float(row[name]) for name in case.columns] for row in table]).reshape(-1, 4)
    except ValueError as error:
        raise damaged(case.table, "numbers", error, _FIX) from error
    if not known.size or not np.isfinite(known).all():
        raise damaged(case.table, "finite positions", "none" if not known.size else "others", _FIX)
    return known


def _summary(errors: NDArray[np.float64]) -> dict[str, float]:
    return {"median": float(np.median(errors)), "p90": float(np.percentile(errors, 90))}


def _group(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarise the pairs of a group by the median errors of each; a pair that is not aligned stays as it was."""
    before = np.array([row["before"]["median"] for row in rows])
    after = np.array([row["after" if row["aligned"] else "before"]["median"] for row in rows])
    return {
        "group": name,
        "pairs": len(rows),
        "aligned": sum(row["aligned"] for row in rows),
        "before": _summary(before),
        "after": _summary(after),
        "below_3": float((after < 3).mean()),
        "below_5": float((after < 5).mean()),
        "halved": float((after <= before / 2).mean()),
        "worse": int((after > before + _WORSE).sum()),
        "seconds": float(np.median([row["seconds"] for row in rows])),
    }


def lines(result: dict[str, Any]) -> Iterator[str]:
    """Yield the result as text."""
    yield f"target registration error in pixels, model {result['model']}{', deformable' * result['deformable']}"
    yield f"{'pair':36} {'before':>7} {'after':>7} {'p90':>7}  confidence"
    for row in result["pairs"]:
        name = f"{row['group']}/{row['name']}"
        said = f"{row['confidence']:.2f}" + ("" if row["aligned"] else "  not aligned")
        errors = row["before"]["median"], row["after"]["median"], row["after"]["p90"]
        yield f"{name:36} " + " ".join(f"{error:7.1f}" for error in errors) + f"  {said}"
    yield ""
    yield "each pair counts by the median of its positions; a pair that is not aligned counts as it was"
    yield (
        f"{'group':24} {'aligned':>8} {'before: median, p90':>20} {'after: median, p90':>19} {'<3 px':>6} {'<5 px':>6}"
        f" {'halved':>7} {'worse':>6} {'s/pair':>7}"
    )
    for one in result["groups"]:
        before, after = (f"{one[key]['median']:.1f}, {one[key]['p90']:.1f}" for key in ("before", "after"))
        yield (
            f"{one['group']:24} {one['aligned']:>3} of {one['pairs']:<2} {before:>19} {after:>19}"
            f" {one['below_3']:>6.0%} {one['below_5']:>6.0%} {one['halved']:>7.0%} {one['worse']:>6}"
            f" {one['seconds']:>7.1f}"
        )

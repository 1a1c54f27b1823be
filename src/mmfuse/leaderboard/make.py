"""The leaderboard from scores to files: every board's result, its page, tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from mmfuse.comparing.runs import scored
from mmfuse.errors import UserError
from mmfuse.leaderboard import figure, page, tables
from mmfuse.leaderboard.boards import Boards, load
from mmfuse.leaderboard.ranking import Result, result
from mmfuse.leaderboard.rows import Groups, collect, read_given
from mmfuse.progress import progress
from mmfuse.tracking import results as runs
from mmfuse.words import number_of


def results(
    run: str | None, given: Sequence[str], only: Sequence[str], path: Path, *, allow_missing: bool
) -> tuple[list[Result], Boards]:
    """Return the result of each board, and the boards.

    Args:
        run: A folder, commit or run in MLflow with a study's results, or None.
        given: Tables of scores, DATASET/NAME=FILE.
        only: The boards to make; all of them if empty.
        path: boards.yaml.
        allow_missing: Leave out rows that lack some of a board's images.

    Raises:
        UserError: a board or dataset is unknown, scores are missing or damaged, or a row does not fit its board.
    """
    boards = load(path)
    unknown = [name for name in only if name not in boards.boards]
    if unknown:
        raise UserError(
            "There is no such board.", expected=f"one of {', '.join(boards.boards)}", found=", ".join(unknown)
        )
    tables = read_given(given)
    known = {dataset for board in boards.boards.values() for dataset in board.datasets}
    strange = [dataset for dataset in tables if dataset not in known]
    if strange:
        raise UserError(
            "A row belongs to a dataset that no board has.",
            expected=f"one of {', '.join(sorted(known))}",
            found=", ".join(strange),
            fix=f"give it as DATASET/NAME=FILE.csv, or add a board to {path}",
        )
    groups = _groups(run)
    found = []
    chosen = [board for name, board in boards.boards.items() if not only or name in only]
    for board in progress(chosen, "rank", unit="boards"):
        rows, notes = collect(boards, board, groups, tables, allow_missing=allow_missing)
        found.append(result(board, rows, boards.columns, notes))
    return found, boards


def _groups(run: str | None) -> Groups:
    if run is None:
        return {}
    with TemporaryDirectory() as scratch:
        return scored(runs.find(run, Path(scratch)))


def files(found: Sequence[Result], boards: Boards, *, command: str, out: Path) -> dict[str, str | bytes]:
    """Return the page, tables and figures, by their paths relative to the page's folder."""
    room = out.stem
    written: dict[str, str | bytes] = {out.name: page.text(found, boards, command=command, out=out)}
    for one in found:
        stem = f"{room}/{one.board.name}"
        written |= {f"{stem}.{name}.csv": text for name, text in tables.as_csv(one, boards.columns).items()}
        written[f"{stem}.svg"] = figure.ranks(one)
    return written


def lines(found: Sequence[Result]) -> list[str]:
    """Return what the command prints: the ranking of each board, and what was left out."""
    said = []
    for one in found:
        said.append(f"{one.board.name}: {number_of(len(one.images), 'image')}, {number_of(len(one.rows), 'row')}")
        ends = zip(one.rows, one.ranks, one.intervals, strict=True)
        said += [f"  {rank:6.2f} [{low:.2f}, {high:.2f}]  {row.name} ({row.kind})" for row, rank, (low, high) in ends]
        said += [f"  note: {note}" for note in one.notes]
    return said

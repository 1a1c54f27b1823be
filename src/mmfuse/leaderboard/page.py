"""The page of the leaderboard, in Markdown."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mmfuse.leaderboard.boards import DIGITS, Boards
from mmfuse.leaderboard.figure import WORDS
from mmfuse.leaderboard.ranking import Held, Result
from mmfuse.leaderboard.rows import PUBLISHED
from mmfuse.reporting import statistics
from mmfuse.reporting.figures import arrow
from mmfuse.reporting.tables import decimals, printed, printed_p
from mmfuse.words import number_of

_WHY, _HOW = Path("docs/decisions/0011-statistics.md"), Path("docs/how-to/add-a-row.md")
_MARKS = {"best": "**{}**", "tied": "≈ {}"}
_READING = """\
- **Do not train on these pairs**, and do not use them to choose weights or options. A row that did either cannot be
  compared with the others.
- **Rank**: the rows are ranked on each image by each metric, 1 for the best; equal scores share the mean of their
  ranks. The mean over the {metrics} metrics is the row's rank on the image, and the mean over the images is its mean
  rank, with the 95 % bootstrap interval over the images in brackets. A rank is relative to the rows of its board: it
  changes with every added row, and cannot be compared between boards. The metrics are not independent, and none of
  them measures human judgement.
- **Ahead of**: the numbers of the rows that a row is significantly ahead of, by a two-sided Wilcoxon signed-rank test
  of the ranks on each image, with Holm's correction over all pairs of rows, at level {level}.
- **Means**: the best mean is bold; ≈ marks means that are not significantly worse by the paired test of that metric
  (with Holm's correction over all pairs). ↑ larger is better, ↓ smaller is better.
- **Tests of one row**: the best system of a study (without any, the best row that was fused elsewhere, otherwise the
  best baseline) is tested against each other row, with Holm's correction over the rows. The table gives the difference
  of the mean ranks with its interval and p, and the metrics by which the two rows differ significantly. The row is
  selected by these same scores, which favours it, more so with more systems.
- Images are assumed to be independent. Frames of one video and slices of one head are not, so there the intervals are
  too narrow and the p-values too small. [How and why]({why}).
- All scores are rounded to {digits} significant digits."""
_ADD = "## Add a row\n\nAdd your own or published fused images, with or without a study: see [add a row]({how})."


def text(found: Sequence[Result], boards: Boards, *, command: str, out: Path) -> str:
    """Return the page.

    Args:
        found: The boards.
        boards: The content of boards.yaml.
        command: The command that generates the page.
        out: Path of the page, relative to the project's root; tables and figures are in a folder beside it.
    """
    metrics = ", ".join(f"{column.name} (`{column.definition}`)" for column in boards.columns)
    why, how = (Path(os.path.relpath(page, out.parent)).as_posix() for page in (_WHY, _HOW))
    reading = _READING.format(metrics=len(boards.columns), level=statistics.LEVEL, digits=DIGITS, why=why)
    parts = [
        "# Leaderboard",
        "This page compares the systems of this project with fused images published by other authors. All are measured "
        "with the same code on the luminance of the same pairs, by the convention "
        f"`{boards.convention}`: {metrics}.",
        f"This command generates the page and overwrites manual changes:\n\n```sh\n{command}\n```",
        _overview(found),
        "## How to read it\n\n" + reading,
        *(part for one in found for part in _board(one, out.stem)),
        "## Sources of the fused images",
        "Only the scores are stored here (`data/leaderboard`), not the images.",
        _sources(found, boards),
        _ADD.format(how=how),
    ]
    return "\n\n".join(parts) + "\n"


def _overview(found: Sequence[Result]) -> str:
    head = ["board", "pairs", "rows", "first", "tested row"]
    lines = []
    for one in found:
        held = one.held
        ours = "" if held is None else f"{one.rows[held.row].name}, {_place(one, held.row)}"
        link = f"[{one.board.title}](#{one.board.name})"
        lines.append([link, str(len(one.images)), str(len(one.rows)), f"{one.rows[0].name}, {_rank(one, 0)}", ours])
    return _table(head, lines)


def _place(one: Result, number: int) -> str:
    return f"place {number + 1}, {_rank(one, number)}"


def _rank(one: Result, number: int) -> str:
    low, high = one.intervals[number]
    return f"{one.ranks[number]:.2f} [{low:.2f}, {high:.2f}]"


def _board(one: Result, room: str) -> list[str]:
    """Return the parts of one board: its tables, its figure and links to its CSV files."""
    name = one.board.name
    kinds = ("means", "places", "pairs", *(["tests"] if one.held else []))
    links = ", ".join(f"[{kind}]({room}/{name}.{kind}.csv)" for kind in kinds)
    images = "The table of places names the pairs."
    if not statistics.can_differ(len(one.rows), len(one.images)):
        images += " So few pairs cannot show a difference between so many rows after the correction over all pairs."
    parts = [
        f'## <a id="{name}"></a>{one.board.title}',
        f"Datasets: {', '.join(f'`{dataset}`' for dataset in one.board.datasets)}; "
        f"{number_of(len(one.images), 'pair')}. {images} "
        f"All digits: {links}.",
        *([one.board.note] if one.board.note else []),
        _scores(one),
        f"![Mean ranks of {one.board.title}]({room}/{name}.svg)",
    ]
    if one.held:
        parts += [f"Tests of one row: **{one.rows[one.held.row].name}** against each other row.", _tests(one, one.held)]
    if one.notes:
        parts.append("\n".join(f"- {note}" for note in one.notes))
    return parts


def _scores(one: Result) -> str:
    places = [decimals(standing.means) for standing in one.standings]
    lines = []
    for number, row in enumerate(one.rows):
        line = [str(number + 1), row.name, WORDS[row.kind], _rank(one, number), _ahead(one, number)]
        for standing, digits in zip(one.standings, places, strict=True):
            mean = printed(standing.means[number], digits)
            line.append(_MARKS.get(standing.marks[number], "{}").format(mean))
        lines.append(line)
    return _table(
        ["", "row", "pictures", "mean rank", "ahead of", *(s.column.name + arrow(s.column) for s in one.standings)],
        lines,
    )


def _ahead(one: Result, number: int) -> str:
    """Return the numbers of the rows that a row is significantly ahead of, runs of them as FIRST–LAST."""
    numbers = [int(other) + 1 for other in np.flatnonzero(one.ahead[number])]
    runs: list[list[int]] = []
    for other in numbers:
        if runs and runs[-1][-1] == other - 1:
            runs[-1].append(other)
        else:
            runs.append([other])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs) or "none"


def _tests(one: Result, held: Held) -> str:
    head = ["against", "its mean rank minus ours", "p", "ours is better by", "ours is worse by"]
    lines = []
    for number, row in enumerate(one.rows):
        if number == held.row:
            continue
        low, high = (f"{end:+.2f}".replace("-", "−") for end in held.intervals[number])
        moved = f"{held.differences[number]:+.2f}".replace("-", "−")
        lines.append(
            [
                row.name,
                f"{moved} [{low}, {high}]",
                printed_p(held.p[number]),
                _metrics(one, held, number, 1),
                _metrics(one, held, number, -1),
            ]
        )
    return _table(head, lines)


def _metrics(one: Result, held: Held, number: int, sign: int) -> str:
    """Return the metrics by which the held row is significantly better (1) or worse (-1) than another."""
    shown = (held.by_metric[:, number] < statistics.LEVEL) & (held.better[:, number] == sign)
    return ", ".join(s.column.name for s, is_shown in zip(one.standings, shown, strict=True) if is_shown) or "none"


def _sources(found: Sequence[Result], boards: Boards) -> str:
    """Return the table of who fused and published the images of the rows."""
    datasets = list(dict.fromkeys(dataset for one in found for dataset in one.board.datasets))
    lines = []
    for stored in boards.stored:
        of = [dataset for dataset in stored.datasets if dataset in datasets]
        methods = "; ".join(f"{name} ({words})" for name, words in stored.methods.items())
        if of:
            where = stored.pictures if stored.kind == PUBLISHED else f"`{stored.pictures}`"
            lines.append([methods, ", ".join(of), WORDS[stored.kind], where, stored.licence, stored.note])
    return _table(["methods", "datasets", "", "pictures", "licence", "note"], lines)


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)

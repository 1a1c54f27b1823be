"""The figure of a board: mean ranks with their intervals."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mmfuse.leaderboard.ranking import Result
from mmfuse.leaderboard.rows import BASELINE, PUBLISHED, SYSTEM
from mmfuse.reporting.pictures import PALETTE
from mmfuse.reporting.style import Album
from mmfuse.study.plan import EXTERNAL
from mmfuse.words import number_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORDS = {
    SYSTEM: "this project",
    EXTERNAL: "fused elsewhere",
    BASELINE: "training-free baseline",
    PUBLISHED: "published",
}
_LOOKS = {
    SYSTEM: (PALETTE[3], "o"),
    EXTERNAL: (PALETTE[4], "^"),
    BASELINE: (PALETTE[2], "s"),
    PUBLISHED: (PALETTE[0], "D"),
}


def ranks(found: Result) -> bytes:
    """Return the figure as SVG, the best row at the top."""
    album = Album()
    size = (6.4, 1.1 + 0.22 * len(found.rows))
    shown = album.draw(found.board.name, "ranks", found.board.title, "", size, partial(_ranks, found))
    return album.files[f"{shown.file}.svg"]


def _ranks(found: Result, figure: Figure) -> None:
    axes = figure.subplots()
    for kind, (ink, marker) in _LOOKS.items():
        which = [number for number, row in enumerate(found.rows) if row.kind == kind]
        if which:
            low, high = found.ranks[which] - found.intervals[which, 0], found.intervals[which, 1] - found.ranks[which]
            axes.errorbar(
                found.ranks[which],
                which,
                xerr=[low.clip(0), high.clip(0)],
                linestyle="",
                marker=marker,
                markersize=5,
                capsize=2,
                color=ink,
                label=WORDS[kind],
            )
    axes.set_yticks(range(len(found.rows)), [row.name for row in found.rows])
    axes.invert_yaxis()
    among = f"{number_of(len(found.rows), 'row')}, {number_of(len(found.images), 'image')}"
    axes.set(xlabel=f"mean rank among {among} (1 is best)")
    figure.legend(loc="outside upper left", ncols=len(_LOOKS), fontsize=8)

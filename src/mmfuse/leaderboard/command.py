"""The command `mmfuse leaderboard`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from mmfuse.errors import UserError
from mmfuse.files.writing import whole_file, write_text
from mmfuse.terminal import wrapped
from mmfuse.words import number_of

BOARDS, OUT = Path("data/leaderboard/boards.yaml"), Path("docs/leaderboard.md")


def leaderboard(
    run: Annotated[
        str | None,
        typer.Argument(help="A study's results, as for `mmfuse compare`; by default, only stored scores and --row."),
    ] = None,
    row: Annotated[
        list[str] | None,
        typer.Option(help="DATASET/NAME=FILE.csv, a table that `mmfuse evaluate` wrote; may be repeated."),
    ] = None,
    board: Annotated[list[str] | None, typer.Option(help="Only this board; may be repeated.")] = None,
    boards: Annotated[Path, typer.Option(help="File of the boards and stored scores.")] = BOARDS,
    out: Annotated[Path, typer.Option(help="Page to write (Markdown); CSV and SVG go into a folder beside it.")] = OUT,
    allow_missing: Annotated[
        bool,
        typer.Option("--allow-missing", help="Leave out rows that lack some of a board's images, and list them."),
    ] = False,
) -> None:
    """Rank a study's systems, or any scores, against fused images that others published."""
    from mmfuse.leaderboard import make

    if out.suffix != ".md":
        raise UserError(f"Cannot write {out}: the page is Markdown.", expected="a name ending in .md", found=out.name)
    given, only = row or [], board or []
    results, known = make.results(run, given, only, boards, allow_missing=allow_missing)
    words = ["mmfuse", "leaderboard", *([run] if run else [])]
    words += [word for text in given for word in ("--row", text)] + [
        word for name in only for word in ("--board", name)
    ]
    words += ["--boards", str(boards)] if boards != BOARDS else []
    words += ["--allow-missing"] * allow_missing + (["--out", str(out)] if out != OUT else [])
    for name, content in make.files(results, known, command=shlex.join(words), out=out).items():
        if isinstance(content, str):
            write_text(out.parent / name, content)
            continue
        with whole_file(out.parent / name) as temporary:
            temporary.write_bytes(content)
    for line in make.lines(results):
        print(wrapped(line))
    print(f"{number_of(len(results), 'board')}: {out}")

"""Lines and tables that fit the terminal; what goes to a file or a pipe keeps whole lines."""

from __future__ import annotations

import codecs
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence

_INDENT = 4  # further indentation of the rest of a broken line
_HELD = "\ue000"  # in place of a blank at which a line is not broken
_PLAIN = {"±": "+-", "≈": "~", "↑": "^", "↓": "v", "…": "...", "×": "x", "–": "-", "→": "->", "≤": "<=", "≥": ">="}


def show_all_signs() -> None:
    """Make standard output and standard error replace signs that their encoding lacks, instead of failing."""
    codecs.register_error("mmfuse.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="mmfuse.plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Return signs of ASCII for those that cannot be encoded, and where they end."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in signs), error.end


def stop_writing() -> None:
    """Discard what is still to be written to standard output and standard error: nobody reads it any more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            os.dup2(nowhere, stream.fileno())


def columns() -> int:
    """Return the width of the terminal, or COLUMNS; 0, for no limit, if there is neither."""
    return shutil.get_terminal_size((0, 0)).columns


def wrapped(line: str) -> str:
    """Return a line broken at blanks so that it fits the terminal; words and `commands` are never broken."""
    width = columns()
    if not width or len(line) <= width:
        return line
    indent = line[: len(line) - len(line.lstrip())] + _INDENT * " "
    held = re.sub("`[^`]*`", lambda found: found[0].replace(" ", _HELD), line)
    text = textwrap.fill(held, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return text.replace(_HELD, " ")


def table(rows: Sequence[Sequence[str]], indent: int = 2) -> list[str]:
    """Return the lines of a table with aligned columns that fits the terminal.

    Where it would be too wide, the widest cells are broken at blanks, and words only if no blanks are left.

    Args:
        rows: The cells of each row; all rows have the same number.
        indent: Blanks before each line, and between the columns.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    words = [max(len(word) for cell in column for word in [*cell.split(), ""]) for column in zip(*rows, strict=True)]
    room = (columns() or sum(widths) + indent * len(widths)) - indent * len(widths)
    while sum(widths) > max(room, len(widths)):
        breakable = [k for k, width in enumerate(widths) if width > words[k]] or range(len(widths))
        widths[max(breakable, key=widths.__getitem__)] -= 1
    broken = [
        [
            textwrap.wrap(cell, width, break_on_hyphens=False) if len(cell) > width else [cell]
            for cell, width in zip(row, widths, strict=True)
        ]
        for row in rows
    ]
    widths = [max(len(text) for cell in column for text in cell) for column in zip(*broken, strict=True)]
    lines = []
    for cells in broken:
        for number in range(max(map(len, cells))):
            texts = [cell[number] if number < len(cell) else "" for cell in cells]
            padded = "".join(indent * " " + text.ljust(width) for text, width in zip(texts, widths, strict=True))
            lines.append(padded.rstrip())
    return lines

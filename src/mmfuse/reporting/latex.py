"""Tables as LaTeX: escaped text, rules, spanning headers, and sizes that fit on a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # a bracket after \\ would be read as its option
    "]": "{]}",
    '"': r"\textquotedbl{}",
    "−": "$-$",
    "–": "--",
    "—": "---",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≈": r"$\approx$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "†": r"\dag{}",
    "▲": r"$\bigtriangleup$",
    "▼": r"$\bigtriangledown$",
    "…": r"\ldots{}",
    "“": "``",
    "”": "''",
    "\n": " ",
}
_PATTERN = re.compile("|".join(map(re.escape, _SPECIAL)))
_NEEDS = r"% needs \usepackage{array,booktabs,graphicx,longtable} and \usepackage[T1]{fontenc}"
# ASSUME: digits that fit into the text width: shrunk as far as legible, and in small print
_SHRUNK, _SMALL = 112.0, 86.0
_GAP, _TEXT, _LONG = 1.8, 14.0, 36  # digits between columns, digits of a short text, rows on a page
# no wider than the text, and never enlarged
_FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
_MARKS = {
    "best": r"\textbf{%s}",
    "tied": r"$\approx$ %s",
    "second": r"\underline{%s}",
    "small": r"{\scriptsize %s}",
    "below": r"\quad %s",
}


def escape(text: str) -> str:
    """Return any text as LaTeX that prints it; a straight quote needs the T1 encoding."""
    return _PATTERN.sub(lambda found: _SPECIAL[found.group()], text)


def marked(text: str, mark: str = "") -> str:
    """Return escaped text with the format of a mark: best, tied, second, small, below (an indented row), or none."""
    return _MARKS.get(mark, "%s") % escape(text) if text else ""


@dataclass(frozen=True)
class Head:
    """One cell of a table's header: plain text over a number of columns."""

    text: str
    span: int = 1


def table(
    caption: str, label: str, heads: Sequence[Sequence[Head]], rows: Iterable[Sequence[str]], *, left: int = 1
) -> str:
    r"""Return a table that fits on its page: wide ones in blocks below each other, long ones over several pages.

    Args:
        caption: Plain text.
        label: The label for \ref.
        heads: Lines of the header, plain text; each covers all columns. Cells over several columns get a rule below.
        rows: Cells as LaTeX (see `escape` and `marked`).
        left: Number of left-aligned columns; the others are right-aligned.
    """
    lines = [list(row) for row in rows]
    columns = list(zip([head.text for head in heads[-1]], *lines, strict=True))
    widths = [max(map(_width, cells)) for cells in columns]
    spans = [head.span for head in heads[0]]
    text_only = left == len(widths) and sum(widths) > _SMALL
    blocks = [list(range(left))] if text_only else _blocks(spans, widths, left, _SHRUNK)
    long = len(lines) * len(blocks) > _LONG
    if long and not text_only:
        blocks = _blocks(spans, widths, left, _SMALL)
    kinds = _wrapped(columns) if text_only else ["l"] * left + ["r"] * (len(widths) - left)
    specs = ["".join(kinds[place] for place in block) for block in blocks]
    parts = [[_head_line(line, block) for line in heads] for block in blocks]
    cut = [[_cut(row, kinds, block) for row in lines] for block in blocks]
    bodies = [[" & ".join(cells) + r" \\" for cells in rows if any(cells)] for rows in cut]
    if long:
        return _pages(caption, label, specs, parts, bodies)
    start, end = (r"\scriptsize\setlength{\tabcolsep}{3pt}", "") if text_only else (_FIT, "}")
    text = [
        _NEEDS,
        r"\begin{table}",
        rf"\caption{{{_breaking(escape(caption))}}}",
        rf"\label{{{label}}}",
        r"\centering",
    ]
    for spec, head, body in zip(specs, parts, bodies, strict=True):
        text += [r"\par\medskip", start, rf"\begin{{tabular}}{{{spec}}}", r"\toprule", *_ruled(head), r"\midrule"]
        text += [*body, r"\bottomrule", rf"\end{{tabular}}{end}"]
    return "\n".join([*text, r"\end{table}", ""])


def _pages(
    caption: str,
    label: str,
    specs: Sequence[str],
    heads: Sequence[Sequence[tuple[str, str]]],
    bodies: Sequence[Sequence[str]],
) -> str:
    """Return a table over several pages, its blocks one after the other; only the first has the caption."""
    text = [_NEEDS, r"\begingroup\scriptsize\setlength{\tabcolsep}{3pt}"]
    for number, (spec, head, body) in enumerate(zip(specs, heads, bodies, strict=True)):
        named = [rf"\caption{{{_breaking(escape(caption))}}}\label{{{label}}}\\"]
        above = [r"\toprule", *_ruled(head), r"\midrule"]
        text += [rf"\begin{{longtable}}{{{spec}}}", *([] if number else named), *above, r"\endfirsthead"]
        text += [*above, r"\endhead", r"\bottomrule", r"\endfoot", *body, r"\end{longtable}"]
        text += [r"\addtocounter{table}{-1}"] if number else []  # it counts each block
    return "\n".join([*text, r"\endgroup", ""])


def _width(text: str) -> float:
    """Return the approximate printed width of a cell in digits, including the gap beside it."""
    plain = re.sub(r"\\[A-Za-z]+ ?|[{}$]", "", text)
    return len(plain) * (0.75 if text.startswith(r"{\scriptsize") else 1.0) + _GAP


def _blocks(spans: Sequence[int], widths: Sequence[float], left: int, most: float) -> list[list[int]]:
    """Return the columns of each block: all start with the first ones; header groups stay together if they fit."""
    room = most - sum(widths[:left])
    blocks = _packed(spans, widths, left, room)
    widest = max(widths[left:], default=0.0)
    while (
        len(blocks) > 1
        and 0.95 * room >= widest
        and len(closer := _packed(spans, widths, left, 0.95 * room)) == len(blocks)
    ):
        blocks, room = closer, 0.95 * room  # as many blocks, of more similar widths
    return [[*range(left), *block] for block in blocks]


def _packed(spans: Sequence[int], widths: Sequence[float], left: int, room: float) -> list[list[int]]:
    """Return the columns after the first ones, in as many blocks as they need."""
    blocks: list[list[int]] = [[]]
    place = 0
    for span in spans:
        group = [column for column in range(place, place + span) if column >= left]
        place += span
        for piece in _pieces(group, widths, room):
            if blocks[-1] and sum(widths[column] for column in (*blocks[-1], *piece)) > room:
                blocks.append([])
            blocks[-1] += piece
    return blocks


def _pieces(group: Sequence[int], widths: Sequence[float], room: float) -> list[Sequence[int]]:
    """Return a group of columns in as few pieces as fit, of about equal size."""
    for count in range(1, len(group) + 1):
        each = -(-len(group) // count)
        pieces = [group[start : start + each] for start in range(0, len(group), each)]
        if all(sum(widths[column] for column in piece) <= room for piece in pieces):
            return pieces
    return [[column] for column in group]


def _wrapped(columns: Sequence[Sequence[str]]) -> list[str]:
    """Return the kinds of text columns that are too wide together: long ones wrap, but not within words.

    The width left by the short ones and the longest words is shared among the long ones by the length of their texts.
    """
    widths = [max(map(_width, cells)) for cells in columns]
    words = [
        max(_width(word) for cell in cells for word in re.split(r"[ /]|(?<=_)|\.(?=[A-Za-z])", cell))
        for cells in columns
    ]
    least = [word if width > _TEXT else width for word, width in zip(words, widths, strict=True)]
    more = [min(width, 4 * _TEXT) - low for width, low in zip(widths, least, strict=True)]
    rest = max(0.0, _SMALL - sum(least)) / max(1.0, sum(max(0.0, one) for one in more))
    return [
        rf">{{\raggedright\arraybackslash}}p{{{(low + max(0.0, one) * rest - _GAP) / _SMALL:.3f}\linewidth}}"
        if width > _TEXT
        else "l"
        for width, low, one in zip(widths, least, more, strict=True)
    ]


def _breaking(text: str) -> str:
    """Return escaped text in which long names and paths may break after a slash, an underscore or a dot."""
    return re.sub(r"/|\\_|\.(?=[A-Za-z])", r"\g<0>\\allowbreak{}", text)


def _cut(row: Sequence[str], kinds: Sequence[str], block: Sequence[int]) -> list[str]:
    """Return a row's cells in one block."""
    return [_breaking(row[place]) if "p{" in kinds[place] else row[place] for place in block]


def _head_line(line: Sequence[Head], block: Sequence[int]) -> tuple[str, str]:
    """Return one line of a block's header and the rules below cells over several columns."""
    owners = [number for number, head in enumerate(line) for _ in range(head.span)]
    cells, rules, place = [], [], 1
    for number, alike in groupby(owners[column] for column in block):
        span = len(list(alike))
        cells.append(_head(Head(line[number].text, span)))
        rules += [rf"\cmidrule(lr){{{place}-{place + span - 1}}}"] if span > 1 and line[number].text else []
        place += span
    return " & ".join(cells) + r" \\", " ".join(rules)


def _ruled(lines: Sequence[tuple[str, str]]) -> list[str]:
    """Return the lines of a header, with rules between them where cells span several columns."""
    found = []
    for number, (text, rules) in enumerate(lines):
        found += [text, *([rules] if rules and number < len(lines) - 1 else [])]
    return found


def _head(head: Head) -> str:
    return escape(head.text) if head.span == 1 else rf"\multicolumn{{{head.span}}}{{c}}{{{escape(head.text)}}}"

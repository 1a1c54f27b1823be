"""Tables as LaTeX, for the package booktabs: escaped text, rules, spanning heads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
    "[": "{[}",  # a bracket behind \\ would be read as its option
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
_MARKS = {
    "best": r"\textbf{%s}",
    "tied": r"$\approx$ %s",
    "second": r"\underline{%s}",
    "small": r"{\scriptsize %s}",
    "below": r"\quad %s",
}


def escape(text: str) -> str:
    """Return text as LaTeX that prints it, whatever it holds; it needs the T1 encoding for a straight quote."""
    return _PATTERN.sub(lambda found: _SPECIAL[found.group()], text)


def marked(text: str, mark: str = "") -> str:
    """Return escaped text in the dress of a mark: best, tied, second, small, below (a row set in), or none."""
    return _MARKS.get(mark, "%s") % escape(text) if text else ""


@dataclass(frozen=True)
class Head:
    """One cell of a table's head: plain text over a number of columns."""

    text: str
    span: int = 1


def table(
    caption: str, label: str, heads: Sequence[Sequence[Head]], rows: Iterable[Sequence[str]], *, left: int = 1
) -> str:
    r"""Return a whole `table` environment.

    Args:
        caption: Plain text.
        label: What \ref names it by.
        heads: Lines of the head, plain text; each covers all columns. Cells over several columns get a rule below.
        rows: Cells as LaTeX (see `escape` and `marked`).
        left: Number of columns that are set to the left; the others are set to the right.
    """
    count = sum(head.span for head in heads[0])
    lines = [
        r"% needs \usepackage{booktabs} and \usepackage[T1]{fontenc}",
        r"\begin{table}",
        rf"\caption{{{escape(caption)}}}",
        rf"\label{{{label}}}",
        r"\centering",
        rf"\begin{{tabular}}{{{'l' * left}{'r' * (count - left)}}}",
        r"\toprule",
    ]
    for number, line in enumerate(heads):
        lines.append(" & ".join(_head(head) for head in line) + r" \\")
        if number < len(heads) - 1:
            rules, place = [], 1
            for head in line:
                if head.span > 1:
                    rules.append(rf"\cmidrule(lr){{{place}-{place + head.span - 1}}}")
                place += head.span
            lines += [" ".join(rules)] if rules else []
    lines.append(r"\midrule")
    lines += [" & ".join(row) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _head(head: Head) -> str:
    return escape(head.text) if head.span == 1 else rf"\multicolumn{{{head.span}}}{{c}}{{{escape(head.text)}}}"

"""The LaTeX of a report's tables: that it fits on its page by its own reckoning, and that LaTeX sets it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import full_study
from mmfuse.reporting import downstream_scores, latex, statistics, style, viewer
from mmfuse.reporting.latex import Head
from test_report import ROOT

PDFLATEX = shutil.which("pdflatex")
PAGE = r"""\documentclass[a4paper]{article}
\usepackage{array,booktabs,graphicx,longtable}
\usepackage[T1]{fontenc}
\extrafloats{100}
\begin{document}
%s
\end{document}
"""


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The tables of a report that has one of every kind, by name."""
    root = tmp_path_factory.mktemp("full")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(style, "_files", lambda *_: dict.fromkeys(("svg", "pdf", "png"), b"<svg/>"))
        patch.setattr(viewer, "write", lambda *_, **__: None)
        patch.setattr(downstream_scores, "RESAMPLES", 20)
        patch.setattr(statistics, "_RESAMPLES", 100)
        full_study.make(root)
        full_study.write_report(root, root / "out")
    return {path.name: path for path in sorted((root / "out/tables").glob("*.tex"))}


def test_the_study_has_a_table_of_every_kind(tables):
    kinds = {name.partition(".")[0] for name in tables}
    expected = {
        "ablations",
        "cases",
        "data",
        "downstream",
        "efficiency",
        "overview",
        "provenance",
        "published",
        "road",
        "trained",
    }
    assert kinds == expected
    assert len(tables) == 21
    whole = "".join(path.read_text(encoding="utf-8") for path in tables.values())
    for text in (
        r"\resizebox",
        r"\begin{longtable}",
        r"p{0.",
        r"\textbf{",
        r"\underline{",
        r"$\pm$",
        r"\%",
        r"\_",
        r"\&",
    ):
        assert text in whole, "what the compiler should meet"


def compiled(folder: Path, body: str, runs: int = 1) -> str:
    """Set a document; return LaTeX's log."""
    (folder / "all.tex").write_text(PAGE % body, encoding="utf-8")
    for _ in range(runs):
        command = [str(PDFLATEX), "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
        ran = subprocess.run(command, cwd=folder, capture_output=True, check=False)
        assert ran.returncode == 0, ran.stdout.decode("utf-8", "replace")[-2000:]
    return (folder / "all.log").read_text(encoding="utf-8", errors="replace")


needs_latex = pytest.mark.skipif(
    not PDFLATEX, reason="no pdflatex on the path; Debian has it in texlive-latex-recommended"
)


@needs_latex
def test_every_table_is_set_and_fits_on_its_page(tables, tmp_path):
    inputs = "\n".join(rf"\input{{{path.as_posix()}}}\clearpage" for path in tables.values())
    log = compiled(tmp_path, inputs, runs=3)  # a table over several pages finds its widths in two
    too_wide = [float(points) for points in re.findall(r"Overfull \\hbox \(([0-9.]+)pt too wide\)", log)]
    assert [points for points in too_wide if points > 5] == []
    assert "Float too large" not in log
    assert not re.search(r"Missing character|undefined on input|multiply defined", log)


@needs_latex
def test_all_that_text_may_hold_is_set(tmp_path):
    text = "".join(latex._SPECIAL) + "äöüßéñåøçŁž · x_1"
    rows = [
        [latex.escape(text), latex.marked("−0.5", mark)] for mark in ("best", "tied", "second", "small", "below", "")
    ]
    compiled(tmp_path, latex.table(text, "tab:a", [[Head(text), Head("b")]], rows))


def test_wide_tables_become_blocks_of_like_width():
    heads = [[Head(""), Head("one", 6), Head("two", 6)], [Head("Method"), *(Head(f"metric {n}") for n in range(12))]]
    rows = [[f"m{n}", *(f"{n}.{k:08d}" for k in range(12))] for n in range(3)]
    text = latex.table("c", "tab:x", heads, rows)
    assert text.count(r"\begin{tabular}{lrrrrrr}") == 2
    assert text.count(r"\caption") == 1
    first, second = text.split(r"\par\medskip")[1:]
    assert r"\multicolumn{6}{c}{one}" in first
    assert r"\multicolumn{6}{c}{two}" in second
    assert "m2 & 2.00000006" in second
    assert "2.00000006" not in first


@pytest.mark.parametrize("length", [1, 60, 90, 100, 110, 111, 112, 120, 400])
@pytest.mark.parametrize("heads", [[Head("A"), Head("B"), Head("C")], [Head("A"), Head("B C", 2)]])
def test_columns_of_any_width_become_blocks(length, heads):
    row = ["name", "1" * length, "2" * length]
    text = latex.table("c", "l", [heads, [Head("A"), Head("B"), Head("C")]], [row])
    assert all(cell in text for cell in row)
    assert text.count(r"\begin{tabular}") == (1 if length <= 50 else 2)


def test_long_tables_go_over_several_pages():
    text = latex.table("c", "tab:x", [[Head("a"), Head("b")]], [[str(n), "1"] for n in range(100)])
    assert r"\begin{longtable}{lr}" in text
    assert text.count(r"\toprule") == 2, "on the first page and on the others"
    assert text.count(r"\caption") == 1


def test_long_texts_get_lines_of_their_own():
    rows = [["a", r"reports/scores/some\_where/" * 3, "x" * 30]]
    text = latex.table("c", "tab:x", [[Head("k"), Head("path"), Head("word")]], rows, left=3)
    found = re.search(r"tabular}{l>{.*?}p{([0-9.]+)\\linewidth}>{.*?}p{([0-9.]+)\\linewidth}}", text)
    assert found is not None
    assert float(found[1]) > float(found[2])
    assert 0.8 < float(found[1]) + float(found[2]) < 1
    assert r"reports/\allowbreak{}scores/" in text

"""The report's pages: LaTeX that prints what it says, costs and places, ablations, radar, seeds as bands, figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mmfuse.reporting import ablations, efficiency, figures, latex, style
from mmfuse.reporting.efficiency import Cost
from mmfuse.reporting.latex import Head
from mmfuse.reporting.provenance import RecordedJob
from mmfuse.reporting.ranking import Ranking, ranking, stand
from mmfuse.reporting.scores import Column, Group, Scores
from mmfuse.reporting.style import Album
from mmfuse.study.plan import System

ROOT = Path(__file__).parents[1]
COLUMNS = (Column("SD", "sd", "higher", "c"), Column("Nabf", "nabf", "lower", "c"))


def group(method: str, variant: str, *rows: list[float]) -> Group:
    values = np.array(rows)
    names = tuple(str(number) for number in range(values.shape[1]))
    scores = Scores(System(method, variant, "mif", 0), "c", COLUMNS[: len(rows)], names, values)
    return Group(method, variant, (scores,), values)


def ranked(groups: list[Group]) -> Ranking:
    found = ranking(groups, [stand(groups, column) for column in groups[0].members[0].metrics])
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("synthetic_road & 50 % of #1", r"synthetic\_road \& 50 \% of \#1"),
        ("a\\b {c} $x$", r"a\textbackslash{}b \{c\} \$x\$"),
        ('~^<>|"', r"\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}\textbar{}\textquotedbl{}"),
        ("−0.5 ± 1 ≈ 2", r"$-$0.5 $\pm$ 1 $\approx$ 2"),
        ("[0.1, 0.2]", "{[}0.1, 0.2{]}"),
        ("PSNR ↑, “best” – all", r"PSNR $\uparrow$, ``best'' -- all"),
        ("two\nlines", "two lines"),
    ],
)
def test_latex_prints_the_text_that_it_is_given(text, expected):
    assert latex.escape(text) == expected


def test_marks_dress_the_text():
    assert latex.marked("1.5", "best") == r"\textbf{1.5}"
    assert latex.marked("−1", "tied") == r"$\approx$ $-$1"
    assert latex.marked("1_5", "second") == r"\underline{1\_5}"
    assert latex.marked("", "best") == ""


def test_a_latex_table_has_rules_and_spanning_heads():
    heads = [[Head(""), Head("a_b", 2), Head("c", 2)], [Head("Method"), *[Head(n) for n in ("x", "y", "x", "y")]]]
    text = latex.table("50 % of a_b", "tab:x", heads, [["m", "1", "2", "3", "4"]])
    assert r"\caption{50 \% of a\_\allowbreak{}b}" in text
    assert r"\begin{tabular}{lrrrr}" in text
    lines = text.splitlines()
    at = lines.index(r"\toprule")
    assert lines[at + 1 : at + 7] == [
        r" & \multicolumn{2}{c}{a\_b} & \multicolumn{2}{c}{c} \\",
        r"\cmidrule(lr){2-3} \cmidrule(lr){4-5}",
        r"Method & x & y & x & y \\",
        r"\midrule",
        r"m & 1 & 2 & 3 & 4 \\",
        r"\bottomrule",
    ]


def run(machine: str = "Linux", **measured: float) -> RecordedJob:
    return RecordedJob("a", "t", "fuse", "p", {"machine": {"system": machine}, "measured": measured})


def test_the_cost_of_a_system_is_the_mean_over_its_seeds():
    first = run(seconds_per_image=0.2, parameters=7, peak_mib=100.0, height=3, width=5, multiply_adds=11)
    second = run("Other", seconds_per_image=0.4, parameters=7, peak_mib=120.0, height=3, width=5, multiply_adds=11)
    assert efficiency.cost([first, second]) == Cost(pytest.approx(0.3), 7, "5×3", 11, 120.0, ("Linux", "Other"), "a")
    older = efficiency.cost([run(seconds_per_image=0.2, parameters=7)])
    assert older == Cost(0.2, 7, "", None, None, ("Linux",), "a")
    assert efficiency.printed(older) == ("n/a", "7", "n/a", "0.2", "n/a")
    assert efficiency.cost([first, run()]) is None


def test_ranks_against_times_name_the_machine_and_what_is_left_out():
    systems = [group("fast", "base", [3.0]), group("far", "external", [3.0]), group("net", "base", [4.0])]
    costs: list[Cost | None] = [
        Cost(0.001, 0, "", None, None, ("Linux",), ""),
        None,
        Cost(1.5, 2_500_000, "", None, None, ("Linux",), ""),
    ]
    shown = efficiency.times(Album(), "x", systems, np.array([3.0, 1.5, 1.5]), costs)
    assert "measured on Linux." in shown.words
    assert "not measured: far.external." in shown.words
    costs[2] = Cost(1.5, 2_500_000, "", None, None, ("Big",), "")
    words = efficiency.times(Album(), "x", systems, np.ones(3), costs).words
    assert "measured on Linux (fast) and Big (net)." in words


def test_places_are_counted_over_the_metrics():
    systems = [
        group("a", "base", [3.0, 3.0], [0.1, 0.1]),
        group("b", "base", [2.0, 2.0], [0.2, 0.2]),
        group("c", "base", [1.0, 1.0], [0.1, 0.1]),
    ]
    # SD: a, b, c; Nabf: a and c share the first place, b is third
    assert efficiency.places(ranked(systems)).tolist() == [[2, 0, 0], [0, 1, 1], [1, 0, 1]]


def test_a_variant_is_compared_with_its_base_on_the_same_images():
    values = [float(n) for n in range(10)]
    systems = [group("net", "base", values), group("net", "large", [v + 2 for v in values])]
    standing = stand(systems, COLUMNS[0])
    apart = ablations.apart_from_base(systems, standing, [0, 1], 0)
    assert apart == {0: (0.0, 0.0, 0.0), 1: pytest.approx((2.0, 2.0, 2.0))}
    assert ablations.cell(standing, 0, 0, apart[0]) == ablations.Cell("4.500", "", "", "")
    assert ablations.cell(standing, 1, 0, apart[1]) == ablations.Cell("6.500", "+2.000", "[2.00, 2.00]", "▲")
    assert ablations.cell(standing, 0, 1, (-2.0, -2.0, -2.0)).sign == "▼"


def test_a_radar_turns_smaller_is_better_outwards():
    systems = [group("a", "base", [1.0], [0.1]), group("b", "base", [3.0], [0.3]), group("c", "base", [2.0], [0.3])]
    shares = figures.shares(ranked(systems), [0, 1, 2])
    assert shares.tolist() == [[0.0, 1.0], [1.0, 0.0], [0.5, 0.0]]
    assert figures.shares(ranked(systems), [1]).tolist() == [[1.0, 1.0]], "alone it is best and worst"


def test_seeds_become_a_band_over_the_steps_that_all_have():
    one = (np.array([10.0, 20.0, 30.0]), np.array([4.0, 3.0, 2.0]))
    other = (np.array([10.0, 30.0]), np.array([6.0, 0.0]))
    steps, middle, low, high = figures.banded([one, other])
    assert steps.tolist() == [10, 30]
    assert (middle.tolist(), low.tolist(), high.tolist()) == ([5, 1], [4, 0], [6, 2])


def test_figures_are_alike_for_equal_numbers_and_differ_for_others():
    def paint(figure: Any, top: float = 1.0) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, top], label="line")
        axes.legend()

    def files(paint: style.Paint) -> dict[str, bytes]:
        album = Album()
        album.draw("all", "one", "Title", "Words", (2, 1.5), paint)
        return album.files

    first, other = files(paint), files(lambda figure: paint(figure, 2.0))
    assert first == files(paint)
    assert set(first) == {"figures/all/one.svg", "figures/all/one.pdf", "figures/all/one.png"}
    assert all(first[name] != other[name] and b"CreationDate" not in first[name] for name in first)


def test_every_kind_of_figure_has_a_caption_in_the_report_of_snakemake():
    text = (ROOT / "workflow/report/figure.rst").read_text()
    for name in ("radar", "ranks", "distributions", "grey_levels", "places", "times", "precision_recall"):
        assert f'name == "{name}"' in text
    rule = (ROOT / "workflow/rules/report.smk").read_text()
    assert '"{about}/{figure}.svg"' in rule
    dvc = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["report"]
    assert {"reports/tables", "reports/figures", "reports/index.html"} <= set(dvc["outs"])

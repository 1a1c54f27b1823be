"""The parts of the report: marks, printed numbers, ranks, picture windows, anchors."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mmfuse.reporting import figures, pictures, provenance, tables
from mmfuse.reporting.ranking import marks, ranking, stand, verdict
from mmfuse.reporting.scores import Column, Group, Scores
from mmfuse.study.plan import System


def _standings(groups: list[Group]):
    return [stand(groups, column) for column in groups[0].members[0].metrics]


@pytest.mark.parametrize(
    ("means", "worse", "expected"),
    [
        ([1.0, 3.0, 2.0], [0, 2], ["", "best", "second"]),
        ([1.0, 3.0, 2.0], [0], ["second", "best", "tied"]),
        ([1.0, 3.0, 2.0], [], ["tied", "best", "tied"]),
        ([3.0, 3.0, 2.0, 1.0], [2, 3], ["best", "best", "second", ""]),
        ([3.001, 3.002, 2.0], [0, 2], ["second", "best", ""]),  # printed alike, but different
        ([float("nan"), 3.0, 2.0], [2], ["", "best", "second"]),
        ([float("nan"), 3.0], [], ["", ""]),  # nobody to compare with
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_marks(means, worse, expected, sign):
    means = np.array(means)
    better = np.zeros((means.size, means.size), dtype=int)
    for loser in worse:
        better[int(np.nanargmax(means)), loser] = 1
        better[loser, int(np.nanargmax(means))] = -1
    p = np.where(better, 0.01, 0.2)
    assert list(marks(sign * means, sign, p, better)) == expected
    assert set(marks(means, 0, p, better)) == {""}  # no better direction


def test_a_mean_without_a_test_is_not_called_tied():
    p = np.full((2, 2), np.nan)
    assert marks(np.array([3.0, 2.0]), 1, p, np.zeros((2, 2), dtype=int)) == ("best", "second")


def test_what_tests_put_ahead_of_the_best_mean_is_tied_with_it():
    first = _group("a", [[1.0] * 29 + [900.0]])
    second = _group("b", [[1.0 + i / 9 for i in range(1, 31)]])
    standing = stand([first, second], first.members[0].metrics[0])
    assert standing.p[0, 1] < 0.05
    assert standing.better[1, 0] == 1
    assert standing.marks == ("best", "tied")


def test_printed_numbers():
    assert tables.printed(-0.5, 3) == "−0.500"
    assert tables.printed(float("nan"), 3) == "n/a"
    assert [tables.decimals(column) for column in ([0.0123], [0.5, 12.0], [1.5], [38.0], [1234.0], [float("nan")])] == [
        5,
        4,
        3,
        2,
        1,
        1,
    ]


def _group(method: str, values: list[list[float]]) -> Group:
    columns = (Column("EN", "en", "higher", "c"), Column("Nabf", "nabf", "lower", "c"))[: len(values)]
    array = np.array(values)
    images = tuple(str(i) for i in range(array.shape[1]))
    return Group(method, "base", (Scores(System(method, "base", "ivif", 0), "c", columns, images, array),), array)


def test_ranking_counts_only_what_all_have_on_all_images():
    a = _group("a", [[1.0, 2.0, 9.0], [0.1, 0.1, 0.1]])
    b = _group("b", [[2.0, 3.0, 4.0], [0.2, float("nan"), 0.2]])
    ranked = ranking([a, b], _standings([a, b]))
    assert ranked is not None
    assert [s.column.name for s in ranked.counted] == ["EN"]
    np.testing.assert_allclose(ranked.ranks, [5 / 3, 4 / 3])  # b is ahead on two of three images
    assert ranked.marks == ("tied", "best")
    assert ranked.critical == pytest.approx(1.96 / 3**0.5, rel=1e-3)
    assert ranking([a], _standings([a])) is None


@pytest.mark.parametrize(
    ("lead", "words"),
    [
        (0.0, "a and b share the lowest mean rank on the one metric EN (1.50 among 3 systems), ahead of c (3.00) by"),
        (9.0, "a has the lowest mean rank on the one metric EN (1.00 among 3 systems), ahead of b (2.00) by"),
    ],
)
def test_verdict_tells_what_differs(lead, words):
    series = np.arange(30.0)
    groups = [_group(name, [list(series + more)]) for name, more in (("a", 10 + lead), ("b", 10.0), ("c", 0.0))]
    said = verdict(groups, ranking(groups, _standings(groups)))
    assert words in said
    assert ("on 1 of them significantly better than every other" in said) == (lead > 0)


def test_verdict_tells_what_cannot_be_told_apart():
    random = np.random.default_rng(0)
    groups = [_group(name, [list(random.normal(more, 1.0, 20))]) for name, more in (("a", 0.1), ("b", 0.0), ("c", 9.0))]
    said = verdict(groups[:2], ranking(groups[:2], _standings(groups[:2])))
    assert "cannot be distinguished from it: the critical difference is 0.44." in said
    assert "best mean on" in said
    assert verdict(groups[:1], None).startswith("20 test images; nothing to rank")


def test_columns_of_conventions_beside():
    columns = [Column("EN", "en", "higher", "c"), Column("SF", "sf_vifb", "higher", "c")]
    columns += [Column("EN.d", "en", "higher", "d"), Column("SF.d", "sf_mean", "higher", "d")]
    columns += [Column("SF.e", "sf_vifb", "higher", "e")]
    main, d, e = tables.heads(columns, "c")
    assert [c.name for c in main.columns] == ["EN", "SF"]
    assert ([c.name for c in d.columns], d.same, d.missing) == (["SF.d"], ("EN",), ())
    assert (e.columns, e.same, e.missing) == ((), ("SF",), ("EN",))
    assert [(m.name, m.definition, m.conventions) for m in tables.legend(columns)] == [
        ("EN", "en", ("c", "d")),
        ("SF", "sf_vifb", ("c", "e")),
        ("SF", "sf_mean", ("d",)),
    ]


def test_window_lies_where_both_sources_have_different_structure():
    a, b = np.zeros((40, 60), dtype=np.uint8), np.zeros((40, 60), dtype=np.uint8)
    a[:, 10:14] = 255  # in a alone
    stripes = np.tile(np.array([0, 90], dtype=np.uint8).repeat(2), 3)
    a[2:14, 40:52] = b[2:14, 40:52] = stripes  # the same in both
    a[26:38, 40:52], b[26:38, 40:52] = stripes, stripes[:, None]  # crossing
    window = pictures.disagreement(a, b, 12)
    assert abs(window.top - 26) <= 1
    assert abs(window.left - 40) <= 1
    assert pictures.disagreement(a, b, 12) == window


def test_window_fits_small_and_flat_images():
    flat = np.zeros((10, 6), dtype=np.uint8)
    assert pictures.disagreement(flat, flat, 8) == pictures.Window(0, 0, 8, 6)


def test_images_are_taken_evenly():
    names = [f"{i:02d}" for i in range(10)]
    assert pictures.evenly(list(reversed(names)), 2, offset=0.5) == ["02", "07"]
    assert pictures.evenly(names, 99, offset=0.5) == names


def test_labels_are_drawn_only_where_there_are_some():
    a = np.zeros((16, 16), dtype=np.uint8)
    assert pictures.labelled({"name": "x", "a": a, "b": a}, 16, "alt") is None
    empty = pictures.labelled({"name": "x", "a": a, "b": a, "boxes": np.zeros((0, 5), np.float32)}, 16, "alt")
    boxed = pictures.labelled(
        {"name": "x", "a": a, "b": a, "boxes": np.array([[0, 0.5, 0.5, 0.5, 0.5]], np.float32)}, 16, "alt"
    )
    assert empty is not None
    assert boxed is not None
    assert empty.uri != boxed.uri


def test_anchors_differ_for_different_names():
    names = ["a b", "a-b", "a~20~b", "a_b", "a<b", 'a"b', "ä"]
    anchors = [provenance.anchor("run", name) for name in names]
    assert len(set(anchors)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9._~-]+", anchor) for anchor in anchors)


def test_boxes_are_where_matplotlib_draws_them():
    from matplotlib.collections import LineCollection, PolyCollection
    from matplotlib.figure import Figure

    random = np.random.default_rng(5)
    series = [random.normal(2, 1, 40), np.array([]), np.array([3.0]), np.array([0.0, 1, 1, 2, 2, 9, -20]), np.ones(5)]
    own, theirs = (Figure().subplots() for _ in range(2))
    figures._box_each(own, series, ["#112233"] * len(series))
    drawn = theirs.boxplot(series, orientation="horizontal", widths=0.62)

    def points(lines):
        """The corners of each line that has any, whatever the order of its points."""
        arrays = [np.asarray(line) for line in lines]
        return sorted(sorted({tuple(row) for row in one.round(9).tolist()}) for one in arrays if np.isfinite(one).all())

    def of(name):
        return [line.get_xydata() for line in drawn[name]]

    (boxes,) = [found for found in own.collections if isinstance(found, PolyCollection)]
    lines, medians = [found.get_segments() for found in own.collections if isinstance(found, LineCollection)]
    assert points(medians) == points(of("medians"))
    assert points(lines) == points(of("whiskers") + of("caps"))
    assert points(path.vertices for path in boxes.get_paths()) == points(of("boxes"))
    beyond = np.concatenate(of("fliers"))
    assert sorted(map(tuple, own.lines[0].get_xydata())) == sorted(map(tuple, beyond))
    assert len(beyond) > 1
    assert own.get_xlim() == pytest.approx(theirs.get_xlim())

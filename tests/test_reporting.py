"""The parts of the report: marks, printed numbers, ranks, picture windows, anchors."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mmfuse.plan import System
from mmfuse.reporting import pictures, provenance, tables
from mmfuse.reporting.scores import Column, Group, Scores, ranking, ranks


@pytest.mark.parametrize(
    ("means", "sign", "expected"),
    [
        ([1.0, 3.0, 2.0], 1, ["", "best", "second"]),
        ([1.0, 3.0, 2.0], -1, ["best", "", "second"]),
        ([3.0, 3.0, 2.0, 1.0], 1, ["best", "best", "second", ""]),
        ([3.001, 3.002, 2.0], 1, ["best", "best", "second"]),  # alike as printed with two decimals
        ([float("nan"), 3.0, 2.0], 1, ["", "best", "second"]),
        ([float("nan"), 3.0], 1, ["", ""]),  # nobody to compare with
        ([1.0, 3.0], 0, ["", ""]),  # no better direction
    ],
)
def test_marks(means, sign, expected):
    assert tables.marks(means, sign, 2) == expected


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


def test_ranks_share_places():
    assert ranks(np.array([[1.0, 3.0, 3.0, 2.0]]), 1).tolist() == [[4.0, 1.5, 1.5, 3.0]]
    assert ranks(np.array([1.0, 3.0, 2.0]), -1).tolist() == [1.0, 3.0, 2.0]


def _group(method: str, values: list[list[float]]) -> Group:
    columns = (Column("EN", "en", "higher"), Column("Nabf", "nabf", "lower"))
    array = np.array(values)
    images = tuple(str(i) for i in range(array.shape[1]))
    return Group(method, "base", (Scores(System(method, "base", "ivif", 0), "c", columns, images, array),), array)


def test_ranking_counts_only_what_all_have_on_all_images():
    a = _group("a", [[1.0, 2.0, 9.0], [0.1, 0.1, 0.1]])
    b = _group("b", [[2.0, 3.0, 4.0], [0.2, float("nan"), 0.2]])
    ranked = ranking([a, b], a.members[0].metrics)
    assert ranked is not None
    assert [c.name for c in ranked.metrics] == ["EN"]
    assert ranked.mean_ranks.tolist() == [1.0, 2.0]
    # a leads by one image only, so some resamples without it put b first
    assert ranked.stability is not None
    assert 0.5 < ranked.stability < 0.9
    assert ranking([a], a.members[0].metrics) is None


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

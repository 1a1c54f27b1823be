"""The first page: whether a network is ahead of the baselines, and the images that stand for its best and worst."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmfuse.data.images import write_image
from mmfuse.reporting import baselines, cases, style
from mmfuse.reporting.baselines import AHEAD, BEHIND, FREE, SHIPPED, TIED, TRAINED, Match
from mmfuse.reporting.ranking import ranking, stand
from mmfuse.reporting.scores import Column, Group, Scores
from mmfuse.reporting.study import read_groups
from mmfuse.study import plan
from mmfuse.study.plan import System
from test_report import NAMES, PARAMETERS, ROOT, VALUES, _Page, _run, _scores, make_study, renew_record

EN, NABF = Column("EN", "en", "higher", "c"), Column("Nabf", "nabf", "lower", "c")
MI = Column("MI", "mi", "", "c")  # no better direction


def group(
    method: str, rows: list[list[float]], columns: tuple[Column, ...] = (EN, NABF), variant: str = "base"
) -> Group:
    values = np.array(rows)
    names = tuple("dcba"[: values.shape[1]])
    scores = Scores(System(method, variant, "ivif", 0), "c", columns[: len(rows)], names, values)
    return Group(method, variant, (scores,), values)


def board(**tests: list[Group]) -> cases.Board:
    found = cases.board(tests)
    assert found is not None
    return found


# ---- the order of the images -------------------------------------------------------------------------------------


def test_the_mean_rank_of_an_image_is_that_of_the_page_before_the_mean_over_images():
    random = np.random.default_rng(0)
    groups = [group(name, random.integers(0, 4, (2, 4)).astype(float).tolist()) for name in ("a", "b", "c")]
    ranked = ranking(groups, [stand(groups, column) for column in (EN, NABF)])
    assert ranked is not None
    found = board(road=groups)
    np.testing.assert_allclose(found.ranks.mean(1), ranked.ranks)
    assert found.images == (("road", "d"), ("road", "c"), ("road", "b"), ("road", "a"))


def test_best_typical_and_worst_by_hand():
    net = group("net", [[2.0, 2.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0]])
    flat = group("flat", [[1.0, 1.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5]])
    found = board(road=[flat, net])
    # image d: first by EN and by Nabf; c and b: first by one of them; a: second by both
    assert found.ranks[1].tolist() == [1.0, 1.5, 1.5, 2.0]
    choice = cases.choose(found, [FREE, TRAINED])
    assert (choice.shown, choice.baseline) == (1, 0)
    assert [found.images[i][1] for i in choice.order] == ["d", "b", "c", "a"], "equal ones by name"
    assert choice.cases == {0: "Best", 1: "Typical", 3: "Worst"}, "of four the second is the typical one"


def test_equal_names_go_by_the_test_set():
    groups = [group("net", [[2.0]]), group("flat", [[1.0]])]
    found = board(two=groups, one=groups)
    assert cases.choose(found, [TRAINED, FREE]).order == (1, 0)


def test_one_image_is_all_three_cases():
    found = board(road=[group("net", [[2.0]]), group("flat", [[1.0]])])
    assert cases.choose(found, [TRAINED, FREE]).cases == {0: "Best, typical and worst"}


@pytest.mark.parametrize(
    ("kinds", "shown", "baseline"),
    [
        ([FREE, FREE, TRAINED], 2, 0),
        ([TRAINED, FREE, SHIPPED], 0, 1),
        ([FREE, SHIPPED, TRAINED], 1, 0),
        ([FREE, FREE, FREE], 0, None),
        ([baselines.EXTERNAL, FREE, FREE], 0, 1),
        ([TRAINED, TRAINED, baselines.EXTERNAL], 0, None),
    ],
)
def test_the_best_network_is_shown_beside_the_best_baseline(kinds, shown, baseline):
    groups = [group(name, [[level] * 3]) for name, level in (("a", 3.0), ("b", 2.0), ("c", 1.0))]
    choice = cases.choose(board(road=groups), kinds)
    assert (choice.shown, choice.baseline) == (shown, baseline)


def test_systems_and_metrics_that_not_all_images_have_do_not_count():
    net, flat = group("net", [[2.0, 2.0], [0.1, np.nan]]), group("flat", [[1.0, 1.0], [0.3, 0.3]])
    other = group("theirs", [[9.0, 9.0], [0.0, 0.0]], variant="external")
    found = board(road=[net, flat, other], lake=[net, flat])
    assert found.systems == (("net", "base"), ("flat", "base"))
    assert found.metrics == (EN,)
    assert (found.ranks[0] == 1.0).all()
    assert cases.board({"road": [net]}) is None
    assert cases.board({}) is None
    unknown = [group(name, [[1.0, 2.0]], (MI,)) for name in ("a", "b")]
    assert cases.board({"road": unknown}) is None


# ---- the sentence ------------------------------------------------------------------------------------------------


def match(dataset: str, result: str, network: str = "net", kind: str = TRAINED) -> Match:
    return Match(dataset, network, kind, 1.5, "flat", 2.5, result)


@pytest.mark.parametrize(
    ("matches", "others", "said"),
    [
        ([match("x", AHEAD)], [],
         "A learned network is ahead of every training-free baseline on x: net (trained in this study)."),
        ([match("x", TIED)], [],
         "No learned network is ahead of every training-free baseline on x. "
         "On x the best network and the best baseline cannot be distinguished."),
        ([match("x", AHEAD), match("y", AHEAD)], [],
         "A learned network is ahead of every training-free baseline on all 2 test sets: "
         "net (trained in this study) on x and y."),
        ([match("x", AHEAD), match("y", BEHIND), match("z", TIED), match("w", AHEAD, "ours", SHIPPED)], ["v"],
         "A learned network is ahead of every training-free baseline on 2 of 4 test sets: "
         "net (trained in this study) on x; ours (shipped weights) on w. On y a baseline is ahead of every network. "
         "On z the best network and the best baseline cannot be distinguished. "
         "Not compared: v, without a network, a baseline or a mean rank."),
        ([match("x", BEHIND), match("y", BEHIND)], [],
         "No learned network is ahead of every training-free baseline on any of the 2 test sets. "
         "On x and y a baseline is ahead of every network."),
        ([], ["x"], "No test set has both a learned network and a training-free baseline that can be ranked."),
    ],
)  # fmt: skip
def test_the_opening_says_where_a_network_is_ahead(matches, others, said):
    assert baselines.opening(matches, others) == said


def test_a_match_in_words():
    assert match("x", TIED).words == "net (1.50, trained in this study) cannot be distinguished from flat (2.50)"


# ---- the page ----------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The made-up study: two baselines on road and brain, and on road a network."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(style, "_files", lambda *_: dict.fromkeys(("svg", "pdf", "png"), b"<svg/>"))
    make_study(tmp_path)
    return tmp_path


def study_with(**changes: Any) -> dict[str, Any]:
    parameters: dict[str, Any] = json.loads(json.dumps(PARAMETERS))
    parameters["study"].update(changes)
    return parameters


def overview(text: str) -> str:
    found = re.search(r'<section class="page" id="overview".*?</section>', text, re.DOTALL)
    assert found is not None
    return " ".join(found.group().split())


def lead(page: str) -> str:
    found = re.search(r'<p class="lead">(.*?) <a ', page)
    assert found is not None
    return found[1]


def test_the_first_page_begins_with_the_pictures_of_each_task(project):
    page = overview(_run(project))
    assert page.index("Best, typical and worst: infrared-visible fusion") < page.index(
        "Best, typical and worst: medical"
    )
    assert page.index("medical image fusion") < page.index("Who leads")
    rows = re.findall(r"<h4>(\w+) case: (.*?) of <a href=\"#([^\"]+)\">\w+</a>, mean rank ([\d.]+)<", page)
    # on each image of road maximum and net share their ranks, so that the names decide
    expected = [("Best", "odd &#34;&lt;i&gt;&amp;", "data-road", "1.50"), ("Typical", "p1", "data-road", "1.50")]
    expected += [("Worst", "p4", "data-road", "1.50")]
    assert rows[:3] == expected
    road, brain = page.partition("Who leads")[0].split('<figure class="cases">')[1:]
    assert re.findall(r"<figure><figcaption>([^<]+)<", road)[:4] == [
        "infrared (a)", "visible (b)", "maximum, mean rank 1.50", "net, mean rank 1.50",
    ]  # fmt: skip
    assert len(re.findall("<img ", road)) == 12
    assert len(re.findall("<img ", brain)) == 9, "without a network there is one system beside the sources"
    assert "net (trained in this study; mean rank 1.50) is the best network, maximum (1.50) the best" in road
    assert "average (training-free; mean rank 1.50) is the best system (no network is among them), by the" in brain


def test_the_order_of_all_images_can_be_looked_up(project):
    text = _run(project)
    with (project / "out/tables/cases.ivif.csv").open(encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert [(line["place"], line["image"], line["case"]) for line in lines] == [
        ("1", NAMES[2], "best"), ("2", "p1", "typical"), ("3", "p2", ""), ("4", "p4", "worst"),
    ]  # fmt: skip
    assert {line["mean rank of net"] for line in lines} == {"1.5"}
    assert "tables/cases.mif.tex" in _Page(text).all("href")


def test_a_score_moves_the_cases(project):
    system = System("net", "base", "ivif", 0)
    _scores(project / "reports/scores/road", "road", system, {**VALUES["net"], "EN": [6.0, 4.0, 7.0, 8.0]})
    renew_record(project, system.label)
    page = overview(_run(project))
    found = re.findall(r"<h4>(\w+) case: (\w+)[^<]* of <a href=\"#data-road\">\w+</a>, mean rank ([\d.]+)<", page)
    assert found[0] == ("Best", "p4", "1.00")
    assert found[-1] == ("Worst", "p2", "3.00")


def test_the_links_lead_to_pairs_that_the_viewer_has(project):
    parameters = study_with()
    parameters["report"].update(images={"road": ["p2"], "brain": ["p2"]}, viewer={"pairs": 1, "seeds": "first"})
    hrefs = [
        href for href in _Page(_run(project, parameters=parameters)).all("href") if href.startswith("viewer.html#")
    ]
    assert len(hrefs) == 6
    assert hrefs[1] == "viewer.html#dataset=road&image=p1&a=maximum.base.s0&b=net.base.s0"
    for dataset in ("road", "brain"):
        assert {"0000", "0001", "0002", "0003"} == {path.name for path in (project / "out/viewer" / dataset).iterdir()}


def test_only_the_images_that_are_shown_are_read(project, monkeypatch):
    read: list[Path] = []
    original = cases.read_image

    def counted(path: Path) -> Any:
        read.append(path)
        return original(path)

    monkeypatch.setattr(cases, "read_image", counted)
    _run(project)
    names = [f"{name}.png" for name in (NAMES[2], "p1", "p4")]
    expected = [project / f"data/fused/road/{system}.base.s0" / name for name in names for system in ("maximum", "net")]
    assert read[:6] == expected
    assert len(read) == 9
    chosen = cases.pairs(PARAMETERS, read_groups(PARAMETERS, project))
    assert chosen["road"] == [NAMES[2], "p1", "p4"]


def test_the_first_sentence_is_about_networks_and_baselines(project):
    said = lead(overview(_run(project)))
    assert said.startswith("No learned network is ahead of every training-free baseline on road.")
    assert "On road the best network and the best baseline cannot be distinguished." in said
    assert "Not compared: brain" in said
    with (project / "out/tables/overview.csv").open(encoding="utf-8") as stream:
        road, brain = csv.DictReader(stream)
    words = "net (1.50, trained in this study) cannot be distinguished from maximum (1.50)"
    assert road["best network and best training-free baseline"] == words
    assert brain["best network and best training-free baseline"] == ""


def test_one_task_without_networks_has_pictures_too(project):
    systems = [entry for entry in PARAMETERS["study"]["systems"] if entry["method"] != "net"]
    one = study_with(systems=systems, tasks={"ivif": PARAMETERS["study"]["tasks"]["ivif"]})
    page = overview(_run(project, parameters=one))
    assert lead(page) == "No test set has both a learned network and a training-free baseline that can be ranked."
    assert page.count('<figure class="cases">') == 1
    single = study_with(systems=systems[:1], tasks=one["study"]["tasks"])
    assert '<figure class="cases">' not in overview(_run(project, parameters=single)), "nothing to rank"


def test_images_from_elsewhere_are_neither_network_nor_baseline(project):
    """And with images of every colour: grey ones among colour ones."""
    parameters = study_with(external={"theirs": ["road"]})
    theirs = System("theirs", "external", "ivif", 0)
    _scores(project / "reports/scores/road", "road", theirs, {"EN": [9.0] * 4, "Nabf": [0.0] * 4})
    folder = project / f"data/fused/road/{theirs.label}"
    for name in NAMES:
        write_image(folder / f"{name}.png", np.zeros((20, 32), np.uint8))
        write_image(project / f"data/fused/road/net.base.s0/{name}.png", np.full((20, 32), 90, np.uint8))
    record = (project / "data/fused/road/net.base.s0.run.json").read_text(encoding="utf-8")
    for room in ("data/fused", "reports/scores"):
        (project / room / "road" / f"{theirs.label}.run.json").write_text(record, encoding="utf-8")
    renew_record(project, theirs.label)
    page = overview(_run(project, parameters=parameters))
    assert "images from elsewhere count as neither" in page
    assert "net (trained in this study; mean rank 2.50) is the best network" in page
    assert "On each image the 4 systems are ranked" in page
    assert plan.scored_pairs(parameters)[3] == ("road", theirs)

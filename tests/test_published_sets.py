"""The papers' tables of detection and segmentation beside ours: classes, units, means over classes, what is refused."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from mmfuse.downstream import masks
from mmfuse.errors import UserError
from mmfuse.files.reading import read_table
from mmfuse.reporting import papers, published, published_sets
from mmfuse.reporting.downstream_scores import read_sets
from mmfuse.reporting.study import Study
from mmfuse.study import plan
from mmfuse.study.parameters import load_parameters
from simulated import ROAD_BOXES, ROAD_MASKS, write_protocol

ROOT = Path(__file__).parents[1]
PRINTED = ROOT / "data/published.csv"
ROLES = {"a": "infrared", "b": "visible"}
SETS = ("a", "b", "net.base.s0")
TABLES = list(dict.fromkeys((r["paper"], r["table"], r["dataset"]) for r in read_table(PRINTED, fix="")))


def block(goal, dataset="m3fd"):
    found = {"goal": goal, "dataset": dataset, "sets": ["a", "b", "net.base"], "seeds": [0, 1], "transfer": True}
    return found | {"model": {"name": {"detect": "centre", "segment": "small_deeplabv3plus"}[goal]}}


PARAMETERS = {
    "study": {"seeds": [0], "tasks": {"ivif": {"train": ["m3fd", "msrs"], "test": ["m3fd", "msrs"]}}, "systems": []},
    "methods": {"net": {"parts": {"one": {}}}},
    "downstream": {"boxes": block("detect"), "masks": block("segment", "msrs")},
    "report": {"width": 64},
}


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """Made-up results of two protocols with all classes of the papers."""
    folder = tmp_path_factory.mktemp("downstream")
    for name, classes in (("boxes", ROAD_BOXES), ("masks", ROAD_MASKS)):
        write_protocol(folder / "reports/downstream" / name, PARAMETERS["downstream"][name], SETS, classes)
    return folder


def entry(paper, table, of, **changes):
    rows = {"infrared": "a", {"lkc_funet": "LKC-FUNet", "mma_unet": "MMA-UNet"}[paper]: "net.base"}
    protocol = "boxes" if of == "M3FD" else "masks"
    return {"paper": paper, "table": table, "of": of, "protocol": protocol, "rows": rows, "note": "Others."} | changes


def made(room, asked):
    table = published_sets.build(asked, PRINTED, PARAMETERS, read_sets(PARAMETERS, asked["protocol"], room, ROLES))
    return table, {line.name: dict(zip(table.metrics, line.cells, strict=True)) for line in table.lines}


def test_our_numbers_are_those_of_the_results_in_the_papers_unit(room):
    table, lines = made(room, entry("lkc_funet", "4", "M3FD"))
    seen = read_sets(PARAMETERS, "boxes", room, ROLES)[2]
    number, ours = lines["LKC-FUNet"]["mAP50"]
    assert number == "87.2"
    assert ours.mean == pytest.approx(100 * seen.values("mAP50").mean())
    assert ours.seeds == pytest.approx(100 * seen.values("mAP50").std(ddof=1))
    assert ours.low < ours.mean < ours.high
    lamp = lines["LKC-FUNet"]["AP50 Lamp"][1]
    assert lamp.mean == pytest.approx(100 * seen.by_class("AP50", "Lamp").mean())
    assert lines["infrared"]["mAP50"][1].mean < ours.mean, "a set of less skill"
    assert lines["visible"]["mAP50"] == ("83.2", None), "a row that the entry does not name"
    assert (table.images, table.seeds, table.datasets, table.missing) == (12, 2, ("m3fd",), {})


def test_all_thresholds_are_measured_by_class(room):
    table, lines = made(room, entry("mma_unet", "2", "M3FD"))
    seen = read_sets(PARAMETERS, "boxes", room, ROLES)[2]
    ours = lines["MMA-UNet"]
    assert ours["mAP50-95"][1].mean == pytest.approx(seen.values("mAP50_95").mean()), "a fraction, as printed"
    by_class = [ours[f"AP50-95 {kind}"][1].mean for kind in ROAD_BOXES]
    assert np.mean(by_class) == pytest.approx(ours["mAP50-95"][1].mean)
    assert all(ours[f"AP50-95 {kind}"][1].mean < ours[f"AP50 {kind}"][1].mean for kind in ROAD_BOXES)
    assert table.groups == [("AP@0.5", 7), ("AP@[0.5:0.95]", 7)]
    assert table.columns[6] == ("AP@0.5", "mAP")


def test_the_mean_is_over_the_classes_that_the_papers_is_over(room):
    asked = entry("mma_unet", "3", "MSRS", classes={"Background": "unlabelled"})
    seen = read_sets(PARAMETERS, "masks", room, ROLES)[2]
    iou = 100 * seen.measured("IoU")
    _, lines = made(room, asked)
    assert lines["MMA-UNet"]["mIoU"][1].mean == pytest.approx(100 * seen.values("mIoU").mean())
    assert lines["MMA-UNet"]["IoU Background"][1].mean == pytest.approx(iou[:, 0].mean())
    _, lines = made(room, asked | {"means": "printed"})
    printed = [ROAD_MASKS.index(k) for k in ROAD_MASKS if k not in {"guardrail", "bump"}]
    assert lines["MMA-UNet"]["mIoU"][1].mean == pytest.approx(masks.mean(iou[:, printed]).mean())


def test_what_cannot_be_measured_stays_empty_with_the_reason(room):
    table, lines = made(room, entry("mma_unet", "3", "MSRS"))  # nothing says what its background is
    assert lines["MMA-UNet"]["IoU Background"] == ("98.20", None)
    assert lines["MMA-UNet"]["mIoU"] == ("74.12", None), "a mean over other classes"
    assert lines["MMA-UNet"]["IoU Car Stop"][1] is not None
    assert table.missing == {"IoU Background": "msrs has no such class", "mIoU": "msrs has other classes"}
    rows = list(csv.DictReader(io.StringIO(published.as_csv([table]))))
    reasons = {(row["row"], row["metric"]): row["not measured"] for row in rows}
    assert reasons["MMA-UNet", "mIoU"] == "msrs has other classes"
    assert reasons["TarDAL", "mIoU"] == "a row that the study does not measure"
    assert reasons["MMA-UNet", "IoU Car"] == ""
    table, lines = made(room, entry("mma_unet", "2", "M3FD", protocol="masks"))
    assert all(ours is None for _, ours in lines["MMA-UNet"].values())
    assert set(table.missing.values()) == {"not a measure of segmenters here"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": {"Background": "sky"}}, ["no class 'sky'", "unlabelled"]),
        ({"rows": {"VII": "a"}}, ["no row 'VII'", "MMA-UNet"]),
    ],
)
def test_unknown_classes_and_rows_are_refused(room, change, words):
    with pytest.raises(UserError) as caught:
        made(room, entry("mma_unet", "3", "MSRS", **change))
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol": "nothing"}, "does not measure on nothing"),
        ({"rows": {"infrared": "laplacian.base"}}, "does not measure on road_boxes"),
        ({"datasets": ["synthetic_road"]}, "it needs either"),
        ({"protocol": None}, "it needs either"),
        ({"protocol": None, "datasets": ["synthetic_road"], "rows": {}, "means": "all"}, "it needs either"),
        ({"means": "some"}, "means"),
    ],
)
def test_an_entry_that_fits_no_protocol_is_refused(project, parameters, change, words):
    asked = entry("lkc_funet", "4", "M3FD", protocol="road_boxes", rows={"infrared": "a"}) | change
    parameters["report"]["published"] = [{key: value for key, value in asked.items() if value is not None}]
    (project / "params.yaml").write_text(yaml.safe_dump(parameters), encoding="utf-8")
    with pytest.raises(UserError, match=words):
        load_parameters(project / "params.yaml")


def study(room, *entries):
    parameters = PARAMETERS | {"report": {"width": 64, "published": list(entries)}}
    catalog = {name: SimpleNamespace(roles=ROLES) for name in ("m3fd", "msrs")}
    return Study(parameters, room, catalog, PRINTED, {}, {}, [])


def test_the_page_says_what_was_measured_on_what(room):
    asked = study(room, entry("lkc_funet", "4", "M3FD"), entry("mma_unet", "3", "MSRS"))
    pages = papers.pages(asked)
    assert [page.anchor for page in pages] == ["paper-lkc_funet", "paper-mma_unet"]
    caption = pages[0].shown["tables"][0]["caption"]
    for words in (
        "as printed there, in percent",
        "protocol boxes",
        "centre",
        "12 others",
        "2 seeds",
        "COCO",
        "Others.",
    ):
        assert words in caption
    other = pages[1].shown["tables"][0]["caption"]
    assert "IoU Background (msrs has no such class); mIoU (msrs has other classes)" in other
    latex = asked.sheets["published.lkc_funet.4.m3fd.tex"]
    assert r"\multicolumn{7}{c}{AP@0.5}" in latex
    assert latex.count(r"\quad measured") == 2
    assert asked.sheets["published.csv"].count("protocol boxes") == 2 * 7


@pytest.fixture(scope="module")
def papers_study():
    """The study of the papers' own protocols."""
    return load_parameters(ROOT / "workflow/configs/paper.yaml")


@pytest.mark.parametrize(("paper", "table", "of"), TABLES)
def test_every_printed_table_is_asked_for_by_the_study_of_the_papers(papers_study, tmp_path, paper, table, of):
    entries = [
        e for e in papers_study["report"]["published"] if (e["paper"], e["table"], e["of"]) == (paper, table, of)
    ]
    assert len(entries) == 1
    assert entries[0]["rows"]
    if "protocol" in entries[0]:
        asked, one = entries[0]["protocol"], dict(papers_study["downstream"][entries[0]["protocol"]], seeds=[0])
        classes = {"detect": ROAD_BOXES, "segment": ROAD_MASKS}[one["goal"]]
        parameters = papers_study | {"downstream": {asked: one}}
        labels = plan.image_sets(parameters, asked)
        room, skills = tmp_path / "reports/downstream" / asked, dict.fromkeys(labels, 0.8)
        write_protocol(room, one, list(labels), classes, images=4, skills=skills)
        found = published_sets.build(entries[0], PRINTED, parameters, read_sets(parameters, asked, tmp_path, ROLES))
        assert found.missing == {}, "each column is measured"
        lines = [line for line in found.lines if line.system]
        assert {line.name for line in lines} == set(entries[0]["rows"])
        assert all(ours is not None for line in lines for _, ours in line.cells)

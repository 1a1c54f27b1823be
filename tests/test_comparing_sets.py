"""`mmfuse compare` on what detectors and segmenters found, and their means in reports/metrics.json."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from mmfuse import comparing
from mmfuse.comparing import output
from mmfuse.files.writing import write_json
from mmfuse.reporting import downstream_scores, means, statistics
from mmfuse.reporting.downstream_scores import ends, read_set
from mmfuse.study import plan
from mmfuse.tracking import results
from mmfuse.tracking.results import Place
from simulated import ROAD_BOXES, ROAD_MASKS, write_protocol

CLASSES = {"road_boxes": ROAD_BOXES, "road_masks": ROAD_MASKS}
SKILLS = {"a": 0.6, "b": 0.65, "average.base.s0": 0.7, "lkc_funet.base.s0": 0.75}


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    """Few resamples are enough to see which numbers go where."""
    monkeypatch.setattr(downstream_scores, "RESAMPLES", 100)


@pytest.fixture
def make(tmp_path, parameters):
    """Make a project with results of its protocols: `make(name, {label: skill}, images=...)`."""

    def run(name, skills=None, pack="p" * 64, **how):
        root = tmp_path / name
        (root / "reports/scores").mkdir(parents=True)
        (root / "params.yaml").write_text(yaml.safe_dump(parameters, sort_keys=False))
        for protocol, block in parameters["downstream"].items():
            labels = list(plan.image_sets(parameters, protocol))
            room = root / "reports/downstream" / protocol
            write_protocol(
                room, block, labels, CLASSES[protocol], skills=SKILLS | (skills or {}), pictures=False, **how
            )
            for label in labels:
                for seed in block["seeds"]:
                    inputs = {"data/prepared/synthetic_road/labelled.safetensors": pack}
                    record = {"stage": block["goal"], "inputs": inputs, "outputs": {}, "parameters": {}}
                    record |= {"versions": {}, "commit": "a" * 40, "dirty": False}
                    record["machine"] = {"processor": "x", "device": "cpu"}
                    write_json(room / f"{label}.seed{seed}.run.json", record)
        return str(root)

    return run


def row(found, protocol, system, metric):
    return next(r for r in found.rows if (r.protocol, r.system, r.metric) == (protocol, system, metric))


def seen(root, protocol, label, goal):
    room = Path(root) / "reports/downstream" / protocol
    stems = [path.with_suffix("") for path in sorted(room.glob(f"{label}.seed?.csv"))]
    return read_set(stems, goal, label, label)


def test_a_better_set_and_what_it_moved(make):
    first = make("first", images=40)
    second = make("second", {"lkc_funet.base.s0": 0.95}, images=40)
    found = comparing.compare([first, second])
    up = row(found, "road_boxes", "lkc_funet.base", "mAP50")
    one, two = (seen(root, "road_boxes", "lkc_funet.base.s0", "detect") for root in (first, second))
    assert (up.reference, up.mean) == pytest.approx((one.values("mAP50").mean(), two.values("mAP50").mean()))
    assert (up.reference_low, up.reference_high) == pytest.approx(ends(one.resampled()))
    apart = two.resampled() - one.resampled()
    assert (up.difference_low, up.difference_high) == pytest.approx(ends(apart))
    assert up.p == pytest.approx(statistics.resampled_p(apart)), "the only test: the other sets are equal"
    assert (up.verdict, up.images, up.dataset) == ("better", 40, "synthetic_road")
    assert {r.verdict for r in found.rows if r.system == "average.base"} == {"equal"}
    assert row(found, "road_masks", "lkc_funet.base", "mAcc").verdict == "better"
    assert {r.metric for r in found.rows} == {"mAP50", "mAP50_95", "mIoU", "mAcc"}
    down = row(comparing.compare([second, first]), "road_boxes", "lkc_funet.base", "mAP50_95")
    assert down.verdict == "worse"
    assert down.difference < 0

    text = "\n".join(output.lines(found))
    assert "road_boxes: 40 test images of synthetic_road" in text
    assert "mAP@0.5 ↑" in text
    assert f"equal on every image in {second}: a, b, average.base" in text
    stated = {(s["protocol"], s["system"], s["metric"]): s for s in json.loads(output.as_json(found))["scores"]}
    assert stated["road_boxes", "lkc_funet.base", "mAP50"]["p"] == up.p
    assert len(output.as_csv(found).splitlines()) == 1 + len(found.rows)


def test_tests_of_a_protocol_are_corrected_together(make):
    first = make("first", images=40)
    second = make("second", {"a": 0.9, "b": 0.95}, images=40)
    found = comparing.compare([first, second])
    raw = []
    for label in ("a", "b"):
        one, two = (seen(root, "road_boxes", label, "detect").resampled() for root in (first, second))
        raw.append(statistics.resampled_p(two - one))
    tested = [row(found, "road_boxes", label, "mAP50").p for label in ("a", "b")]
    assert tested == pytest.approx(statistics.holm(np.array(raw)).tolist())
    assert tested != raw


def test_other_images_are_not_tested_and_other_classes_are_left_out(make):
    first = make("first")
    found = comparing.compare([first, make("fewer", images=9)])
    assert {(r.verdict, r.p, r.difference_low) for r in found.rows} == {("untested", None, None)}
    assert any("road_boxes, a: different test images" in note for note in found.notes)
    found = comparing.compare([first, make("changed", pack="q" * 64)])
    assert {r.verdict for r in found.rows} == {"untested"}
    assert any("other content or labels" in note for note in found.notes)
    other = make("classes")
    room = Path(other) / "reports/downstream/road_boxes"
    for path in room.glob("*.seed?.*"):
        path.write_text(path.read_text().replace("Lamp", "Light"))
    found = comparing.compare([first, other])
    assert {r.protocol for r in found.rows} == {"road_masks"}
    assert any("road_boxes, b: left out, other classes" in note for note in found.notes)


def test_results_that_one_run_lacks_are_named(make):
    first, second = make("first"), make("second")
    shutil.rmtree(Path(second) / "reports/downstream/road_masks")
    found = comparing.compare([first, second])
    assert {r.protocol for r in found.rows} == {"road_boxes"}
    assert found.notes == [f"road_masks: left out, {second} lacks the results of its detectors or segmenters."]


def test_without_parameters_and_for_one_system(make, tmp_path, parameters):
    first = make("first")
    (tmp_path / "bare").mkdir()
    shutil.copytree(f"{first}/reports", tmp_path / "bare/reports")
    assert {r.verdict for r in comparing.compare([first, str(tmp_path / "bare")]).rows} == {"equal"}
    place = Place("one", "mlflow", Path(first), "average.base.s0")
    assert comparing.downstream.read(place, parameters)["road_boxes"].keys() == {"average.base"}


def test_the_archive_of_a_study_has_what_a_comparison_needs(make, tmp_path, parameters):
    first = Path(make("first"))
    for file in results.small_files(parameters):
        if not (first / file).exists():
            (first / file).parent.mkdir(parents=True, exist_ok=True)
            (first / file).write_text("{}")
    results.pack(first, first / "params.yaml", parameters, tmp_path / "study.zip")
    with zipfile.ZipFile(tmp_path / "study.zip") as packed:
        packed.extractall(tmp_path / "unpacked")
    unpacked = comparing.downstream.read(Place("it", "mlflow", tmp_path / "unpacked"), parameters)
    assert unpacked.keys() == {"road_boxes", "road_masks"}
    assert list(unpacked["road_boxes"]) == parameters["downstream"]["road_boxes"]["sets"]


def test_a_commit_brings_them_from_the_cache(make, tmp_path, monkeypatch):
    """DVC's cache is laid out by checksum; dvc.lock of the commit says which file is which."""
    first = Path(make("first"))
    cache, outs = tmp_path / "cache", []
    for path in sorted((first / "reports/downstream").rglob("*.*")):
        digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        (cache / "files/md5" / digest[:2]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, cache / "files/md5" / digest[:2] / digest[2:])
        outs.append({"path": path.relative_to(first).as_posix(), "md5": digest})
    (first / "dvc.lock").write_text(yaml.safe_dump({"stages": {"all": {"outs": outs}}}))
    monkeypatch.chdir(first)
    monkeypatch.setattr(results, "cache_folder", lambda: cache / "files/md5")
    for command in (
        ["init", "-q"],
        ["add", "params.yaml", "dvc.lock"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"],
    ):
        subprocess.run(["git", *command], check=True)
    found = comparing.compare([str(first), "HEAD"])
    assert {(r.protocol, r.verdict) for r in found.rows} == {("road_boxes", "equal"), ("road_masks", "equal")}


def test_their_means_stand_with_the_means_of_the_study(make, parameters):
    first = Path(make("first"))
    parameters["study"]["systems"] = []
    found = means.study_means(
        parameters | {"study": parameters["study"] | {"external": {}}},
        first,
        {},
    )["downstream"]
    assert set(found) == {"road_boxes", "road_masks"}
    assert list(found["road_boxes"]) == parameters["downstream"]["road_boxes"]["sets"]
    own = seen(first, "road_boxes", "b", "detect")
    assert found["road_boxes"]["b"] == pytest.approx({key: own.values(key).mean() for key in ("mAP50", "mAP50_95")})
    assert set(found["road_masks"]["average.base"]) == {"mIoU", "mAcc"}
    assert "downstream" not in means.study_means({"study": {"tasks": {}, "systems": []}}, first, {})

"""The viewer's files: pictures without loss, scores of the right image, few or many pairs, whole or not at all."""

from __future__ import annotations

import base64
import copy
import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmfuse.data.catalog import load_catalog
from mmfuse.data.packs import Pack
from mmfuse.errors import UserError
from mmfuse.files.writing import files_below
from mmfuse.reporting import viewer
from mmfuse.reporting.scores import Column, Scores, grouped, read_scores
from mmfuse.study import plan
from mmfuse.study.plan import System
from test_report import METRICS, NAMES, PARAMETERS, ROOT, VALUES, _run, make_study

SYSTEM = System(method="net", variant="base", seed=0, task="ivif")
CALL = re.compile(r"mmfuse\.layer\((.+?), (\{.*\})\);\n", re.DOTALL)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up study; the current folder is the project's root, from which the catalog's schema is found."""
    monkeypatch.chdir(ROOT)
    make_study(tmp_path)
    return tmp_path


def _write(study: Path, out: Path, **settings: Any) -> None:
    """Write the viewer alone."""
    parameters = copy.deepcopy(PARAMETERS)
    parameters["report"]["viewer"].update(settings)
    systems: dict[str, list[System]] = {}
    for dataset, system in plan.scored_pairs(parameters):
        systems.setdefault(dataset, []).append(system)
    groups = {
        dataset: grouped([read_scores(study, dataset, system) for system in found], dataset)
        for dataset, found in systems.items()
    }
    viewer.write(
        out,
        parameters=parameters,
        catalog=load_catalog(study / "catalog.yaml"),
        root=study,
        groups=groups,
        linked={"road": ["p4"]},
    )


def _layer(path: Path) -> tuple[str, dict[str, Any]]:
    call = CALL.fullmatch(path.read_text(encoding="utf-8"))
    assert call, path
    return json.loads(call[1]), json.loads(call[2])


def _pixels(data: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data["png"]))))


def _cards(out: Path) -> list[dict[str, Any]]:
    text = (out / "viewer.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="study">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_each_picture_keeps_its_pixels_and_brings_its_scores(study):
    _write(study, study / "out")
    with (study / "reports/scores/road/maximum.base.s0.csv").open(encoding="utf-8") as stream:
        scores = {row["name"]: [float(row[name]) for name in METRICS] for row in csv.DictReader(stream)}
    pack = Pack(study / "data/prepared/road/test.safetensors")
    for number, name in enumerate(NAMES):
        for key, truth, grey in (
            ("a", pack[number]["a"], True),
            ("b", pack[number]["b"], False),
            ("maximum.base.s0", np.asarray(Image.open(study / f"data/fused/road/maximum.base.s0/{name}.png")), False),
        ):
            own, data = _layer(study / f"out/viewer/road/{number:04d}/{key}.js")
            assert own == f"road/{number:04d}/{key}"
            assert np.array_equal(_pixels(data), truth)
            assert data["grey"] is grey
            assert data["scores"] == (None if key in {"a", "b"} else scores[name])


def test_undefined_scores_are_null(study):
    _write(study, study / "out")
    _, data = _layer(study / "out/viewer/road/0000/net.base.s0.js")
    assert data["scores"] == [VALUES["net"]["EN"][0], None]


def test_page_names_what_lies_beside_it_and_nothing_else(study):
    _write(study, study / "out")
    out = study / "out"
    named = {
        f"{card['name']}/{number}/{layer['key']}.js"
        for card in _cards(out)
        for number, _ in card["pairs"]
        for layer in card["layers"]
    }
    assert {path.relative_to(out / "viewer").as_posix() for path in files_below(out / "viewer")} == named
    assert len(named) == 4 * (5 + 4)
    assert [name for _, name in _cards(out)[0]["pairs"]] == NAMES


def test_metrics_of_a_convention_beside_are_shown_where_they_differ():

    columns = (
        Column("EN", "en", "higher", "lkc_funet"),
        Column("SF", "sf", "higher", "lkc_funet"),
        Column("EN.cddfuse", "en", "higher", "cddfuse"),
        Column("SF.cddfuse", "sf_other", "higher", "cddfuse"),
    )
    scores = Scores(SYSTEM, "lkc_funet", columns, ("p",), np.zeros((4, 1)))
    assert [column.name for column in viewer._columns(scores)] == ["EN", "SF", "SF.cddfuse"]


def test_some_pairs_are_those_of_the_grid_and_more(study):
    _write(study, study / "out", pairs=1)
    names = [name for _, name in _cards(study / "out")[0]["pairs"]]
    # two in the grid (report.images), one by the rule, one that a page leads to, in the order of the pack
    assert names == [name for name in NAMES if name in set(names)]
    assert 3 <= len(names) <= 4
    assert "p4" in names
    assert sorted(path.name for path in (study / "out/viewer/road").iterdir()) == [
        f"{NAMES.index(name):04d}" for name in names
    ]


@pytest.mark.parametrize(
    ("seeds", "labels"), [("all", ["net, seed 0", "net, seed 3"]), ("first", ["net"])], ids=["all", "first"]
)
def test_seeds(seeds, labels):

    column = Column("EN", "en", "higher", "lkc_funet")
    members = [Scores(replace(SYSTEM, seed=seed), "lkc_funet", (column,), ("p",), np.ones((1, 1))) for seed in (0, 3)]
    entry: Any = SimpleNamespace(roles={"a": "MRI", "b": "CT"}, title="Brains")
    card = viewer._card(entry, "brain", {0: "p"}, grouped(members, "brain"), {"viewer": {"seeds": seeds}})
    assert [layer["label"] for layer in card["layers"]] == ["MRI (a)", "CT (b)", *labels]


def test_equal_inputs_give_equal_bytes_and_old_pictures_go(study):
    _write(study, study / "one")
    (study / "one/viewer/left.js").write_text("from an earlier study", encoding="utf-8")
    _write(study, study / "one")
    _write(study, study / "two")
    first, second = (
        {path.relative_to(study / out).as_posix(): path.read_bytes() for path in files_below(study / out)}
        for out in ("one", "two")
    )
    assert first == second
    assert "viewer.html" in first


def test_nothing_is_written_without_an_image(study):
    (study / "data/fused/brain/maximum.base.s0/p2.png").unlink()
    with pytest.raises(UserError, match=r"The report needs .*p2\.png"):
        _run(study)
    assert not (study / "out/viewer").exists()
    assert not (study / "out/index.html").exists()


def test_page_stays_small_and_holds_no_pictures(study):
    _write(study, study / "out")
    text = (study / "out/viewer.html").read_text(encoding="utf-8")
    assert len(text) < 100_000
    assert "data:image" not in text.replace("data:image/png;base64,${", "")
    assert not re.search(r'(src|href)="(https?:)?//', text)

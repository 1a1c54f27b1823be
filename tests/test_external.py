"""Images that were fused elsewhere: taken over unchanged, measured like our own, and refused where they do not fit."""

import shutil
from unittest.mock import Mock

import numpy as np
import pytest
import yaml

from golden_triples import GOLDEN, golden_triples
from mmfuse.data.images import read_image, write_image
from mmfuse.data.packs import Pack, write_pack
from mmfuse.errors import UserError
from mmfuse.stages import evaluate, fuse
from mmfuse.study import plan
from mmfuse.study.parameters import load_parameters
from mmfuse.study.plan import System
from mmfuse.study.stages import FUSE, report_inputs


@pytest.fixture
def place(tmp_path, image, make_pack):
    """A pack of two test pairs and a folder with a fused image for each: one PNG in colour, one grey BMP."""
    pack = make_pack(2, name="test")
    write_image(tmp_path / "theirs/p0.png", image(8, 40, 48, colour=True))
    write_image(tmp_path / "theirs/p1.bmp", image(9, 40, 48))
    return tmp_path, pack


def take_over(tmp_path, pack):
    fuse.take_over(tmp_path / "theirs", test=pack, out=tmp_path / "out", pictures=1, running=Mock())


def test_pixels_stay_as_they_are(place):
    tmp_path, pack = place
    write_image(tmp_path / "theirs/more.png", np.zeros((3, 3), np.uint8))  # not a test pair: left alone
    take_over(tmp_path, pack)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["p0.png", "p1.png"]
    for name in ("p0.png", "p1.bmp"):
        taken = read_image((tmp_path / "out" / name).with_suffix(".png"))
        assert np.array_equal(taken, read_image(tmp_path / "theirs" / name))


def test_a_missing_image_is_named_and_nothing_written(place):
    tmp_path, pack = place
    (tmp_path / "theirs/p1.bmp").unlink()
    with pytest.raises(UserError, match=r"lacks the images of 1 of 2 test pairs") as error:
        take_over(tmp_path, pack)
    assert "p1" in str(error.value)
    assert "study.external" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_another_size_is_refused_and_nothing_written(place, image):
    tmp_path, pack = place
    write_image(tmp_path / "theirs/p1.bmp", image(9, 40, 47))
    with pytest.raises(UserError, match="differ in size"):
        take_over(tmp_path, pack)
    assert not (tmp_path / "out").exists()


def test_published_results_get_their_published_values(tmp_path):
    """Fused images of other authors go through both stages and come out with the values of the evaluator of CDDFuse."""
    chosen = {t["name"]: t for t in golden_triples() if t["name"] in ("pia_tno_05", "pia_roadscene_037", "lkc_pet13")}
    assert len(chosen) == 3
    samples = []
    for name, triple in chosen.items():
        a, b, fused = (GOLDEN / triple["files"][key]["file"] for key in ("a", "b", "fused"))
        samples.append({"name": name, "a": read_image(a), "b": read_image(b)})
        (tmp_path / "theirs").mkdir(exist_ok=True)
        shutil.copy(fused, tmp_path / f"theirs/{name}{fused.suffix}")
    write_pack(tmp_path / "test.safetensors", samples)
    take_over(tmp_path, tmp_path / "test.safetensors")
    names = ["EN", "SD", "SF", "AG", "MI", "SCD", "VIF", "Qabf"]
    evaluate.run(
        System("theirs", plan.EXTERNAL, "ivif", 0),
        "tno",
        test=tmp_path / "test.safetensors",
        fused=tmp_path / "out",
        out=tmp_path / "scores.csv",
        convention="cddfuse",
        beside=[],
        metrics=names,
        workers=1,
        running=Mock(),
    )
    rows = [line.split(",") for line in (tmp_path / "scores.csv").read_text().splitlines()]
    for row in rows[1:]:
        published = chosen[row[0]]["values"]["lkc_f64"]
        for metric, value in zip(rows[0][1:], row[1:], strict=True):
            wanted = published["VIFF" if metric == "VIF" else metric]
            assert float(value) == pytest.approx(wanted, rel=1e-6), (row[0], metric)
    assert Pack(tmp_path / "test.safetensors").names == list(chosen)


# ----------------------------------------------------------------------------------------------------- in the study


def test_an_external_method_is_scored_where_the_study_says(parameters):
    parameters["study"]["external"] = {"u2": ["synthetic_brain"], "mma_unet": ["synthetic_road"]}
    pairs = plan.scored_pairs(parameters)
    assert pairs.count(("synthetic_brain", System("u2", "external", "mif", 0))) == 1
    assert [d for d, s in pairs if s.label == "mma_unet.external.s0"] == ["synthetic_road"]
    assert [s.label for d, s in pairs if d == "synthetic_road"][-1] == "mma_unet.external.s0"
    assert "data/fused/synthetic_brain/u2.external.s0" in report_inputs(parameters)
    assert FUSE.watched(parameters, {"method": "mma_unet", "variant": "external"}) == ["fuse"]
    assert not any(training.variant == "external" for training in plan.trainings(parameters))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["study"].update(external={"u2": ["msrs"]}), "names 'msrs', which is not a test dataset"),
        (lambda p: p["study"].update(external={"u2": []}), "study.external.u2 is not valid"),
        (lambda p: p["study"].update(external={"U-2": ["synthetic_road"]}), "study.external is not valid"),
        (lambda p: p["methods"]["mma_unet"]["variants"].update(external={}), "no variant may be called 'external'"),
    ],
)
def test_wrong_entries_are_refused(project, parameters, change, message):
    change(parameters)
    (project / "params.yaml").write_text(yaml.safe_dump(parameters))
    with pytest.raises(UserError, match=message):
        load_parameters(project / "params.yaml")


@pytest.mark.parametrize("name", ["{x}", "{dataset}", "{{x}}", "${item}", "{}", "{0}", "a{b,[0-9]+}c", "[1]*?", "%s"])
def test_names_in_which_an_engine_would_fill_in_values_are_below_the_folder_that_it_reads(
    parameters, tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    key = {"dataset": "synthetic_road", "method": "theirs", "variant": "external", "seed": "0"}
    write_image(tmp_path / f"data/external/theirs/synthetic_road/{name}.png", np.zeros((3, 3), np.uint8))
    assert FUSE.files(parameters, key)["external"] == ["data/external/theirs/synthetic_road"]
    assert list(FUSE.checksums(parameters, key)) == ["data/external/theirs/synthetic_road"]


def test_given_weights_with_braces_are_refused(parameters):
    parameters["methods"]["mma_unet"]["variants"] = {"given": {"weights": "weights/{x}.safetensors"}}
    with pytest.raises(UserError, match="without braces"):
        FUSE.files(parameters, {"dataset": "synthetic_road", "method": "mma_unet", "variant": "given", "seed": "0"})

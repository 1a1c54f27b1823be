"""The script that puts networks of a finished study into the package."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml

from mmfuse.files.writing import sha256
from mmfuse.reporting.statistics import interval
from mmfuse.study import plan
from mmfuse.study.parameters import load_parameters
from mmfuse.training.checkpoints import load_method, read_weights, save_weights
from mmfuse.weights import shipped

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "workflow/scripts"))

import ship_weights  # noqa: E402

WEIGHTS = Path("data/checkpoints/ivif/lkc_funet/base/s0/net.safetensors")
WISH = {
    "method": "lkc_funet", "variant": "base", "tasks": ["ivif"], "default": ["ivif"], "summary": "roads, by day",
    "use": "For drawn roads.", "weaknesses": ["It was trained for sixty steps."],
}  # fmt: skip


def small(parameters):
    """One trained network beside the baselines, on drawn roads."""
    method = parameters["methods"]["lkc_funet"]
    method["network"] |= {"width": 4, "channels": 4, "groups": 2, "kernels": [3, 3, 3]}
    method["variants"] = {"base": {}}
    method["parts"]["net"] |= {"steps": 60, "batch": 4}
    parameters["train"] |= {"validate_every": 20, "save_every": 60, "pictures": 0}
    parameters["study"]["tasks"] = {"ivif": {"train": ["synthetic_road"], "test": ["synthetic_road"]}}
    names = ("average", "maximum", "laplacian", "lkc_funet")
    parameters["study"]["systems"] = [{"method": name, "variant": "base", "tasks": ["ivif"]} for name in names]
    parameters["generate"]["synthetic_road"] |= {"height": 64, "width": 80, "train": 4, "val": 2, "test": 3}
    parameters["evaluate"] |= {"metrics": ["EN", "SSIM"], "beside": []}
    parameters |= {"analyse": {}, "downstream": {}}
    parameters["prepare"].pop("subset", None)
    parameters["report"] |= {"published": [], "sweeps": []}
    return parameters


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where the finished study and its runs are kept for the next test."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def study(mmfuse, project, parameters, database, kept):
    """A finished study, by the stages that the engines run."""
    if (kept / "mlflow.db").is_file():
        shutil.copytree(kept / "project", project, dirs_exist_ok=True)
        shutil.copy(kept / "mlflow.db", database.removeprefix("sqlite:///"))
        return project
    (project / "params.yaml").write_text(yaml.safe_dump(small(parameters), sort_keys=False))

    def stage(*words):
        code, _, err = mmfuse("stage", *words)
        assert code == 0, err

    dataset = ("--dataset", "synthetic_road")
    stage("download", *dataset)
    stage("prepare", *dataset)
    stage("train", "--trained-on", "ivif", "--method", "lkc_funet", "--part", "net")
    read = load_parameters(project / "params.yaml")
    for system in plan.systems_of(read, "ivif"):
        stage("fuse", *dataset, "--method", system.method)
        stage("evaluate", *dataset, "--method", system.method)
    shutil.copytree(project, kept / "project")
    shutil.copy(database.removeprefix("sqlite:///"), kept / "mlflow.db")
    return project


@pytest.fixture
def ship(study, monkeypatch, capfd):
    """Run the script: `ship(folder, name=wish, ...)` returns its exit code and what it said."""

    def run(out, **wishes):
        content = {"config": "workflow/configs/x.yaml", "weights": wishes}
        (study / "wishes.yaml").write_text(yaml.safe_dump(content))
        monkeypatch.setattr(sys, "argv", ["ship_weights.py", "wishes.yaml", "--out", str(out)])
        try:
            ship_weights.main()
            code = 0
        except SystemExit as leaving:
            code = leaving.code
        return code, capfd.readouterr().err

    return run


def test_a_network_is_shipped_with_all_that_is_known_of_it(study, ship, tmp_path):
    out = tmp_path / "out"
    code, said = ship(out, roads=WISH)
    assert code == 0, said
    one = shipped.named("roads", out)
    assert shipped.default("ivif", out) == one
    net, card = load_method(shipped.verified(one, out))
    assert card.sources == {"net.safetensors": sha256(study / WEIGHTS)}
    half, full = read_weights(out / "roads.safetensors")[0], load_method(WEIGHTS)[0].state_dict()
    assert all(value.dtype == torch.float16 for value in half.values() if value.is_floating_point())
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, full[name], rtol=1e-3, atol=1e-6)
    assert [asdict(data) for data in one.data] == [
        {"dataset": "synthetic_road", "split": "train", "pairs": 4, "use": "training",
         "licence": "MIT, as this project"},
        {"dataset": "synthetic_road", "split": "val", "pairs": 2, "use": "validation",
         "licence": "MIT, as this project"},
    ]  # fmt: skip
    record = json.loads(WEIGHTS.with_suffix(".run.json").read_text())
    assert one.training["commit"].startswith(record["commit"] or "unknown")
    assert one.training["steps"] == {"net": 60}
    assert 0 <= one.training["hours"] < 0.1
    scores = ship_weights.read_scores(Path(), "synthetic_road", _system("lkc_funet"))
    entropy = scores.values[0]
    assert one.scores["synthetic_road"]["EN"] == pytest.approx(entropy.mean(), rel=1e-5)
    text = (out / "roads.md").read_text()
    low, high = interval(scores.values)[0]
    (row,) = (line for line in text.splitlines() if line.startswith("| EN ↑ |"))
    first = row.split("|")[2].split()
    numbers = [float(word.strip("[],")) for word in first]
    assert numbers == pytest.approx([entropy.mean(), low, high], abs=0.006)
    assert "| metric | this network | average | maximum | laplacian |" in text
    for words in ("For drawn roads.", "- It was trained for sixty steps.", "MIT, as this project", one.sha256):
        assert words in text
    assert "Other pairs of synthetic_road were used in training or validation." in text


def _system(method):
    return plan.System(method, "base", "ivif", 0)


@pytest.mark.usefixtures("study")
def test_equal_studies_give_equal_bytes_and_other_entries_stay(ship, tmp_path):
    contents = []
    for name in ("one", "two"):
        out = tmp_path / name
        assert ship(out, roads=WISH)[0] == 0
        contents.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {"roads.safetensors", "roads.md", "index.yaml"}
    assert ship(tmp_path / "one", alleys={**WISH, "default": []})[0] == 0
    assert shipped.default("ivif", tmp_path / "one").name == "roads"
    assert ship(tmp_path / "one", alleys=WISH, roads={**WISH, "default": []})[0] == 0
    assert list(shipped.read_index(tmp_path / "one").weights) == ["alleys", "roads"]
    assert shipped.default("ivif", tmp_path / "one").name == "alleys"


@pytest.mark.usefixtures("study")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"variant": "other"}, "the study trains no system lkc_funet.other.s0 for ivif"),
        ({"method": "average"}, "the study trains no system average.base.s0"),
        ({"tasks": ["mif"], "default": []}, "the study trains no system"),
        ({"weakneses": []}, "did you mean 'weaknesses'"),
        ({"default": ["mif"]}, "cannot be the default for a task that is not its own"),
        ({"precision": "double"}, "does not support this precision"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(ship, tmp_path, changes, says):
    code, said = ship(tmp_path / "out", roads={**WISH, **changes})
    assert code == 2
    assert says in said


def test_single_precision_keeps_every_digit(study, ship, tmp_path):
    assert ship(tmp_path / "out", roads={**WISH, "precision": "single"})[0] == 0
    stored, full = read_weights(tmp_path / "out/roads.safetensors")[0], read_weights(study / WEIGHTS)[0]
    assert all(value.equal(full[name]) for name, value in stored.items())
    assert "| synthetic_road | 3 | 0 | 0.00% |" in (tmp_path / "out/roads.md").read_text()


def test_results_of_other_weights_are_refused(study, ship, tmp_path):
    weights, card = read_weights(WEIGHTS)
    save_weights(study / WEIGHTS, {name: value * 1.01 for name, value in weights.items()}, card)
    code, said = ship(tmp_path / "out", roads=WISH)
    assert code == 2
    assert "are not those of its weights" in said
    assert not (tmp_path / "out").exists()


def test_pictures_that_half_precision_would_change_are_refused(study, ship, tmp_path, monkeypatch):
    monkeypatch.setattr(ship_weights, "check_made_by", lambda *_: None)
    folder = study / "data/fused/synthetic_road"
    shutil.rmtree(folder / "lkc_funet.base.s0")
    shutil.copytree(folder / "maximum.base.s0", folder / "lkc_funet.base.s0")
    code, said = ship(tmp_path / "out", roads=WISH)
    assert code == 2
    assert "The stored weights of lkc_funet.base.s0 give another fused image" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("study")
def test_files_that_are_too_large_are_refused(ship, tmp_path, monkeypatch):
    monkeypatch.setattr(ship_weights, "LARGEST", 1000)
    assert "is too large to be shipped" in ship(tmp_path / "out", roads=WISH)[1]
    monkeypatch.setattr(ship_weights, "LARGEST", 5_000_000)
    monkeypatch.setattr(ship_weights, "TOGETHER", 1000)
    assert "would be too large" in ship(tmp_path / "out", roads=WISH)[1]
    assert not (tmp_path / "out").exists()


def test_a_baseline_that_the_study_lacks_is_asked_for(study, ship, tmp_path):
    parameters = yaml.safe_load((study / "params.yaml").read_text())
    parameters["study"]["systems"] = [e for e in parameters["study"]["systems"] if e["method"] != "maximum"]
    (study / "params.yaml").write_text(yaml.safe_dump(parameters))
    assert "The study does not measure maximum.base.s0 on synthetic_road" in ship(tmp_path / "out", roads=WISH)[1]

"""Shipped weights in a study: a system that nothing trains, and whose training pairs are known."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import shipped_weights
from mmfuse.errors import UserError
from mmfuse.files.writing import sha256
from mmfuse.reporting import baselines, given_weights
from mmfuse.reporting.study import representatives
from mmfuse.study import plan
from mmfuse.study.parameters import load_parameters
from mmfuse.study.plan import System
from mmfuse.study.stages import complete_weights, report_inputs
from test_engines import ENVIRONMENT, ROOT, call, tiny

FOLDER = Path("src/mmfuse/weights")
SYSTEM = System("mma_unet", "ours", "ivif", 0)
ROAD = {"dataset": "synthetic_road", "split": "train", "pairs": 12, "use": "training", "licence": "MIT"}


@pytest.fixture
def parameters(parameters):
    """The small study with one more variant, which takes shipped weights."""
    parameters["methods"]["mma_unet"]["variants"]["ours"] = {"weights": "shipped"}
    parameters["study"]["systems"].append({"method": "mma_unet", "variant": "ours", "tasks": ["ivif"]})
    return parameters


def write(root, parameters):
    (root / "params.yaml").write_text(yaml.safe_dump(parameters, sort_keys=False))
    return root / "params.yaml"


def test_the_system_takes_the_methods_shipped_weights(parameters, project):
    shipped_weights.make(project / FOLDER, "roads", "ivif", "mif", default=["ivif"], data=[ROAD])
    shipped_weights.make(project / FOLDER, "spare", "ivif", data=[ROAD])
    read = load_parameters(write(project, parameters))
    assert plan.given_weights(read, SYSTEM) == FOLDER / "roads.safetensors"
    assert complete_weights(read, SYSTEM) == FOLDER / "roads.safetensors"
    assert not plan.is_trained(read, SYSTEM)
    names = [("mma_unet", "other"), ("mma_unet", "base"), ("mma_unet", "ours"), ("laplacian", "base")]
    read["methods"]["mma_unet"]["variants"]["other"] = {}
    groups = [SimpleNamespace(method=m, variant=v, members=[SimpleNamespace(system=System(m, v, "ivif", 0))])
              for m, v in names]  # fmt: skip
    assert [(one.method, one.variant) for one in representatives(read, groups)] == names[1:], "pictures show it too"
    kinds = [baselines.kind(read, System(*name, "ivif", 0)) for name in (("mma_unet", "ours"), ("mma_unet", "base"))]
    assert kinds == [baselines.SHIPPED, baselines.TRAINED]
    assert baselines.kind(read, System("laplacian", "base", "ivif", 0)) == baselines.FREE
    assert baselines.kind(read, System("mma_unet", "external", "ivif", 0)) == baselines.EXTERNAL
    assert {f"{FOLDER}/roads.safetensors", f"{FOLDER}/index.yaml"} <= set(report_inputs(read))
    parameters["methods"]["mma_unet"]["variants"]["ours"] = {"weights": {"ivif": "shipped:spare"}}
    read = load_parameters(write(project, parameters))
    assert plan.given_weights(read, SYSTEM) == FOLDER / "spare.safetensors"


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ("shipped:raods", "did you mean 'roads'"),
        ("shipped:brains", "The shipped weights brains do not fit methods.mma_unet on ivif"),
        ("shipped:heads", "The shipped weights heads do not fit methods.mma_unet on ivif"),
        ("shiped", "variant ours: .*weights"),
    ],
)
def test_weights_that_do_not_fit_are_refused(parameters, project, choice, says):
    shipped_weights.make(project / FOLDER, "roads", "ivif")
    shipped_weights.make(project / FOLDER, "brains", "mif")
    shipped_weights.make(project / FOLDER, "heads", "ivif", method="lkc_funet")
    parameters["methods"]["mma_unet"]["variants"]["ours"] = {"weights": choice}
    with pytest.raises(UserError, match=says):
        load_parameters(write(project, parameters))


def test_a_study_without_them_and_one_with_damaged_ones_end_before_any_job(parameters, project):
    with pytest.raises(UserError, match="No weights of mma_unet for ivif are shipped"):
        load_parameters(write(project, parameters))
    path = shipped_weights.make(project / FOLDER, "roads", "ivif")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="The shipped weights roads are damaged"):
        load_parameters(write(project, parameters))


def test_a_study_does_not_test_on_what_they_have_seen(parameters, project):
    shipped_weights.make(project / FOLDER, "roads", "ivif", data=[ROAD])
    load_parameters(write(project, parameters))  # other pairs of the dataset
    shipped_weights.make(project / FOLDER, "roads", "ivif", data=[ROAD, {**ROAD, "split": "test", "use": "validation"}])
    with pytest.raises(UserError, match="the shipped weights roads have seen the test pairs of synthetic_road"):
        load_parameters(write(project, parameters))


def test_the_report_says_what_they_were_trained_on(parameters, project):
    path = shipped_weights.make(project / FOLDER, "roads", "ivif", data=[ROAD, {**ROAD, "dataset": "tno", "pairs": 3}])
    study = SimpleNamespace(parameters=load_parameters(write(project, parameters)), sheets={}, rooms=None)
    (one,) = given_weights.read(study)
    assert one.digest == sha256(path)
    (row,) = given_weights.shown(study, [one])
    assert row["pairs"][0] == ("12 pairs of synthetic_road (train, training)", "MIT")
    assert row["training"] == "commit abc, hours 0.1"
    assert "3 pairs of tno (train, training): MIT" in study.sheets["given.csv"]
    assert "12 pairs of synthetic" in study.sheets["given.tex"]
    said = "With shipped weights, {}: mma_unet.ours."
    assert given_weights.on_dataset([one], "ivif", "tno") == said.format("trained on other pairs of this dataset")
    assert given_weights.on_dataset([one], "ivif", "msrs") == said.format("never trained or validated on this dataset")
    shipped_weights.make(project / FOLDER, "roads", "ivif", data=[{**ROAD, "use": "validation"}])
    (one,) = given_weights.read(study)
    assert given_weights.on_dataset([one], "ivif", "synthetic_road") == said.format(
        "validated with other pairs of this dataset"
    )


@pytest.mark.engines
def test_both_engines_have_the_same_jobs_with_them(tmp_path):
    listed = call(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    folder = tmp_path / "project"
    for name in (n for n in listed if (ROOT / n).is_file() and not n.startswith(("tests/", "docs/"))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    parameters = tiny(yaml.safe_load((ROOT / "workflow/configs/demo.yaml").read_text()))
    parameters["methods"]["mma_unet"]["variants"]["ours"] = {"weights": "shipped"}
    parameters["study"]["systems"].append({"method": "mma_unet", "variant": "ours", "tasks": ["ivif"]})
    write(folder, parameters)
    shipped_weights.make(folder / FOLDER, "roads", "ivif", default=["ivif"], data=[ROAD])
    call(folder, "git", "init", "-q")
    call(folder, "mmfuse", "sync", "--write-dvc")
    check = [sys.executable, "workflow/scripts/sync.py", "--check"]
    assert "both engines have the same jobs" in call(folder, *check, environment=ENVIRONMENT)
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    job = stages["fuse-synthetic_road-mma_unet-ours-0"]
    assert f"{FOLDER}/roads.safetensors" in job["deps"]
    report = next(stage for name, stage in stages.items() if name.startswith("report"))
    assert {f"{FOLDER}/roads.safetensors", f"{FOLDER}/index.yaml"} <= set(report["deps"])
    assert not any("train" in name and "ours" in name for name in stages)

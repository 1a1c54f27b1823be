"""Changed parameters in both engines: a sweep whose systems compare in MLflow, and `dvc exp run --set-param`."""

from __future__ import annotations

import json

import pytest
import yaml
from mlflow import MlflowClient

from mmfuse.study.parameters import load_parameters
from test_engines import call, clone, template  # noqa: F401 - a fixture

pytestmark = pytest.mark.engines


def test_the_systems_of_a_sweep_are_trained_and_compare_in_mlflow(template):  # noqa: F811
    folder = clone(template, "sweep")
    key = "parts.fusion.learning_rate"
    call(folder, "mmfuse", "params", "sweep", "mma_unet", f"{key}=[0.001,0.01]")
    names = [f"learning_rate_{value}" for value in ("0p001", "0p01")]
    scores = [f"reports/scores/synthetic_road/mma_unet.{name}.s0.csv" for name in names]
    planned = call(folder, "snakemake", "--dry-run", "--cores", "1", "all")
    assert all(planned.count(score) for score in scores)
    call(folder, "snakemake", "--cores", "1", "--", *scores)
    trained = sorted(path.parent.parent.name for path in folder.glob("data/checkpoints/ivif/mma_unet/*/s0/*.run.json"))
    assert trained == ["base", "base", *names], "the first parts once for both"
    weights = [folder / f"data/checkpoints/ivif/mma_unet/{name}/s0/fusion.safetensors" for name in names]
    assert weights[0].read_bytes() != weights[1].read_bytes()
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny").experiment_id
    runs = client.search_runs([experiment], "tags.level = 'system' and tags.method = 'mma_unet'")
    found = {run.data.tags["variant"]: run.data for run in runs}
    assert sorted(found) == ["base", *names], "that of the shared parts, too"
    assert [found[name].params[f"methods.mma_unet.{key}"] for name in names] == ["0.001", "0.01"]
    first, second = (found[name].params for name in names)
    assert {name for name in first if first[name] != second.get(name)} == {f"methods.mma_unet.{key}"}
    means = {found[name].metrics["synthetic_road/SSIM"] for name in names}
    assert len(means) == 2


def test_a_parameter_set_by_dvc_reaches_the_jobs(template):  # noqa: F811
    folder = clone(template, "experiment")
    stage = "evaluate-synthetic_road-average-base-0"
    call(folder, "dvc", "exp", "run", "--name", "other", "--set-param", "evaluate.convention=cddfuse",
         "--set-param", "evaluate.beside=[]", "--set-param", "evaluate.metrics=[SSIM,EN]", stage)  # fmt: skip
    parameters = load_parameters(folder / "params.yaml")
    assert parameters["evaluate"] | {"workers": 0} == {
        "convention": "cddfuse", "beside": [], "metrics": ["SSIM", "EN"], "workers": 0,
    }  # fmt: skip
    summary = json.loads((folder / "reports/scores/synthetic_road/average.base.s0.json").read_text(encoding="utf-8"))
    assert summary["convention"] == "cddfuse"
    assert set(summary["metrics"]) == {"SSIM", "EN"}
    record = json.loads((folder / "reports/scores/synthetic_road/average.base.s0.run.json").read_text(encoding="utf-8"))
    assert record["parameters"]["evaluate.convention"] == "cddfuse"
    locked = yaml.safe_load((folder / "dvc.lock").read_text(encoding="utf-8"))["stages"][stage]["params"]["params.yaml"]
    assert locked["evaluate.convention"] == "cddfuse"

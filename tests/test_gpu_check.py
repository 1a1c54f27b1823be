"""The check on a GPU (workflow/scripts/gpu_check.py), without one: its data, its plan of the time, a whole dry run."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "workflow/scripts"))

import gpu_check  # noqa: E402
import gpu_data  # noqa: E402
import gpu_packages  # noqa: E402
import gpu_report  # noqa: E402
import gpu_steps  # noqa: E402

from mmfuse.data.packs import Pack  # noqa: E402
from mmfuse.errors import UserError  # noqa: E402
from mmfuse.study.parameters import load_parameters  # noqa: E402

PAPER = load_parameters(gpu_check.PARAMS)
SETS = ["harvard_ct_mri", "harvard_pet_mri", "harvard_spect_mri"]
METRICS = ["SD", "AG", "SF", "SCD", "VIFF", "SSIM"]
UNUSED = ("mlflow", "dvc", "snakemake", "torchvision", "matplotlib")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with drawn pairs, as `prepare --drawn` writes it."""
    folder = tmp_path_factory.mktemp("check") / "data"
    gpu_data.write_folder(folder, params=gpu_check.PARAMS, drawn=True, golden=folder / "none")
    return folder


@pytest.fixture(scope="module")
def dry(data, tmp_path_factory):
    """What a dry run leaves where the packages do not exist that it shall not need."""
    room = tmp_path_factory.mktemp("dry")
    for name in UNUSED:
        (room / "blocked" / f"{name}.py").parent.mkdir(exist_ok=True)
        (room / "blocked" / f"{name}.py").write_text(f"raise ImportError('{name} is not here')\n")
    command = [sys.executable, str(ROOT / "workflow/scripts/gpu_check.py"), "run", "--dry-run", "--data", str(data)]
    command += ["--out", str(room / "out"), "--only", "trainings", "inference"]
    env = os.environ | {"PYTHONPATH": str(room / "blocked"), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=room, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return room / "out", json.loads((room / "out/report.json").read_text())


def test_a_dry_run_trains_fuses_scores_and_compares(dry):
    _, found = dry
    assert found["errors"] == {}
    assert {name: training["steps"] for name, training in found["trainings"].items()} == dict.fromkeys(
        ("fp32", "tf32", "bf16"), 3
    )
    losses = {name: [row["traintotal"] for row in found["trainings"][name]["losses"]] for name in found["trainings"]}
    assert losses["fp32"] == losses["tf32"], "a processor has no TF32"
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)
    assert found["scores"].keys() == {"laplacian", "maximum", "fp32", "tf32", "bf16"}
    for scores in found["scores"].values():
        assert list(scores) == SETS
        assert all(math.isfinite(means[metric]) for means in scores.values() for metric in METRICS)
    same, other = (found["differences"][f"fp32 to {name}"] for name in ("tf32", "bf16"))
    assert same["images"] == 6
    assert (same["largest grey levels"], set(same["mean"].values())) == (0, {0})
    assert other["largest grey levels"] > 0
    means = [[found["scores"][name][dataset]["AG"] for dataset in SETS] for name in ("fp32", "bf16")]
    assert other["mean"]["AG"] == pytest.approx((sum(means[1]) - sum(means[0])) / 3)
    inference = [row for rows in found["inference"].values() for row in rows]
    assert {(row["method"], row["precision"], row["channels last"]) for row in inference} == {
        (method, precision, last)
        for method in ("lkc_funet", "mma_unet", "smfnet")
        for precision in ("fp32", "tf32", "bf16")
        for last in (False, True)
    }


def test_the_report_has_the_papers_numbers_beside_ours(dry):
    out, found = dry
    lines = (out / "report.md").read_text().splitlines()
    assert "| LKC-FUNet, printed | 94.033 | 8.242 | 33.836 | 1.576 | 0.456 | 0.731 |" in lines
    ours = found["scores"]["bf16"]["harvard_ct_mri"]
    assert f"| **LKC-FUNet, bf16-mixed** | {' | '.join(f'{ours[metric]:.3f}' for metric in METRICS)} |" in lines
    assert any("A dry run" in line for line in lines)
    assert any("Synthetic images" in line for line in lines)
    assert len(list(out.iterdir())) == 2, "weights and images lie elsewhere"


def test_fewer_steps_than_asked_for_are_said():
    results = {
        "asked": {"steps": 1000, "dry run": False},
        "data": {"drawn": False, "training set": "harvard_40", "pairs": {}},
        "machine": {"device": "a GPU", "processor cores": 1, "python": "3.12", "packages": {}, "not as locked": {}},
        "trainings": {
            name: {"steps": steps, "seconds": 9.0, "peak MiB": 1.0, "losses": [{"step": steps, "traintotal": 0.5}]}
            for name, steps in (("bf16", 1000), ("fp32", 640))
        },
        "scores": {name: {"harvard_ct_mri": dict.fromkeys(METRICS, 1.0)} for name in ("bf16", "fp32")},
    }
    text = gpu_report.text(results, PAPER, gpu_check.PRINTED)
    assert "| fp32, without TF32 | **640 of 1000** |" in text
    assert "**LKC-FUNet, fp32, without TF32, 640 of 1000 steps**" in text
    assert "**LKC-FUNet, bf16-mixed** |" in text


@pytest.mark.parametrize(
    ("available", "steps"),
    [
        (2000, {"tf32": 1000, "bf16": 1000, "fp32": 1000}),
        (700, {"tf32": 1000, "bf16": 1000, "fp32": 500}),
        (250, {"tf32": 1000, "bf16": 500, "fp32": 0}),
        (-5, {"tf32": 0, "bf16": 0, "fp32": 0}),
    ],
)
def test_the_slow_precision_takes_the_time_that_is_left(available, steps):
    assert gpu_steps.plan_steps({"tf32": 0.2, "bf16": 0.1, "fp32": 0.8}, 1000, available) == steps


def test_the_protocol_is_the_papers(data, tmp_path):
    check = gpu_steps.Check(PAPER, data, tmp_path, "cuda", METRICS)
    settings = check.settings(1000)
    part = settings["parts"]["net"]
    assert (part["steps"], part["batch"], part["crop"]["height"], part["crop"]["width"]) == (1000, 32, 64, 64)
    assert settings["network"]["channels"] == 128
    assert "epochs" not in part
    loops = {name: check.loop(name) for name in gpu_steps.PRECISIONS}
    assert {name: (loop["precision"], loop["tf32"]) for name, loop in loops.items()} == {
        "fp32": ("32-true", False), "tf32": ("32-true", True), "bf16": ("bf16-mixed", False),
    }  # fmt: skip
    assert list(gpu_report.printed_sets(PAPER).items()) == list(
        zip(SETS, ("MRI-CT", "MRI-PET", "MRI-SPECT"), strict=True)
    )


# ----------------------------------------------------------------------------------------------------- steps and time


def test_a_step_that_is_done_is_not_done_again_and_one_that_fails_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check.Run, "save", lambda self: self.kept.write_text(json.dumps(self.results)))

    def fail():
        raise RuntimeError("out of memory")

    first = gpu_check.Run({"steps": 3}, tmp_path / "out", tmp_path / "work", 1)
    assert first.do("trainings", "bf16", lambda: 1) == 1
    assert first.do("trainings", "fp32", fail) is None
    assert "out of memory" in first.results["errors"]["trainings fp32"]
    again = gpu_check.Run({"steps": 3}, tmp_path / "out", tmp_path / "work", 1)
    assert again.results["errors"] == {}
    assert again.do("trainings", "bf16", fail) == 1
    assert again.do("trainings", "fp32", lambda: 2) == 2
    other = gpu_check.Run({"steps": 4}, tmp_path / "out", tmp_path / "work", 1)
    assert other.do("trainings", "bf16", lambda: 5) == 5


def test_a_training_goes_on_from_its_state_when_time_runs_out(data, tmp_path):
    """The clock stops it; the same call goes on, and ends with the losses of a training that nobody stopped."""
    packs = tmp_path / "packs"
    gpu_data.unpack(data, packs, test_pairs=1)
    tiny = gpu_check.tiny(PAPER)
    check, other = (gpu_steps.Check(tiny, packs, tmp_path / name, "cpu", METRICS) for name in ("one", "other"))
    with pytest.raises(Exception, match="Asked to stop after step"):
        gpu_steps.train_once(check, "fp32", 100_000, time.monotonic() + 6)
    done = gpu_steps.saved_steps(check, "fp32")
    assert (done > 0, gpu_steps.saved_steps(other, "fp32")) == (True, 0)
    resumed = gpu_steps.train_once(check, "fp32", done + 1, time.monotonic() + 300)
    whole = gpu_steps.train_once(other, "fp32", done + 1, time.monotonic() + 300)
    assert resumed["losses"] == whole["losses"]
    assert len(whole["losses"]) == done + 1


def test_a_second_run_gives_a_training_the_steps_that_the_first_had_no_time_for(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check.Run, "save", lambda self: self.kept.write_text(json.dumps(self.results)))
    monkeypatch.setattr(gpu_steps, "train_once", lambda _check, _precision, steps, _end: {"steps": steps})
    monkeypatch.setattr(gpu_steps, "fuse_and_score", lambda _check, name: f"scores of {name}")
    this = gpu_check.Run({"steps": 1000}, tmp_path / "out", tmp_path / "work", 1)
    gpu_check.train_and_score(this, None, "fp32", 80, this.deadline)
    this.results["differences"] = {"fp32 to tf32": 1, "tf32 to bf16": 2}
    gpu_check.train_and_score(this, None, "fp32", 60, this.deadline)
    assert this.results["trainings"]["fp32"] == {"steps": 80}
    assert len(this.results["differences"]) == 2

    def stopped(*_):
        raise RuntimeError("out of time")

    with monkeypatch.context() as patch:
        patch.setattr(gpu_steps, "train_once", stopped)
        gpu_check.train_and_score(this, None, "fp32", 900, this.deadline)
    assert this.results["trainings"]["fp32"] == {"steps": 80}
    assert this.results["scores"]["fp32"] == "scores of fp32"
    gpu_check.train_and_score(this, None, "fp32", 1000, this.deadline)
    assert this.results["trainings"]["fp32"] == {"steps": 1000}
    assert this.results["differences"] == {"tf32 to bf16": 2}


def test_the_tests_are_counted_also_if_they_were_stopped():
    lines = [
        "collected 9 items / 2 deselected / 7 selected",
        "tests/test_precision.py::test_a[lkc_funet-net-flat-cuda] PASSED         [ 20%]",
        "tests/test_golden_lkc_funet.py::test_b[0-cuda] SKIPPED (no GPU)         [ 40%]",
        "tests/test_golden_lkc_funet.py::test_b[1-cuda] SKIPPED (no GPU)         [ 60%]",
        "tests/test_gpu.py::test_c[a b] FAILED                                   [100%]",
        "tests/test_gpu.py::test_d ",
    ]
    assert gpu_steps.count_tests(lines) == {
        "passed": 1, "failed": ["tests/test_gpu.py::test_c[a b]"], "skipped": {"no GPU": 2},
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- data


def test_the_folder_holds_the_pairs_that_are_used(data, tmp_path):
    held = gpu_data.unpack(data, tmp_path, test_pairs=1)
    assert held["drawn"]
    assert held["pairs"] == {f"{name}/{split}": n for name in SETS for split, n in (("train", 4), ("test", 2))}
    for name in SETS:
        assert len(Pack(tmp_path / name / "train.safetensors")) == 4
        assert Pack(tmp_path / name / "test.safetensors").names == [f"{name.split('_')[1]}_000{SETS.index(name)}"]
    assert gpu_data.size_in_megabytes(data) < 1, "with the pair of MSRS that a test looks at, where there is a mirror"
    assert (data / "params.yaml").read_text() == gpu_check.PARAMS.read_text()


@pytest.mark.mirror
@pytest.mark.skipif("MMFUSE_MIRROR" not in os.environ, reason="MMFUSE_MIRROR is not set")
def test_the_real_folder_is_small(tmp_path):
    held = gpu_data.write_folder(tmp_path / "d", params=gpu_check.PARAMS, drawn=False, golden=tmp_path / "none")
    assert list(held["pairs"].values()) == [14, 50, 13, 50, 13, 50]
    assert gpu_data.size_in_megabytes(tmp_path / "d") < 20


def test_damaged_and_foreign_folders_are_refused(data, tmp_path):
    with pytest.raises(UserError, match="no data for a check"):
        gpu_data.unpack(tmp_path, tmp_path / "packs")
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="contains something else"):
        gpu_data.write_folder(tmp_path, params=gpu_check.PARAMS, drawn=True, golden=tmp_path / "none")
    other = tmp_path / "other"
    other.mkdir()
    (other / "packs.zip").write_bytes((data / "packs.zip").read_bytes())
    held = json.loads((data / "data.json").read_text())
    held["sha256"]["harvard_ct_mri/train"] = "0" * 64
    (other / "data.json").write_text(json.dumps(held))
    with pytest.raises(UserError, match="damaged"):
        gpu_data.unpack(other, tmp_path / "packs")


# ----------------------------------------------------------------------------------------------------------- packages


def test_packages_come_with_their_needs_and_without_torch():
    versions, needed_by = gpu_packages.read_lock(gpu_check.LOCK)
    everything = {*gpu_packages.NEEDED.values(), *gpu_packages.FOR_TESTS.values()}
    assert everything <= versions.keys()
    found = gpu_packages.with_their_needs(everything, needed_by)
    assert {"jsonschema-specifications", "rpds-py", "lightning-utilities", "python-dateutil", "pluggy"} <= found
    assert not {"torch", "triton", "mlflow", "dvc", "snakemake"} & found
    assert not any(name.startswith("nvidia") for name in found)
    assert gpu_packages.with_their_needs({"six"}, needed_by) == {"six"}


def test_one_message_names_every_missing_package(monkeypatch):
    monkeypatch.setattr(gpu_packages, "installed", lambda _: None)
    lacking = gpu_packages.missing({"no_such_module": "jsonschema", "json": "numpy", "nor_this": "six"})
    assert list(lacking) == ["jsonschema", "six"]
    versions, _ = gpu_packages.read_lock(gpu_check.LOCK)
    text = gpu_packages.advice(lacking, gpu_check.LOCK)
    assert f"jsonschema=={versions['jsonschema']}  (No module named 'no_such_module')" in text
    assert f"rpds-py=={versions['rpds-py']} " in text, "a need of what is missing"
    assert "pip download --no-deps" in text
    assert "python-version 3.12" in gpu_packages.listing(["jsonschema"], gpu_check.LOCK, "3.12")
    assert "has no jsonshcema" in gpu_packages.listing(["jsonshcema"], gpu_check.LOCK, "3.12")

"""Which stages `dvc_slurm.py` submits, in which jobs, and what it tells Slurm of them; test_slurm.py runs them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "workflow/scripts"))

import dvc_slurm  # noqa: E402

BEFORE = {
    "report": {"evaluate-a", "evaluate-b", "prepare"},
    "evaluate-a": {"fuse-a", "prepare"},
    "evaluate-b": {"fuse-b", "prepare"},
    "fuse-a": {"prepare", "train"},
    "fuse-b": {"prepare"},
    "train": {"prepare"},
    "prepare": set(),
}


def test_what_comes_after_a_changed_stage_runs_too():
    runs = dvc_slurm.needed_runs(BEFORE, {"train"})
    assert runs == {
        "train": frozenset(),
        "fuse-a": {"train"},
        "evaluate-a": {"fuse-a"},
        "report": {"evaluate-a"},
    }
    assert dvc_slurm.needed_runs(BEFORE, set()) == {}
    whole = dvc_slurm.needed_runs(BEFORE, {"prepare"})
    assert set(whole) == set(BEFORE)
    order = list(whole)
    assert all(order.index(needed) < order.index(stage) for stage, after in whole.items() for needed in after)


def test_stages_that_wait_for_each_other_are_never_in_one_job():
    runs = dvc_slurm.needed_runs(BEFORE, {"prepare"})
    tasks = dvc_slurm.tasks_of(runs, {"evaluate": 2, "fuse": 2})
    assert sorted(stage for task in tasks for stage in task.stages) == sorted(BEFORE)
    done: set[str] = set()
    for task in tasks:
        assert task.after <= done, "each job is submitted after those that it waits for"
        assert not any(BEFORE[stage] & set(task.stages) for stage in task.stages)
        done |= set(task.stages)
    # fuse-b is ready before the training, fuse-a after it
    assert [task.stages for task in tasks if task.kind == "fuse"] == [("fuse-b",), ("fuse-a",)]
    alike = dvc_slurm.tasks_of({f"evaluate-{n}": frozenset({"x"}) - {"x"} for n in range(5)}, {"evaluate": 2})
    assert [len(task.stages) for task in alike] == [2, 2, 1]


def test_a_job_gets_what_the_profile_and_the_parameters_say():
    parameters = yaml.safe_load((ROOT / "workflow/configs/demo.yaml").read_text())
    parameters["train"]["threads"] = 3
    profile = {
        "default-resources": {"slurm_partition": "main", "mem_mb": "attempt * 4000", "runtime": 60},
        "set-resources": {"train": {"mem_mb": "attempt * 16000", "runtime": 1440, "gres": "gpu:1"}},
    }
    train = dvc_slurm.Task("train", ("train-x",), frozenset())
    assert dvc_slurm.options(train, profile, parameters) == [
        "--partition=main", "--mem=16000", "--gres=gpu:1", "--time=1440", "--cpus-per-task=3",
    ]  # fmt: skip
    fuse = dvc_slurm.Task("fuse", ("fuse-x", "fuse-y"), frozenset())
    assert dvc_slurm.options(fuse, profile, parameters)[1:3] == ["--mem=4000", "--time=120"]
    assert dvc_slurm.command(fuse) == "dvc --wait-for-lock repro --single-item fuse-x fuse-y"


def test_the_projects_own_profile_is_understood():
    profile = yaml.safe_load((ROOT / dvc_slurm.PROFILE).read_text())
    parameters = yaml.safe_load((ROOT / "workflow/configs/demo.yaml").read_text())
    for kind in ("train", "fuse", "evaluate", "detect", "report"):
        found = dvc_slurm.options(dvc_slurm.Task(kind, (f"{kind}-x",), frozenset()), profile, parameters)
        numbers = [option.partition("=")[2] for option in found if option.startswith(("--mem", "--time", "--cpus"))]
        assert len(numbers) == 3 and all(number.isdecimal() for number in numbers), found


@pytest.mark.parametrize("answer", [0, 1])
def test_a_refused_job_cancels_those_before_it(tmp_path, monkeypatch, answer):
    """A `sbatch` of its own takes the first job and, with answer 1, refuses the second."""
    programs = tmp_path / "bin"
    programs.mkdir()
    count = f"n=$(wc -l < {tmp_path}/asked); echo $n"
    for name, text in {
        "sbatch": f'echo "$@" >> {tmp_path}/asked; {count}\n[ $n = 1 ] || exit {answer}\n',
        "scancel": f'echo "$@" > {tmp_path}/cancelled\n',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    for name in ("params.yaml", "profiles", "workflow", "data", "src"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    tasks = dvc_slurm.tasks_of({"prepare": frozenset(), "train-x": frozenset({"prepare"})}, {})
    if answer:
        with pytest.raises(dvc_slurm.MmfuseError, match="refused the job of train-x"):
            dvc_slurm.submit(tmp_path, tasks, [])
        assert (tmp_path / "cancelled").read_text() == "1\n"
        return
    assert dvc_slurm.submit(tmp_path, tasks, ["--qos=low"]) == {"prepare": "1", "train-x": "2"}
    first, second = (tmp_path / "asked").read_text().splitlines()
    assert "--dependency" not in first and "--qos=low" in first
    assert "--dependency=afterok:1 --kill-on-invalid-dep=yes" in second
    assert second.endswith("--wrap=dvc --wait-for-lock repro --single-item train-x")


@pytest.mark.parametrize(
    ("programs", "message"),
    [
        ({}, "Slurm's programs are not here"),
        ({"sbatch": "", "scancel": ""}, "no squeue"),
        (
            {"sbatch": "", "scancel": "", "squeue": "echo 'Unable to contact slurm controller' >&2; exit 1"},
            "Unable to c",
        ),
    ],
)
def test_without_slurm_there_is_one_message_and_a_dry_run(tmp_path, monkeypatch, capsys, programs, message):
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(dvc_slurm, "check_dvc", lambda _: None)
    monkeypatch.setattr(dvc_slurm, "outdated", lambda _: {"download-x": frozenset(), "train-x": {"download-x"}})
    monkeypatch.setattr(sys, "argv", ["dvc_slurm.py"])
    with pytest.raises(SystemExit) as ended:
        dvc_slurm.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["dvc_slurm.py", "--dry-run"])
    dvc_slurm.main()
    assert capsys.readouterr().out.splitlines() == [
        "here: dvc repro --single-item download-x",
        "job: dvc --wait-for-lock repro --single-item train-x",
        "1 job for 1 stage",
    ]

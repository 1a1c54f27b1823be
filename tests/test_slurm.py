"""The study on a real Slurm of one node: the same results as on this machine alone, and a cancelled job goes on."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest
import yaml

import slurm_node
from mmfuse.files.writing import sha256
from test_engines import ENVIRONMENT, call, clone, demo, plans_nothing, results, template, write  # noqa: F401

pytestmark = [pytest.mark.engines, pytest.mark.slurm]
PROFILE = ("--workflow-profile", "profiles/slurm")
WEIGHTS = "data/checkpoints/ivif/lkc_funet/base/s0/net.safetensors"
# a small cluster: short waits, and no more cores at once than its node has, which a group of jobs asks for as well
QUICK = (
    "--cores", str(os.cpu_count()), "--latency-wait", "5",
    "--slurm-init-seconds-before-status-checks", "1", "--slurm-status-command", "squeue",
    "--default-resources", "slurm_partition=main", "mem_mb=1500", "runtime=10", "--set-resources", "train:mem_mb=1500",
    "--max-jobs-per-timespan", "100/1s",
)  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The environment of a running node."""
    why = slurm_node.missing()
    if why:
        pytest.skip(why)
    with slurm_node.node(tmp_path_factory.mktemp("slurm"), ENVIRONMENT) as environment:
        yield environment


@pytest.fixture(scope="module")
def small(template):  # noqa: F811
    """The tiny study without what only makes it longer here: one training of one part, no analysis, no detector."""
    folder = clone(template, "small")
    parameters = yaml.safe_load((folder / "params.yaml").read_text())
    method = yaml.safe_load((folder / "workflow/configs/demo.yaml").read_text())["methods"]["lkc_funet"]
    method["parts"]["net"] |= {"steps": 6, "crop": method["parts"]["net"]["crop"] | {"height": 32, "width": 32}}
    parameters |= {"analyse": {}, "downstream": {}, "methods": {"average": {}, "lkc_funet": method}}
    parameters["study"]["systems"][1]["method"] = "lkc_funet"
    write(folder, parameters)
    call(folder, "mmfuse", "sync", "--write-dvc")
    call(folder, "git", "commit", "-qam", "small study")
    return folder


@pytest.fixture(scope="module")
def alone(small):
    """The study as this machine makes it without Slurm."""
    folder = clone(small, "alone")
    call(folder, "snakemake", "--cores", "2", "all")
    return folder


def jobs(cluster):
    """The names of the jobs that wait or run."""
    command = ("squeue", "--noheader", "--format=%i %T %k")
    return subprocess.run(command, env=cluster, capture_output=True, text=True, check=True).stdout.splitlines()


def test_snakemake_on_slurm_makes_the_same_study(small, cluster, alone):
    folder = clone(small, "on_slurm")
    said = call(folder, "snakemake", "all", *PROFILE, *QUICK, environment=cluster)
    assert "SLURM jobid" in said
    assert results(folder) == results(alone)
    assert plans_nothing(folder)


def test_a_cancelled_training_goes_on(cluster, alone):
    """It gets SIGTERM and saves its state; Snakemake submits it again, and it ends with the same bits."""
    folders = [alone.parent / name for name in ("cancelled", "undisturbed")]
    for folder in folders:
        shutil.copytree(alone, folder, symlinks=True)
        parameters = yaml.safe_load((folder / "params.yaml").read_text())
        parameters["methods"]["lkc_funet"]["parts"]["net"]["steps"] = 200
        write(folder, parameters)
    cancelled, undisturbed = folders
    state = cancelled / "data/resume/ivif/lkc_funet/base/s0/net.pt"
    running = subprocess.Popen(
        ["snakemake", WEIGHTS, *PROFILE, *QUICK], cwd=cancelled, env=cluster, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    end = time.monotonic() + 300
    while not state.exists():
        assert running.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    training = [line.split()[0] for line in jobs(cluster) if "rule_train" in line]
    assert len(training) == 1
    subprocess.run(["scancel", *training], env=cluster, check=True)
    said, _ = running.communicate(timeout=400)
    assert running.returncode == 0, said
    assert "CANCELLED" in said
    call(undisturbed, "snakemake", "--cores", "1", WEIGHTS)
    assert sha256(cancelled / WEIGHTS) == sha256(undisturbed / WEIGHTS) != sha256(alone / WEIGHTS)


def test_dvc_in_a_job_and_in_several_at_once(small, cluster, alone):
    """A part of the study by `dvc repro` in one job, the rest by a job for each stage; then nothing is left to do."""
    folder = clone(small, "dvc_on_slurm")
    target = "evaluate-synthetic_road-average-base-0"
    one_job = ("sbatch", "--wait", "--cpus-per-task=2", "--mem=2000", "--wrap", f"dvc repro --quiet {target}")
    call(folder, *one_job, environment=cluster)
    whole, part = results(alone), results(folder)
    assert 0 < len(part) < len(whole) and part.items() <= whole.items()

    script = (sys.executable, "workflow/scripts/dvc_slurm.py")
    planned = call(folder, *script, "--dry-run", environment=cluster)
    assert target not in planned and planned.count("job: ") == 4, planned
    said = call(folder, *script, "--wait", "--", "--mem=1500", environment=cluster)
    assert "submitted 4 jobs for 4 stages" in said
    assert results(folder) == whole
    assert "up to date" in call(folder, "dvc", "status", environment=cluster)
    assert "nothing is out of date" in call(folder, *script, environment=cluster)


def test_queued_experiments_in_a_job(small, cluster, alone):
    """Two states of the parameters, each in a folder of its own that goes; runs stay, and one state is taken over."""
    folder = clone(small, "queued")
    tracked = cluster | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    stage = "train-ivif-lkc_funet-base-0-net"
    for steps in (7, 8):
        change = f"methods.lkc_funet.parts.net.steps={steps}"
        call(folder, "dvc", "exp", "run", "--queue", "--name", f"steps-{steps}", "--set-param", change, stage)
    queue = "dvc queue start --jobs 2 && while dvc queue status | grep -Eq 'Queued|Running'; do sleep 2; done"
    call(folder, "sbatch", "--wait", "--cpus-per-task=2", "--mem=3000", "--wrap", queue, environment=tracked)
    assert call(folder, "dvc", "queue", "status").count("Success") == 2
    with closing(sqlite3.connect(folder / "mlflow.db")) as base:
        runs = base.execute("SELECT name FROM runs WHERE name LIKE 'train %' AND status = 'FINISHED'").fetchall()
    assert len(runs) == 2
    assert len(list((folder / "mlruns").rglob("net.run.json"))) == 2, "artifacts stay as well"
    call(folder, "dvc", "exp", "apply", "steps-7", good=(255,))  # other stages have nothing yet
    assert "steps: 7" in (folder / "params.yaml").read_text()
    plain = alone.parent / "seven"
    shutil.copytree(alone, plain, symlinks=True)
    parameters = yaml.safe_load((plain / "params.yaml").read_text())
    parameters["methods"]["lkc_funet"]["parts"]["net"]["steps"] = 7
    write(plain, parameters)
    call(plain, "snakemake", "--cores", "1", WEIGHTS)
    assert sha256(folder / WEIGHTS) == sha256(plain / WEIGHTS) != sha256(alone / WEIGHTS)


def test_what_waits_for_a_failed_stage_is_not_run(cluster, alone):
    folder = alone.parent / "failing"
    shutil.copytree(alone, folder, symlinks=True)
    call(folder, "mmfuse", "sync")
    parameters = yaml.safe_load((folder / "params.yaml").read_text())
    parameters["methods"]["lkc_funet"]["parts"]["net"]["steps"] = 7
    write(folder, parameters)
    log = folder / "logs/train/ivif.lkc_funet.base.s0.net.log"
    log.unlink()
    log.mkdir()  # the training cannot write there
    script = (sys.executable, "workflow/scripts/dvc_slurm.py", "--wait", "--", "--mem=1500")
    run = subprocess.run(script, cwd=folder, env=cluster, capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "Not up to date: train-ivif-lkc_funet-base-0-net" in run.stderr
    said = {path.name.partition(".")[0] for path in (folder / "logs/slurm").glob("*.out")}
    assert said == {"train-ivif-lkc_funet-base-0-net"}
    assert not jobs(cluster), "Slurm takes what waits for a failed job out of the queue"


@pytest.mark.skipif(
    not os.environ.get("MMFUSE_DEMO"), reason="takes as long as the demo: make run, then MMFUSE_DEMO=1 make test-slurm"
)
def test_the_demo_on_slurm_comes_to_the_bytes_of_the_demo_here(cluster, tmp_path, capsys):
    """`make run` has made the study of params.yaml in this folder; Slurm makes it in a clone."""
    folder = tmp_path / "demo"
    expected = demo(folder)
    begin = time.monotonic()
    said = call(folder, "snakemake", "all", *PROFILE, *QUICK, environment=cluster)
    assert results(folder) == expected
    assert plans_nothing(folder)
    submitted = said.count("SLURM jobid")
    with capsys.disabled():
        print(f"\n{submitted} Slurm jobs, {len(expected)} equal checksums, {time.monotonic() - begin:.0f} s")

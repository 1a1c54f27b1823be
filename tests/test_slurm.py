"""The study on a real Slurm of one node: the same results as on this machine alone, and a cancelled job goes on."""

import subprocess
import time

import pytest
import yaml

import slurm_node
from mmfuse.files import sha256
from test_engines import ENVIRONMENT, call, clone, plans_nothing, results, template, write  # noqa: F401

pytestmark = [pytest.mark.engines, pytest.mark.slurm]
PROFILE = ("--workflow-profile", "workflow/profiles/slurm")
# a small cluster: short waits, and its partition has two cores
QUICK = (
    "--latency-wait", "5", "--slurm-init-seconds-before-status-checks", "1", "--slurm-status-command", "squeue",
    "--default-resources", "slurm_partition=main", "mem_mb=1500", "runtime=10", "--set-resources", "train:mem_mb=1500",
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
def alone(template):  # noqa: F811
    """The study as this machine makes it without Slurm."""
    folder = clone(template, "alone")
    call(folder, "snakemake", "--cores", "2", "all")
    return folder


def jobs(cluster):
    """The names of the jobs that wait or run."""
    command = ("squeue", "--noheader", "--format=%i %T %k")
    return subprocess.run(command, env=cluster, capture_output=True, text=True, check=True).stdout.splitlines()


def test_snakemake_on_slurm_makes_the_same_study(template, cluster, alone):  # noqa: F811
    folder = clone(template, "on_slurm")
    said = call(folder, "snakemake", "all", *PROFILE, *QUICK, environment=cluster)
    assert "SLURM jobid" in said
    assert results(folder) == results(alone)
    assert plans_nothing(folder)


def test_a_cancelled_training_goes_on(template, cluster):  # noqa: F811
    """It gets SIGTERM and saves its state; Snakemake submits it again, and it ends with the same bits."""
    target = "data/checkpoints/ivif/mma_unet/base/s0/vi_unet.safetensors"
    folders = [clone(template, name) for name in ("cancelled", "undisturbed")]
    for folder in folders:
        parameters = yaml.safe_load((folder / "params.yaml").read_text())
        parameters["methods"]["mma_unet"]["parts"]["vi_unet"]["steps"] = 400
        write(folder, parameters)
    cancelled, undisturbed = folders
    state = cancelled / "data/resume/ivif/mma_unet/base/s0/vi_unet.pt"
    running = subprocess.Popen(
        ["snakemake", target, *PROFILE, *QUICK], cwd=cancelled, env=cluster, stdout=subprocess.PIPE,
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
    call(undisturbed, "snakemake", "--cores", "1", target)
    assert sha256(cancelled / target) == sha256(undisturbed / target)


def test_dvc_in_a_job(template, cluster, alone):  # noqa: F811
    folder = clone(template, "dvc_on_slurm")
    words = ("--wait", "--cpus-per-task=2", "--mem=4000", "--wrap", "dvc repro --quiet")
    call(folder, "sbatch", *words, environment=cluster)
    assert results(folder) == results(alone)

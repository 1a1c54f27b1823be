"""A training by two processes that share each batch: on a processor, started by Fabric or by torchrun."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from mlflow import MlflowClient

from mmfuse.data.packs import write_pack
from mmfuse.files.writing import sha256
from mmfuse.training.checkpoints import build, load_state, read_weights

ROAD = "data/prepared/synthetic_road"
OUT = Path("data/checkpoints/ivif/lkc_funet/base/s0/net.safetensors")
RESUME = Path("data/resume/ivif/lkc_funet/base/s0/net.pt")
MMFUSE = (sys.executable, "-m", "mmfuse")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mmfuse")


@pytest.fixture
def study(project, image, parameters):
    """Start a training of LKC-FUNet, whose norms look at one image at a time."""
    for split, count in (("train", 6), ("val", 2)):
        samples = [{"name": f"n{n}", "a": image(n, 48, 64), "b": image(n + 9, 48, 64)} for n in range(count)]
        write_pack(project / f"{ROAD}/{split}.safetensors", samples)
    block = parameters["methods"]["lkc_funet"]["parts"]["net"]

    def start(launcher=MMFUSE, *, devices=2, batch=4, steps=6):
        block.update(batch=batch, steps=steps)
        parameters["train"].update(devices=devices)
        Path("params.yaml").write_text(yaml.safe_dump(parameters, sort_keys=False), encoding="utf-8")
        command = [
            *launcher, "stage", "train", "--trained-on", "ivif", "--method", "lkc_funet", "--variant", "base",
            "--seed", "0", "--part", "net",
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": f"sqlite:///{project}/mlflow.db"}
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    return start


def trained(process):
    """Wait for a training, and return its history and weights."""
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert not RESUME.exists()
    return pd.read_csv(OUT.with_suffix(".history.csv")), read_weights(OUT)[0]


def without_effect(block):
    """Return the weights that the loss does not depend on: in double precision their gradient is rounding alone."""
    torch.manual_seed(0)
    method = build("lkc_funet", block["network"]).double()
    losses = method.part_losses("net", *torch.rand(2, 2, 1, 48, 64, dtype=torch.float64), block["parts"]["net"]["loss"])
    sum(losses.values()).backward()
    return {name for name, weight in method.named_parameters() if weight.grad.norm() < 1e-12}


def test_two_processes_train_as_one_does(study, project, parameters):
    free = without_effect(parameters["methods"]["lkc_funet"])
    history, weights = trained(study(devices=1))
    assert len(free) < len(weights) / 10, free
    for launcher in (MMFUSE, TORCHRUN):
        shared_history, shared = trained(study(launcher))
        pd.testing.assert_frame_equal(shared_history, history, rtol=1e-4)
        for name in weights.keys() - free:  # Adam makes whole steps of a gradient that is rounding alone
            assert (shared[name] - weights[name]).norm() < 2e-3 * weights[name].norm() + 1e-4, name
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    experiments = [found.experiment_id for found in client.search_experiments()]
    runs = [run for run in client.search_runs(experiments) if run.data.tags.get("stage") == "train"]
    assert len(runs) == 2, "one for each number of devices, and none of the second process"
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_two_processes_stop_together_and_go_on_to_the_same_bits(study):
    trained(study(steps=40))
    whole = sha256(OUT)
    OUT.unlink()
    process = study(steps=40)
    while not RESUME.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)  # to the first alone, as a batch system may do
    _, err = process.communicate(timeout=600)
    assert process.returncode == 1, err
    assert re.search(r"Asked to stop after step \d+ of 40; run the same command to resume", err)
    assert 3 <= load_state(RESUME)["step"] < 40
    trained(study(steps=40))
    assert sha256(OUT) == whole


def test_a_batch_that_cannot_be_shared_is_refused(study):
    process = study(batch=3)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 2
    assert "a multiple of 2, the number of processes, under batch" in err
    assert not OUT.exists()

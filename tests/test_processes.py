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
import yaml
from mlflow import MlflowClient

from mmfuse.checkpoints import load_state, read_weights
from mmfuse.files import sha256
from mmfuse.packs import write_pack

OUT = Path("data/checkpoints/ivif/lkc_funet/base/s0/net.safetensors")
RESUME = Path("data/resume/ivif/lkc_funet/base/s0/net.pt")
MMFUSE = (sys.executable, "-m", "mmfuse")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mmfuse")


@pytest.fixture
def study(project, image, parameters):
    """Start a training of LKC-FUNet, whose norms look at one image at a time."""
    for split, count in (("train", 6), ("val", 2)):
        samples = [{"name": f"n{n}", "a": image(n, 48, 64), "b": image(n + 9, 48, 64)} for n in range(count)]
        write_pack(project / f"packs/{split}.safetensors", samples)
    block = parameters["methods"]["lkc_funet"]["parts"]["net"]

    def start(launcher=MMFUSE, *, devices=2, batch=4, steps=6):
        block.update(batch=batch, steps=steps)
        parameters["train"].update(devices=devices)
        Path("params.yaml").write_text(yaml.safe_dump(parameters, sort_keys=False), encoding="utf-8")
        command = [
            *launcher, "stage", "train", "--task", "ivif", "--method", "lkc_funet", "--variant", "base", "--seed", "0",
            "--part", "net", "--train", "packs/train.safetensors", "--val", "packs/val.safetensors", "--out", str(OUT),
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


def test_two_processes_train_as_one_does(study, project):
    history, weights = trained(study(devices=1))
    for launcher in (MMFUSE, TORCHRUN):
        shared_history, shared = trained(study(launcher))
        pd.testing.assert_frame_equal(shared_history, history, rtol=1e-4)
        for name, values in weights.items():
            # Adam makes whole steps of a gradient that is nothing but rounding, such as that of a bias before a norm:
            # in these six steps up to 1e-2, and what rounding makes of them depends on the processor
            assert (shared[name] - values).norm() < 2e-3 * values.norm() + 5e-4, name
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
    assert re.search(r"Asked to stop after step \d+ of 40; run the same command to go on", err)
    assert 3 <= load_state(RESUME)["step"] < 40
    trained(study(steps=40))
    assert sha256(OUT) == whole


def test_a_batch_that_cannot_be_shared_is_refused(study):
    process = study(batch=3)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 2
    assert "a multiple of 2, the number of processes, under batch" in err
    assert not OUT.exists()

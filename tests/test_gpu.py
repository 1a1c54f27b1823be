"""What wants a GPU: a training on it that is killed and goes on, and losses that are those of a processor.

Without a GPU, the processor's half of the first test is left.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from golden_networks import DEVICES
from mmfuse.training.checkpoints import load_state
from test_methods import PARTS, pair, small, weights

PROGRAM = """
import os, signal, sys
from pathlib import Path
import torch
from mmfuse.training import batches
from mmfuse.training import loop as training
from mmfuse.training.checkpoints import build
from mmfuse.data.packs import Pack

device, network, pack, resume, result = eval(sys.argv[1])
block = {
    "steps": 6, "batch": 2, "crop": {"height": 32, "width": 32, "scale": None, "ratio": [1.0, 1.0]}, "flip": True,
    "optimiser": "adam", "learning_rate": 0.001, "weight_decay": 0.0, "schedule": "constant", "warmup": 0, "clip": None,
    "loss": {"ssim": 1.0, "intensity": 1.0, "gradient": 1.0},
}
loop = {"accelerator": device, "devices": 1, "threads": 1, "log_every": 1, "save_every": 3, "validate_every": 9}
loop |= {"precision": "bf16-mixed"}
torch.manual_seed(0)
method = build("lkc_funet", network)
fabric = training.make_fabric(loop)
outcome = training.train_part(
    fabric, method, "net", settings=block, loop=loop, pairs=batches.TrainingPairs([Pack(Path(pack))], block, 0),
    validation=[], seed=0, resume=Path(resume), fingerprint="job",
    on_rows=lambda rows: None if result else os.kill(os.getpid(), signal.SIGKILL),
)
torch.save(outcome.last, result)
"""
NETWORK = {
    "width": 4, "channels": 4, "kernels": [5, 3, 3], "bottleneck_kernel": 3, "init_kernel": 5, "groups": 2,
    "dropout": 0.2, "drop_path": 0.2,
}  # fmt: skip


def train(device: str, pack: Path, resume: Path, result: Path | None) -> int:
    """Train in a process of its own, which kills itself after the third step where no result is asked for."""
    argument = repr((device, NETWORK, str(pack), str(resume), str(result) if result else None))
    run = subprocess.run([sys.executable, "-c", PROGRAM, argument], capture_output=True, text=True, check=False)
    assert run.returncode in {0, -signal.SIGKILL}, run.stderr
    return run.returncode


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of two trained networks."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


@pytest.mark.parametrize("device", DEVICES)
def test_a_training_of_lkc_funet_that_was_killed_ends_as_if_it_had_not_been(device, make_pack, tmp_path):
    """In bf16: bit for bit on a processor; on a GPU as near as a second whole training, whose sums may differ."""
    pack, state = make_pack(5), tmp_path / "state.pt"
    assert train(device, pack, state, None) == -signal.SIGKILL
    assert load_state(state)["step"] == 3
    assert train(device, pack, state, tmp_path / "resumed") == 0
    assert train(device, pack, tmp_path / "other.pt", tmp_path / "whole") == 0
    resumed, whole = (torch.load(tmp_path / name, weights_only=True) for name in ("resumed", "whole"))
    if device == "cpu":
        assert distance(resumed, whole) == 0
        return
    assert train(device, pack, tmp_path / "another.pt", tmp_path / "repeated") == 0
    repeated = torch.load(tmp_path / "repeated", weights_only=True)
    assert distance(resumed, whole) <= 4 * distance(repeated, whole)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize(("name", "part"), PARTS)
def test_a_gpu_gives_the_losses_of_a_processor(name, part):
    """In double precision, with the gradients of all weights."""
    found = []
    for device in ("cpu", "cuda"):
        method = small(name).double().eval().to(device)
        terms = method.part_losses(part, *(i.double().to(device) for i in pair(32, 48, batch=2)), weights(name, part))
        total = torch.stack(list(terms.values())).sum()
        trained = [p for module in method.part_modules(part).values() for p in module.parameters()]
        gradients = torch.autograd.grad(total, trained, allow_unused=True)
        norm = torch.stack([g.norm() for g in gradients if g is not None]).norm()
        found.append({key: value.item() for key, value in terms.items()} | {"norm of the gradient": norm.item()})
    assert found[1] == pytest.approx(found[0], rel=1e-6, abs=1e-9)

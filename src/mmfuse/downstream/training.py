"""Training of a detector or segmenter for a fixed number of steps; the last weights are used.

A step depends only on the seed and its number. A killed training therefore resumes from its last saved state and ends
with the same weights, bit for bit on one machine with the same number of threads.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmfuse.downstream.trial import Trial
from mmfuse.errors import MmfuseError
from mmfuse.fastconv.workspace import keep_freed_memory
from mmfuse.inference.fusing import best_device
from mmfuse.pipeline.jobs import Running
from mmfuse.progress import progress
from mmfuse.training.checkpoints import load_state, save_state
from mmfuse.training.loop import Row, check_finite, learning_rate, stop_request
from mmfuse.training.seeding import seed_everything

WEIGHTS = 11  # random streams of the initial weights and of the steps
_STEP = 12


def settle(threads: int) -> torch.device:
    """Make results reproducible, and return the device to use."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    return best_device()


def fit(model: nn.Module, losses: Callable[[int], dict[str, Tensor]], trial: Trial, running: Running) -> None:
    """Train a model to its last step, resuming from a saved state of the same job if there is one.

    For each logged step, the job's MLflow run gets a row: `step`, `lr`, the sum of the loss terms and each of them.

    Args:
        model: The network, on its device.
        losses: Returns the loss terms of a step.
        trial: The trial, with the number of steps and the file of the saved state.
        running: The job's MLflow run; a saved state of another fingerprint is ignored.

    Raises:
        MmfuseError: the loss is no longer finite, or the job received SIGTERM.
    """
    settings, steps, fingerprint = trial.block["training"], trial.steps(), running.fingerprint
    optimiser = _optimiser(model, settings)
    step, history = _restore(load_state(trial.resume), fingerprint, model, optimiser)
    logged = len(history)
    model.train()
    bar = progress(what=f"train {trial.out.name}", total=steps, unit="steps", always=True, initial=step)
    with stop_request() as stopping, bar:
        while step < steps:
            row = _one_step(model, losses, optimiser, settings, step, steps, trial.seed)
            step += 1
            bar.set_postfix(loss=f"{row['train/total']:.4g}", refresh=False)
            bar.update()
            if step == steps or step % settings["log_every"] == 0:
                history.append(row)
            if step < steps and (step % settings["save_every"] == 0 or stopping()):
                state = {"fingerprint": fingerprint, "step": step, "history": history}
                save_state(trial.resume, {**state, "weights": model.state_dict(), "optimiser": optimiser.state_dict()})
                running.tracker.log_rows(history[logged:])
                logged = len(history)
            if stopping() and step < steps:
                raise MmfuseError(f"Asked to stop after step {step} of {steps}; run the same command to resume.")
    running.tracker.log_rows(history[logged:])


def _one_step(
    model: nn.Module,
    losses: Callable[[int], dict[str, Tensor]],
    optimiser: torch.optim.Optimizer,
    settings: Mapping[str, Any],
    step: int,
    steps: int,
    seed: int,
) -> Row:
    seed_everything(seed, _STEP, step)
    rate = learning_rate(step, steps, settings)
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    terms = losses(step)
    weights = settings["loss"]
    total = torch.stack([weights.get(name, 1.0) * value for name, value in terms.items()]).sum()
    total.backward()
    values = {f"train/{name}": float(value.detach()) for name, value in terms.items()}
    check_finite(values, "training", step, rate)
    if settings["clip"] is not None:
        nn.utils.clip_grad_norm_(model.parameters(), settings["clip"])
    optimiser.step()
    return {"step": step + 1, "lr": rate, "train/total": float(total.detach()), **values}


def _optimiser(model: nn.Module, settings: Mapping[str, Any]) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"lr": settings["learning_rate"], "weight_decay": settings["weight_decay"]}
    if settings["optimiser"] == "sgd":
        return torch.optim.SGD(model.parameters(), momentum=settings["momentum"], **options)
    return {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[settings["optimiser"]](model.parameters(), **options)


def _restore(
    state: dict[str, Any] | None, fingerprint: str, model: nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[int, list[Row]]:
    """Load a saved state of the same job; without one, start from the beginning."""
    if state is None or state["fingerprint"] != fingerprint:
        return 0, []
    model.load_state_dict(state["weights"])
    optimiser.load_state_dict(state["optimiser"])
    print(f"resuming after step {state['step']}", file=sys.stderr)
    return int(state["step"]), list(state["history"])

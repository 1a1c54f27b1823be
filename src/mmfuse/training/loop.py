"""The training loop for all methods and parts.

A step depends only on the seed and its number: order, crops and dropout are drawn from `seeding.seed_everything(seed,
step)`. A killed job therefore resumes from its last saved state and ends with the same weights, bit for bit on one
machine with the same number of threads.
"""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.warnings import disable_possible_user_warnings
from torch import Tensor, nn

from mmfuse.errors import MmfuseError, UserError
from mmfuse.fastconv.workspace import keep_freed_memory
from mmfuse.methods.base import FusionMethod
from mmfuse.progress import progress as shown_progress
from mmfuse.training.batches import Batch, TrainingPairs, pairs_of_an_epoch
from mmfuse.training.checkpoints import load_state, moments_of, save_state, weights_of, with_moments
from mmfuse.training.seeding import seed_everything

Row = dict[str, float]
_STEP = 1  # random stream of the steps, separate from that of the order in `batches`


@dataclass
class Progress:
    """State of a training, except for the weights and the optimiser."""

    step: int = 0
    best_step: int = 0
    best_loss: float = math.inf
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    history: list[Row] = field(default_factory=list)
    average: dict[str, Tensor] = field(default_factory=dict)  # of the weights, if the part uses averaging


@dataclass(frozen=True)
class Outcome:
    """Result of a training: best and last weights of the part's modules, and one history row per logged step.

    With `averaging`, the weights are moving averages.
    `moments` is the optimiser's final state by `checkpoints.moment_name`, if the part keeps it.
    """

    best: dict[str, Tensor]
    best_step: int
    last: dict[str, Tensor]
    history: list[Row]
    moments: dict[str, Tensor] = field(default_factory=dict)


def step_count(settings: Mapping[str, Any], pairs: int) -> int:
    """Return the number of steps: as set, or enough for the epochs that are set."""
    if "steps" in settings:
        return int(settings["steps"])
    return math.ceil(settings["epochs"] * pairs_of_an_epoch(settings, pairs) / settings["batch"])


def learning_rate(step: int, steps: int, settings: Mapping[str, Any], epoch: float = 0) -> float:
    """Return the learning rate of a step: linear warm-up, then constant, cosine decay to zero, or step decay."""
    base, warmup, schedule = float(settings["learning_rate"]), int(settings["warmup"]), settings["schedule"]
    if step < warmup:
        return base * (step + 1) / warmup
    if schedule == "constant":
        return base
    if schedule != "cosine":
        return max(float(schedule["floor"]), base * float(schedule["factor"]) ** (epoch // schedule["step_epochs"]))
    return base / 2 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


class _PartObjective(nn.Module):
    """A part's losses as a module, so that data parallelism can wrap it."""

    def __init__(self, method: FusionMethod, part: str, weights: dict[str, float]) -> None:
        super().__init__()
        self.method, self.part, self.weights = method, part, weights

    def forward(self, a: Tensor, b: Tensor, *mask: Tensor) -> dict[str, Tensor]:
        return self.method.part_losses(self.part, a, b, self.weights, *mask)


def prepare_part(method: FusionMethod, part: str) -> list[nn.Parameter]:
    """Freeze everything except what a part trains, and return the trained parameters.

    Frozen modules stay in eval mode, so that their batch statistics do not change.
    """
    method.requires_grad_(False).eval()
    trained = list(method.part_modules(part).values())
    for module in trained:
        module.requires_grad_(True).train()
    return [parameter for module in trained for parameter in module.parameters()]


def make_fabric(settings: Mapping[str, Any]) -> Fabric:
    """Return the device setup: automatic devices; for `auto`, bf16 if a GPU supports it, else fp32.

    Losses are always computed in fp32 (`FusionMethod.full_precision_terms`).
    """
    torch.set_num_threads(settings["threads"])
    keep_freed_memory()
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = settings.get("tf32", False)
    precision = settings["precision"]
    if precision == "auto":
        precision = "bf16-mixed" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "32-true"
    disable_possible_user_warnings()  # such as that there is a Slurm, which this process does not run under
    fabric = Fabric(
        accelerator=settings["accelerator"],
        devices=settings["devices"],
        num_nodes=settings.get("nodes", 1),
        precision=precision,
    )
    fabric.launch()
    return fabric


@contextmanager
def stop_request() -> Iterator[Callable[[], bool]]:
    """Turn SIGTERM into a flag that the loop checks after each step."""
    asked: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        asked.append(number)

    old = signal.signal(signal.SIGTERM, remember)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGTERM, old)


def train_part(
    fabric: Fabric,
    method: FusionMethod,
    part: str,
    *,
    settings: Mapping[str, Any],
    loop: Mapping[str, Any],
    pairs: TrainingPairs,
    validation: list[Batch],
    seed: int,
    resume: Path,
    fingerprint: str,
    on_rows: Callable[[list[Row]], None],
    on_validation: Callable[[int], None] = lambda _: None,
    moments: Mapping[str, Tensor] | None = None,
) -> Outcome:
    """Train one part of a method, resuming from a saved state of the same job if there is one.

    Args:
        fabric: Device plumbing from `make_fabric`.
        method: The whole network; earlier parts have their trained weights.
        part: Name of the part.
        settings: The part's block of the parameters.
        loop: The `train` block of the parameters.
        pairs: Training pairs.
        validation: Pairs for the validation loss; if empty, there is no validation and the last weights are used.
        seed: Seed of all randomness.
        resume: File of the saved state.
        fingerprint: Identifies the job; a state of another fingerprint is ignored.
        on_rows: Called with new history rows at each save.
        on_validation: Called with the step after each validation, while the method is in eval mode.
        moments: The optimiser's final state of an earlier part, to continue with; without it, all moments are zero.

    Raises:
        UserError: the processes cannot share a batch evenly.
        MmfuseError: the loss is no longer finite, or the job received SIGTERM.
    """
    _check_shares(settings["batch"], fabric.world_size)
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(method)
    prepare_part(method, part)
    modules = method.part_modules(part)
    objective = _PartObjective(method, part, settings["loss"])
    optimiser = _optimiser(method, part, settings)
    wrapped, optimiser = fabric.setup(objective, optimiser)
    names = _optimised(method, part)
    if moments:
        optimiser.load_state_dict(with_moments(optimiser.state_dict(), names, moments))
    progress = _restore(load_state(resume), fingerprint, modules, optimiser)
    steps = step_count(settings, len(pairs))
    logged = len(progress.history)
    first = fabric.is_global_zero
    bar = shown_progress(what=part, total=steps, unit="steps", always=True, initial=progress.step, disable=not first)
    losses: dict[str, str] = {}  # the last ones, to be shown
    with stop_request() as stopping, bar:
        while progress.step < steps:
            row = _one_step(fabric, wrapped, optimiser, pairs, seed, progress.step, steps, settings)
            progress.step += 1
            if "averaging" in settings:
                _average(progress, settings["averaging"], modules)
            at_end = progress.step == steps
            stop = _over_processes(fabric, {"asked": float(stopping())})["asked"] > 0
            if validation and (at_end or progress.step % loop["validate_every"] == 0):
                with _evaluating(method, part), _averaged(progress, modules):
                    row |= _validate(fabric, wrapped, validation)
                    on_validation(progress.step)
                check_finite(row, "validation", progress.step, row["lr"])
                _keep_best(progress, row["val/total"], modules)
                losses["validation"] = f"{row['val/total']:.4g}"
            bar.set_postfix({"loss": f"{row['train/total']:.4g}", **losses}, refresh=False)
            bar.update()
            if at_end or "val/total" in row or progress.step % loop["log_every"] == 0:
                progress.history.append(row)
            if (progress.step % loop["save_every"] == 0 or stop) and not at_end:
                if fabric.is_global_zero:
                    save_state(resume, _state(progress, fingerprint, modules, optimiser))
                    on_rows(progress.history[logged:])
                logged = len(progress.history)
            if stop and not at_end:
                raise MmfuseError(
                    f"Asked to stop after step {progress.step} of {steps}; run the same command to resume."
                )
    on_rows(progress.history[logged:])
    last = progress.average or weights_of(modules)
    kept = moments_of(optimiser.state_dict(), names) if settings.get("keep_moments") else {}
    if not validation:
        return Outcome(last, progress.step, last, progress.history, kept)
    return Outcome(progress.best_weights, progress.best_step, last, progress.history, kept)


def _optimiser(method: FusionMethod, part: str, settings: Mapping[str, Any]) -> torch.optim.Optimizer:
    """Return the optimiser, one group per module; `ahead` is the number of epochs that a group's schedule is ahead."""
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    earlier = [m for p in method.parts[: method.parts.index(part)] for m in method.part_modules(p).values()]
    before = {id(parameter) for module in earlier for parameter in module.parameters()}
    ahead = settings["schedule"]["ahead"] if isinstance(settings["schedule"], Mapping) else 0
    groups = []
    for module in method.part_modules(part).values():
        parameters = list(module.parameters())
        groups.append({"params": parameters, "ahead": ahead if any(id(p) in before for p in parameters) else 0})
    return kinds[settings["optimiser"]](groups, lr=settings["learning_rate"], weight_decay=settings["weight_decay"])


def _optimised(method: FusionMethod, part: str) -> list[str]:
    """Return the names of the parameters in the optimiser's order."""
    return [f"{name}.{key}" for name, m in method.part_modules(part).items() for key, _ in m.named_parameters()]


def _one_step(
    fabric: Fabric,
    objective: nn.Module,
    optimiser: torch.optim.Optimizer,
    pairs: TrainingPairs,
    seed: int,
    step: int,
    steps: int,
    settings: Mapping[str, Any],
) -> Row:
    """Do one optimiser step and return its history row."""
    seed_everything(seed, _STEP, step)
    batch = [_own_share(kind, fabric) for kind in pairs.batch(step)]
    epoch = step * settings["batch"] / pairs_of_an_epoch(settings, len(pairs))
    rate = learning_rate(step, steps, settings, epoch)
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(step, steps, settings, epoch + group["ahead"])
    optimiser.zero_grad()
    losses = objective(*batch)
    total = torch.stack(list(losses.values())).sum()
    fabric.backward(total)
    if settings["clip"] is not None:
        for group in optimiser.param_groups:
            nn.utils.clip_grad_norm_(group["params"], settings["clip"])
    values = _over_processes(fabric, {name: float(value.detach()) for name, value in losses.items()})
    check_finite(values, "training", step, rate)
    optimiser.step()
    row = {f"train/{name}": value for name, value in values.items()}
    return {"step": step + 1, "lr": rate, "train/total": sum(values.values()), **row}


def check_finite(values: Row, what: str, step: int, rate: float) -> None:
    """Check that the losses of a step are finite.

    Raises:
        MmfuseError: one of them is not finite.
    """
    if not math.isfinite(sum(values.values())):
        raise MmfuseError(
            f"Training stopped at step {step}: the {what} loss is not a finite number.\n"
            f"  expected: finite values of {', '.join(values)}\n  found:    {values} at learning rate {rate:.3g}\n"
            "  to do:    lower learning_rate, set clip, or look for damaged images in the pack"
        )


def _check_shares(batch: int, processes: int) -> None:
    """Check that a batch divides evenly among the processes."""
    if batch % processes:
        raise UserError(
            "A batch does not divide evenly among the processes.",
            expected=f"a multiple of {processes}, the number of processes, under batch",
            found=str(batch),
            fix="change batch, or train.devices and train.nodes",
        )


def _over_processes(fabric: Fabric, values: Row) -> Row:
    """Return the means over all processes, so that all take the same decisions."""
    if fabric.world_size == 1:
        return values
    mean = fabric.all_reduce(torch.tensor(list(values.values()), device=fabric.device), reduce_op="mean")
    return dict(zip(values, torch.as_tensor(mean).tolist(), strict=True))


def _own_share(batch: Tensor, fabric: Fabric) -> Tensor:
    """Return this process's part of a batch; every process draws the same batch."""
    return fabric.to_device(batch[fabric.global_rank :: fabric.world_size].contiguous())


@contextmanager
def _evaluating(method: FusionMethod, part: str) -> Iterator[None]:
    """Put the method into eval mode; afterwards, put the trained modules back into training mode."""
    method.eval()
    yield
    for module in method.part_modules(part).values():
        module.train()


@torch.no_grad()
def _validate(fabric: Fabric, objective: nn.Module, validation: list[Batch]) -> Row:
    """Return the mean losses over the validation pairs."""
    sums: Row = {}
    for batch in validation:
        for name, value in objective(*map(fabric.to_device, batch)).items():
            sums[name] = sums.get(name, 0.0) + float(value) / len(validation)
    return {"val/total": sum(sums.values()), **{f"val/{name}": value for name, value in sums.items()}}


def _keep_best(progress: Progress, loss: float, modules: Mapping[str, nn.Module]) -> None:
    if loss < progress.best_loss or not progress.best_weights:
        progress.best_loss, progress.best_step = loss, progress.step
        progress.best_weights = {**progress.average} or weights_of(modules)


@torch.no_grad()
def _average(progress: Progress, decay: float, modules: Mapping[str, nn.Module]) -> None:
    """Update the moving average of the weights, in fp32; early steps weigh more, so that the initial weights fade."""
    share = 1 - min(decay, progress.step / (progress.step + 9))
    old, new = progress.average, weights_of(modules)
    # integers (a batch norm's batch counter) are not averaged
    mixed = {key: old[key].lerp(value, share) for key, value in new.items() if old and value.is_floating_point()}
    progress.average = new | mixed


@contextmanager
def _averaged(progress: Progress, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Use the averaged weights, if there are any, during a validation."""
    own = weights_of(modules) if progress.average else {}
    _put(progress.average, modules)
    yield
    _put(own, modules)


def _put(weights: Mapping[str, Tensor], modules: Mapping[str, nn.Module]) -> None:
    """Load weights by full names, as `weights_of` returns them; modules without weights there stay unchanged."""
    for name, module in modules.items():
        own = {key.removeprefix(f"{name}."): v for key, v in weights.items() if key.startswith(f"{name}.")}
        if own:
            module.load_state_dict(own)


def _state(
    progress: Progress, fingerprint: str, modules: Mapping[str, nn.Module], optimiser: torch.optim.Optimizer
) -> dict[str, Any]:
    state = {name: getattr(progress, name) for name in Progress.__dataclass_fields__}
    return {**state, "fingerprint": fingerprint, "weights": weights_of(modules), "optimiser": optimiser.state_dict()}


def _restore(
    state: dict[str, Any] | None,
    fingerprint: str,
    modules: Mapping[str, nn.Module],
    optimiser: torch.optim.Optimizer,
) -> Progress:
    """Load a saved state of the same job into modules and optimiser; without one, start from the beginning."""
    if state is None or state["fingerprint"] != fingerprint:
        return Progress()
    _put(state["weights"], modules)
    optimiser.load_state_dict(state["optimiser"])
    print(f"resuming after step {state['step']}", file=sys.stderr)
    return Progress(**{name: state[name] for name in Progress.__dataclass_fields__})

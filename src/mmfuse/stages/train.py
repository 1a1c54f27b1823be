"""Stage `train`: one part of one method, starting from the weights of the previous parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import Tensor

from mmfuse.data.images import luminance, to_bytes
from mmfuse.data.packs import Pack
from mmfuse.errors import UserError
from mmfuse.files.writing import write_text
from mmfuse.inference.fusing import fuse_pair, strip
from mmfuse.methods.base import FusionMethod
from mmfuse.nn import further_losses
from mmfuse.pipeline.jobs import Running, Work
from mmfuse.study.plan import System
from mmfuse.study.settings import ADAPTIVE, network_options, settings_of, without_adaptive
from mmfuse.study.training_sets import training_set
from mmfuse.training.batches import Batch, TrainingPairs, validation_pairs
from mmfuse.training.checkpoints import (
    WeightsCard,
    build,
    load_into,
    read_moments,
    read_weights,
    save_weights,
    weights_of,
)
from mmfuse.training.loop import Outcome, make_fabric, step_count, train_part
from mmfuse.training.seeding import seed_everything

_WEIGHTS, _SURVEY = 2, 3  # random streams of the initial weights, and of the crops for finding options


def work(job: Work) -> None:
    """Run one job of the stage."""
    run(
        job.system,
        job.key["part"],
        settings=settings_of(job.parameters, job.key["method"], job.key["variant"]),
        loop=job.parameters["train"],
        train=job.inputs["train"],
        pairs_of=training_set(job.parameters, job.key["trained_on"]).pairs,
        val=job.inputs["val"],
        start=job.inputs["start"],
        out=job.outputs["best"],
        resume=job.resume,
        running=job.running,
    )


def run(
    system: System,
    part: str,
    *,
    settings: Mapping[str, Any],
    loop: Mapping[str, Any],
    train: Sequence[Path],
    val: Sequence[Path],
    start: Sequence[Path],
    out: Path,
    resume: Path,
    running: Running,
    pairs_of: Mapping[str, int] | None = None,
) -> None:
    """Train one part and write OUT (best or last weights), its .last.safetensors and its .history.csv.

    The last part's files contain everything for inference.

    Args:
        system: Method, variant, task and seed.
        part: The part to train.
        settings: The method's block, with the changes of its variant.
        loop: The `train` block of the parameters.
        train: Packs to train on.
        val: Packs for the validation loss; if empty, there is no validation.
        start: Weights of the earlier parts.
        out: The best weights.
        resume: File of the state of an unfinished training.
        running: The job's MLflow run and fingerprint.
        pairs_of: Number of pairs to take from a dataset; all pairs of other datasets.

    Raises:
        UserError: the options do not fit the method, or there are no training or validation pairs.
    """
    fabric = make_fabric(loop)
    block = settings["parts"][part]
    pairs = TrainingPairs([Pack(path) for path in train], block, system.seed, pairs_of)
    network = _settled(network_options(settings, part), system, block, pairs, start)
    seed_everything(system.seed, _WEIGHTS)
    method = build(system.method, network)
    check_parts(method, settings)
    for path in start:
        load_into(method, path)
    packs = [Pack(path) for path in val]
    pairs.masks = part in method.masked_parts()
    validation = validation_pairs(packs, loop["validation_images"], loop["validation_side"], masks=pairs.masks)
    if val and not validation:
        raise UserError(
            "There are no validation pairs.",
            expected="validation pairs in one of the packs, or no packs",
            found=", ".join(map(str, val)),
            fix="hold back pairs with prepare.val_fraction or prepare.val_pairs, or use a training set without `val`",
        )
    complete = part == list(settings["parts"])[-1]
    watched = complete and fabric.is_global_zero and bool(validation)
    shown = _pictured(step_count(block, len(pairs)), loop) if watched else set()
    outcome = train_part(
        fabric,
        method,
        part,
        settings=block,
        loop=loop,
        pairs=pairs,
        validation=validation,
        seed=system.seed,
        resume=resume,
        fingerprint=f"{running.fingerprint} of {fabric.world_size}",
        on_rows=running.tracker.log_rows,
        on_validation=lambda step: _watch(fabric, method, validation[0], step, running) if step in shown else None,
        moments=read_moments(start[-1]) if block.get("moments") == "continued" else None,
    )
    if fabric.is_global_zero:
        card = WeightsCard(system.method, system.variant, system.task, system.seed, part, network, complete)
        _write(method.cpu(), outcome, card, out, block.get("weights", "best"))
        running.tracker.log_metrics({"best/step": outcome.best_step})
        if complete:
            _show(method, packs, running)


def _settled(
    network: dict[str, Any],
    system: System,
    block: Mapping[str, Any],
    pairs: TrainingPairs,
    start: Sequence[Path],
) -> dict[str, Any]:
    """Return the network's options, with `adaptive` replaced by what an earlier part or this one finds.

    The values are stored in the weights' header, so that later parts and inference need no data for them.
    """
    fixed = without_adaptive(network)
    asked = [name for name in network if name not in fixed]
    if not asked:
        return network
    cards = [read_weights(path)[1] for path in start]
    known = {name: card.network[name] for card in cards for name in asked if name in card.network}
    missing = [name for name in asked if name not in known]
    if not missing:
        return network | known
    if "survey" not in block:
        raise UserError(
            f"The number of images from which to find {', '.join(missing)} is not set.",
            expected="`survey`, a number of batches, in the part's block",
            fix=f"add it to methods.{system.method}.parts, under the part that has the option",
        )
    method = build(system.method, fixed | known).eval()
    unknown = [name for name in missing if name not in method.adaptive_options]
    if unknown:
        raise UserError(
            f"{system.method} cannot determine {unknown[0]} automatically.",
            expected=f"{ADAPTIVE} for {', '.join(method.adaptive_options) or 'no option'} only",
            found=f"{unknown[0]}: {ADAPTIVE}",
        )
    for path in start:
        load_into(method, path)
    return network | known | method.found_options(missing, _survey(pairs, block["survey"], system.seed))


def _survey(pairs: TrainingPairs, batches: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of random crops of training pairs, equal for equal seeds."""
    for step in range(batches):
        seed_everything(seed, _SURVEY, step)
        a, b = pairs.batch(step)
        yield a, b


def check_parts(method: FusionMethod, settings: Mapping[str, Any]) -> None:
    """Check that the parameters name the method's parts in order and weight each part's loss terms.

    Raises:
        UserError: a part or a term is missing, unknown or out of order.
    """
    name = type(method).__module__.rpartition(".")[2]
    named = tuple(settings["parts"])
    if named != method.parts[: len(named)] or not set(method.parts[len(named) :]) <= set(method.optional_parts):
        optional = f" ({', '.join(method.optional_parts)} may be left out)" if method.optional_parts else ""
        raise UserError(
            f"params.yaml has missing, unknown or unordered training parts of {name}.",
            expected=", ".join(method.parts) + optional,
            found=", ".join(settings["parts"]),
            fix=f"correct methods.{name}.parts",
        )
    for part in named:
        terms, weighted = method.loss_terms[part], settings["parts"][part]["loss"]
        further = further_losses.TERMS if part in method.fused_parts else {}
        if not set(terms) <= set(weighted) <= {*terms, *further}:
            raise UserError(
                f"methods.{name}.parts.{part}.loss has missing or unknown terms.",
                expected=", ".join(terms) + (f" (and optionally {', '.join(further)})" if further else ""),
                found=", ".join(weighted),
                fix="give each of them a weight; 0 switches a term off",
            )


def _write(method: FusionMethod, outcome: Outcome, card: WeightsCard, out: Path, keep: str = "best") -> None:
    """Write both weights files and the history; `keep` selects the best or last weights as the part's result."""
    result = outcome.last if keep == "last" else outcome.best
    for path, weights in ((out.with_suffix(".last.safetensors"), outcome.last), (out, result)):
        method.load_state_dict(weights, strict=False)
        modules = method.deployed_modules() if card.complete else method.part_modules(card.part)
        save_weights(path, weights_of(modules) | (outcome.moments if path == out else {}), card)
    history = pd.DataFrame(outcome.history).astype({"step": int})
    write_text(out.with_suffix(".history.csv"), history.to_csv(index=False))


def _pictured(steps: int, loop: Mapping[str, Any]) -> set[int]:
    """Return the steps after which a picture goes to MLflow: evenly spread validations, as many as configured."""
    every, wanted = loop["validate_every"], loop.get("pictures", 0)
    validated = [*range(every, steps, every), steps]
    count = len(validated)
    return {step for k, step in enumerate(validated) if (k + 1) * wanted // count > k * wanted // count}


@torch.no_grad()
def _watch(fabric: Fabric, method: FusionMethod, pair: Batch, step: int, running: Running) -> None:
    """Log a validation pair with the network's current output."""
    images = [fabric.to_device(image) for image in pair[:2]]  # (1, 1, h, w)
    strips = [to_bytes(image[0, 0].double().cpu().numpy()) for image in [*images, method(*images)]]
    running.tracker.log_picture("validation", strip(*strips), step=step)


def _show(method: FusionMethod, packs: Sequence[Pack], running: Running) -> None:
    """Log some validation pairs with the outputs of the best weights."""
    method.eval()
    for pack in packs:
        for number in range(0, len(pack), max(1, len(pack) // 2)):
            sample = pack[number]
            fused = fuse_pair(method, sample["a"], sample["b"], torch.device("cpu"))
            picture = strip(luminance(sample["a"]), luminance(sample["b"]), fused)
            running.tracker.log_picture(f"{pack.path.parent.name}_{sample['name']}", picture)

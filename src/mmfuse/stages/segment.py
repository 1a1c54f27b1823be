"""Stage `segment`: one segmenter, trained on one image set and tested on it and on the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmfuse.downstream import training
from mmfuse.downstream.deeplab import losses_of
from mmfuse.downstream.images import Batches, Labelled, as_tensor
from mmfuse.downstream.masks import confusion
from mmfuse.downstream.models import build_segmenter
from mmfuse.downstream.results import segmentation_summary, write_masks
from mmfuse.downstream.trial import Trial, trial_of
from mmfuse.pipeline.jobs import Running, Work
from mmfuse.progress import progress
from mmfuse.reporting.pictures import with_mask
from mmfuse.training.seeding import seed_everything

Predict = Callable[[Sequence[Labelled]], list[NDArray[np.int64]]]


def work(job: Work) -> None:
    """Run one job of the stage."""
    run(trial_of(job), running=job.running)


def run(trial: Trial, *, running: Running) -> None:
    """Write OUT.json, OUT.csv (pixel counts of each test image by class) and OUT.pictures (masks over test images).

    Args:
        trial: The segmenter to train and test.
        running: The job's MLflow run.

    Raises:
        UserError: the model is unknown or does not take its options.
    """
    device = training.settle(trial.block["training"]["threads"])
    predict, size = _train(trial, trial.images(trial.own, "train"), device, running)
    test, classes = trial.images(trial.own, "test"), trial.classes
    predicted = predict(test)
    matrices = _counted(predicted, test, len(classes))

    def measured(images: Sequence[Labelled]) -> dict[str, Any]:
        return segmentation_summary(np.sum(_counted(predict(images), images, len(classes)), axis=0), classes)

    found = {trial.own: segmentation_summary(np.sum(matrices, axis=0), classes)}
    found |= {label: measured(trial.images(label, "test")) for label in trial.others()}
    validation = trial.images(trial.own, "val")
    summary = trial.summary(parameters=size, results=found, val=measured(validation) if validation else None)
    write_masks(trial.out, summary, [one.name for one in test], matrices)
    ids = sorted(trial.index)
    with trial.pictures() as pictures:
        for place in trial.shown(test):
            one = test[place]
            pictures[one.name] = with_mask(one.image, np.array(ids, np.uint8)[predicted[place]])
            running.tracker.log_picture(one.name, pictures[one.name])
    running.tracker.log_metrics({name: found[trial.own][name] for name in ("mIoU", "mAcc")})


def _counted(
    predicted: Sequence[NDArray[np.int64]], images: Sequence[Labelled], classes: int
) -> list[NDArray[np.int64]]:
    return [confusion(found, one.mask, classes) for found, one in zip(predicted, images, strict=True)]


def _train(trial: Trial, images: Sequence[Labelled], device: torch.device, running: Running) -> tuple[Predict, int]:
    """Train a segmenter; return a prediction function and the number of parameters."""
    settings, block = trial.block["training"], trial.block["model"]
    seed_everything(trial.seed, training.WEIGHTS)
    model = build_segmenter(
        block["name"], len(trial.classes), pretrained=block["pretrained"], options=block["options"]
    ).to(device)
    batches = Batches(images, settings, trial.seed)

    def losses(step: int) -> dict[str, Tensor]:
        pixels, masks = batches.masks(step)
        return losses_of(model(pixels.to(device)), masks.to(device))

    training.fit(model, losses, trial, running)
    model.eval()
    return lambda chosen: _predict(model, chosen, device), sum(p.numel() for p in model.parameters())


@torch.inference_mode()
def _predict(model: nn.Module, images: Sequence[Labelled], device: torch.device) -> list[NDArray[np.int64]]:
    shown = progress(images, "segment", unit="images")
    return [model(as_tensor([one.image]).to(device))[0].argmax(0).cpu().numpy() for one in shown]

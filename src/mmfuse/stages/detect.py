"""Stage `detect`: one detector, trained on one image set and tested on it and on the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from mmfuse.downstream import training, yolo
from mmfuse.downstream.boxes import Boxes, Matched, match
from mmfuse.downstream.images import Batches, Labelled, as_tensor
from mmfuse.downstream.models import build_detector
from mmfuse.downstream.results import curves, detection_summary, write_detections
from mmfuse.downstream.trial import Trial, trial_of
from mmfuse.pipeline.jobs import Running, Work
from mmfuse.progress import progress
from mmfuse.reporting.pictures import with_boxes
from mmfuse.training.seeding import seed_everything

_SURE = 0.3  # ASSUME: boxes with a lower score are not drawn
Predict = Callable[[Sequence[Labelled]], list[Boxes]]


def work(job: Work) -> None:
    """Run one job of the stage."""
    run(trial_of(job), running=job.running)


def run(trial: Trial, *, running: Running) -> None:
    """Write OUT.json, OUT.csv (each prediction and its hits) and OUT.pictures (boxes on test images).

    Args:
        trial: The detector to train and test.
        running: The job's MLflow run.

    Raises:
        UserError: the model is unknown, does not take its options, or is not installed.
    """
    device = training.settle(trial.block["training"]["threads"])
    model = trial.block["model"]["name"]
    train = trial.images(trial.own, "train")
    predict, size = yolo.train(trial, train, running) if yolo.is_yolo(model) else _train(trial, train, device, running)
    test = trial.images(trial.own, "test")
    predicted = predict(test)
    classes = trial.classes
    matched = match(predicted, [_truth(one) for one in test], len(classes))
    found = {trial.own: detection_summary(matched, classes)}
    for label in trial.others():
        found[label] = detection_summary(_matched(predict, trial.images(label, "test"), len(classes)), classes)
    validation = trial.images(trial.own, "val")
    summary = trial.summary(
        parameters=size,
        results=found,
        curves=curves(matched, classes),
        val=detection_summary(_matched(predict, validation, len(classes)), classes) if validation else None,
    )
    write_detections(trial.out, summary, [one.name for one in test], matched)
    with trial.pictures() as pictures:
        for place in trial.shown(test):
            one, boxes = test[place], predicted[place]
            sure = boxes.scores >= _SURE
            pictures[one.name] = with_boxes(one.image, boxes.sides[sure], boxes.kinds[sure], one.boxes)
            running.tracker.log_picture(one.name, pictures[one.name])
    running.tracker.log_metrics({name: found[trial.own][name] for name in ("mAP50", "mAP50_95")})


def _truth(one: Labelled) -> Boxes:
    return Boxes(one.boxes.astype(np.float64), one.kinds, np.ones(len(one.kinds)))


def _matched(predict: Predict, images: Sequence[Labelled], classes: int) -> Matched:
    return match(predict(images), [_truth(one) for one in images], classes)


def _train(trial: Trial, images: Sequence[Labelled], device: torch.device, running: Running) -> tuple[Predict, int]:
    """Train one of our or torchvision's detectors; return a prediction function and the number of parameters."""
    settings, block = trial.block["training"], trial.block["model"]
    seed_everything(trial.seed, training.WEIGHTS)
    model = build_detector(
        block["name"],
        len(trial.classes),
        height=settings["height"],
        width=settings["width"],
        pretrained=block["pretrained"],
        options=block["options"],
    ).to(device)
    batches = Batches(images, settings, trial.seed)

    def losses(step: int) -> dict[str, torch.Tensor]:
        pixels, targets = batches.boxes(step)
        there = [{key: value.to(device) for key, value in target.items()} for target in targets]
        found: dict[str, torch.Tensor] = model(pixels.to(device), there)
        return found

    training.fit(model, losses, trial, running)
    model.eval()
    return lambda chosen: _predict(model, chosen, device), sum(p.numel() for p in model.parameters())


@torch.inference_mode()
def _predict(model: nn.Module, images: Sequence[Labelled], device: torch.device) -> list[Boxes]:
    found = []
    for one in progress(images, "detect", unit="images"):
        (boxes,) = model(as_tensor([one.image]).to(device))
        sides, labels, scores = (boxes[key].cpu().numpy() for key in ("boxes", "labels", "scores"))
        found.append(Boxes(sides.astype(np.float64), labels, scores.astype(np.float64)))
    return found

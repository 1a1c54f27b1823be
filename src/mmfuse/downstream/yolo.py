"""YOLO detectors of ultralytics, behind the common interface.

ultralytics is under the AGPL-3.0, so it is an optional extra (`mmfuse[yolo]`), and only this module imports it. It runs
offline and quietly: no fonts, weights, updates, telemetry or trackers, and all its files in the job's own folder.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mmfuse.data.images import write_image
from mmfuse.downstream.boxes import MOST, Boxes
from mmfuse.downstream.images import Labelled
from mmfuse.downstream.trial import Trial
from mmfuse.errors import UserError
from mmfuse.pipeline.jobs import Running

_NAME = re.compile(r"yolo(v\d+|\d+)[a-z]")
_LEAST = 0.01  # ASSUME: boxes with a lower score do not change AP
# random initial weights, reproducible on a CPU, without measurements or plots during training
_SAME = {
    "deterministic": True, "workers": 0, "amp": False, "pretrained": False, "val": False, "plots": False,
    "verbose": False, "name": "run", "exist_ok": True,
}  # fmt: skip
_TRACKERS = ("sync", "mlflow", "tensorboard", "wandb", "clearml", "comet", "neptune", "dvc", "raytune", "hub")


def is_yolo(name: str) -> bool:
    """Return whether a model's name is that of a YOLO, such as yolov5n or yolo11n."""
    return bool(_NAME.fullmatch(name))


def train(trial: Trial, images: Sequence[Labelled], running: Running) -> tuple[Callable[..., list[Boxes]], int]:
    """Train a YOLO from its published architecture and random weights; a killed training restarts.

    It uses its own augmentation and loss; from the training's block it uses size, epochs or steps, batch, optimiser,
    learning rate, momentum, weight decay, schedule and flip.

    Returns:
        A function that predicts boxes on images, and the number of parameters of the network.

    Raises:
        UserError: ultralytics is not installed, has no such model, or pretrained weights are requested.
    """
    name, settings = trial.block["model"]["name"], trial.block["training"]
    if find_spec("ultralytics") is None:
        raise UserError(
            f"The detector {name} needs ultralytics, which is not installed.",
            expected="the optional extra mmfuse[yolo]",
            fix="pip install 'mmfuse[yolo]' (AGPL-3.0: read its licence first), or choose the detector `centre`",
        )
    if trial.block["model"]["pretrained"]:
        raise UserError(f"{name} can only be trained from random weights here.", expected="pretrained: false")
    folder = trial.resume.with_suffix(".yolo").resolve()
    shutil.rmtree(folder, ignore_errors=True)
    data = _write_data(folder, images, trial.classes)
    yolo = _quiet(folder)
    try:
        model = yolo(f"{name}.yaml", verbose=False)
    except FileNotFoundError as error:
        raise UserError(f"ultralytics has no model {name!r}.", found=error) from error
    epochs = max(1, round(trial.steps() * settings["batch"] / len(images)))
    model.add_callback("on_train_epoch_end", lambda trainer: running.tracker.log_rows([_row(trainer)]))
    model.train(
        data=str(data),
        epochs=epochs,
        seed=trial.seed,
        project=str(folder),
        **_chosen(settings),
        **_SAME,
        **trial.block["model"]["options"],
    )
    trained = yolo(str(folder / "run/weights/last.pt"), verbose=False)
    size = sum(parameter.numel() for parameter in trained.model.parameters())

    def predict(chosen: Sequence[Labelled]) -> list[Boxes]:
        return [_predicted(trained, one, max(settings["height"], settings["width"])) for one in chosen]

    return predict, size


def _chosen(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the training's block under ultralytics' names."""
    return {
        "imgsz": max(settings["height"], settings["width"]),
        "batch": settings["batch"],
        "optimizer": {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}[settings["optimiser"]],
        "lr0": settings["learning_rate"],
        "momentum": settings["momentum"],
        "weight_decay": settings["weight_decay"],
        "cos_lr": settings["schedule"] == "cosine",
        "fliplr": 0.5 if settings["flip"] else 0.0,
    }


def _write_data(folder: Path, images: Sequence[Labelled], classes: Sequence[str]) -> Path:
    """Write images and labels in ultralytics' layout; return its description file."""
    (folder / "data/labels").mkdir(parents=True)
    for one in images:
        write_image(folder / f"data/images/{one.name}.png", one.image)
        height, width = one.image.shape[:2]
        lines = []
        for kind, (left, top, right, bottom) in zip(one.kinds, one.boxes.tolist(), strict=True):
            place = ((left + right) / 2 / width, (top + bottom) / 2 / height)
            sides = ((right - left) / width, (bottom - top) / height)
            lines.append(" ".join([str(kind), *(f"{value:.6f}" for value in (*place, *sides))]) + "\n")
        (folder / f"data/labels/{one.name}.txt").write_text("".join(lines), encoding="utf-8")
    description = {"path": str(folder / "data"), "train": "images", "val": "images", "names": dict(enumerate(classes))}
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump(description), encoding="utf-8")
    return path


def _quiet(folder: Path) -> Any:
    """Import ultralytics without any request to a server and with one folder for its files; return its YOLO class."""
    config = folder / "config"
    config.mkdir(parents=True, exist_ok=True)
    os.environ.update(
        YOLO_OFFLINE="1",
        YOLO_AUTOINSTALL="0",
        YOLO_VERBOSE="0",
        YOLO_CONFIG_DIR=str(config),
        MPLBACKEND="Agg",
        NO_ALBUMENTATIONS_UPDATE="1",
        ULTRALYTICS_SAFE_LOAD="1",
        MLFLOW_DISABLE_TELEMETRY="true",
    )
    import matplotlib as mpl

    font = Path(mpl.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    from ultralytics import YOLO, settings
    from ultralytics.utils import USER_CONFIG_DIR

    for name in ("Arial.ttf", "Arial.Unicode.ttf"):  # it would download these
        for place in {config, Path(USER_CONFIG_DIR)}:
            shutil.copy(font, place / name)
    places = {f"{name}_dir": str(folder) for name in ("runs", "weights", "datasets")}
    known = set(settings)
    settings.update({key: False for key in _TRACKERS if key in known} | places)
    return YOLO


def _row(trainer: Any) -> dict[str, float]:
    """Return a history row of the epoch that has just ended."""
    losses = trainer.label_loss_items(trainer.tloss, prefix="train")
    return {"step": trainer.epoch + 1, **{name: float(value) for name, value in losses.items()}}


def _predicted(model: Any, one: Labelled, side: int) -> Boxes:
    pixels = np.ascontiguousarray(one.image[..., ::-1])  # ultralytics expects BGR
    (found,) = model.predict(pixels, imgsz=side, conf=_LEAST, max_det=MOST, verbose=False)
    sides, kinds, scores = (getattr(found.boxes, key).cpu().numpy() for key in ("xyxy", "cls", "conf"))
    return Boxes(sides.astype(np.float64), kinds.astype(np.int64), scores.astype(np.float64))

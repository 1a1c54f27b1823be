"""Stage `fuse`: one system applied to the test pairs of one dataset."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mmfuse.checkpoints import build, load_method
from mmfuse.errors import UserError
from mmfuse.files import whole_folder
from mmfuse.fusing import best_device, fuse_pair, strip
from mmfuse.images import write_image
from mmfuse.jobs import Running
from mmfuse.methods.base import FusionMethod
from mmfuse.packs import Pack


def run(
    method: str,
    *,
    network: Mapping[str, Any],
    weights: Path | None,
    test: Path,
    out: Path,
    threads: int,
    pictures: int,
    running: Running,
) -> None:
    """Write OUT/NAME.png for every test pair; in colour where one of the images has colour.

    Args:
        method: The method's name.
        network: Options of a weight-free method (a trained one knows its own).
        weights: Complete weights of a trained method, else None.
        test: data/prepared/DATASET/test.safetensors.
        out: data/fused/DATASET/SYSTEM.
        threads: Number of processor threads.
        pictures: How many results MLflow shows.
        running: The job's MLflow run.

    Raises:
        UserError: a trained method without weights, or the weights of another method.
    """
    torch.set_num_threads(threads)
    device = best_device()
    net = _load(method, network, weights).to(device)
    pack, seconds = Pack(test), 0.0
    shown = {len(pack) * k // pictures for k in range(pictures)} if pictures else set()
    with whole_folder(out) as folder:
        for number, sample in enumerate(tqdm(pack, desc=out.name, mininterval=2, disable=None)):
            begin = time.perf_counter()
            fused = fuse_pair(net, sample["a"], sample["b"], device)
            seconds += time.perf_counter() - begin
            write_image(folder / f"{sample['name']}.png", fused)
            if number in shown:
                running.tracker.log_picture(sample["name"], strip(sample["a"], sample["b"], fused))
    running.tracker.log_metrics({"seconds_per_image": seconds / max(1, len(pack)), "images": len(pack)})


def _load(method: str, network: Mapping[str, Any], weights: Path | None) -> FusionMethod:
    """Return the network to apply: never an untrained one, never another method's."""
    if weights is None:
        net = build(method, network).eval()
        if net.parts:
            raise UserError(f"{method} needs trained weights.", expected="--weights FILE", fix="train it first")
        return net
    net, card = load_method(weights)
    if card.method != method:
        raise UserError(f"{weights} holds another method.", expected=method, found=card.method)
    return net

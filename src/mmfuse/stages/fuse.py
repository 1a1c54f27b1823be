"""Stage `fuse`: one system applied to the test pairs of one dataset, or its images fused elsewhere."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmfuse.data.images import image_files, read_image, write_image
from mmfuse.data.packs import Pack
from mmfuse.data.pairs import check_equal_sizes
from mmfuse.errors import UserError
from mmfuse.fastconv.workspace import keep_freed_memory
from mmfuse.files.writing import whole_folder
from mmfuse.inference.backends import prepared
from mmfuse.inference.fusing import best_device, fuse_pair, strip
from mmfuse.methods.base import FusionMethod
from mmfuse.nn.counting import multiply_adds
from mmfuse.pipeline.jobs import Running, Work
from mmfuse.progress import progress
from mmfuse.study.plan import external_images
from mmfuse.study.settings import network_options, settings_of
from mmfuse.training.checkpoints import build, load_method
from mmfuse.words import number_of


def work(job: Work) -> None:
    """Run one job of the stage `fuse` or `fuse_labelled`."""
    block, out, test = job.parameters["fuse"], job.outputs["folder"], job.read("test")
    method, variant = job.key["method"], job.key["variant"]
    if job.inputs["external"]:
        folder = external_images(job.key["dataset"], method)
        take_over(folder, test=test, out=out, pictures=block["pictures"], running=job.running)
        return
    run(
        method,
        network=network_options(settings_of(job.parameters, method, variant)),
        weights=next(iter(job.inputs["weights"]), None),
        test=test,
        out=out,
        threads=block["threads"],
        precision=block.get("precision", "fp32"),
        pictures=block["pictures"],
        running=job.running,
    )


def run(
    method: str,
    *,
    network: Mapping[str, Any],
    weights: Path | None,
    test: Path,
    out: Path,
    threads: int,
    precision: str = "fp32",
    pictures: int,
    running: Running,
) -> None:
    """Write OUT/NAME.png for each test pair, in colour if one of the images has colour.

    The record contains the cost: seconds per image, peak memory, parameters of the network, and the multiply-adds for a
    pair of the size of the first one; and the precision that was used.

    Args:
        method: The method's name.
        network: Options of a training-free method (a trained method's weights contain its own).
        weights: Complete weights of a trained method, else None.
        test: data/prepared/DATASET/test.safetensors.
        out: data/fused/DATASET/SYSTEM.
        threads: Number of CPU threads.
        precision: fp32, bf16 or auto; see `inference.backends.prepared`.
        pictures: Number of results to log to MLflow.
        running: The job's MLflow run.

    Raises:
        UserError: a trained method without weights, or the weights of another method.
    """
    torch.set_num_threads(threads)
    device = best_device()
    loaded = _load(method, network, weights).to(device)
    keep_freed_memory()
    fuse, how = prepared(loaded, device, precision=precision)
    pack, seconds = Pack(test), []
    shown = _shown(pack, pictures)
    with whole_folder(out) as folder:
        for number, sample in enumerate(progress(pack, f"fuse {out.name}", unit="pairs")):
            begin = time.perf_counter()
            fused = fuse_pair(fuse, sample["a"], sample["b"], device)
            seconds.append(time.perf_counter() - begin)
            write_image(folder / f"{sample['name']}.png", fused)
            if number in shown:
                running.tracker.log_picture(sample["name"], strip(sample["a"], sample["b"], fused))
    # the median, because the first image includes one-time setup, and others include other load on the machine
    running.measured["seconds_per_image"] = statistics.median(seconds) if seconds else 0.0
    running.measured["peak_mib"] = _peak(device)
    used = loaded.deployed_modules().values()
    running.measured["parameters"] = sum(values.numel() for module in used for values in module.parameters())
    height, width = pack[0]["a"].shape[:2]
    running.measured.update(height=height, width=width, multiply_adds=multiply_adds(loaded, height, width))
    running.tracker.log_metrics({**running.measured, "images": len(pack)})
    running.measured.update(how)


def _peak(device: torch.device) -> float:
    """Return the peak memory so far in MiB: torch's GPU memory, else that of the process with all its libraries."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def take_over(external: Path, *, test: Path, out: Path, pictures: int, running: Running) -> None:
    """Write OUT/NAME.png for each test pair from images fused elsewhere, with unchanged pixels.

    Args:
        external: Folder of the fused images, named like the test pairs, of any supported file type.
        test: data/prepared/DATASET/test.safetensors.
        out: data/fused/DATASET/SYSTEM.
        pictures: Number of images to log to MLflow.
        running: The job's MLflow run.

    Raises:
        UserError: a test pair has no fused image, or one of another size; nothing is written in that case.
    """
    pack, files = Pack(test), image_files(external)
    missing = [name for name in pack.names if name not in files]
    if missing:
        raise UserError(
            f"{external} lacks the images of {len(missing)} of {number_of(len(pack), 'test pair')}.",
            expected="a fused image for each test pair, by its name in data/prepared/DATASET/pairs.csv",
            found=f"none for {', '.join(missing[:10])}{', …' if len(missing) > 10 else ''}",
            fix="add or rename the images, or remove the dataset from the method's list in study.external",
        )
    shown = _shown(pack, pictures)
    with whole_folder(out) as folder:
        for number, sample in enumerate(pack):
            path = files[sample["name"]]
            fused = read_image(path)
            check_equal_sizes((pack.path / sample["name"], sample["a"]), (path, fused))
            write_image(folder / f"{sample['name']}.png", fused)
            if number in shown:
                running.tracker.log_picture(sample["name"], strip(sample["a"], sample["b"], fused))
    running.tracker.log_metrics({"images": len(pack)})


def _shown(pack: Pack, pictures: int) -> set[int]:
    """Return the indices of the evenly spaced pairs that are logged to MLflow."""
    return {len(pack) * k // pictures for k in range(pictures)} if pictures else set()


def _load(method: str, network: Mapping[str, Any], weights: Path | None) -> FusionMethod:
    """Return the network to apply; reject untrained networks and weights of another method."""
    if weights is None:
        net = build(method, network).eval()
        if net.parts:
            raise UserError(f"{method} needs trained weights.", expected="--weights FILE", fix="train it first")
        return net
    net, card = load_method(weights)
    if card.method != method:
        raise UserError(f"{weights} contains another method.", expected=method, found=card.method)
    return net

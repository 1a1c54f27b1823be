"""Cost of the similarity of all layers for growing numbers of images: by minibatches, and on all images at once."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmfuse.analyses.cka import layer_names, traces
from mmfuse.benchmarks.memory import peak_mib
from mmfuse.errors import UserError
from mmfuse.methods.mma_unet import MMAUNet
from mmfuse.nn.cka import SMALLEST_BATCH, Alignment, Array
from mmfuse.progress import progress
from mmfuse.training.seeding import derived_seed

WIDTH = 8  # channels of the encoders' first level


def run(*, images: Sequence[int], height: int, width: int, batch: int) -> dict[str, Any]:
    """Measure both estimates of CKA between all layers of MMA-UNet's encoders, on one thread.

    The weights are untrained and the images random. `minibatches` keeps only sums; `at_once` is the same estimator on a
    single batch, which needs the features of all images together. Each measurement runs in its own process, so that
    its memory can be measured separately.

    Args:
        images: Numbers of images, each a multiple of `batch`.
        height: Height of the images, a multiple of 16.
        width: Their width, likewise.
        batch: Images in a minibatch, at least 4.

    Returns:
        One row per number of images: for each method the CPU seconds and the growth of the peak memory in MiB; and the
        mean and largest difference between both estimates over all pairs of layers.

    Raises:
        UserError: the numbers are inconsistent.
    """
    if batch < SMALLEST_BATCH or height % 16 or width % 16 or any(count < batch or count % batch for count in images):
        raise UserError(
            "CKA cannot be measured with these numbers.",
            expected=f"a batch from {SMALLEST_BATCH}, numbers of images divisible by it, sides divisible by 16",
            found=f"batch {batch}, images {', '.join(map(str, images))}, {height} x {width} pixels",
        )
    rows = []
    for count in progress(images, "measure", unit="numbers of images"):
        row: dict[str, Any] = {"images": count}
        found = {}
        for way, size in (("minibatches", batch), ("at_once", count)):
            seconds, mib, found[way] = _in_own_process(count, size, height, width)
            row[way] = {"seconds": seconds, "peak_mib": mib}
        apart = np.abs(found["minibatches"] - found["at_once"])
        rows.append({**row, "difference_mean": float(apart.mean()), "difference_largest": float(apart.max())})
    return {"height": height, "width": width, "batch": batch, "layers": 2 * len(layer_names()), "rows": rows}


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the result of `run` as readable lines."""
    yield (
        f"CKA between {result['layers']} layers, {result['height']} x {result['width']} pixels, minibatches of "
        f"{result['batch']}: CPU seconds, and growth of memory in MiB"
    )
    for row in result["rows"]:
        ways = (f"{row[way]['seconds']:8.2f} s {row[way]['peak_mib']:7.0f} MiB" for way in ("minibatches", "at_once"))
        yield (
            f"{row['images']:6d} images  minibatches {next(ways)}   at once {next(ways)}   difference "
            f"{row['difference_mean']:.3f} on average, {row['difference_largest']:.3f} at most"
        )


def _in_own_process(count: int, size: int, height: int, width: int) -> tuple[float, float, Array]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure, count, size, height, width).result()


def _measure(count: int, size: int, height: int, width: int) -> tuple[float, float, Array]:
    """Return CPU seconds, growth of the peak memory in MiB, and the matrix."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = MMAUNet(width=WIDTH).eval()
    _similarity(network, 4, 4, 16, 16)  # one-time loading is not part of the measurement
    before, begin = peak_mib(), time.process_time()
    matrix = _similarity(network, count, size, height, width)
    return time.process_time() - begin, peak_mib() - before, matrix


def _similarity(network: MMAUNet, count: int, size: int, height: int, width: int) -> Array:
    alignment = Alignment(2 * len(layer_names()))
    for first in range(0, count, size):
        visible, infrared = (
            torch.cat([_drawn(side, number, height, width) for number in range(first, first + size)]) for side in (0, 1)
        )
        alignment.add([gram for trace in traces(network, (infrared, visible)) for gram in trace])
    return alignment.matrix()


def _drawn(side: int, number: int, height: int, width: int) -> Tensor:
    """Return a smooth random image, (1, 1, height, width) in [0, 1]; both images of a pair share half of it."""
    common, own = (
        torch.rand(1, 1, 6, 8, generator=torch.Generator().manual_seed(derived_seed(0, stream, number)))
        for stream in (2, side)
    )
    return F.interpolate((common + own) / 2, (height, width), mode="bicubic").clamp(0, 1)

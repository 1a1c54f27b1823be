"""Cost of direct and tiled dense convolution on this machine, and the gain from choosing between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, astuple, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor
from torch.nn import functional as F

from mmfuse.fastconv.convolution_cost import RATES, LayerUse, Rates, Work, best_tiling, work_of_tiles
from mmfuse.fastconv.overlap_save import Tiling, convolve, gradients, kernel_spectra
from mmfuse.progress import progress

# batch, height, width, kernel, channels in and out: crops of LKC-FUNet's layers, and narrower layers
LAYERS = (
    LayerUse(8, 64, 64, 15, 16, 16),
    LayerUse(2, 64, 64, 7, 64, 64),
    LayerUse(4, 64, 64, 9, 32, 32),
    LayerUse(1, 64, 64, 5, 128, 128),
    LayerUse(1, 64, 64, 15, 128, 128),
    LayerUse(1, 128, 128, 11, 128, 128),
    LayerUse(1, 32, 32, 15, 128, 128),
    LayerUse(1, 64, 64, 31, 64, 64),
)
_TILES = (8, 16, 24, 32)
_AT_LEAST = 0.1  # minimum seconds of a measurement


def run(*, layers: tuple[LayerUse, ...] = LAYERS) -> dict[str, Any]:
    """Measure direct convolution and tiles of several sizes, and fit the rates of `convolution_cost` to them.

    It measures the CPU time of one thread, which other processes on the machine affect least.
    """
    torch.set_num_threads(1)
    rows = [_measure(use) for use in progress(layers, "measure", unit="layers")]
    works = [(work, seconds) for row in rows for work, seconds in row.pop("works")]
    return {"rates": asdict(RATES), "fitted": asdict(_fit(works, rows)), "layers": rows}


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the result of `run` as readable lines."""
    yield "rates of one thread, per second: in the code, and fitted here"
    for name, rate in result["rates"].items():
        yield f"  {name:>20} {rate:10.3g} {result['fitted'][name]:10.3g}"
    yield "seconds: direct; as chosen; best measured"
    for row in result["layers"]:
        for use in ("inference", "training"):
            times = row[use]
            chosen = f"tile {times['chosen']}" if times["chosen"] else "direct"
            yield (
                f"  {row['what']:<32} {use:<10} {times['direct']:.4f}; {times['as_chosen']:.4f} ({chosen}); "
                f"{times['best']:.4f}"
            )


def _measure(use: LayerUse) -> dict[str, Any]:
    """Time one layer's inference and training step, direct and with each tile."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(use.batch, use.height, use.width, use.channels_in, generator=generator)
    gradient = torch.randn(use.batch, use.height, use.width, use.channels_out, generator=generator)
    weight = torch.randn(use.channels_out, use.channels_in, use.kernel, use.kernel, generator=generator)
    kept, learning = replace(use, kept=True), replace(use, of_image=True, of_weight=True)
    chosen = {"inference": best_tiling(kept, 1), "training": best_tiling(learning, 1)}
    forward, backward = _direct(image, gradient, weight)
    times: dict[str, dict[int | None, float]] = {"inference": {None: forward}, "training": {None: forward + backward}}
    works = []
    for tile in sorted({*_TILES, *(tiling.tile for tiling in chosen.values() if tiling)}):
        if tile > max(use.height, use.width) or tile < use.kernel // 2:
            continue
        tiling = Tiling(use.batch, use.height, use.width, use.kernel, tile)
        spectra = kernel_spectra(weight, tiling)
        with_kept = _seconds(partial(convolve, image, weight, None, tiling, spectra))
        without = _seconds(partial(convolve, image, weight, None, tiling))
        both = _seconds(partial(gradients, image, gradient, weight, tiling, of_image=True, of_weight=True))
        works += [(work_of_tiles(kept, tile), with_kept), (work_of_tiles(use, tile), without)]
        works.append((work_of_tiles(learning, tile), without + both))
        times["inference"][tile], times["training"][tile] = with_kept, without + both
    pixels = use.batch * use.height * use.width
    return {
        "what": f"{use.batch} x {use.height} x {use.width}, {use.kernel}: {use.channels_in} to {use.channels_out}",
        "kernel": use.kernel,
        "operations": 2 * use.kernel**2 * use.channels_in * use.channels_out * pixels,
        "forward": forward,
        "backward": backward,
        "works": works,
        **{use: _judged(times[use], chosen[use]) for use in times},
    }


def _judged(times: Mapping[int | None, float], chosen: Tiling | None) -> dict[str, Any]:
    tile = chosen.tile if chosen else None
    return {"direct": times[None], "chosen": tile, "as_chosen": times[tile], "best": min(times.values())}


def _direct(image: Tensor, gradient: Tensor, weight: Tensor) -> tuple[float, float]:
    """Return the seconds of a plain convolution, forward and backward."""
    first, last = (tensor.permute(0, 3, 1, 2).contiguous() for tensor in (image, gradient))
    forward = _seconds(lambda: F.conv2d(first, weight, padding=weight.shape[-1] // 2))
    first, learnt = first.requires_grad_(), weight.clone().requires_grad_()
    with torch.enable_grad():
        out = F.conv2d(first, learnt, padding=weight.shape[-1] // 2)
    return forward, _seconds(lambda: torch.autograd.grad(out, (first, learnt), last, retain_graph=True))


def _seconds(call: Callable[[], object]) -> float:
    """Return the shortest CPU time of several calls."""
    times: list[float] = []
    with torch.no_grad():
        call()
        while len(times) < 2 or sum(times) < _AT_LEAST:
            begin = time.process_time()
            call()
            times.append(time.process_time() - begin)
    return min(times)


def _fit(works: list[tuple[Work, float]], rows: list[dict[str, Any]]) -> Rates:
    """Return the rates that fit the measurements best, with equal weight for each measurement."""
    amounts = np.array([np.array(astuple(work)) / seconds for work, seconds in works])
    scale = amounts.max(axis=0)
    seconds_each, _ = nnls(amounts / scale, np.ones(len(amounts)))
    # a kind of work without effect gets the rate zero
    rates = np.divide(scale, seconds_each, out=np.zeros_like(scale), where=seconds_each > 0)
    direct = float(np.median([row["operations"] / row["forward"] for row in rows]))

    def of_weight(large: bool) -> float:
        some = [row for row in rows if (row["kernel"] >= 15) == large]
        return float(np.median([row["operations"] / (row["backward"] - row["forward"]) for row in some] or [0.0]))

    dft, channels, moved, made, read, calls = map(float, rates)
    return Rates(dft, channels, moved, made, read, calls, direct, of_weight(large=False), of_weight(large=True))

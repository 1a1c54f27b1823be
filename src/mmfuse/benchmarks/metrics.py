"""Speed of the metrics: compared with plain implementations, and all of them together.

Single-threaded work is measured in CPU time, which other jobs on the machine affect little.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from mmfuse.errors import UserError
from mmfuse.progress import progress
from mmfuse.words import number_of

if TYPE_CHECKING:
    from torch import Tensor

    from mmfuse.metrics import Metric

T = TypeVar("T")
SET = ("lkc_funet", "smfnet")  # the conventions whose metrics have a plain implementation


class Images(NamedTuple):
    """A fused image and its two sources, (1, H, W) in [0, 1], and their origin."""

    triple: tuple[Tensor, Tensor, Tensor]
    origin: str

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return them in the metrics' format, (1, 1, H, W)."""
        fused, a, b = self.triple
        return fused[None], a[None], b[None]


def run(
    *, height: int, width: int, repeats: int, threads: int, files: tuple[Path, Path, Path] | None
) -> dict[str, Any]:
    """Measure everything on one triple of images; the shortest of several repeats is used.

    Args:
        height: Height of the generated images.
        width: Width of the generated images.
        repeats: Number of repeats of each measurement.
        threads: Number of images measured at once when all metrics are measured together.
        files: Fused image, first and second source to use instead of generated images.

    Returns:
        The table of the set against plain implementations, the totals, and each metric's share, see `lines`.

    Raises:
        UserError: invalid images, or a number below 1.
    """
    from mmfuse.fastconv.workspace import keep_freed_memory

    if min(repeats, threads) < 1:
        raise UserError("There is nothing to measure.", expected="at least 1 repeat and 1 thread")
    images = _read(*files) if files else _draw(height, width)
    keep_freed_memory()  # as in the stage evaluate; it also applies to the plain implementations
    return {
        "images": images.origin,
        "height": images.triple[0].shape[-2],
        "width": images.triple[0].shape[-1],
        "repeats": repeats,
        "set": _against_plain(images, repeats),
        "all": _all_together(images, repeats, threads),
    }


def _read(fused: Path, a: Path, b: Path) -> Images:
    from mmfuse.data.pairs import read_triple

    return Images(read_triple(fused, a, b), origin=str(fused))


def _draw(height: int, width: int) -> Images:
    """Draw a road scene by day, and fuse infrared and visible luminance by their mean."""
    import numpy as np
    import torch

    from mmfuse.data.images import luminance
    from mmfuse.scenes.synthetic_road import render

    sample = render(np.random.default_rng(0), "day", height, width)
    infrared, visible = sample.infrared.astype(float), luminance(sample.visible).astype(float)
    pixels = (np.rint((infrared + visible) / 2), infrared, visible)
    fused, a, b = (torch.from_numpy(image / 255)[None] for image in pixels)
    return Images((fused, a, b), origin="a drawn road scene")


def _shortest(repeats: int, work: Callable[[], T]) -> tuple[float, T]:
    """Return the shortest time in seconds of this thread, and the result."""
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        result = work()
        times.append(time.thread_time() - start)
    return min(times), result


def _against_plain(images: Images, repeats: int) -> dict[str, Any]:
    """Measure the metrics of `SET`, individually and together, and their plain implementations, on one thread."""
    from mmfuse.benchmarks.reference_metrics import PLAIN
    from mmfuse.metrics import CONVENTIONS, definitions
    from mmfuse.metrics.sharing import one_thread

    names: dict[str, list[str]] = {}
    for convention in SET:
        for plain_name, definition in CONVENTIONS[convention].items():
            names.setdefault(definition, []).append(f"{convention} {plain_name}")
    lacking = [definition for definition in names if definition not in PLAIN]  # new ones
    names = {definition: meant for definition, meant in names.items() if definition in PLAIN}
    fused, a, b = ((image[0] * 255).round().numpy() for image in images.triple)  # (H, W)
    rows: list[dict[str, Any]] = []
    with one_thread():
        for definition, meant in progress(names.items(), "measure", total=len(names), unit="metrics"):
            ours, plain = definitions()[definition].function, PLAIN[definition]
            seconds, tensor = _shortest(repeats, partial(ours, *images.batch()))
            plain_seconds, plain_value = _shortest(repeats, partial(plain, fused, a, b))
            rows.append(
                {
                    "definition": definition,
                    "names": meant,
                    "seconds": seconds,
                    "plain_seconds": plain_seconds,
                    "ratio": plain_seconds / seconds,
                    "relative_difference": abs(tensor.item() - plain_value) / max(abs(plain_value), 1e-300),
                }
            )
        totals = [_total(images, repeats, rows, conventions) for conventions in (*((name,) for name in SET), SET)]
    return {"threads": 1, "metrics": rows, "totals": totals, "without_plain": lacking}


def _total(images: Images, repeats: int, rows: list[dict[str, Any]], conventions: tuple[str, ...]) -> dict[str, Any]:
    """Measure the metrics of some conventions together; for the plain ones, sum their times."""
    from mmfuse.metrics import CONVENTIONS, resolve, score

    plain = {row["definition"]: row["plain_seconds"] for row in rows}
    metrics = {
        f"{convention} {name}": metric
        for convention in conventions
        for name, metric in resolve(convention, CONVENTIONS[convention]).items()
        if metric.name in plain
    }
    seconds, _ = _shortest(repeats, lambda: score(*images.batch(), metrics))
    plain_seconds = sum(plain[metric.name] for metric in metrics.values())
    return {
        "conventions": list(conventions),
        "seconds": seconds,
        "plain_seconds": plain_seconds,
        "ratio": plain_seconds / seconds,
    }


def _all_together(images: Images, repeats: int, threads: int) -> dict[str, Any]:
    """Measure all definitions like `mmfuse evaluate`, several triples at once, and the share of each on one thread."""
    from mmfuse.metrics import definitions
    from mmfuse.metrics.tables import score_images

    count = 2 * threads
    elapsed, used = [], []
    for _ in range(repeats):
        start, start_used = time.perf_counter(), time.process_time()
        score_images([str(number) for number in range(count)], [images.triple] * count, definitions(), workers=threads)
        elapsed.append(time.perf_counter() - start)
        used.append(time.process_time() - start_used)
    shares = _shares(images, repeats)
    return {
        "definitions": len(definitions()),
        "threads": threads,
        "triples": count,
        "seconds_per_triple": min(elapsed) / count,
        "processor_seconds_per_triple": min(used) / count,
        "shares": {name: share / sum(shares.values()) for name, share in shares.items()},
    }


def _shares(images: Images, repeats: int) -> dict[str, float]:
    """Return the seconds of each definition when all are measured together; shared work counts for the first."""
    from mmfuse.metrics import Metric, definitions, score
    from mmfuse.metrics.sharing import one_thread

    times: dict[str, list[float]] = {}

    def timed(metric: Metric) -> Metric:
        def function(fused: Tensor, a: Tensor, b: Tensor) -> Tensor:
            start = time.thread_time()
            value = metric.function(fused, a, b)
            times.setdefault(metric.name, []).append(time.thread_time() - start)
            return value

        function.__module__ = metric.function.__module__  # it determines the order
        return Metric(metric.name, function, metric.card)

    with one_thread():
        for _ in range(repeats):
            score(*images.batch(), {name: timed(metric) for name, metric in definitions().items()})
    shortest = {name: min(seconds) for name, seconds in times.items()}
    return dict(sorted(shortest.items(), key=lambda item: -item[1]))


def lines(result: dict[str, Any]) -> Iterator[str]:
    """Yield the result as readable lines."""
    yield f"{result['images']}, {result['height']}x{result['width']}, shortest of {result['repeats']}"
    compared = result["set"]
    yield f"metrics of {' and '.join(SET)} on one thread, CPU seconds:"
    yield f"{'':28}{'mmfuse':>9}{'plain':>9}{'ratio':>9}{'difference':>13}"
    for row in compared["metrics"]:
        yield f"{_times(row['definition'], row)}{row['relative_difference']:13.1e}"
    if compared["without_plain"]:
        yield f"without a plain implementation, so not compared: {', '.join(compared['without_plain'])}"
    for total in compared["totals"]:
        yield _times(f"all of {' and '.join(total['conventions'])}", total)
    all_of_them = result["all"]
    yield (
        f"all {all_of_them['definitions']} definitions, {number_of(all_of_them['threads'], 'image')} at once: "
        f"{all_of_them['seconds_per_triple']:.3f} seconds per triple, "
        f"{all_of_them['processor_seconds_per_triple']:.3f} seconds of CPU time, of which:"
    )
    for name, share in all_of_them["shares"].items():
        yield f"{name:28}{100 * share:9.1f} %"


def _times(name: str, row: dict[str, Any]) -> str:
    return f"{name:28}{row['seconds']:9.4f}{row['plain_seconds']:9.4f}{row['ratio']:9.1f}"

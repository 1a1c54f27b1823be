"""Scaling of a study: time and memory of catalog, pairing, plan, both engines' graphs and the report.

The studies are simulated. Each step runs in its own process, so that its memory can be measured separately. It measures
CPU time, which other jobs on the machine affect little. The engines only plan; nothing is trained.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmfuse.benchmarks import simulated
from mmfuse.benchmarks.simulated import Size
from mmfuse.errors import MmfuseError, UserError
from mmfuse.files.writing import csv_text, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALL = Size(pairs=100, systems=4, datasets=2)  # fixed values of the other two numbers while one grows
_TOGETHER = "all three"
# the engines' commands; `dvc status` exits with 1 for a study that has not been run
ENGINES: Mapping[str, tuple[str, ...]] = {
    "Snakemake: dry run": ("snakemake", "--dry-run", "--quiet", "--cores", "1", "all"),
    "dvc.yaml": (sys.executable, "workflow/scripts/sync.py", "--write-dvc"),
    "DVC: graph": ("dvc", "stage", "list", "--name-only"),
    "DVC: status": ("dvc", "status", "--quiet"),
}  # fmt: skip
# the steps that depend on each number
CONCERNS = {
    "pairs": ("pairs", "report"),
    "systems": ("plan", "report", "engines"),
    "datasets": ("catalog", "plan", "report", "engines"),
    _TOGETHER: ("catalog", "pairs", "plan", "report", "engines"),
}


@dataclass(frozen=True)
class Measurement:
    """One step on one simulated study: `axis` is the number that grows, or all three."""

    axis: str
    step: str
    pairs: int
    systems: int
    datasets: int
    seconds: float
    peak_mib: float

    @property
    def amount(self) -> int:
        """The number that grows; the number of systems times datasets if all three grow."""
        return self.systems * self.datasets if self.axis == _TOGETHER else int(getattr(self, self.axis))


def sizes(largest: Size, count: int) -> Iterator[tuple[str, Size]]:
    """Yield the studies to measure: each number from small to largest with the others small, then all together.

    If all three are at their maximum, the pairs are distributed over the datasets.
    """
    for axis in Size._fields:
        end, start = getattr(largest, axis), min(getattr(SMALL, axis), getattr(largest, axis))
        small = Size(*(min(one, other) for one, other in zip(SMALL, largest, strict=True)))
        steps = np.geomspace(start, end, count).round().astype(int).tolist()
        for number in dict.fromkeys(steps):
            yield axis, small._replace(**{axis: number})
    yield _TOGETHER, largest._replace(pairs=max(1, largest.pairs // largest.datasets))


def run(
    *, largest: Size, count: int, only: Sequence[str] = (), say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure all steps on simulated studies of growing size.

    Args:
        largest: The maximum numbers of pairs, systems and datasets.
        count: Number of sizes along each of them.
        only: Which of catalog, pairs, plan, report and engines to measure; all if empty.
        say: Called with each line of the result as soon as it is available.

    Raises:
        UserError: the current folder is not a project's root, or a number below 1.
        MmfuseError: a step failed.
    """
    if min(*largest, count) < 1:
        raise UserError("There is nothing to measure.", expected="numbers from 1", found=(*largest, count))
    unknown = [name for name in only if name not in CONCERNS[_TOGETHER]]
    if unknown:
        raise UserError("There is no such step.", expected=", ".join(CONCERNS[_TOGETHER]), found=", ".join(unknown))
    root, found = Path.cwd(), []
    for axis, size in sizes(largest, count):
        steps = [name for name in CONCERNS[axis] if not only or name in only]
        if not steps:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            for measured in _study(axis, size, root, Path(scratch) / "project", steps):
                found.append(measured)
                say(_line(measured))
    return {
        "machine": {"processor": _processor(), "cores": os.cpu_count()},
        "measurements": [asdict(one) for one in found],
        "growth": growth(found),
    }


def _study(axis: str, size: Size, root: Path, folder: Path, steps: Sequence[str]) -> Iterator[Measurement]:
    """Create a simulated study and measure some steps on it."""
    simulated.make_texts(size, root, folder)
    if "pairs" in steps:
        simulated.make_pairs(size, folder)
    if "report" in steps:  # in its own process: it needs torch, and this process's memory counts for the engines
        code = "import sys; from pathlib import Path; from mmfuse.benchmarks.simulated import Size, make_results; "
        code += "make_results(Size(*map(int, sys.argv[1:])), Path())"
        _call((sys.executable, "-c", code, *map(str, size)), folder)
    for name in (name for name in steps if name != "engines"):
        said, _, _ = _call((sys.executable, "-m", "mmfuse.benchmarks.scale_steps", name), folder)
        for step, (seconds, peak) in json.loads(said).items():
            yield Measurement(axis, step, *size, seconds, peak)
    for step, command in ENGINES.items() if "engines" in steps else ():
        _, seconds, peak = _call(command, folder, good=(0, 1) if step == "DVC: status" else (0,))
        yield Measurement(axis, step, *size, seconds, peak)


def _call(command: Sequence[str], folder: Path, good: Sequence[int] = (0,)) -> tuple[str, float, float]:
    """Run a command; return its output, the CPU seconds of it and its children, and its peak memory.

    Raises:
        MmfuseError: the command failed.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {
        "PATH": path,
        "DVC_NO_ANALYTICS": "1",
        "OMP_NUM_THREADS": "1",  # a second thread that waits for a busy core would count as work
        "DVC_SITE_CACHE_DIR": str(folder.parent / "site"),
        "PYTHONPATH": "src",  # the code of the simulated project
    }
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as wrong:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=wrong)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for stream in (said, wrong):
            stream.seek(0)
            texts.append(stream.read().decode("utf-8", "replace"))
    if process.returncode not in good:
        raise MmfuseError(f"`{' '.join(command)}` failed:\n{''.join(texts)[-4000:]}")
    return texts[0], used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def growth(found: Sequence[Measurement]) -> dict[str, dict[str, float]]:
    """Return the slope of log seconds over log number, for each growing number and each step.

    A slope of 1 is linear. A command's start-up time makes the slope smaller than its limit.
    """
    slopes: dict[str, dict[str, float]] = {}
    for (axis, step), points in _series(found).items():
        amounts, seconds = (np.array(values, dtype=float) for values in zip(*points, strict=True))
        if len(set(amounts)) > 1 and (seconds > 0).all():
            slopes.setdefault(axis, {})[step] = float(np.polyfit(np.log(amounts), np.log(seconds), 1)[0])
    return slopes


def _series(found: Sequence[Measurement]) -> dict[tuple[str, str], list[tuple[int, float]]]:
    series: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for one in found:
        if one.axis != _TOGETHER:
            series.setdefault((one.axis, one.step), []).append((one.amount, one.seconds))
    return series


def _line(one: Measurement) -> str:
    size = f"{one.pairs:>6} pairs x {one.datasets:>2} datasets, {one.systems:>2} systems"
    return f"{one.step:<28} {size} {one.seconds:>9.2f} s {one.peak_mib:>7.0f} MiB"


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the growth of the steps as readable lines."""
    yield f"growth with the number of ... (1 is linear); {result['machine']['processor']}, one process at a time"
    for axis, steps in result["growth"].items():
        for step, slope in steps.items():
            yield f"  {axis:<9} {step:<28} {slope:5.2f}"


def as_csv(result: Mapping[str, Any]) -> str:
    """Return all measurements with full precision."""
    rows = result["measurements"]
    return csv_text([list(rows[0]), *(row.values() for row in rows)])


def write(result: Mapping[str, Any], out: Path) -> None:
    """Write `scale.csv`, and the figure as `scale.svg` and `scale.png`, into a folder."""
    from mmfuse.reporting.style import Album

    write_text(out / "scale.csv", as_csv(result))
    found, album = [Measurement(**row) for row in result["measurements"]], Album()
    album.draw("scale", "scale", "Scale", "", (7.2, 3.8), lambda figure: _paint(found, figure))
    for ending in ("svg", "png"):
        (out / f"scale.{ending}").write_bytes(album.files[f"figures/scale/scale.{ending}"])


def _paint(found: Sequence[Measurement], figure: Figure) -> None:
    """Draw seconds over each growing number, one line per step, with a dotted linear line."""
    series = _series(found)
    steps = list(dict.fromkeys(step for _, step in series))
    grid = figure.subplots(1, 3, sharey=True)
    shown: dict[str, Any] = {}
    for axes, axis in zip(grid, Size._fields, strict=True):
        own = {step: points for (name, step), points in series.items() if name == axis}
        for step, points in own.items():
            look = _look(steps.index(step))
            shown[step] = axes.plot(*zip(*points, strict=True), markersize=4, **look)[0]
        if own:
            amounts = np.array([points[n][0] for points in own.values() for n in (0, -1)])
            ends = np.array([amounts.min(), amounts.max()])
            shown["linear"] = axes.plot(ends, 0.02 * ends / ends[0], linestyle=":", color="#888888")[0]
        axes.set(xscale="log", yscale="log", xlabel=axis)
        ticks = sorted({amount for points in own.values() for amount, _ in points})
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.set_xticks([], minor=True)
    grid[0].set_ylabel("CPU seconds")
    figure.legend(shown.values(), shown.keys(), loc="outside upper left", ncols=3, fontsize=8)


def _look(number: int) -> dict[str, Any]:
    from mmfuse.reporting.pictures import PALETTE
    from mmfuse.reporting.style import LINES, MARKERS

    ink, line = PALETTE[number % len(PALETTE)], LINES[number // len(PALETTE) % len(LINES)]
    return {"color": ink, "linestyle": line, "marker": MARKERS[number % len(MARKERS)]}

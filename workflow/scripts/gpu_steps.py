"""The steps of a check on a GPU: tests, speed of a step, trainings, fused and scored images, speed of inference."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from gpu_data import METHOD, TASK, VARIANT, used_set

from mmfuse.data.images import read_image
from mmfuse.data.packs import Pack
from mmfuse.errors import MmfuseError
from mmfuse.inference.fast_copy import for_inference
from mmfuse.methods.base import FusionMethod
from mmfuse.metrics.tables import read_scores
from mmfuse.pipeline.jobs import Running
from mmfuse.stages import evaluate, fuse, train
from mmfuse.study import plan
from mmfuse.study.plan import System
from mmfuse.study.settings import network_options, without_adaptive
from mmfuse.tracking import Tracker
from mmfuse.training.batches import Batch, TrainingPairs
from mmfuse.training.checkpoints import build, load_state
from mmfuse.training.loop import make_fabric, train_part
from mmfuse.training.seeding import seed_everything

# in the order of training: the slowest one uses the remaining time
PRECISIONS: dict[str, dict[str, Any]] = {
    "tf32": {"precision": "32-true", "tf32": True, "save_every": 250},
    "bf16": {"precision": "bf16-mixed", "tf32": False, "save_every": 250},
    "fp32": {"precision": "32-true", "tf32": False, "save_every": 50},
}
BASELINES = ("laplacian", "maximum")
INFERENCE_SIZES = ((256, 256), (480, 640))
PART = "net"
_WARM_UP, _TIMED = 3, 4  # steps of the probe
ON_A_GPU = "(cuda or gpu or test_fusing_with_trained_weights) and not cpu"
WITHOUT = "cpu and lkc_funet and (photographs or killed)"
TEST_FILES = (
    "tests/test_precision.py",
    "tests/test_gpu.py",
    "tests/test_golden_lkc_funet.py",
    "tests/test_golden_mma_unet.py",
    "tests/test_golden_smfnet.py",
    "tests/test_metrics.py",
    "tests/test_cli.py",
)


@dataclass(frozen=True)
class Check:
    """What is checked, and where.

    Attributes:
        parameters: The study's parameters, small ones in a dry run.
        packs: The packs, as PACKS/DATASET/SPLIT.safetensors.
        work: Folder for weights, states and images.
        device: cuda or cpu.
        metrics: The metrics of the paper's table.
    """

    parameters: Mapping[str, Any]
    packs: Path
    work: Path
    device: str
    metrics: Sequence[str]

    @property
    def tested(self) -> list[str]:
        """The test sets."""
        return list(self.parameters["study"]["tasks"][TASK]["test"])

    @property
    def seed(self) -> int:
        """The seed of the trainings: the study's first one."""
        return int(self.parameters["study"]["seeds"][0])

    def settings(self, steps: int) -> dict[str, Any]:
        """Return the method's block for a training with this number of steps."""
        block = plan.settings_of(self.parameters, METHOD, VARIANT)
        part = {key: value for key, value in block["parts"][PART].items() if key != "epochs"}
        return block | {"parts": {PART: part | {"steps": steps}}}

    def loop(self, precision: str) -> dict[str, Any]:
        """Return the block `train` for one precision; the state is saved regularly, because time may run out."""
        block = self.parameters["train"]
        own = {"accelerator": self.device, "devices": 1, **PRECISIONS[precision]}
        return block | own | {"threads": min(block["threads"], len(os.sched_getaffinity(0)))}

    def running(self) -> Running:
        """Return the frame of a job, without MLflow."""
        off = Tracker(self.work, "gpu check", "check", fingerprint="", tags={}, parameters={}, enabled=False)
        return Running(off, "gpu check")


class TimedPairs(TrainingPairs):
    """Training pairs that record when each batch was requested."""

    def batch(self, step: int) -> Batch:
        """Return the batch of a step; all work of the previous step is done, because its loss was read."""
        self.times = [*getattr(self, "times", []), time.perf_counter()]
        return super().batch(step)


def run_tests(check: Check, root: Path, data: Path, seconds: float) -> dict[str, Any]:
    """Run the tests that need a GPU (without one, a few of the same files) and return their counts."""
    log = check.work / "tests.log"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(root / "src"), os.environ.get("PYTHONPATH", "")])}
    env.pop("MMFUSE_MIRROR", None)
    for variable, place in (("MMFUSE_GOLDEN", "golden"), ("MMFUSE_MIRROR", "mirror")):
        if (data / place).is_dir():
            env[variable] = str(data / place)
    chosen = ON_A_GPU if check.device == "cuda" else WITHOUT
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-k", chosen, *TEST_FILES]
    begin, code = time.perf_counter(), "0"
    with log.open("w", encoding="utf-8") as file:
        try:
            subprocess.run(
                command, cwd=root, env=env | {"COLUMNS": "300"}, stdout=file, stderr=file, check=True, timeout=seconds
            )
        except subprocess.CalledProcessError as error:
            code = str(error.returncode)
        except subprocess.TimeoutExpired:
            code = f"nothing: it was stopped after {seconds:.0f} s"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return {**count_tests(lines), "exit code": code, "seconds": time.perf_counter() - begin, "end of log": lines[-60:]}


def count_tests(lines: Sequence[str]) -> dict[str, Any]:
    """Return the results of `pytest -v`, even of an incomplete run."""
    found: dict[str, Any] = {"passed": 0, "failed": [], "skipped": {}}
    for line in lines:
        said = re.match(r"(tests/\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED)(?: \((.*)\))?(?: +\[ *\d+%\])?$", line)
        if said and said[2] == "PASSED":
            found["passed"] += 1
        elif said and said[2] == "SKIPPED":
            found["skipped"][said[3]] = found["skipped"].get(said[3], 0) + 1
        elif said:
            found["failed"].append(said[1])
    return found


def probe(check: Check, precision: str) -> dict[str, float]:
    """Train a few steps and return the seconds per step, the median after a warm-up."""
    settings = check.settings(_WARM_UP + _TIMED + 1)
    block, loop = settings["parts"][PART], check.loop(precision)
    pairs = TimedPairs([Pack(path) for path in _training_packs(check)], block, check.seed)
    seed_everything(check.seed)
    train_part(
        make_fabric(loop),
        build(METHOD, network_options(settings, PART)),
        PART,
        settings=block,
        loop=loop,
        pairs=pairs,
        validation=[],
        seed=check.seed,
        resume=check.work / "probe.pt",
        fingerprint="probe",
        on_rows=lambda _: None,
    )
    return {"seconds a step": statistics.median(np.diff(pairs.times)[_WARM_UP:].tolist())}


def plan_steps(seconds: Mapping[str, float], wanted: int, available: float) -> dict[str, int]:
    """Return how many steps of each precision fit into the time: all of the first ones, as many as fit of the last.

    Args:
        seconds: Seconds per step of each precision, in the order of training.
        wanted: Steps of a complete training.
        available: Seconds for all trainings together.
    """
    steps = {}
    for precision, each in seconds.items():
        steps[precision] = max(0, min(wanted, int(available / each)))
        available -= steps[precision] * each
    return steps


def saved_steps(check: Check, precision: str) -> int:
    """Return the step of a training's last saved state; 0 if there is none."""
    state = load_state(_state(check, precision))
    return int(state["step"]) if state else 0


def train_once(check: Check, precision: str, steps: int, deadline: float) -> dict[str, Any]:
    """Train through the stage and return steps, time, peak memory and the losses.

    At the deadline, the training is asked to stop; it saves its state, and the same command resumes from there.
    """
    out, loop = _weights(check, precision), check.loop(precision)
    if check.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    with _stopped_at(deadline):
        train.run(
            System(METHOD, VARIANT, TASK, check.seed),
            PART,
            settings=check.settings(steps),
            loop=loop,
            train=_training_packs(check),
            val=[],
            start=[],
            out=out,
            resume=_state(check, precision),
            running=check.running(),
        )
    seconds = time.perf_counter() - begin
    history = np.genfromtxt(out.with_suffix(".history.csv"), delimiter=",", names=True)
    columns = history.dtype.names or ()
    losses = [{name: float(row[name]) for name in columns} for row in np.atleast_1d(history)]
    peak = torch.cuda.max_memory_allocated() / 2**20 if check.device == "cuda" else None
    return {"steps": steps, "seconds": seconds, "peak MiB": peak, "losses": losses}


def fuse_and_score(check: Check, name: str) -> dict[str, Any]:
    """Fuse the test pairs with a trained precision or a baseline, and return the mean scores of each set.

    All are fused in fp32 without TF32, so that only the training differs.
    """
    trained = name in PRECISIONS
    method = METHOD if trained else name
    network = {} if trained else plan.settings_of(check.parameters, name, VARIANT).get("network", {})
    convention = check.parameters["evaluate"]["convention"]
    _allow_tf32(False)
    found: dict[str, Any] = {}
    for dataset in check.tested:
        fused, scores, running = _fused(check, name, dataset), _scores(check, name, dataset), check.running()
        test = check.packs / dataset / "test.safetensors"
        fuse.run(
            method,
            network=network,
            weights=_weights(check, name) if trained else None,
            test=test,
            out=fused,
            threads=1,
            pictures=0,
            running=running,
        )
        evaluate.run(
            System(method, VARIANT, TASK, check.seed),
            dataset,
            test=test,
            fused=fused,
            out=scores,
            convention=convention,
            beside=(),
            metrics=check.metrics,
            workers=1,
            running=running,
        )
        means = read_scores(scores)[list(check.metrics)].mean()
        found[dataset] = {"seconds an image": running.measured["seconds_per_image"], **means.to_dict()}
    return found


def compare(check: Check, one: str, other: str) -> dict[str, Any]:
    """Return the differences between the images of two trained precisions: grey levels, and scores image by image."""
    levels, scores = [], []
    for dataset in check.tested:
        names = Pack(check.packs / dataset / "test.safetensors").names
        for name in names:
            first, second = (
                read_image(_fused(check, p, dataset) / f"{name}.png", colour=False).astype(float) for p in (one, other)
            )
            levels.append(np.abs(first - second))
        first, second = (read_scores(_scores(check, p, dataset))[list(check.metrics)] for p in (one, other))
        scores.append((second - first).to_numpy())
    by_image = np.concatenate(scores)
    return {
        "mean grey levels": float(np.mean([difference.mean() for difference in levels])),
        "largest grey levels": float(max(difference.max() for difference in levels)),
        "images": len(by_image),
        "mean": dict(zip(check.metrics, by_image.mean(axis=0).tolist(), strict=True)),
        "std": dict(zip(check.metrics, by_image.std(axis=0).tolist(), strict=True)),
    }


def time_inference(check: Check, method: str, height: int, width: int, seconds: float) -> list[dict[str, Any]]:
    """Time one method's inference copy on one pair: three precisions, channels first and last in memory.

    Args:
        check: What is checked.
        method: A trained method.
        height: Height of the pair.
        width: Width of the pair.
        seconds: Time limit for repeating each variant.
    """
    options = without_adaptive(network_options(plan.settings_of(check.parameters, method, VARIANT)))
    seed_everything(0)
    network = build(method, options).to(check.device)
    images = [image.to(check.device) for image in torch.rand(2, 1, 1, height, width)]
    rows = []
    for channels_last in (False, True):
        # on a CPU, the replacements of `for_inference` do not support bf16
        fast = for_inference(network) if check.device == "cuda" else network.eval()
        fast = fast.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        for precision in ("fp32", "tf32", "bf16"):
            row = _time_one(check, fast, images, precision, seconds)
            rows.append(row | {"method": method, "height": height, "width": width, "channels last": channels_last})
    return rows


@torch.inference_mode()
def _time_one(
    check: Check, network: FusionMethod, images: list[torch.Tensor], precision: str, seconds: float
) -> dict[str, Any]:
    """Return the median seconds per pair and the peak memory."""
    on_gpu = check.device == "cuda"
    _allow_tf32(precision == "tf32")
    torch.backends.cudnn.deterministic = False  # as in `mmfuse fuse`; a training has set it
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    times: list[float] = []
    with torch.autocast(check.device, torch.bfloat16, enabled=precision == "bf16"):
        for _ in range(_WARM_UP if on_gpu else 1):
            network(*images)
        end = time.perf_counter() + seconds
        while not times or (time.perf_counter() < end and len(times) < 100):
            if on_gpu:
                torch.cuda.synchronize()
            begin = time.perf_counter()
            network(*images)
            if on_gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None
    return {"precision": precision, "seconds": statistics.median(times), "repeats": len(times), "peak MiB": peak}


@contextlib.contextmanager
def _stopped_at(deadline: float) -> Iterator[None]:
    """Stop this process at a time of `time.monotonic`; a training then saves its state and raises an error."""

    def ask(_number: int, _frame: object) -> NoReturn:
        raise MmfuseError("Asked to stop before the first step of a training, or after the last one.")

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), lambda: os.kill(os.getpid(), signal.SIGTERM))
    timer.daemon = True
    old = signal.signal(signal.SIGTERM, ask)  # a training replaces it by its own handler
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, old)


def _allow_tf32(allowed: bool) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed


def _training_packs(check: Check) -> list[Path]:
    """Return the packs of the training set, which contain only the pairs that it uses."""
    return [check.packs / dataset / "train.safetensors" for dataset in used_set(check.parameters).train]


def _weights(check: Check, precision: str) -> Path:
    return check.work / "weights" / f"{precision}.safetensors"


def _state(check: Check, precision: str) -> Path:
    return check.work / "states" / f"{precision}.pt"


def _fused(check: Check, name: str, dataset: str) -> Path:
    return check.work / "fused" / dataset / name


def _scores(check: Check, name: str, dataset: str) -> Path:
    return check.work / "scores" / dataset / f"{name}.csv"

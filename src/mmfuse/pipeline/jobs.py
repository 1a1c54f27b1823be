"""The common frame of every job: one MLflow run, one run.json, inputs and outputs with their checksums.

A run.json records what a result was made from. It does not change when nothing has changed, except for what a stage
measures of its own work, such as its time; this differs from run to run, and is kept apart under `measured`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mmfuse.data import catalog
from mmfuse.errors import UserError
from mmfuse.files.records import write_record
from mmfuse.files.writing import checksum, remove_leftovers
from mmfuse.pipeline.lineage import parents
from mmfuse.pipeline.revision import revision_of
from mmfuse.study.code_lists import check_running_code
from mmfuse.study.integrity import check_made
from mmfuse.study.parameters import load_parameters, pick_all
from mmfuse.study.plan import System
from mmfuse.study.stage import Key, Stage
from mmfuse.study.stages import DOWNLOAD
from mmfuse.study.types import Parameters
from mmfuse.tracking import Parent, Tracker

_LIBRARIES = (
    "mmfuse",
    "torch",
    "torchvision",
    "lightning-fabric",
    "numpy",
    "pandas",
    "pillow",
    "scikit-image",
    "mlflow",
)
_DVC = "DVC_STAGE"  # set by DVC for the commands that it runs
_OPTIONAL = ("ultralytics",)  # listed only if a job has used them


@dataclass(frozen=True)
class Job:
    """What a stage is about to do.

    Attributes:
        stage: The stage's name.
        name: The job's name within the stage, such as `mma_unet.base.s0/fusion`.
        inputs: Files and folders it reads.
        outputs: Files and folders it writes.
        record: Path of its run.json.
        parameters: The parameters it depends on, nested.
        tags: method, variant, task, dataset, seed: searchable in MLflow.
        study: The study's name: the MLflow experiment.
        parents: The MLflow runs above the job's run.
    """

    stage: str
    name: str
    inputs: Sequence[Path]
    outputs: Sequence[Path]
    record: Path
    parameters: Mapping[str, Any]
    tags: Mapping[str, Any]
    study: str
    parents: Sequence[Parent] = ()


@dataclass(frozen=True)
class Running:
    """What a stage gets for its work: its MLflow run and the job's fingerprint.

    The stage puts measurements of its own work into `measured`. They go into the record and not into an output, because
    they differ from run to run.
    """

    tracker: Tracker
    fingerprint: str
    measured: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """One job for a stage to do.

    Attributes:
        stage: The stage's declaration.
        key: The job's key.
        parameters: The study's parameters.
        params: The file that they come from.
        inputs: Paths of what it reads, by the declared names.
        outputs: Paths of what it writes, by the declared names.
        running: Its MLflow run and its fingerprint.
    """

    stage: Stage
    key: Key
    parameters: Parameters
    params: Path
    inputs: Mapping[str, list[Path]]
    outputs: Mapping[str, Path]
    running: Running

    def read(self, name: str) -> Path:
        """Return the only path of an input."""
        (path,) = self.inputs[name]
        return path

    @property
    def system(self) -> System:
        """The single system of the job."""
        system = self.stage.system(self.parameters, self.key)
        assert system is not None
        return system

    @property
    def resume(self) -> Path:
        """The path of the state of an unfinished job."""
        return Path(self.stage.resume.format(**self.key))


def run(stage: Stage, key: Key, params: Path, work: Callable[[Work], None]) -> None:
    """Do one job of a stage, with lock, tracking and record.

    Raises:
        UserError: the parameters or the key are wrong, an input is missing, another process is doing the same job, the
            job's parameters changed while it ran, or the running code is not the project's.
    """
    check_running_code(Path.cwd())
    stage.check(key)
    parameters = load_parameters(params)
    if _DVC in os.environ and key not in stage.jobs(parameters):
        raise UserError(
            "dvc.yaml belongs to another study.",
            expected=f"the jobs of {params}",
            found=f"{os.environ[_DVC]}, which is none of them",
            fix="run `mmfuse sync --write-dvc`, then the same command again",
        )
    if "dataset" in key:
        catalog.dataset(key["dataset"])  # refuses an unknown one
    inputs = {name: list(map(Path, paths)) for name, paths in stage.files(parameters, key).items()}
    outputs = {name: Path(path) for name, path in stage.written(key).items()}
    # none if the package is installed without the project
    sources = [path for path in map(Path, stage.code(key)) if path.is_file()]
    job = Job(
        stage=stage.name,
        name="/".join(stage.parts(key)) or parameters["study"]["name"],
        inputs=list(dict.fromkeys([*sources, *chain(*inputs.values()), *map(Path, stage.by_hand(parameters, key))])),
        outputs=list(outputs.values()),
        record=Path(stage.path("record", key)),
        parameters=pick_all(parameters, stage.watched(parameters, key)),
        tags=stage.tags(parameters, key),
        study=parameters["study"]["name"],
        parents=parents(parameters, stage.system(parameters, key), key.get("trained_on")),
    )

    read = {path: path.read_bytes() for path in (params, catalog.CATALOG) if path.is_file()}

    def start(running: Running) -> None:
        work(Work(stage, key, parameters, params, inputs, outputs, running))
        changed = [path.as_posix() for path, content in read.items() if path.read_bytes() != content]
        if changed and pick_all(load_parameters(params), job.parameters) != job.parameters:
            raise UserError(
                f"Parameters of {stage.name} {job.name} changed while it ran.",
                expected=f"{changed[0]} to keep the values of {', '.join(job.parameters)} until the job ends",
                fix="run the same command again",
            )

    execute(job, start)
    if stage.resume and not rank():
        Path(stage.resume.format(**key)).unlink(missing_ok=True)


def execute(job: Job, work: Callable[[Running], None]) -> None:
    """Run a stage's work, with lock, tracking and record.

    In a training on several devices, every process calls this, but only the first one locks, tracks and records.

    Raises:
        UserError: an input is missing, or another process is doing the same job.
    """
    missing = [str(path) for path in job.inputs if not path.exists()]
    if missing:
        raise UserError(
            f"The stage {job.stage} lacks an input.", expected=missing[0], found="no such file or folder",
            fix="run `mmfuse sync --write-dvc` if params.yaml names another study than dvc.yaml; then run `dvc repro`"
            if _DVC in os.environ
            else "run the stage that makes it; `snakemake --cores all` or `dvc repro` runs all stages in order",
        )  # fmt: skip
    root = Path.cwd()
    inputs = {_relative(path): checksum(path) for path in job.inputs}
    check_made(root, inputs)
    fingerprint = _fingerprint(job, inputs)
    revision = revision_of(root)
    first = not rank()
    tracker = Tracker(
        root,
        job.study,
        f"{job.stage} {job.name}",
        fingerprint=fingerprint,
        tags={
            "level": "job", "stage": job.stage, **job.tags, "commit": revision.commit,
            "mlflow.source.name": f"mmfuse stage {job.stage}", "mlflow.source.git.commit": revision.commit,
        },
        parameters=job.parameters,
        parents=job.parents,
        data=_data(inputs),
        enabled=first,
    )  # fmt: skip
    if not first:
        work(Running(tracker, fingerprint))
        return
    with _alone(root, job), tracker:
        for path in (*job.outputs, job.record):
            remove_leftovers(path)
        running = Running(tracker, fingerprint)
        work(running)
        record = {
            "stage": job.stage,
            "command": shlex.join(["mmfuse", *sys.argv[1:]]),
            "inputs": inputs,
            "outputs": {_relative(path): checksum(path) for path in job.outputs},
            "parameters": job.parameters,
            "versions": _versions(),
            "commit": revision.commit,
            "dirty": revision.changes is not None,
            "changes": revision.changes,
            "seed": job.tags.get("seed"),
            "machine": _machine(),
            "mlflow": tracker.record(),
            **({"measured": running.measured} if running.measured else {}),
        }
        write_record(job.record, record)
        tracker.log_file(job.record)


def rank() -> int:
    """Return this process's number in a training on several devices, as set by torchrun, Slurm or Fabric."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK")
    texts = {name: os.environ[name] for name in names if os.environ.get(name)}  # an empty one counts as unset
    wrong = [f"{name}={text}" for name, text in texts.items() if not re.fullmatch("[0-9]{1,9}", text)]
    if wrong:
        raise UserError(
            "The number of this process is not a number.", expected="RANK and the like as torchrun or Slurm set them",
            found=", ".join(wrong), fix="unset it",
        )  # fmt: skip
    env = {name: int(text) for name, text in texts.items()}
    if "RANK" in env:
        return env["RANK"]
    if "SLURM_PROCID" in env and "LOCAL_RANK" not in env:
        return env["SLURM_PROCID"]
    return env.get("LOCAL_RANK", 0) + env.get("NODE_RANK", 0)


def _data(inputs: Mapping[str, str]) -> dict[str, str]:
    """Return the datasets and packs among the inputs, such as `prepared/msrs/test`, with their checksums."""
    found = {
        path: digest
        for path, digest in inputs.items()
        if path.startswith(f"{DOWNLOAD.folder}/") and "run.json" not in path
    }
    packs = {path: digest for path, digest in inputs.items() if path.endswith(".safetensors") and "prepared" in path}
    return {
        path.removeprefix("data/").removesuffix(".safetensors"): digest for path, digest in {**found, **packs}.items()
    }


def _relative(path: Path) -> str:
    """Return a path relative to the project's root, so that records do not depend on the root's location."""
    return Path(os.path.relpath(path)).as_posix()


def _fingerprint(job: Job, inputs: Mapping[str, str]) -> str:
    parts = [job.stage, job.name, inputs, job.parameters, job.tags, [_relative(path) for path in job.outputs]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


@contextmanager
def _alone(root: Path, job: Job) -> Iterator[None]:
    """Hold a lock while a job writes its outputs; a second process with the same job gets an error."""
    name = hashlib.sha256(_relative(job.record).encode()).hexdigest()[:16]
    folder = root / ".mmfuse" / "locks"
    lock = FileLock(folder / f"{name}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"Another process is already running {job.stage} {job.name} in this folder.",
            expected="one process for each job",
            fix="wait for it to end, or stop it",
        ) from error
    except OSError as error:
        raise UserError(
            f"Cannot work in {root}.",
            expected="a project folder that this user may write to, on a disk with free space",
            found=f"{folder}: {error.strerror}",
            fix="change its permissions or free some space, then run the same command again",
        ) from error
    try:
        yield
    finally:
        lock.release()


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    used = [*_LIBRARIES, *(name for name in _OPTIONAL if name in sys.modules)]
    return versions | {name: importlib.metadata.version(name) for name in used}


def _machine() -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = models[0] if models else processor
    torch = sys.modules.get("torch")
    device = torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else "cpu"
    return {
        "system": platform.platform(terse=True),
        "processor": processor,
        "cores": os.cpu_count(),
        "device": device,
        "capability": _capability(),
        "threads": torch.get_num_threads() if torch is not None else None,
    }


def _capability() -> str:
    """Return the vector instructions that the libraries use: the last digits of a result depend on them.

    They follow from the processor, unless variables such as ATEN_CPU_CAPABILITY restrict them.
    """
    used = {"numpy": _numpy_capability()}
    torch = sys.modules.get("torch")
    if torch is not None:
        used["torch"] = torch.backends.cpu.get_cpu_capability()
    return ", ".join(f"{name} {instructions}" for name, instructions in used.items())


def _numpy_capability() -> str:
    """Return the vector instructions of numpy's exponential function; `unknown` in versions that do not tell."""
    try:
        from numpy.lib.introspect import opt_func_info

        return str(next(iter(opt_func_info(func_name="^exp$", signature="float64")["exp"].values()))["current"])
    except (ImportError, LookupError, StopIteration, TypeError, AttributeError):
        return "unknown"

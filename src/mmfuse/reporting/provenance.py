"""The provenance of every number: the runs, how they depend on each other, and whether their checksums agree."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmfuse.files.records import read_record
from mmfuse.reporting.scores import existing
from mmfuse.study.stages import STAGES
from mmfuse.study.types import Parameters
from mmfuse.words import number_of

_ORDER = tuple(STAGES)
_SHOWN = 40  # ASSUME: longer lists of files are truncated in the page; run.json has all


@dataclass(frozen=True)
class RecordedJob:
    """One job as its run.json records it; `anchor` is its HTML id in the page."""

    anchor: str
    title: str
    stage: str
    path: str
    record: Mapping[str, Any]


@dataclass(frozen=True)
class File:
    """A file that a run read or wrote, the run that wrote it (an anchor, or empty) and whether the checksums agree."""

    path: str
    checksum: str
    maker: str
    agrees: bool


def anchor(*parts: str) -> str:
    """Return an HTML id; different parts always give different ids."""
    return "-".join(re.sub(r"[^A-Za-z0-9._]", lambda m: f"~{ord(m.group()):x}~", part) for part in parts)


def read_run(path: Path, stage: str, *what: str) -> RecordedJob:
    """Read one run.json.

    Args:
        path: The file.
        stage: The stage that wrote it.
        what: What identifies the job (dataset, system, part), for its title and its anchor.

    Raises:
        UserError: the file is missing or damaged.
    """
    record = read_record(existing(path, stage), fix=f"run the stage `{stage}` for it again")
    return RecordedJob(anchor("run", stage, *what), " · ".join(what), stage, path.as_posix(), record)


def makers(runs: Iterable[RecordedJob]) -> dict[str, tuple[str, str]]:
    """Map each file that a run wrote to that run's anchor and the recorded checksum."""
    return {path: (run.anchor, digest) for run in runs for path, digest in run.record["outputs"].items()}


def traced(files: Mapping[str, str], made: Mapping[str, tuple[str, str]]) -> list[File]:
    """Connect the files that a run read with the runs that wrote them."""
    found = []
    for path, digest in sorted(files.items()):
        maker, recorded = made.get(path, ("", digest))
        found.append(File(path, digest, maker, recorded == digest))
    return found


def broken(runs: Sequence[RecordedJob]) -> tuple[int, list[str]]:
    """Count the inputs that another run wrote, and list those whose checksum differs from the one recorded there."""
    made, count, wrong = makers(runs), 0, []
    for run in runs:
        for file in traced(run.record["inputs"], made):
            count += bool(file.maker)
            if not file.agrees:
                wrong.append(f"{file.path}, read by {run.stage} {run.title}")
    return count, wrong


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100).rstrip() if value else ""


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def commit_of(run: RecordedJob) -> str:
    """Return the commit of a run, with a note if the working tree had changes."""
    commit = run.record["commit"] or "no commit recorded"
    return f"{commit} with uncommitted changes" if run.record["dirty"] else str(commit)


def machine_of(run: RecordedJob) -> str:
    """Return a run's machine in one line."""
    machine = run.record["machine"]
    cores = f"{number_of(machine['cores'], 'core')}" if machine.get("cores") else ""
    known = [machine.get("system"), machine.get("processor"), cores, machine.get("device")]
    return ", ".join(str(item) for item in known if item) or "not recorded"


def _computing(run: RecordedJob) -> str:
    """Return the vector instructions and the threads of a run, on which the last digits of its results depend."""
    machine = run.record["machine"]
    threads = f"{number_of(machine['threads'], 'thread')}" if machine.get("threads") else ""
    return "".join(f", {item}" for item in (machine.get("capability"), threads) if item)


def section(run: RecordedJob, made: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Return what the page shows for one run."""
    record = run.record
    inputs, outputs = traced(record["inputs"], made), traced(record["outputs"], {})
    return {
        "anchor": run.anchor,
        "title": run.title,
        "stage": run.stage,
        "order": _ORDER.index(run.stage),
        "path": run.path,
        "command": record["command"] or "not recorded",
        "commit": commit_of(run),
        "seed": record["seed"],
        "machine": f"{machine_of(run)}{_computing(run)}",
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        "parameters": _yaml(record["parameters"]),
        "inputs": inputs[:_SHOWN],
        "inputs_left": max(0, len(inputs) - _SHOWN),
        "outputs": outputs[:_SHOWN],
        "outputs_left": max(0, len(outputs) - _SHOWN),
        "mlflow": record["mlflow"],
        "tracked": page_of(run),
        "measured": ", ".join(
            f"{name} {value if isinstance(value, str) else format(value, 'g')}"
            for name, value in record["measured"].items()
        ),
    }


def overview(runs: Sequence[RecordedJob], parameters: Parameters) -> dict[str, Any]:
    """Return the provenance of the whole study: commits, machines, data and parameters."""
    count, wrong = broken(runs)
    data = [
        (run.title, run.anchor, path, digest)
        for run in runs
        if run.stage == "prepare"
        for path, digest in sorted(run.record["outputs"].items())
    ]
    return {
        "commits": _distinct(commit_of(run) for run in runs),
        "machines": _distinct(machine_of(run) for run in runs),
        "runs": len(runs),
        "checked": count,
        "wrong": wrong,
        "data": data,
        "parameters": _yaml(dict(parameters)),
    }


def tracked(runs: Iterable[RecordedJob]) -> str:
    """Return the address of MLflow's page with all runs of the study, or nothing if no job was tracked."""
    return next((re.sub(r"/runs/\w+", "/runs", page) for page in map(page_of, runs) if page), "")


def page_of(run: RecordedJob) -> str:
    """Return the address of MLflow's page with a run; nothing if the record has none."""
    page = run.record["mlflow"].get("page", "")
    return page if page.startswith(("http://", "https://")) else ""


def counted(runs: Iterable[RecordedJob]) -> list[tuple[str, int]]:
    """Return the number of runs of each stage, in the order of the stages."""
    found = [run.stage for run in runs]
    return [(stage, found.count(stage)) for stage in _ORDER if stage in found]


def as_lines(runs: Iterable[RecordedJob]) -> list[list[str]]:
    """Return how each result was made: a header, then one line for each file that a run wrote."""
    head = ["stage", "job", "output", "sha256", "command", "commit", "seed", "machine", "MLflow run", "record"]
    lines = [head]
    for run in runs:
        seed = run.record["seed"]
        tracked = run.record["mlflow"].get("run_id", "")
        end = [run.record["command"] or "", commit_of(run), "" if seed is None else str(seed), machine_of(run)]
        for path, digest in sorted(run.record["outputs"].items()):
            lines.append([run.stage, run.title, path, digest, *end, tracked, run.path])
    return lines

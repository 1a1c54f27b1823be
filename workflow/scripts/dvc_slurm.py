"""Run the study with DVC on Slurm, in parallel: one job for each stage that is out of date, or for several of one kind.

DVC itself runs stages one after the other. Here, each job runs `dvc repro --single-item`, and Slurm starts it when the
jobs on which it depends have succeeded. Memory, minutes, partitions and GPUs are those of Snakemake's Slurm profile.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx as nx
from sync import check_dvc

from mmfuse.errors import MmfuseError, UserError
from mmfuse.files.reading import read_yaml
from mmfuse.study.parameters import load_parameters
from mmfuse.words import number_of

PROFILE = Path("profiles/slurm/config.yaml")
LOGS = Path("logs/slurm")
HERE = "download"  # nodes often have no network
_DIGEST = ("dvc", "repro", "--quiet", "--single-item", "code")
_SLURM = ("sbatch", "squeue", "scancel")
_POLL = 2.0  # seconds


@dataclass(frozen=True)
class Task:
    """One job of Slurm: stages of one kind that do not depend on each other, and the stages on which they depend."""

    kind: str
    stages: tuple[str, ...]
    after: frozenset[str]


def outdated(root: Path) -> dict[str, frozenset[str]]:
    """Return the stages to run, each with those among them on which it depends.

    DVC's status covers only a stage's own files; the stages after a stage that runs may change with it.
    """
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        changed = set(repo.status())
        graph = repo.index.graph  # from a stage to those on which it depends
        before = {stage.addressing: {needed.addressing for needed in graph.successors(stage)} for stage in graph}
    return needed_runs(before, changed)


def needed_runs(before: Mapping[str, set[str]], changed: set[str]) -> dict[str, frozenset[str]]:
    """Return the changed stages and all that come after them, in an order in which they can run."""
    graph = _graph(before)
    runs = changed.union(*(nx.descendants(graph, stage) for stage in changed & before.keys()))
    order = (stage for level in nx.topological_generations(graph) for stage in sorted(level))
    return {stage: frozenset(before[stage] & runs) for stage in order if stage in runs}


def depths(before: Mapping[str, set[str] | frozenset[str]]) -> dict[str, int]:
    """Return, for each stage, the length of the longest path to it from a stage without dependencies."""
    levels = nx.topological_generations(_graph(before))
    return {stage: number for number, level in enumerate(levels) for stage in level}


def _graph(before: Mapping[str, set[str] | frozenset[str]]) -> nx.DiGraph:
    """Return a graph from each stage to those that depend on it directly."""
    return nx.DiGraph(before).reverse()


def tasks_of(runs: Mapping[str, frozenset[str]], together: Mapping[str, int]) -> list[Task]:
    """Group stages into jobs, of one kind and one depth each, so that no two jobs wait for each other.

    Args:
        runs: The stages to run, see `outdated`.
        together: Number of stages of a kind in one job; by default 1.
    """
    level = depths(runs)
    alike: dict[tuple[int, str], list[str]] = {}
    for stage in runs:
        alike.setdefault((level[stage], stage.partition("-")[0]), []).append(stage)
    found = []
    for (_, kind), stages in sorted(alike.items()):
        step = together.get(kind, 1)
        for start in range(0, len(stages), step):
            some = tuple(stages[start : start + step])
            found.append(Task(kind, some, frozenset().union(*(runs[stage] for stage in some))))
    return found


def options(task: Task, profile: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[str]:
    """Return the options of sbatch for a job's resources, from the profile and the parameters."""
    needs = {**profile.get("default-resources", {}), **profile.get("set-resources", {}).get(task.kind, {})}
    flags = {"slurm_partition": "partition", "mem_mb": "mem", "gres": "gres", "slurm_account": "account"}
    found = [f"--{flag}={_first_try(needs[key])}" for key, flag in flags.items() if key in needs]
    minutes = int(_first_try(needs.get("runtime", 60))) * len(task.stages)
    return [*found, f"--time={minutes}", f"--cpus-per-task={threads(task, parameters)}"]


def _first_try(value: Any) -> str:
    """Return a resource of the profile at the first attempt: `attempt * 4000` is 4000."""
    return str(value).replace("attempt *", "").strip()


def threads(task: Task, parameters: Mapping[str, Any]) -> int:
    """Return the number of threads of a kind of stage, from the parameters."""
    named = {
        "train": parameters["train"]["threads"],
        "fuse": parameters["fuse"]["threads"],
        "fuse_labelled": parameters["fuse"]["threads"],
        "analyse": parameters["fuse"]["threads"],
        "evaluate": parameters["evaluate"]["workers"],
    }
    if task.kind in {"detect", "segment"}:
        blocks = parameters["downstream"]
        return max(int(blocks[name]["training"]["threads"]) for name in blocks)
    return int(named.get(task.kind, 1))


def command(task: Task) -> str:
    """Return the command of a job; it waits for DVC's lock, which a parallel job may hold for a moment."""
    return shlex.join(["dvc", "--wait-for-lock", "repro", "--single-item", *task.stages])


def submit(root: Path, tasks: Sequence[Task], extra: Sequence[str]) -> dict[str, str]:
    """Submit the jobs in order; return the id of the job of each stage.

    Raises:
        MmfuseError: Slurm refused a job; the previous ones are cancelled.
    """
    profile, parameters = read_yaml(root / PROFILE), load_parameters(root / "params.yaml")
    (root / LOGS).mkdir(parents=True, exist_ok=True)
    numbers: dict[str, str] = {}
    for task in tasks:
        after = sorted({numbers[stage] for stage in task.after})
        wait = [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"] if after else []
        asked = [
            "sbatch", "--parsable", f"--job-name={task.stages[0]}", f"--comment={_mark(root)}", f"--chdir={root}",
            f"--output={LOGS}/{task.stages[0]}.%j.out", *options(task, profile, parameters), *wait, *extra,
            f"--wrap={command(task)}",
        ]  # fmt: skip
        run = subprocess.run(asked, capture_output=True, text=True, check=False)
        if run.returncode:
            if numbers:
                subprocess.run(["scancel", *sorted(set(numbers.values()))], check=False)
            raise MmfuseError(f"Slurm refused the job of {task.stages[0]}:\n{shlex.join(asked)}\n{run.stderr}")
        number = run.stdout.strip().partition(";")[0]
        numbers |= dict.fromkeys(task.stages, number)
    return numbers


def _mark(root: Path) -> str:
    """Return the comment that marks this study's jobs in the queue."""
    return f"dvc of {root}"


def queued(root: Path) -> list[str]:
    """Return the ids of this study's pending and running jobs.

    Raises:
        UserError: Slurm's programs are missing, or its server does not answer.
    """
    asked = ["squeue", "--noheader", "--states=PENDING,RUNNING,CONFIGURING,COMPLETING,SUSPENDED", "--format=%i|%k"]
    missing = [program for program in _SLURM if shutil.which(program) is None]
    if missing:
        raise UserError(
            "Slurm's programs are not here.", expected=f"{', '.join(_SLURM)} on the path", found=f"no {missing[0]}",
            fix="call the script on a login node of the cluster; `dvc repro` runs the stages without Slurm",
        )  # fmt: skip
    run = subprocess.run(asked, capture_output=True, text=True, check=False)
    if run.returncode:
        raise UserError(
            "Slurm does not answer.", expected="`squeue` to list the jobs in the queue", found=run.stderr.strip(),
            fix="call the script again when `squeue` works; `dvc repro` runs the stages without Slurm",
        )  # fmt: skip
    lines = [line.partition("|") for line in run.stdout.splitlines()]
    return [number.strip() for number, _, comment in lines if comment.strip() == _mark(root)]


def study(root: Path, *, together: Mapping[str, int], extra: Sequence[str], wait: bool, dry: bool) -> None:
    """Run the stages that are out of date.

    Raises:
        UserError: jobs of this study are already in the queue, dvc.yaml belongs to another study, or Slurm is missing
            or does not answer.
        MmfuseError: a download or the submission failed; or with `wait`, some stages are not up to date at the end.
    """
    check_dvc(root)
    waiting = [] if dry else queued(root)
    if waiting:
        raise UserError(
            "Jobs of this study are already in the queue.",
            expected="none, so that no stage runs twice at the same time",
            found=", ".join(waiting),
            fix=f"wait for them, or run `scancel {' '.join(waiting)}`",
        )
    # the code of each job must be known to find the jobs that are out of date
    if not dry and subprocess.run(_DIGEST, cwd=root, check=False).returncode:
        raise MmfuseError("DVC's stage `code` failed.")
    runs = outdated(root)
    here = [stage for stage in runs if stage.partition("-")[0] == HERE]
    tasks = tasks_of({stage: after - set(here) for stage, after in runs.items() if stage not in here}, together)
    for stage in here if dry else ():
        print(f"here: dvc repro --single-item {stage}")
    for task in tasks if dry else ():
        print(
            f"job: {command(task)}" + (f"  # after {number_of(len(task.after), 'other stage')}" if task.after else "")
        )
    if dry or not runs:
        print(
            "nothing is out of date"
            if not runs
            else f"{number_of(len(tasks), 'job')} for {number_of(len(runs) - len(here), 'stage')}"
        )
        return
    if here and subprocess.run(["dvc", "repro", "--single-item", *here], cwd=root, check=False).returncode:
        raise MmfuseError(f"A download failed: {', '.join(here)}.")
    numbers = submit(root, tasks, extra)
    of = f"{number_of(len(tasks), 'job')} for {number_of(len(numbers), 'stage')}"
    print(f"submitted {of}: {' '.join(dict.fromkeys(numbers.values()))}")
    if wait:
        while queued(root):
            time.sleep(_POLL)
        left = list(outdated(root))
        if left:
            raise MmfuseError(f"Not up to date: {', '.join(left)}. The output of each job is in {LOGS}.")


def main() -> None:
    """Submit the stages that are out of date; arguments after `--` are passed to sbatch."""
    words, extra = sys.argv[1:], list[str]()
    if "--" in words:
        words, extra = words[: words.index("--")], words[words.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="only print what would be submitted")
    parser.add_argument(
        "--wait", action="store_true", help="wait for all jobs, and fail if some stage is not up to date"
    )
    parser.add_argument("--together", type=int, default=10, metavar="N", help="stages of fuse or evaluate in one job")
    known = parser.parse_args(words)
    if known.together < 1:
        parser.error("--together: must be at least 1")
    together = {"fuse": known.together, "evaluate": known.together}
    try:
        study(Path.cwd(), together=together, extra=extra, wait=known.wait, dry=known.dry_run)
    except MmfuseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

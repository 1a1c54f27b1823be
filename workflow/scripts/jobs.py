"""The study's jobs as each engine sees them, in one form, so that they can be compared and written down."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PARAMS = "params.yaml"


@dataclass(frozen=True)
class Job:
    """One job: its command, its files, and the parameters whose change reruns it (`FILE:KEY`, or a key alone)."""

    command: str
    inputs: frozenset[str]
    outputs: frozenset[str]
    parameters: frozenset[str]

    @property
    def name(self) -> str:
        """The job's name in dvc.yaml: the stage and what tells its jobs apart."""
        words = self.command.split()
        stage = words[words.index("stage") + 1]
        known = {words[k]: words[k + 1] for k in range(len(words) - 1) if words[k].startswith("--")}
        keys = (
            "analysis",
            "protocol",
            "set",
            "dataset",
            "pairs",
            "patches",
            "trained-on",
            "method",
            "variant",
            "seed",
            "part",
        )
        parts = [known.get(f"--{key}") for key in keys]
        return "-".join([stage, *(part for part in parts if part)])


@dataclass(frozen=True)
class SnakemakeStudy:
    """What Snakemake would do: all jobs, and whether each of them was last run by Snakemake itself."""

    jobs: list[Job]
    recorded: bool


def snakemake_study(root: Path) -> SnakemakeStudy:
    """Read all jobs from the Snakefile's graph, whether or not they are up to date."""
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import DAGSettings, OutputSettings, Quietness, ResourceSettings

    quiet = OutputSettings(quiet={Quietness.ALL})
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said), SnakemakeApi(quiet) as api:
        workflow = api.workflow(ResourceSettings(cores=1), snakefile=root / "Snakefile", workdir=root)
        workflow.dag(DAGSettings(forceall=True)).execute_workflow(executor="dryrun")
        graph = workflow._workflow.dag
        real = [job for job in graph.jobs if job.shellcmd]
        jobs = [
            Job(
                command=" ".join(job.shellcmd.split()),
                inputs=frozenset(map(str, job.input)),
                outputs=frozenset(map(str, job.output)),
                parameters=frozenset(job.params.watch),
            )
            for job in real
        ]
        records = workflow._workflow.persistence
        recorded = all(records.has_metadata(job) for job in real)
    return SnakemakeStudy(sorted(jobs, key=lambda job: job.command), recorded)


def dvc_jobs(root: Path) -> list[Job]:
    """Read all jobs from dvc.yaml."""
    from dvc.dependency import ParamsDependency
    from dvc.repo import Repo

    jobs = []
    with Repo(str(root)) as repo:
        for stage in repo.index.stages:
            watched = [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]
            jobs.append(
                Job(
                    command=" ".join(stage.cmd.split()),
                    inputs=frozenset(dep.def_path for dep in stage.deps if not isinstance(dep, ParamsDependency)),
                    outputs=frozenset(out.def_path for out in stage.outs),
                    parameters=frozenset(_key(dep.def_path, key) for dep in watched for key in dep.params),
                )
            )
    return sorted(jobs, key=lambda job: job.command)


def _key(file: str, key: str) -> str:
    return key if Path(file).name == PARAMS else f"{file}:{key}"


def differences(snakemake: list[Job], dvc: list[Job]) -> list[str]:
    """Say in words how two lists of jobs differ; nothing if they are equal."""
    left, right = ({job.outputs: job for job in jobs} for jobs in (snakemake, dvc))
    lines = [f"only Snakemake makes {min(outputs)}" for outputs in left.keys() - right.keys()]
    lines += [f"only DVC makes {min(outputs)}" for outputs in right.keys() - left.keys()]
    for outputs in left.keys() & right.keys():
        for field in ("command", "inputs", "parameters"):
            one, other = getattr(left[outputs], field), getattr(right[outputs], field)
            if one != other:
                lines.append(f"{left[outputs].name}: {field} differ: {_gap(one, other)}")
    return sorted(lines)


def _gap(one: Any, other: Any) -> str:
    if isinstance(one, str):
        return f"{one!r} (Snakemake), {other!r} (DVC)"
    return f"{sorted(one - other)} (only Snakemake), {sorted(other - one)} (only DVC)"

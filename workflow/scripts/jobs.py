"""The study's jobs as declared, as listed by DVC and as Snakemake would run them, and the differences between them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmfuse.data import catalog
from mmfuse.errors import MmfuseError
from mmfuse.study.parameters import load_parameters
from mmfuse.study.stage import Key, Parameters, Stage
from mmfuse.study.stages import DOWNLOAD, REPORT, jobs_of

PARAMS = "params.yaml"
CODE = "code"  # DVC's stage that writes the digests
_SHELL = "Shell command: "


@dataclass(frozen=True)
class EngineJob:
    """One job: its name in dvc.yaml, its command, its files, and the parameters whose change reruns it.

    A parameter of another file than params.yaml is `FILE:KEY`. The inputs include the digest of the code.
    """

    name: str
    command: str
    inputs: frozenset[str]
    outputs: frozenset[str]
    parameters: frozenset[str]


def digest_file(stage: Stage, key: Key) -> str:
    """Return the file that lists the code behind a job, with its checksums."""
    own = [entry.rpartition(".")[2] for entry in stage.entries(key) if not entry.endswith(".*")]
    return f".mmfuse/code/{'.'.join([stage.name, *own])}.txt"


def manual_file(stage: Stage, key: Key) -> str | None:
    """Return the file with the checksum of a dataset that was fetched by hand; None if the job downloads none.

    For DVC: a dependency on the folder itself would differ between clones that have it and those that do not.
    """
    if stage is not DOWNLOAD or catalog.dataset(key["dataset"]).generator is not None:
        return None
    return f".mmfuse/manual/{key['dataset']}.txt"


def declared_jobs(root: Path) -> list[EngineJob]:
    """Return all jobs of the study in a project's folder, in the order of the stages."""
    parameters = load_parameters(root / PARAMS)
    return [_declared(parameters, stage, key) for stage, key in [*jobs_of(parameters), (REPORT, {})]]


def _declared(parameters: Parameters, stage: Stage, key: Key) -> EngineJob:
    inputs = [path for paths in stage.files(parameters, key).values() for path in paths]
    return EngineJob(
        name="-".join([stage.name, *(key[name] for name in stage.key)]),
        command=stage.command(key),
        inputs=frozenset([*inputs, digest_file(stage, key), *filter(None, [manual_file(stage, key)])]),
        outputs=frozenset([*stage.written(key).values(), stage.path("record", key)]),
        parameters=frozenset(stage.watched(parameters, key)),
    )


def digests(root: Path) -> dict[str, list[str]]:
    """Return the files of code behind the jobs of the study, by the file that lists them."""
    parameters = load_parameters(root / PARAMS)
    return {digest_file(stage, key): stage.code(key) for stage, key in [*jobs_of(parameters), (REPORT, {})]}


def manual_checksums(root: Path) -> dict[str, str]:
    """Return the content of each `manual_file` of the study: one line in the format of sha256sum, or nothing."""
    parameters = load_parameters(root / PARAMS)
    return {
        file: "".join(f"{digest}  {path}\n" for path, digest in DOWNLOAD.checksums(parameters, key).items())
        for key in DOWNLOAD.jobs(parameters)
        for file in filter(None, [manual_file(DOWNLOAD, key)])
    }


def dvc_jobs(root: Path) -> list[EngineJob]:
    """Read all jobs from dvc.yaml, except the one that writes the digests."""
    from dvc.dependency import ParamsDependency
    from dvc.repo import Repo

    jobs = []
    with Repo(str(root)) as repo:
        for stage in (stage for stage in repo.index.stages if stage.name != CODE):
            watched = [dep for dep in stage.deps if isinstance(dep, ParamsDependency)]
            jobs.append(
                EngineJob(
                    name=stage.name,
                    command=" ".join(stage.cmd.split()),
                    inputs=frozenset(dep.def_path for dep in stage.deps if not isinstance(dep, ParamsDependency)),
                    outputs=frozenset(out.def_path for out in stage.outs),
                    parameters=frozenset(_key(dep.def_path, key) for dep in watched for key in dep.params),
                )
            )
    return jobs


def _key(file: str, key: str) -> str:
    return key if Path(file).name == PARAMS else f"{file}:{key}"


def snakemake_commands(root: Path) -> list[str]:
    """Return the commands of all jobs that Snakemake would run without any existing output.

    Raises:
        MmfuseError: Snakemake fails.
    """
    run = subprocess.run(
        ["snakemake", "--dry-run", "--forceall", "--printshellcmds", "--cores", "1"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = run.stdout + run.stderr
    if run.returncode:
        raise MmfuseError(f"Snakemake cannot plan the jobs:\n{said}")
    commands = [line.removeprefix(_SHELL) for line in said.splitlines() if line.startswith(_SHELL)]
    return [command for command in commands if command != "None"]  # that of `rule all`


def differences(declared: Sequence[EngineJob], dvc: Iterable[EngineJob], snakemake: Iterable[str]) -> list[str]:
    """Return the differences between the engines' jobs and the declared ones in words; none if all are equal."""
    left, right = ({job.name: job for job in jobs} for jobs in (declared, dvc))
    lines = [f"{name} is missing in dvc.yaml" for name in left.keys() - right.keys()]
    lines += [f"{name} of dvc.yaml is not a job of the study" for name in right.keys() - left.keys()]
    for name in left.keys() & right.keys():
        one, other = left[name], right[name]
        if one.command != other.command:
            lines.append(f"{name}: command differs: {one.command!r}, in dvc.yaml {other.command!r}")
        for field in ("inputs", "outputs", "parameters"):
            here, there = getattr(one, field), getattr(other, field)
            if here != there:
                gap = f"only declared: {sorted(here - there)}, only in dvc.yaml: {sorted(there - here)}"
                lines.append(f"{name}: {field} differ: {gap}")
    commands = {job.command for job in declared}
    run = set(snakemake)
    lines += [f"Snakemake does not run: {command}" for command in commands - run]
    lines += [f"only Snakemake runs: {command}" for command in run - commands]
    return sorted(lines)

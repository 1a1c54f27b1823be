"""Synchronise both engines (`mmfuse sync`), and write dvc.yaml.

Both `dvc commit --force` and `snakemake --touch` accept all existing files, so each is run only if the other engine
reports that nothing is out of date. dvc.yaml is written from the declarations of the stages, like the Snakefile's
rules.
"""

from __future__ import annotations

import base64
import csv
import io
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import yaml
from jobs import (
    CODE,
    PARAMS,
    EngineJob,
    declared_jobs,
    differences,
    digests,
    dvc_jobs,
    manual_checksums,
    snakemake_commands,
)

from mmfuse.data.origins import MANUAL
from mmfuse.errors import MmfuseError, UserError
from mmfuse.files.writing import behind_link, write_manifest, write_text
from mmfuse.progress import steps
from mmfuse.study.code_lists import check_running_code
from mmfuse.study.integrity import check_present, check_study
from mmfuse.study.parameters import load_parameters
from mmfuse.study.plan import check_external
from mmfuse.study.types import Parameters
from mmfuse.words import number_of

METRICS = "reports/metrics.json"  # what `dvc metrics diff` compares
_SHOWN = 5  # names in a message
HEADER = """\
# The same jobs as the Snakefile's, for DVC. Written by `mmfuse sync --write-dvc` from params.yaml and the declarations
# in src/mmfuse/study/stages.py: run it again if the jobs of the study change. Changed numbers do not need it.
"""


def dvc_yaml(jobs: list[EngineJob]) -> str:
    """Return the text of dvc.yaml for a list of jobs, with a few lines for each."""
    listed = sorted({path for job in jobs for path in job.inputs if path.startswith(".mmfuse/")})
    by_hand = [MANUAL.as_posix()] if any(path.startswith(".mmfuse/manual/") for path in listed) else []
    # lists the code behind each job, and the checksums of datasets fetched by hand, so that a job reruns if its own
    # code or files have changed
    lines = ["stages:", *_stage(CODE, cmd="mmfuse sync --code", deps=["src/mmfuse", PARAMS, *by_hand], outs=listed)]
    for job in jobs:
        measured = sorted(job.outputs & {METRICS})
        lines += _stage(
            job.name,
            cmd=job.command,
            deps=sorted(job.inputs),
            params=_parameters(job),
            outs=sorted(job.outputs - set(measured)),
            metrics=measured,
        )
    plots = [f"- {_flow(plot)}" for plot in _plots(jobs)]
    lines += ["plots:", *plots] if plots else []  # a study without a training has none, and DVC refuses an empty block
    return HEADER + "\n".join(lines) + "\n"


def _stage(name: str, **fields: Any) -> list[str]:
    """Return the lines of one stage, without empty fields."""
    return [f"  {name}:", *(f"    {field}: {_flow(value)}" for field, value in fields.items() if value)]


def _flow(value: Any) -> str:
    """Return a value as YAML, with lists and mappings in brackets."""
    text = yaml.safe_dump(value, sort_keys=False, default_flow_style=True, width=250).removesuffix("...\n").rstrip()
    return " ".join(text.split()) if isinstance(value, str) else text.replace("\n", "\n    ")


def _plots(jobs: list[EngineJob]) -> list[dict[str, Any]]:
    """Return what `dvc plots diff` draws for two commits: the training loss of each training over the steps."""
    histories = {job.name: out for job in jobs for out in job.outputs if out.endswith(".history.csv")}
    return [
        {name: {"x": "step", "y": {path: "train/total"}, "x_label": "step", "y_label": "loss"}}
        for name, path in sorted(histories.items())
    ]


def _parameters(job: EngineJob) -> list[str | dict[str, list[str]]]:
    """Return DVC's form of the watched keys: plain ones from params.yaml, others under their file."""
    keys: list[str | dict[str, list[str]]] = sorted(key for key in job.parameters if ":" not in key)
    files: dict[str, list[str]] = {}
    for key in sorted(job.parameters - set(keys)):
        file, _, inner = key.partition(":")
        files.setdefault(file, []).append(inner)
    return keys + [{file: inner} for file, inner in files.items()]


def write_dvc(root: Path) -> bool:
    """Write dvc.yaml if it has changed; return whether it was written."""
    jobs = declared_jobs(root)
    path, text = root / "dvc.yaml", dvc_yaml(jobs)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    write_text(behind_link(path), text)
    print(f"wrote dvc.yaml: {number_of(len(jobs), 'job')} of {PARAMS}")
    return True


def write_code(root: Path) -> None:
    """Write the checksums of the code behind each job and of data fetched by hand; DVC's stage `code` runs this."""
    for name, files in digests(root).items():
        write_manifest(root / name, root, [root / file for file in files])
    for name, lines in manual_checksums(root).items():
        write_text(root / name, lines)


def check_dvc(root: Path) -> None:
    """Check that dvc.yaml lists the jobs of params.yaml.

    Raises:
        UserError: it belongs to another study, with other jobs.
    """
    path = root / "dvc.yaml"
    if path.read_text(encoding="utf-8") != dvc_yaml(declared_jobs(root)):
        raise UserError(
            "dvc.yaml belongs to another study.",
            expected=f"the jobs of {PARAMS}",
            fix="run `mmfuse sync --write-dvc`, then the same command again",
        )


def sync(root: Path) -> None:
    """Bring the engine that did not run to the state of the one that ran.

    Raises:
        UserError: neither engine is up to date, a run of Snakemake holds the folder, a file differs from the record of
            the job that wrote it, or images that were fused elsewhere are missing.
    """
    parameters = load_parameters(root / PARAMS)
    check_external(parameters, root)
    check_unlocked(root)
    write_dvc(root)
    write_code(root)
    with steps("sync", 6) as begin:
        done = _sync(root, parameters, begin)
    if done:
        print(f"{done} is up to date; the other engine's records now say the same.")
        return
    check_present(root, parameters)  # a damaged file may be the reason
    half = incomplete(root, {path for job in declared_jobs(root) for path in job.outputs})
    listed = ", ".join(half[:_SHOWN]) + (f" and {len(half) - _SHOWN} more" if len(half) > _SHOWN else "")
    raise UserError(
        "Neither engine is up to date, so there is no state to copy.",
        expected="`snakemake --dry-run` with nothing to be done after a complete run, or a clean `dvc status`",
        found=f"files that a stopped run of Snakemake has left incomplete: {listed}" if half else None,
        fix="run `snakemake --cores all` or `dvc repro` to its end, then `mmfuse sync` again",
    )


def _sync(root: Path, parameters: Parameters, begin: Callable[[str], None]) -> str:
    """Update the engine that did not run; return the one that did, or nothing if neither is up to date."""
    if (root / "dvc.lock").is_file():
        # what DVC's stage `code` writes is up to date now; without the commit, it would count as out of date
        begin("dvc commit code")
        _commit(root, CODE)
    begin("dvc status")
    if _run(root, "dvc", "status", "--quiet") == 0:
        check_study(root, parameters)
        begin("snakemake --touch")
        _renew(root)
        return "DVC"
    begin("snakemake --summary")
    if not _finished(root):
        return ""
    check_study(root, parameters)
    begin("dvc commit")
    _commit(root)
    begin("snakemake --touch")
    _renew(root)  # DVC has rewritten the files, and Snakemake compares the times of the largest ones
    return "Snakemake"


def check_unlocked(root: Path) -> None:
    """Check that no run of Snakemake holds the folder, because `snakemake --touch` would then fail.

    Raises:
        UserError: a run is under way, or was killed.
    """
    if any((root / ".snakemake/locks").glob("*")):
        raise UserError(
            "Snakemake has locked this folder.",
            expected="no run of Snakemake under way, and none that was killed",
            found="files in .snakemake/locks",
            fix="wait for the run to end; if it was killed, run `snakemake --unlock`, then the same command again",
        )


def incomplete(root: Path, outputs: Collection[str]) -> list[str]:
    """Return the outputs of a study that Snakemake has marked as incomplete: a stopped run did not finish their jobs.

    The folder may also have marks of jobs that the study no longer has, and files that mark nothing.
    """
    marks = root / ".snakemake/incomplete"
    names = ["".join(p.removeprefix("@") for p in f.relative_to(marks).parts) for f in marks.rglob("*") if f.is_file()]
    marked = {base64.urlsafe_b64encode(path.encode()).decode(): path for path in outputs}
    return sorted(marked[name] for name in names if name in marked)


def _finished(root: Path) -> bool:
    """Whether Snakemake has run all jobs itself, and has nothing to do."""
    run = subprocess.run(
        ["snakemake", "--summary", "--rerun-incomplete"], cwd=root, capture_output=True, text=True, check=False
    )
    rows = list(csv.DictReader(io.StringIO(run.stdout), delimiter="\t"))
    return not run.returncode and bool(rows) and all(r["plan"] == "no update" and r["rule"] != "-" for r in rows)


def _commit(root: Path, *stages: str) -> None:
    """Make DVC accept the existing files of some stages, or of all, as up to date."""
    _must(root, "dvc", "commit", "--force", *stages)


def _renew(root: Path) -> None:
    """Make Snakemake accept all existing files as up to date."""
    _must(root, "snakemake", "--touch", "--forceall", "--rerun-incomplete", "--cores", "1", "all")


def _run(root: Path, *command: str) -> int:
    return subprocess.run(command, cwd=root, capture_output=True, check=False).returncode


def _must(root: Path, *command: str) -> None:
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if run.returncode:
        raise MmfuseError(f"`{' '.join(command)}` failed:\n{run.stdout}{run.stderr}")


def main() -> None:
    """Synchronise the engines; `--write-dvc` writes dvc.yaml, `--check` compares all jobs, `--code` is for DVC."""
    root = Path.cwd()
    try:
        check_running_code(root)
        if "--write-dvc" in sys.argv:
            if not write_dvc(root):
                print("dvc.yaml is up to date")
        elif "--code" in sys.argv:
            check_dvc(root)
            write_code(root)
        elif "--check" in sys.argv:
            lines = differences(declared_jobs(root), dvc_jobs(root), snakemake_commands(root))
            print("\n".join(lines) or "both engines have the same jobs")
            sys.exit(1 if lines else 0)
        else:
            sync(root)
    except MmfuseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

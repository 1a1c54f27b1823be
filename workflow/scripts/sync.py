"""The guarded step between the engines (`mmfuse sync`), and the writer of dvc.yaml.

The Snakefile is where the study is wired. dvc.yaml is written from it, since DVC's own templates cannot list a varying
number of dependencies. Both `dvc commit --force` and `snakemake --touch` believe what lies there, so each is run only
after the other engine has said that nothing is out of date.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from jobs import PARAMS, Job, SnakemakeStudy, differences, dvc_jobs, snakemake_study

from mmfuse.errors import MmfuseError, UserError
from mmfuse.files.writing import write_text

METRICS = "reports/metrics.json"  # what `dvc metrics diff` compares
HEADER = """\
# The same jobs as the Snakefile's, for DVC. Written by `mmfuse sync --write-dvc` from the Snakefile and params.yaml:
# run it after a change of the rules or of what the study consists of. Numbers may change without it.
"""


def dvc_yaml(jobs: list[Job]) -> str:
    """Return the text of dvc.yaml for a list of jobs."""
    stages = {}
    for job in sorted(jobs, key=lambda one: one.name):
        measured = sorted(job.outputs & {METRICS})
        stages[job.name] = {
            "cmd": job.command,
            "deps": sorted(job.inputs),
            "params": _parameters(job),
            "outs": sorted(job.outputs - set(measured)),
            **({"metrics": measured} if measured else {}),
        }
    return HEADER + yaml.safe_dump({"stages": stages, "plots": _plots(jobs)}, sort_keys=False, width=10_000)


def _plots(jobs: list[Job]) -> list[dict[str, Any]]:
    """Return what `dvc plots diff` draws of two commits: the training loss of each training, step by step."""
    histories = {job.name: out for job in jobs for out in job.outputs if out.endswith(".history.csv")}
    return [
        {name: {"x": "step", "y": {path: "train/total"}, "x_label": "step", "y_label": "loss"}}
        for name, path in sorted(histories.items())
    ]


def _parameters(job: Job) -> list[str | dict[str, list[str]]]:
    """Return DVC's form of the watched keys: plain ones from params.yaml, others under their file."""
    keys: list[str | dict[str, list[str]]] = sorted(key for key in job.parameters if ":" not in key)
    files: dict[str, list[str]] = {}
    for key in sorted(job.parameters - set(keys)):
        file, _, inner = key.partition(":")
        files.setdefault(file, []).append(inner)
    return keys + [{file: inner} for file, inner in files.items()]


def write_dvc(root: Path, study: SnakemakeStudy) -> bool:
    """Write dvc.yaml if it differs; return whether it did."""
    path, text = root / "dvc.yaml", dvc_yaml(study.jobs)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    write_text(path, text)
    print(f"wrote dvc.yaml: {len(study.jobs)} jobs of {PARAMS}")
    return True


def sync(root: Path) -> None:
    """Bring the engine that did not run to the state of the one that did.

    Raises:
        UserError: neither engine is up to date.
    """
    study = snakemake_study(root)
    write_dvc(root, study)
    if _run(root, "dvc", "status", "--quiet") == 0:
        _renew(root)
        print("DVC is up to date; Snakemake's records now say the same.")
        return
    nothing = "Nothing to be done" in _output(root, "snakemake", "--dry-run", "--cores", "1")
    if nothing and study.recorded:
        _must(root, "dvc", "commit", "--force", "--quiet")
        _renew(root)  # DVC has written the files anew, and Snakemake goes by the time of the largest ones
        print("Snakemake is up to date; DVC's records now say the same.")
        return
    raise UserError(
        "Neither engine is up to date, so there is nothing to go by.",
        expected="`snakemake --dry-run` with nothing to be done after a complete run, or a clean `dvc status`",
        fix="run `snakemake --cores all` or `dvc repro` to its end, then `mmfuse sync` again",
    )


def _renew(root: Path) -> None:
    """Let Snakemake take everything that lies there as up to date."""
    _must(root, "snakemake", "--touch", "--forceall", "--cores", "1", "--quiet", "all")


def _run(root: Path, *command: str) -> int:
    return subprocess.run(command, cwd=root, capture_output=True, check=False).returncode


def _output(root: Path, *command: str) -> str:
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return run.stdout + run.stderr


def _must(root: Path, *command: str) -> None:
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if run.returncode:
        raise MmfuseError(f"`{' '.join(command)}` failed:\n{run.stdout}{run.stderr}")


def main() -> None:
    """`sync.py` brings the engines together, `--write-dvc` writes dvc.yaml, `--check` compares the two graphs."""
    root = Path.cwd()
    try:
        if "--write-dvc" in sys.argv:
            study = snakemake_study(root)
            if not write_dvc(root, study):
                print("dvc.yaml is up to date")
        elif "--check" in sys.argv:
            lines = differences(snakemake_study(root).jobs, dvc_jobs(root))
            print("\n".join(lines) or "both engines have the same jobs")
            sys.exit(1 if lines else 0)
        else:
            sync(root)
    except MmfuseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

"""What Snakemake writes with the project's profile: a line for each job, and all that a user needs of a failure."""

import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from snakemake.logging import DefaultFormatter
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_mmfuse import LogHandler

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.engines
FILES = 400  # written by one job and read by others: a study's report reads thousands
SNAKEFILE = f"""
NAMES = [f"out/an_output_with_a_name_of_some_length_{{number}}.txt" for number in range({FILES})]


rule all:
    input:
        "report.txt",
    message:
        "The study is complete."


rule make:
    output:
        NAMES,
    log:
        "logs/make.log",
    shell:
        "touch {{output}}"


rule use:
    input:
        NAMES,
    output:
        "{{name}}.used",
    log:
        "logs/use/{{name}}.log",
    message:
        "Use all with {{wildcards.name}}."
    shell:
        "(echo at work; echo error: no luck; test {{wildcards.name}} != bad && touch {{output}}) > {{log}} 2>&1"


rule report:
    input:
        ["bad.used"] if config.get("bad") else [],
        "one.used",
        "two.used",
    output:
        "report.txt",
    log:
        "logs/report.log",
    shell:
        "touch {{output}}"
"""


@pytest.fixture
def snakemake(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SNAKEMAKE")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def call(*options):
        return subprocess.run(
            ["snakemake", "--cores", "2", *options],
            cwd=tmp_path, env={**environment, "PATH": path, "PYTHONPATH": str(ROOT / "src")},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return call


def test_a_run_writes_a_line_for_each_job(snakemake):
    run = snakemake()
    assert run.returncode == 0, run.stderr
    lines = run.stderr.splitlines()
    jobs = [re.fullmatch(r"\w{3} \d\d:\d\d:\d\d  (\d) of (\d) done  (\w+) +(logs/\S+)", line) for line in lines]
    started = [job.groups() for job in jobs if job]
    assert started[0] == ("0", "5", "make", "logs/make.log")
    assert sorted(started[1:3]) == [
        ("1", "5", "use", "logs/use/one.log"),
        ("1", "5", "use", "logs/use/two.log"),
    ]
    assert started[3:] == [("3", "5", "report", "logs/report.log")]
    assert "tail -f" in run.stderr
    assert sum("5 of 5 done" in line for line in lines) == 1
    assert len(lines) <= 4 + 7, "so many jobs, and so many lines for the run"
    assert max(map(len, lines)) < 160
    complete = re.search(r"Complete log\(s\): (\S+)", run.stderr)[1]
    assert "Reason: Missing output files" in Path(complete).read_text()
    again = snakemake()
    assert "Nothing to be done" in again.stderr


def test_a_failed_job_is_shown_with_its_log_and_without_lists_of_files(snakemake):
    run = snakemake("--config", "bad=1")
    assert run.returncode == 1
    assert "Error in rule use" in run.stderr
    assert "log: logs/use/bad.log" in run.stderr
    assert "error: no luck" in run.stderr, "the log's content"
    assert "an_output_with_a_name" not in run.stderr
    assert len(run.stderr) < 3000


def test_a_mistake_in_the_workflow_is_shown(snakemake, tmp_path):
    (tmp_path / "Snakefile").write_text('raise ValueError("params.yaml is broken")\n')
    run = snakemake()
    assert run.returncode == 1
    assert "params.yaml is broken" in run.stderr


def test_dry_runs_and_verbose_ones_show_the_reasons(snakemake):
    run = snakemake("--dry-run")
    assert "Reason: Missing output files" in run.stdout + run.stderr
    assert "Use all with one." in run.stdout + run.stderr
    run = snakemake("--verbose")
    assert "Reason: Missing output files" in run.stderr
    assert "Finished jobid" in run.stderr


def test_quiet_is_quieter(snakemake):
    run = snakemake("--quiet", "rules")
    assert run.returncode == 0
    assert "logs/" not in run.stderr.replace(".snakemake/log", "")


@pytest.mark.parametrize("name", ["default", "slurm"])
def test_profiles_select_the_output(name):
    assert yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text())["logger"] == ["mmfuse"]


def tell(written, event, **values):
    """Give the output a message of Snakemake."""
    record = logging.LogRecord("snakemake", logging.INFO, "", 0, None, (), None)
    record.__dict__ |= {"event": event, **values}
    written.emit(record)


def handler():
    written = LogHandler(SimpleNamespace(nocolor=True, stdout=False, dryrun=False, verbose=False), None)
    written.setFormatter(DefaultFormatter())
    return written


def test_a_failed_group_of_jobs_on_a_cluster_names_their_logs_alone(capsys):
    jobs = [
        {"rule_name": "fuse", "jobid": 7, "output": ["out.png"] * 1000, "log": [f"logs/fuse/{name}.log"]}
        for name in ("one", "two")
    ]
    tell(handler(), LogEvent.GROUP_ERROR, msg="failed", aux_logs=["slurm.log"], job_error_info=jobs)
    said = capsys.readouterr().err
    assert "logs/fuse/one.log" in said and "logs/fuse/two.log" in said and "slurm.log" in said
    assert "out.png" not in said


def test_the_end_of_a_long_job_is_shown_too(capsys, monkeypatch):
    written, clock = handler(), SimpleNamespace(now=0.0)
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    tell(written, LogEvent.RUN_INFO, stats={"train": 2, "all": 1, "total": 3})
    for number, minutes in ((1, 6), (2, 4)):
        tell(written, LogEvent.JOB_INFO, jobid=number, rule_name="train", log=[f"logs/train/{number}.log"])
        clock.now += 60 * minutes
        tell(written, LogEvent.JOB_FINISHED, job_id=number)
        tell(written, LogEvent.PROGRESS, done=number, total=3)
    lines = [line[14:] for line in capsys.readouterr().err.splitlines()[2:]]
    assert lines == [
        "0 of 3 done  train          logs/train/1.log",
        "1 of 3 done  train          logs/train/1.log (finished after 6 min)",
        "1 of 3 done  train          logs/train/2.log",
    ]

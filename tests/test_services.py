"""A study whose data lie in S3 and whose runs are on a server with a database: the same results, and what breaks."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import services
from loopback import Line
from mmfuse.files.writing import files_below, write_text
from mmfuse.pipeline.jobs import Job, execute
from mmfuse.tracking.servers import keep_quiet
from test_engines import ENVIRONMENT, call, clone, plans_nothing, results, template  # noqa: F401
from test_faults import study  # noqa: F401

pytestmark = [pytest.mark.engines, pytest.mark.services]
USER, LOGIN = "somebody-of-the-tests", "login-of-the-tests"
SECRETS = (USER, LOGIN, services.SECRET, services.PASSWORD, quote(services.PASSWORD, safe=""))
BUCKET = "mmfuse"
ONCE = {"AWS_MAX_ATTEMPTS": "1"}  # by default each file is tried for minutes
MEASURED = ("seconds_per_image", "peak_mib")  # of the work itself: not the same in the next run


@dataclass
class Running:
    """The servers of a module's tests, S3 behind a line that can be cut."""

    line: Line
    database: services.Database
    mlflow: services.Server
    store: Any

    @property
    def address(self):
        """The MLflow server's, with a login as a proxy before it would ask for one."""
        return f"http://{USER}:{LOGIN}@127.0.0.1:{self.mlflow.port}"

    @property
    def environment(self):
        """What a user sets to have runs tracked there and data in S3."""
        endpoint = f"http://127.0.0.1:{self.line.port}"
        return {
            **ENVIRONMENT,
            **services.AWS,
            "MLFLOW_TRACKING_URI": self.address,
            "MLFLOW_S3_ENDPOINT_URL": endpoint,
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",  # a busy machine is slow, which is not what is tested
        }

    def kept(self, prefix):
        """The objects in S3 under a prefix, by key."""
        pages = self.store.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return {key: self.store.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    why = services.missing()
    if why:
        pytest.skip(why)
    import boto3

    folder = tmp_path_factory.mktemp("servers")
    with ExitStack() as stack:
        port = stack.enter_context(services.s3(folder))
        line = stack.enter_context(Line(port))
        database = stack.enter_context(services.postgresql())
        store = boto3.client(
            "s3", endpoint_url=f"http://127.0.0.1:{port}", aws_access_key_id=services.KEY,
            aws_secret_access_key=services.SECRET, region_name="us-east-1",
        )  # fmt: skip
        store.create_bucket(Bucket=BUCKET)
        endpoint = {"MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{line.port}"}
        server = services.Server(folder, database.uri, f"s3://{BUCKET}/mlflow", ENVIRONMENT | endpoint)
        server.start()
        stack.callback(server.kill)
        yield Running(line, database, server, store)


@pytest.fixture
def client(servers, monkeypatch):
    """A client of the server; jobs of this process are tracked there too."""
    from mlflow import MlflowClient

    for name, value in servers.environment.items():
        if name.startswith(("MLFLOW_", "AWS_")):
            monkeypatch.setenv(name, value)
    keep_quiet()
    return MlflowClient(servers.address)


IN_ONE_PROCESS = """
import shlex, sys
from pathlib import Path
sys.path.insert(0, "workflow/scripts")
from jobs import declared_jobs
from mmfuse.cli import app as cli
waiting = declared_jobs(Path.cwd())
while waiting:
    made = {path for job in waiting for path in job.outputs}
    for job in [job for job in waiting if not job.inputs & made]:
        sys.argv = shlex.split(job.command)
        try:
            cli.main()
        except SystemExit as leaving:
            assert not leaving.code
        waiting.remove(job)
"""


@pytest.fixture(scope="module")
def alone(study):  # noqa: F811
    """The study with neither a server nor S3; all jobs in one process, which loads its libraries once."""
    folder = clone(study, "without_servers")
    call(folder, sys.executable, "-c", IN_ONE_PROCESS)
    return folder


@pytest.fixture(scope="module")
def tracked(study, servers):  # noqa: F811
    """The study with its runs on the server."""
    folder = clone(study, "with_servers")
    call(folder, "snakemake", "--cores", "2", "all", environment=servers.environment)
    return folder


def runs_by_name(client):
    (experiment,) = [one for one in client.search_experiments() if one.name == "tiny"]
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def artifacts(client, run, folder=""):
    """Paths of a run's artifacts; pictures of a series have a time and a random number in their names."""
    found = client.list_artifacts(run.info.run_id, folder)
    inner = [path for item in found if item.is_dir for path in artifacts(client, run, item.path)]
    return sorted([item.path.partition("+")[0] for item in found if not item.is_dir] + inner)


# ------------------------------------------------------------------------------------------------------- a whole study


def test_a_study_on_a_server_has_the_same_results_and_runs(servers, client, tracked, alone):
    from mlflow import MlflowClient

    assert results(tracked) == results(alone)
    ours, theirs = runs_by_name(client), runs_by_name(MlflowClient(f"sqlite:///{alone}/mlflow.db"))
    assert ours.keys() == theirs.keys()
    assert {run.info.status for run in ours.values()} == {"FINISHED"}
    for name, run in ours.items():
        assert run.data.params == theirs[name].data.params
        assert run.data.metrics.keys() == theirs[name].data.metrics.keys()
        exact = [key for key in run.data.metrics if key not in MEASURED]
        assert [run.data.metrics[key] for key in exact] == [theirs[name].data.metrics[key] for key in exact], name
        assert artifacts(client, run) == artifacts(MlflowClient(f"sqlite:///{alone}/mlflow.db"), theirs[name])
        losses = [key for key in exact if key.startswith("train/")]
        assert all(len(client.get_metric_history(run.info.run_id, key)) > 1 for key in losses)
    in_s3 = {key.split("/")[2] for key in servers.kept("mlflow/")}
    with_artifacts = {run.info.run_id for run in ours.values() if artifacts(client, run)}
    assert with_artifacts and with_artifacts <= in_s3
    records = [json.loads(path.read_text()) for path in files_below(tracked) if path.name.endswith("run.json")]
    assert {record["mlflow"]["run_id"] for record in records} <= {run.info.run_id for run in ours.values()}
    assert {record["mlflow"]["uri"] for record in records} == {f"http://127.0.0.1:{servers.mlflow.port}"}
    assert not (tracked / "mlflow.db").exists() and not (tracked / "mlruns").exists()


def test_what_a_study_keeps_comes_back_from_s3(servers, tracked, alone):
    words = ("mmfuse", "compare", "tiny-1", str(alone), "--json")
    said = json.loads(call(tracked, *words, environment=servers.environment))
    assert said["parameters"] == said["code"] == said["data"] == {}
    assert {row["verdict"] for row in said["scores"]} == {"equal"}


def test_no_secret_is_written_anywhere(servers, client, tracked):
    """Neither in the project, its logs and records, nor in what a command says, the server's log, its runs or S3."""
    told = call(
        tracked, "mmfuse", "register", "--study", "tiny", "--dataset", "synthetic_road", "--metric", "SSIM",
        environment=servers.environment,
    )  # fmt: skip
    told += call(tracked, "mmfuse", "doctor", environment=servers.environment)
    places = {"words": told.encode(), "database": servers.database.dump().encode()}
    places |= {str(path): path.read_bytes() for path in [servers.mlflow.log, *tracked.rglob("*")] if path.is_file()}
    places |= servers.kept("")
    for name, content in list(places.items()):
        if name.endswith(".zip"):
            archive = zipfile.ZipFile(io.BytesIO(content))
            places |= {f"{name}/{inner}": archive.read(inner) for inner in archive.namelist()}
    lines = [path / "cmdline" for path in Path("/proc").iterdir() if path.name.isdigit()]
    places |= {str(line): line.read_bytes().replace(b"\0", b" ") for line in lines if line.exists()}
    assert len(places) > 100
    assert any(name.endswith(".log") for name in places)
    found = [(name, word) for name, content in places.items() for word in SECRETS if word.encode() in content]
    assert found == []
    assert client.get_model_version_by_alias("tiny-ivif", "best").version == "1"


# --------------------------------------------------------------------------------------------------------- DVC and S3


@pytest.fixture(scope="module")
def committed(servers, tracked):
    """The study with its results in DVC's cache, and S3 as the default remote, as the documents tell it."""
    call(tracked, "mmfuse", "sync")
    call(tracked, "dvc", "remote", "add", "--default", "store", f"s3://{BUCKET}/dvc")
    call(tracked, "dvc", "remote", "modify", "store", "endpointurl", f"http://127.0.0.1:{servers.line.port}")
    call(tracked, "git", "add", ".dvc/config", "dvc.lock")
    own = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    call(tracked, "git", *own, "commit", "-qm", "results and remote")
    return tracked


def errors(said):
    """The lines in which DVC says what went wrong."""
    assert "Traceback" not in said
    return [line for line in said.splitlines() if line.startswith("ERROR")]


def test_a_push_and_a_pull_that_break_off_are_finished_by_the_next(servers, committed):
    whole = sum(path.stat().st_size for path in (committed / ".dvc/cache").rglob("*") if path.is_file())

    with servers.line.broken(after=whole // 3):
        said = call(committed, "dvc", "push", good=(1, 255), environment=servers.environment | ONCE)
    assert errors(said)
    half = servers.kept("dvc/")
    call(committed, "dvc", "push", "--quiet", environment=servers.environment)
    pushed = servers.kept("dvc/")
    assert 0 < len(half) < len(pushed)
    said = call(committed, "dvc", "status", "--cloud", environment=servers.environment)
    assert "Cache and remote 'store' are in sync" in said

    other = clone(committed, "pulled_from_s3")
    keys = f"    access_key_id = {services.KEY}\n    secret_access_key = {services.SECRET}\n"
    write_text(other / ".dvc/config.local", f"['remote \"store\"']\n{keys}")
    assert call(other, "git", "status", "--porcelain") == "", "a key in .dvc/config.local is no part of the repository"
    with servers.line.broken(after=whole // 3):
        said = call(other, "dvc", "pull", good=(1, 255), environment=ENVIRONMENT | ONCE)
    assert errors(said)
    call(other, "dvc", "pull", "--quiet")
    assert results(other) == results(committed)
    call(other, "mmfuse", "sync")
    assert plans_nothing(other)


def test_s3_without_a_key_is_said(servers, committed):
    keyless = {key: value for key, value in servers.environment.items() if not key.startswith("AWS_")}
    keyless |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(committed.parent)}
    other = clone(committed, "without_key")
    said = errors(call(other, "dvc", "pull", good=(1, 255), environment=keyless))
    assert "Unable to locate credentials" in said[0]


# ------------------------------------------------------------------------------------------------ gone in the middle


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A job that logs three steps with a picture each; before the last one something happens."""
    monkeypatch.chdir(tmp_path)
    write_text(Path("in.txt"), "in")

    def run(study_name, image, happens):
        def work(running):
            for step in (1, 2, 3):
                if step == 3:
                    happens()
                running.tracker.log_rows([{"step": step, "loss": 1 / step}])
                running.tracker.log_picture(f"p{step}", image(step))
            write_text(Path("out.txt"), "out")

        execute(
            Job(
                stage="train", name="x", inputs=[Path("in.txt")], outputs=[Path("out.txt")],
                record=Path("out.run.json"), parameters={"steps": 3}, tags={"seed": 0}, study=study_name,
            ),
            work,
        )  # fmt: skip
        return Path("out.run.json").read_bytes()

    return run


def steps(client, record):
    number = json.loads(record)["mlflow"]["run_id"]
    run = client.get_run(number)
    kept = [*artifacts(client, run)]
    return run.info.status, [metric.step for metric in client.get_metric_history(number, "loss")], kept


@pytest.mark.parametrize("way", ["through the server", "directly"])
def test_s3_goes_away_while_a_job_logs(servers, client, job, image, capsys, way):
    """Metrics are still tracked, artifacts are said to be lost once; the same job again keeps them."""
    name = f"S3 {way}"
    if way == "directly":
        client.create_experiment(name, f"s3://{BUCKET}/direct")
    record = job(name, image, servers.line.cut)
    said = capsys.readouterr().err
    assert said.count("tracking:") == 1
    assert "lost a picture; the job continues without artifacts" in said
    assert not [word for word in SECRETS if word in said]
    servers.line.mend()
    assert steps(client, record) == ("FINISHED", [1, 2, 3], ["pictures/p1.png", "pictures/p2.png"])
    assert job(name, image, lambda: None) == record
    status, _, kept = steps(client, record)
    assert (status, kept) == ("FINISHED", ["out.run.json", *(f"pictures/p{step}.png" for step in (1, 2, 3))])
    assert "tracking:" not in capsys.readouterr().err


@pytest.mark.parametrize("gone", ["server", "database", "database without a server"])
def test_what_keeps_the_runs_goes_away_while_a_job_logs(servers, client, job, image, capsys, monkeypatch, gone):
    """One message, and the job ends well; once it is back, the same job goes on in its run."""
    if gone == "database without a server":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", servers.database.uri)
        from mlflow import MlflowClient

        client = MlflowClient(servers.database.uri)
    away, back = (
        (servers.mlflow.kill, servers.mlflow.start)
        if gone == "server"
        else (servers.database.stop, servers.database.start)
    )
    try:
        record = job(f"{gone} gone", image, away)
    finally:
        back()
    said = capsys.readouterr().err
    assert said.count("tracking:") == said.count("the job continues without it") == 1
    assert not [word for word in SECRETS if word in said]
    assert Path("out.txt").read_text() == "out"
    status, seen, _ = steps(client, record)
    assert (status, seen) == ("RUNNING", [1, 2])
    assert job(f"{gone} gone", image, lambda: None) == record
    status, seen, kept = steps(client, record)
    assert status == "FINISHED"
    assert set(seen) == {1, 2, 3}
    assert kept == ["out.run.json", *(f"pictures/p{step}.png" for step in (1, 2, 3))]
    assert "tracking:" not in capsys.readouterr().err


@pytest.mark.parametrize("gone", ["S3", "database", "server"])
def test_a_command_that_needs_what_is_gone_says_so_and_ends_with_2(servers, client, tracked, mmfuse, monkeypatch, gone):
    monkeypatch.chdir(tracked)
    away, back = {
        "S3": (servers.line.cut, servers.line.mend),
        "database": (servers.database.stop, servers.database.start),
        "server": (servers.mlflow.kill, servers.mlflow.start),
    }[gone]
    away()
    try:
        code, _, said = mmfuse("compare", "tiny-1", ".")
    finally:
        back()
    assert code == 2
    assert said.startswith(f"error: MLflow at http://127.0.0.1:{servers.mlflow.port} does not answer.")
    assert "to do:" in said
    assert "Traceback" not in said
    assert not [word for word in SECRETS if word in said]
    assert client.search_experiments()

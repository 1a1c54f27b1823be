"""MLflow runs and the jobs' records: what is tracked, what goes on without a server, what is never shown."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import types
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from mmfuse.errors import UserError
from mmfuse.files.writing import checksum, sha256, write_text
from mmfuse.nn.pair import PairModel
from mmfuse.pipeline import jobs
from mmfuse.pipeline.jobs import Job, Running, execute
from mmfuse.tracking import STUDY, SYSTEM, Parent, Tracker
from mmfuse.tracking.models import register
from mmfuse.tracking.reading import fetch_kept, hours_of, studies
from mmfuse.tracking.servers import default_uri, page, shown_uri, without_secrets
from mmfuse.training.checkpoints import build


@pytest.fixture
def client(database):
    return MlflowClient(database)


def tracker(root, **changes):
    values = {
        "fingerprint": "abc",
        "tags": {"stage": "train", "method": "average", "seed": 0, "commit": None},
        "parameters": {"train": {"steps": 5, "loss": {"mse": 1.0}}, "empty": {}},
    }
    return Tracker(root, "study", "train average", **{**values, **changes})


def runs(client):
    experiment = client.get_experiment_by_name("study")
    return client.search_runs([experiment.experiment_id]) if experiment else []


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_run_holds_tags_parameters_metrics_and_pictures(client, tmp_path, image):
    with tracker(tmp_path) as run:
        run.log_rows([{"step": 10, "train/mse": 0.5, "lr": 0.1}, {"step": 20, "train/mse": 0.25, "val/mse": 0.3}])
        run.log_metrics({"best/step": 20})
        run.log_picture("road 1", image(1, colour=True))
        write_text(tmp_path / "x.run.json", "{}")
        run.log_file(tmp_path / "x.run.json")
        assert runs(client)[0].info.status == "RUNNING"
    (found,) = runs(client)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "train average"
    assert found.data.params == {"train.steps": "5", "train.loss.mse": "1.0", "empty": "{}"}
    own = {key: value for key, value in found.data.tags.items() if not key.startswith("mlflow.")}
    assert own == {
        "stage": "train", "method": "average", "seed": "0", "mmfuse.job": "abc",
        "mmfuse.process": f"{socket.gethostname()}:{os.getpid()}", "mmfuse.project": own["mmfuse.project"],
    }  # fmt: skip
    history = client.get_metric_history(found.info.run_id, "train/mse")
    assert [(metric.step, metric.value) for metric in history] == [(10, 0.5), (20, 0.25)]
    assert found.data.metrics["best/step"] == 20
    files = {item.path for folder in ("", "pictures") for item in client.list_artifacts(found.info.run_id, folder)}
    assert {"x.run.json", "pictures/road 1.png"} <= files
    assert run.record()["run_id"] == found.info.run_id
    assert run.record()["experiment"] == "study"


def test_a_studys_page_opens_on_its_runs(client, tmp_path):
    with tracker(tmp_path) as run:
        pass
    found = client.get_experiment_by_name("study")
    assert found.tags["mlflow.experimentKind"] == "custom_model_development"
    pages = f"http://127.0.0.1:5000/#/experiments/{found.experiment_id}/runs"
    assert run.record()["page"] == f"{pages}/{run.run_id}?workflowType=machine_learning"
    client.set_experiment_tag(found.experiment_id, "mlflow.experimentKind", "of_the_user")
    with tracker(tmp_path, fingerprint="other"):
        pass
    assert client.get_experiment(found.experiment_id).tags["mlflow.experimentKind"] == "of_the_user"
    assert studies(tmp_path) == [("study", f"{pages}?workflowType=machine_learning")]


def test_pages_of_a_server_are_its_own_and_show_no_login(tmp_path, monkeypatch):
    address = "https://me:secret@host.org/mlflow/"
    assert page(address, tmp_path, "7") == (
        "https://host.org/mlflow/#/experiments/7/runs?workflowType=machine_learning"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    assert studies(tmp_path) == []
    assert not (tmp_path / "none.db").exists()


def test_a_registered_model_returns_plain_arrays_and_tensors(database, tmp_path, capfd):
    weights = tmp_path / "fusion.safetensors"
    weights.write_bytes(b"weights")
    network = build("mma_unet", {"width": 4})  # with gradients, in training mode
    pair = np.random.default_rng(0).random((2, 2, 40, 50), dtype=np.float32)
    with tracker(tmp_path, tags={"stage": "register"}) as run:
        capfd.readouterr()
        register(run, PairModel(network), name="best", example=pair[:1], weights=weights, tags={})
        assert capfd.readouterr() == ("", ""), "the command says it"
    mlflow.set_tracking_uri(database)
    general = mlflow.pyfunc.load_model("models:/best@best")
    fused = general.predict(pair)
    assert type(fused) is np.ndarray
    assert (fused.dtype, fused.shape) == (np.float32, (2, 1, 40, 50))
    tensor = mlflow.pytorch.load_model("models:/best@best")(torch.from_numpy(pair))
    assert not tensor.requires_grad
    assert np.array_equal(tensor.numpy(), fused)
    with pytest.raises(mlflow.MlflowException, match="float32"):
        general.predict(pair.astype(np.float64))


def test_the_same_job_goes_on_in_its_run(client, tmp_path):
    ids = []
    for step in (1, 2):
        with tracker(tmp_path) as run:
            run.log_rows([{"step": step, "loss": step / 2}])
            ids.append(run.run_id)
    assert ids[0] == ids[1]
    (found,) = runs(client)
    assert found.info.status == "FINISHED"
    assert [metric.step for metric in client.get_metric_history(ids[0], "loss")] == [1, 2]
    with tracker(tmp_path, fingerprint="another") as run:
        assert run.run_id != ids[0]
    assert len(runs(client)) == 2


def test_a_failed_job_is_a_failed_run(client, tmp_path):
    with pytest.raises(ValueError, match="broken"), tracker(tmp_path):
        raise ValueError("broken")
    assert runs(client)[0].info.status == "FAILED"


def test_a_run_of_a_dead_process_is_closed_and_no_other(client, tmp_path):
    experiment = client.create_experiment("study")
    host = socket.gethostname()
    owners = {
        "dead": f"{host}:{dead_process()}",
        "alive": f"{host}:{os.getppid()}",
        "elsewhere": f"another-{host}:{dead_process()}",
        "foreign": "",
    }
    ids = {
        name: client.create_run(experiment, tags={"mmfuse.process": owner} if owner else {}).info.run_id
        for name, owner in owners.items()
    }
    with tracker(tmp_path):
        pass
    status = {name: client.get_run(number).info.status for name, number in ids.items()}
    assert status == {"dead": "KILLED", "alive": "RUNNING", "elsewhere": "RUNNING", "foreign": "RUNNING"}


def test_a_killed_job_that_starts_again_goes_on_in_its_run(client, tmp_path):
    with tracker(tmp_path) as run:
        pass
    client.update_run(run.run_id, status="RUNNING")
    client.set_tag(run.run_id, "mmfuse.process", f"{socket.gethostname()}:{dead_process()}")
    with tracker(tmp_path) as again:
        assert again.run_id == run.run_id
        assert client.get_run(run.run_id).info.status == "RUNNING"
    assert [found.info.status for found in runs(client)] == ["FINISHED"]


def test_many_rows_and_parameters(client, tmp_path):
    """More than MLflow takes in one request: 1000 metrics, 100 parameters."""
    with tracker(tmp_path, parameters={f"p{n}": n for n in range(250)}) as run:
        run.log_rows([{"step": n, "x": n, "y": -n, "z": 0.5} for n in range(700)])
    (found,) = runs(client)
    assert len(found.data.params) == 250
    assert len(client.get_metric_history(found.info.run_id, "y")) == 700


def test_long_values_and_names_as_they_occur(client, tmp_path):
    values = {
        "data/catalog.yaml:datasets.msrs": {"classes": {0: "x"}, "licence": "ö" * 7000, "none": None, "empty": ""},
        "list": [[1, 2], [3]],
    }
    with tracker(tmp_path, parameters=values) as run:
        run.log_metrics({"loss": float("nan"), "rate": float("inf")})
    (found,) = runs(client)
    assert found.data.params["list"] == "[[1, 2], [3]]"
    assert found.data.params["data/catalog.yaml:datasets.msrs.classes.0"] == "x"
    assert found.info.status == "FINISHED"


# ----------------------------------------------------------------------------------------- the runs above the jobs


def parents(weight=1.0):
    """A study and its one system, in the state that a weight stands for."""
    values = {"methods": {"average": {"loss": weight}}}
    return [
        Parent(STUDY, f"study {weight}", "study", {}, values),
        Parent(
            SYSTEM,
            f"system {weight}",
            "average.base.s0 ivif",
            {"method": "average", "variant": "base", "seed": 0},
            values,
        ),
    ]


def by_name(client):
    return {run.info.run_name: run for run in runs(client)}


def test_jobs_stand_below_their_system_and_study(client, tmp_path, image):
    for stage in ("train", "evaluate"):
        with tracker(tmp_path, fingerprint=stage, parents=parents()) as run:
            run.log_picture("validation", image(1), step=3)
            if stage == "evaluate":
                run.log_above(SYSTEM, {"road/SSIM": 0.5})
                run.log_above(STUDY, {"road/average.base/SSIM": 0.5})
            assert {r.info.status for r in runs(client) if "mmfuse.group" in r.data.tags} == {"RUNNING"}
    found = by_name(client)
    study, system, job = found["study-1"], found["study-1 average.base.s0 ivif"], found["train average"]
    assert len(runs(client)) == 4
    assert (study.data.tags["level"], system.data.tags["level"]) == ("study", "system")
    assert system.data.tags["mlflow.parentRunId"] == study.info.run_id
    assert job.data.tags["mlflow.parentRunId"] == system.info.run_id
    assert study.data.params == system.data.params == {"methods.average.loss": "1.0"}
    assert system.data.metrics == {"road/SSIM": 0.5}
    assert study.data.metrics == {"road/average.base/SSIM": 0.5}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    images = [item.path for item in client.list_artifacts(job.info.run_id, "images")]
    assert any("validation+step+3+" in path for path in images)


def test_a_changed_parameter_begins_a_new_state_that_says_so_and_an_old_one_is_found_again(client, tmp_path):
    for number, weight in enumerate((1.0, 2.5, 1.0)):
        with tracker(tmp_path, fingerprint=str(number), parents=parents(weight)):
            pass
    found = by_name(client)
    assert {"study-1", "study-2"} <= set(found)
    assert "study-3" not in found
    assert found["study-2"].data.tags["changed"] == "methods.average.loss: 1.0 -> 2.5"
    assert found["study-2 average.base.s0 ivif"].data.params == {"methods.average.loss": "2.5"}


def clone(_: Path, other: Path) -> None:
    other.mkdir()


def copy(project: Path, other: Path) -> None:
    shutil.copytree(project, other)


def move(project: Path, other: Path) -> None:
    shutil.move(project, other)


@pytest.mark.parametrize("make", [clone, copy, move])
def test_projects_that_share_a_database_have_runs_of_their_own(client, tmp_path, make):
    """The same study, run in another clone or copy, does not replace the first one's results."""
    project, other = tmp_path / "project", tmp_path / "other"
    project.mkdir()

    def kept(root, text):
        with tracker(root, parents=parents()) as run:
            run.keep_above(STUDY, lambda path: write_text(path, text), "kept.txt")
        return run.run_id

    first = kept(project, "first")
    assert kept(project, "first") == first
    make(project, other)
    second = kept(other, "second")
    assert second != first
    found = by_name(client)
    assert len(runs(client)) == 6
    assert found["study-2"].data.tags["changed"] == "nothing, in another folder"
    for name, text in (("study-1", "first"), ("study-2", "second"), (first, "first"), (second, "second")):
        (folder := tmp_path / "fetched" / name).mkdir(parents=True)
        path, _ = fetch_kept(tmp_path, name, study="study", name="kept.txt", folder=folder)
        assert path.read_text() == text


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize("content", [b"", b"\xff", b"0" * 31, b"0" * 33, b"x' OR '1' = '1"])
def test_a_damaged_identity_of_the_project_is_replaced(tmp_path, content):
    (tmp_path / ".mmfuse").mkdir()
    (tmp_path / ".mmfuse/project").write_bytes(content)
    ids = []
    for _ in range(2):
        with tracker(tmp_path) as run:
            ids.append(run.run_id)
    assert ids[0] == ids[1] is not None
    assert len((tmp_path / ".mmfuse/project").read_text()) == 33


@pytest.mark.parametrize("name", [None, "my best"])
def test_states_are_numbered_in_their_order_whatever_the_clock_says(client, tmp_path, monkeypatch, name):
    """Nor do names that were changed in MLflow give a number twice."""
    now = time.time()
    for number, weight in enumerate((1.0, 2.0, 3.0, 4.0)):
        monkeypatch.setattr(time, "time", lambda number=number: now - 3600 * number)
        with tracker(tmp_path, fingerprint=str(number), parents=parents(weight)):
            pass
        if name:
            client.set_tag(by_name(client)[f"study-{number + 1}"].info.run_id, "mlflow.runName", f"{name} {number}")
    states = sorted((r for r in runs(client) if r.data.tags.get("level") == STUDY), key=lambda r: -r.info.start_time)
    assert [run.info.run_name for run in states] == [f"{name} {n}" if name else f"study-{n + 1}" for n in range(4)]
    assert [run.data.tags.get("changed") for run in states[1:]] == [
        f"methods.average.loss: {float(weight)} -> {float(weight + 1)}" for weight in (1, 2, 3)
    ]


def test_a_job_that_ends_before_it_began_has_no_duration(client, tmp_path):
    with tracker(tmp_path) as run:
        pass
    start = client.get_run(run.run_id).info.start_time
    client.set_terminated(run.run_id, end_time=start + 3_600_000)
    assert hours_of(tmp_path, run.run_id) == 1
    client.set_terminated(run.run_id, end_time=start - 3_600_000)
    with pytest.raises(UserError, match="clock was set back"):
        hours_of(tmp_path, run.run_id)


@pytest.mark.parametrize("roots", [("project", "project"), ("one", "other")])
def test_jobs_that_start_at_once_share_database_and_runs_above_them(tmp_path, roots):
    """Copies of the project, such as DVC's experiments, go afterwards: what is kept lies elsewhere."""
    code = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_tracking import parents, tracker
root = Path(sys.argv[2])
root.mkdir(exist_ok=True)
with tracker(root, fingerprint=sys.argv[3], parents=parents()) as run:
    run.log_file(Path(sys.argv[1]) / "conftest.py")
"""
    command = [sys.executable, "-c", code, str(Path(__file__).parent)]
    jobs = [subprocess.Popen([*command, str(tmp_path / root), str(number)]) for number, root in enumerate(roots)]
    assert [job.wait() for job in jobs] == [0, 0]
    for root in roots:
        shutil.rmtree(tmp_path / root, ignore_errors=True)
    found = runs(MlflowClient(f"sqlite:///{tmp_path}/mlflow.db"))
    states = [f"study-{number}" for number in range(1, len(set(roots)) + 1)]
    above = sorted(run.info.run_name for run in found if "mmfuse.group" in run.data.tags)
    assert above == sorted([*states, *(f"{state} average.base.s0 ivif" for state in states)])
    assert len(found) == 2 + len(above)
    assert {run.info.status for run in found} == {"FINISHED"}
    assert len(list((tmp_path / "mlruns").rglob("conftest.py"))) == 2


def test_after_a_kill_what_stands_above_is_closed_too(client, tmp_path):
    with tracker(tmp_path, fingerprint="killed", parents=parents()) as run:
        pass
    for found in runs(client):
        client.update_run(found.info.run_id, status="RUNNING")
    client.set_tag(run.run_id, "mmfuse.process", f"{socket.gethostname()}:{dead_process()}")
    with tracker(tmp_path, fingerprint="next", parents=parents(2.5)):
        status = {found.info.run_name: found.info.status for found in runs(client)}
        assert status["study-1"] == status["study-1 average.base.s0 ivif"] == "KILLED"
        assert status["study-2"] == "RUNNING"


@pytest.mark.usefixtures("database")
def test_what_a_study_keeps_is_found_by_name_and_id_of_any_run_below_it(tmp_path):
    with tracker(tmp_path, parents=parents(), tags={"method": "average", "variant": "base", "seed": 0}) as run:
        with pytest.raises(UserError, match="has no results"):
            fetch_kept(tmp_path, "study-1", study=None, name="kept.txt", folder=tmp_path)
        run.keep_above(STUDY, lambda path: write_text(path, "kept"), "kept.txt")
    for name, system in (("study-1", None), (run.run_id, "average.base.s0")):
        (folder := tmp_path / name).mkdir()
        path, of = fetch_kept(tmp_path, name, study="study", name="kept.txt", folder=folder)
        assert (path.read_text(), of) == ("kept", system)
    with pytest.raises(UserError, match="no runs of that name"):
        fetch_kept(tmp_path, "study-7", study="study", name="kept.txt", folder=tmp_path)
    with tracker(tmp_path, fingerprint="other", parents=parents()):
        pass
    with pytest.raises(UserError, match="2 runs of that name"):
        fetch_kept(tmp_path, "train average", study="study", name="kept.txt", folder=tmp_path)


def test_without_a_database_there_is_nothing_to_fetch(tmp_path):
    with pytest.raises(UserError, match="there is no MLflow database"):
        fetch_kept(tmp_path, "study-1", study=None, name="kept.txt", folder=tmp_path)
    assert not (tmp_path / "mlflow.db").exists()


# ------------------------------------------------------------------------------------------------ without a server


def test_a_dead_server_does_not_hold_the_job_up(tmp_path, monkeypatch, capsys, image):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:secret@127.0.0.1:9")
    begin = time.monotonic()
    with tracker(tmp_path, parents=parents()) as run:
        run.log_rows([{"step": 1, "loss": 1.0}])
        run.log_picture("x", image(1), step=1)
        run.log_above(STUDY, {"x": 1.0})
        run.keep_above(STUDY, lambda path: write_text(path, "kept"), "kept.txt")
    assert time.monotonic() - begin < 30
    assert run.record() is None
    said = capsys.readouterr().err
    assert said.count("tracking:") == 1
    assert "the job continues without it" in said
    assert "127.0.0.1:9" in said
    assert "secret" not in said
    assert "somebody" not in said


@pytest.mark.usefixtures("database")
def test_a_server_that_dies_meanwhile(tmp_path, capsys):
    with tracker(tmp_path) as run:
        (tmp_path / "mlflow.db").unlink()
        (tmp_path / "mlflow.db").mkdir()
        run.log_rows([{"step": 1, "loss": 1.0}])
        run.log_rows([{"step": 2, "loss": 1.0}])
    assert capsys.readouterr().err.count("tracking:") == 1


def test_a_broken_database_is_no_obstacle(tmp_path, capsys):
    (tmp_path / "mlflow.db").write_bytes(b"garbage" * 1000)
    with tracker(tmp_path) as run:
        run.log_metrics({"x": 1})
    assert run.record() is None
    assert "continues without it" in capsys.readouterr().err


@pytest.mark.usefixtures("database")
def test_a_full_disk_is_no_obstacle(tmp_path, capsys):
    def full(_):
        raise OSError(28, "No space left on device")

    with tracker(tmp_path, parents=parents()) as run:
        run.keep_above(STUDY, full, "kept.txt")
        run.log_metrics({"x": 1})
    said = capsys.readouterr().err
    assert said.count("tracking:") == 1
    assert "No space left" in said


@pytest.mark.usefixtures("database")
def test_where_artifacts_cannot_be_kept_metrics_still_are(tmp_path, client, capsys, image):
    (tmp_path / "mlruns").write_text("in the way of the folder")
    with tracker(tmp_path) as run:
        for step in (1, 2):
            run.log_picture("x", image(1), step=step)
            run.log_rows([{"step": step, "loss": 1.0}])
        run.log_file(tmp_path / "mlruns")
    said = capsys.readouterr().err
    assert said.count("tracking:") == 1
    assert "lost a picture; the job continues without artifacts, its metrics are still tracked" in said
    (found,) = runs(client)
    assert found.info.status == "FINISHED"
    assert [metric.step for metric in client.get_metric_history(run.run_id, "loss")] == [1, 2]


@pytest.mark.parametrize("command", ["job", "compare"])
def test_a_database_that_is_gone_is_not_asked_for_minutes(tmp_path, monkeypatch, capsys, command):
    """Asked without a server between. MLflow alone tries ten times, for more than a minute and a half."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://somebody:secret@127.0.0.1:9/mlflow")
    begin = time.monotonic()
    if command == "job":
        with tracker(tmp_path) as run:
            run.log_metrics({"x": 1})
        said = capsys.readouterr().err
        assert said.count("tracking: postgresql://127.0.0.1:9/mlflow cannot be reached") == said.count("\n") == 1
    else:
        with pytest.raises(UserError, match="does not answer") as caught:
            fetch_kept(tmp_path, "study-1", study=None, name="kept.txt", folder=tmp_path)
        said = str(caught.value)
        assert said.startswith("MLflow at postgresql://127.0.0.1:9/mlflow does not answer.")
    assert time.monotonic() - begin < 30
    assert "secret" not in said


def test_errors_of_the_job_itself_pass(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(ZeroDivisionError), tracker(tmp_path):
        _ = 1 / 0


def test_tracking_can_be_left_alone(tmp_path):
    with tracker(tmp_path, enabled=False) as run:
        run.log_metrics({"x": 1})
    assert run.record() is None
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://me:secret@host.org:5000/path", "https://host.org:5000/path"),
        ("postgresql://me:se@cret@host/db", "postgresql://host/db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db"),
        ("postgresql://me:se?cret@host/db?sslmode=require", "postgresql://host/db"),
        ("postgresql://host/db?options=a@b&password=secret", "postgresql://b"),
        ("sqlite:///ROOT/mlflow.db", "sqlite:///mlflow.db"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("mlruns", "mlruns"),
    ],
)
def test_addresses_are_shown_without_a_login(tmp_path, uri, shown):
    assert shown_uri(uri.replace("ROOT", str(tmp_path.resolve())), tmp_path) == shown


@pytest.mark.parametrize(
    ("uri", "said", "shown"),
    [
        ("http://me:secret@host", "to http://me:secret@host/api failed", "to http://host/api failed"),
        ("http://token@host", "http://token@host/api: token is old", "http://host/api: *** is old"),
        ("http://me:a%2Fb@host", "a/b, that is a%2Fb, is wrong", "***, that is ***, is wrong"),
        ("postgresql://host/db?password=secret&sslmode=require", "secret: no require", "***: no require"),
        ("postgresql://me:se/cret@host/db", "invalid literal for int() with base 10: 'se'", "must be encoded as %XX"),
        ("http://host", "one line\n(Background on this error at: a page)", "one line"),
        ("sqlite:///x.db", "unable to open database file", "unable to open database file"),
        ("http://host", "HTTP 401: of-the-environment", "HTTP 401: ***"),
    ],
)
def test_what_mlflow_says_is_shown_without_secrets(monkeypatch, uri, said, shown):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "of-the-environment")
    assert without_secrets(said, uri).endswith(shown)


def test_the_default_is_a_database_in_the_projects_root(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert default_uri(tmp_path) == f"sqlite:///{tmp_path.resolve()}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert default_uri(tmp_path) == "http://server"


# ------------------------------------------------------------------------------------------------------------- jobs


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A job in an empty folder: `job(parameters=..., ...)` reads in.txt and writes out/."""
    monkeypatch.chdir(tmp_path)
    write_text(Path("in.txt"), "input")

    def make(**changes):
        values = {
            "stage": "crop", "name": "x", "inputs": [Path("in.txt")], "outputs": [Path("out")],
            "record": Path("out.run.json"), "parameters": {"a": {"b": 1}}, "tags": {"seed": 3}, "study": "study",
        }  # fmt: skip
        return Job(**{**values, **changes})

    return make


def work(_: Running) -> None:
    write_text(Path("out/x.txt"), "output")


@pytest.mark.usefixtures("database")
def test_a_record_names_everything_and_stays_as_it_is(job, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/mmfuse", "stage", "crop", "--out", "a b"])
    contents = []
    for _ in range(2):
        execute(job(), work)
        contents.append(Path("out.run.json").read_bytes())
    assert contents[0] == contents[1]
    record = json.loads(contents[0])
    assert set(record) == {
        "stage", "command", "inputs", "outputs", "parameters", "versions", "commit", "dirty", "changes", "seed",
        "machine", "mlflow", "digest",
    }  # fmt: skip
    assert record["command"] == "mmfuse stage crop --out 'a b'"
    assert record["inputs"] == {"in.txt": sha256(Path("in.txt"))}
    assert record["outputs"] == {"out": checksum(Path("out"))}
    assert record["seed"] == 3
    assert record["commit"] is None
    assert record["versions"]["torch"]
    assert record["mlflow"]["run_id"]
    assert record["machine"]["threads"] == torch.get_num_threads()
    assert record["machine"]["capability"].endswith(f", torch {torch.backends.cpu.get_cpu_capability()}")

    def measure(running):
        work(running)
        running.measured["seconds_per_image"] = 0.25

    execute(job(), measure)
    measured = json.loads(Path("out.run.json").read_bytes())
    assert measured == record | {"measured": {"seconds_per_image": 0.25}, "digest": measured["digest"]}
    assert measured["digest"] != record["digest"]


CAPABILITY = "import torch; from mmfuse.pipeline.jobs import _machine; print(_machine()['capability'])"


@pytest.mark.parametrize(
    "limit", [{}, {"ATEN_CPU_CAPABILITY": "default"}, {"NPY_DISABLE_CPU_FEATURES": "X86_V4 X86_V3"}]
)
def test_a_record_says_which_instructions_computed_a_number(limit):
    """They change its last digits, and variables restrict them."""
    run = subprocess.run(
        [sys.executable, "-c", CAPABILITY], env=os.environ | limit, capture_output=True, text=True, check=True
    )
    found = dict(item.split(" ", 1) for item in run.stdout.strip().split(", "))
    assert found.keys() == {"numpy", "torch"}
    if limit:
        assert found["torch"] == "DEFAULT" or found["numpy"].startswith("baseline")


@pytest.mark.parametrize(
    "found", [None, {}, {"exp": {}}, {"exp": {"dd": {}}}, {"exp": {"dd": None}}, {"exp": {"dd": {"current": "X"}}}]
)
def test_another_version_of_numpy_may_not_tell_its_instructions(monkeypatch, found):
    module = types.ModuleType("introspect")
    if found is not None:
        module.opt_func_info = lambda **_: found
    monkeypatch.setitem(sys.modules, "numpy.lib.introspect", module)
    known = "X" if found and found["exp"].get("dd") else "unknown"
    assert jobs._machine()["capability"].startswith(f"numpy {known}, torch ")


def test_the_fingerprint_tells_jobs_apart(job, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    seen = []

    def look(running):
        seen.append(running.fingerprint)
        work(running)

    for changes in ({}, {}, {"parameters": {"a": {"b": 2}}}, {"tags": {"seed": 4}}, {"name": "y"}, {"stage": "fuse"}):
        execute(job(**changes), look)
    write_text(Path("in.txt"), "other input")
    execute(job(), look)
    assert seen[0] == seen[1]
    assert len(set(seen)) == 6
    assert json.loads(Path("out.run.json").read_text(encoding="utf-8"))["mlflow"] is None


def test_a_missing_input_is_named(job):
    with pytest.raises(UserError, match="lacks an input") as caught:
        execute(job(inputs=[Path("in.txt"), Path("data/none")]), work)
    assert "data/none" in str(caught.value)
    assert not Path("out").exists()


@pytest.mark.usefixtures("database")
def test_a_second_process_at_the_same_job_is_refused(job):
    def again(_):
        with pytest.raises(UserError, match="Another process is already running crop x"):
            execute(job(), work)
        execute(job(record=Path("other.run.json")), work)

    execute(job(), again)
    execute(job(), work)


@pytest.mark.usefixtures("database")
def test_no_record_of_a_failed_job(job):
    def fail(_):
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        execute(job(), fail)
    assert not Path("out.run.json").exists()
    execute(job(), work)

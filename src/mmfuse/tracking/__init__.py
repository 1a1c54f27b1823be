"""Tracking with MLflow, which only this package uses: one run for each job. Jobs write to it and never read from it.

The runs of the jobs are below those of the study, in one state of its parameters and code, and of its systems. These
are the ones to compare: they have all parameters and the scores.

A tracking error (no server, a full disk, a locked database) is reported once, and the job continues.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock

from mmfuse.data.images import Bytes
from mmfuse.files.writing import write_text
from mmfuse.study.parameters import flatten
from mmfuse.tracking.servers import connect, default_uri, keep_quiet, page, shown_uri, without_secrets

_LIMIT = 1000  # metrics in one request
_ALIVE, _JOB, _GROUP, PARENT_TAG = "mmfuse.process", "mmfuse.job", "mmfuse.group", "mlflow.parentRunId"
_PROJECT, _NUMBER = "mmfuse.project", "mmfuse.number"
_KIND = "mlflow.experimentKind"  # without it, MLflow's page of an experiment opens on a view for language models
STUDY, SYSTEM = "study", "system"  # the levels above a job: values of the tag `level`


@dataclass(frozen=True)
class Parent:
    """A run above those of the jobs: a study in one state, or one system of it.

    Attributes:
        level: `study` or `system`.
        key: Identifies it, so that concurrent jobs find the same one.
        name: Its name; that of a study gets a number, and the names of the runs below begin with it.
        tags: Searchable in MLflow.
        parameters: The parameters that its scores depend on, nested.
    """

    level: str
    key: str
    name: str
    tags: Mapping[str, Any]
    parameters: Mapping[str, Any]


class Tracker:
    """One MLflow run; used as a context manager around the job.

    A job that runs again with the same fingerprint in the same folder continues its old run, so that a resumed or
    repeated job adds no second run to MLflow and keeps the run id in its record. Each clone of a project has its own
    runs, also where several clones share a database. Runs whose process has died are closed as KILLED.

    Args:
        root: The project's root, with the default database.
        experiment: The study's name.
        name: The run's name.
        fingerprint: Identifies the job.
        tags: stage, method, variant, task, dataset, seed, commit.
        parameters: Nested parameters of the job.
        parents: The runs that it belongs to, the study first.
        data: Name and checksum of the data that it reads.
        enabled: Whether to use MLflow at all.
    """

    def __init__(
        self,
        root: Path,
        experiment: str,
        name: str,
        *,
        fingerprint: str,
        tags: Mapping[str, Any],
        parameters: Mapping[str, Any],
        parents: Sequence[Parent] = (),
        data: Mapping[str, str] | None = None,
        enabled: bool = True,
    ) -> None:
        self.root, self.experiment, self.name = root, experiment, name
        self.fingerprint, self.tags, self.parameters = fingerprint, tags, parameters
        self.parents, self.data = parents, data or {}
        self.uri = default_uri(root)
        self.home = _home(self.uri, root)
        self.run_id: str | None = None
        self._above: dict[str, str] = {}  # run ids by level
        self._experiment = self._project = ""
        self._client: Any = None
        self._enabled = enabled
        self._keeps = True  # artifacts, which are stored apart from runs and metrics

    def __enter__(self) -> Self:
        self._attempt("cannot be reached", self._open)
        return self

    def __exit__(self, kind: type[BaseException] | None, _value: object, _trace: TracebackType | None) -> None:
        status = "FINISHED" if kind is None else "FAILED"
        self._attempt("lost the end of this run", lambda: self._close(status))

    def log_rows(self, rows: list[dict[str, float]]) -> None:
        """Log history rows; each has a `step` and any number of metrics."""
        self._attempt("lost metrics", lambda: self._log_rows(rows, self.run_id))

    def log_metrics(self, values: Mapping[str, float]) -> None:
        """Log final values, one for each name."""
        self.log_rows([{"step": 0, **values}])

    def log_above(self, level: str, values: Mapping[str, float]) -> None:
        """Log final values to this job's parent run of a level, if there is one."""
        rows: list[dict[str, float]] = [{"step": 0, **values}]
        self._attempt("lost metrics", lambda: self._log_rows(rows, self._above.get(level)))

    def keep_above(self, level: str, write: Callable[[Path], None], name: str) -> None:
        """Store a file with this job's parent run of a level; `write` creates it at a path."""

        def keep() -> None:
            with tempfile.TemporaryDirectory() as folder:
                write(Path(folder) / name)
                self._client.log_artifact(self._above[level], str(Path(folder) / name))

        if level in self._above:
            self._keep(name, keep)

    def log_picture(self, name: str, pixels: Bytes, step: int | None = None) -> None:
        """Log a picture under pictures/NAME.png, or one of a series that MLflow shows by step."""
        where: dict[str, Any] = (
            {"artifact_file": f"pictures/{name}.png"} if step is None else {"key": name, "step": step}
        )
        self._keep("a picture", lambda: self._client.log_image(self.run_id, pixels, **where))

    def log_file(self, path: Path) -> None:
        """Log a file as an artifact."""
        self._keep(path.name, lambda: self._client.log_artifact(self.run_id, str(path)))

    def record(self) -> dict[str, str] | None:
        """Return the run's entry for run.json; None if nothing was tracked."""
        if self.run_id is None:
            return None
        return {
            "uri": shown_uri(self.uri, self.root),
            "experiment": self.experiment,
            "run_id": self.run_id,
            "page": page(self.uri, self.root, self._experiment, self.run_id),
        }

    def _open(self) -> None:
        keep_quiet()
        # the first use of a new database creates its tables: two jobs at once would break it permanently;
        # they would also each create the parent runs
        with _lock(self.home):
            self._project = _project(self.root)
            _make_database(self.uri)
            self._client = connect(self.uri)
            found = self._client.get_experiment_by_name(self.experiment)
            place = None if self.uri.startswith("http") else (self.home / "mlruns").as_uri()
            self._experiment = found.experiment_id if found else self._client.create_experiment(self.experiment, place)
            if found is None or _KIND not in found.tags:
                self._client.set_experiment_tag(self._experiment, _KIND, "custom_model_development")
            self._close_orphans()
            for parent in self.parents:
                self._above[parent.level] = self._find_or_create(parent)
            self._begin()

    def _begin(self) -> None:
        """Create the job's own run, or continue that of the same job."""
        from mlflow.entities import Param, RunTag

        own = self._own(_JOB, self.fingerprint)
        process = f"{socket.gethostname()}:{os.getpid()}"
        identity = {_JOB: self.fingerprint, _PROJECT: self._project}
        tags = {**identity, _ALIVE: process, **_shown(self.tags), **self._below()}
        if own:
            self.run_id = own[0].info.run_id
            self._client.update_run(self.run_id, status="RUNNING")
        else:
            self.run_id = self._client.create_run(self._experiment, run_name=self.name).info.run_id
            self._log_data()
        parameters = [] if own else [Param(k, v) for k, v in _texts(self.parameters).items()]
        self._client.log_batch(self.run_id, params=parameters, tags=[RunTag(k, v) for k, v in tags.items()])

    def _own(self, tag: str, value: str) -> list[Any]:
        """Return this project's run with a value of a tag, if there is one."""
        wanted = f"tags.`{tag}` = '{value}' AND tags.`{_PROJECT}` = '{self._project}'"
        return list(self._client.search_runs([self._experiment], wanted, max_results=1))

    def _close(self, status: str) -> None:
        self._client.set_terminated(self.run_id, status)
        if self._above:
            with _lock(self.home):
                self._settle(status)

    def _below(self) -> dict[str, str]:
        """Return the tag that places a run below the lowest of the parents found so far; none without parents."""
        above = self._above.get(SYSTEM) or self._above.get(STUDY)
        return {PARENT_TAG: above} if above else {}

    def _find_or_create(self, parent: Parent) -> str:
        """Return the id of a parent's run, set to running; the caller holds the lock."""
        from mlflow.entities import Param

        key = f"{parent.level}:{parent.key}"
        found = self._own(_GROUP, key)
        values = _texts(parent.parameters)
        if found:
            run = found[0]
            self._client.update_run(run.info.run_id, status="RUNNING")
        else:
            extra = self._numbered(parent, key, values) if parent.level == STUDY else self._below()
            name = extra.pop("name", None) or f"{self._study_name()} {parent.name}"
            tags = {"level": parent.level, _GROUP: key, _PROJECT: self._project, **_shown(parent.tags), **extra}
            run = self._client.create_run(self._experiment, run_name=name, tags=tags)
        number: str = run.info.run_id
        if not run.data.params:  # new, or its creation was killed
            self._client.log_batch(number, params=[Param(k, v) for k, v in values.items()])
        return number

    def _study_name(self) -> str:
        return str(self._client.get_run(self._above[STUDY]).info.run_name) if STUDY in self._above else self.experiment

    def _numbered(self, parent: Parent, key: str, values: Mapping[str, str]) -> dict[str, str]:
        """Return the name of a new state of the study, NAME-NUMBER, and what has changed since the previous one.

        The number orders the states, since the clock may have been set back.
        """
        before = self._client.search_runs(
            [self._experiment], f"tags.level = '{STUDY}'", max_results=1, order_by=[f"tags.`{_NUMBER}` DESC"]
        )
        if not before:
            return {"name": f"{parent.name}-1", _NUMBER: f"{1:09}"}
        last, tags, old = str(before[0].info.run_name), before[0].data.tags, before[0].data.params
        end = tags.get(_NUMBER) or last.rpartition("-")[2]
        number = int(end) + 1 if end.isdecimal() else 1
        keys = [name for name in {**old, **values} if old.get(name) != values.get(name)]
        lines = [f"{name}: {old.get(name, 'none')} -> {values.get(name, 'none')}" for name in keys]
        same = "nothing, in another folder" if tags.get(_GROUP) == key else "code or data, no parameter"
        changed = "; ".join(lines) or same
        return {
            "name": f"{parent.name}-{number}",
            _NUMBER: f"{number:09}",  # tags are sorted as text
            "changed": changed[:4000],
            "mlflow.note.content": f"Since {last}: {changed}"[:4000],
        }

    def _log_data(self) -> None:
        from mlflow.entities import Dataset, DatasetInput

        inputs = [DatasetInput(Dataset(name, sum_[:16], "local", name)) for name, sum_ in self.data.items()]
        if inputs:
            self._client.log_inputs(self.run_id, inputs)

    def _close_orphans(self) -> None:
        """Mark runs whose process on this machine has died as killed, and their parent runs."""
        killed = False
        for run in self._client.search_runs([self._experiment], "attributes.status = 'RUNNING'"):
            host, _, number = run.data.tags.get(_ALIVE, "").partition(":")
            if host == socket.gethostname() and number.isdigit() and not _is_alive(int(number)):
                self._client.set_terminated(run.info.run_id, "KILLED")
                killed = True
        if killed:
            self._settle("KILLED")

    def _settle(self, status: str) -> None:
        """End the parent runs without any running job; the caller holds the lock."""
        running = self._client.search_runs([self._experiment], "attributes.status = 'RUNNING'")
        busy = {run.data.tags.get(PARENT_TAG) for run in running if _GROUP not in run.data.tags}
        for level in (SYSTEM, STUDY):
            for run in running:
                if run.data.tags.get(_GROUP, "").startswith(f"{level}:"):
                    if run.info.run_id in busy:
                        busy.add(run.data.tags.get(PARENT_TAG))
                    else:
                        self._client.set_terminated(run.info.run_id, status)

    def _log_rows(self, rows: list[dict[str, float]], run_id: str | None) -> None:
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        metrics = [
            Metric(key, value, now, int(row["step"])) for row in rows for key, value in row.items() if key != "step"
        ]
        for start in range(0, len(metrics) if run_id else 0, _LIMIT):
            self._client.log_batch(run_id, metrics=metrics[start : start + _LIMIT])

    def _attempt(self, what: str, action: Callable[[], None]) -> None:
        """Try a tracking action; an error is reported once and disables tracking for the rest of the job."""
        if not self._enabled:
            return
        try:
            action()
        except Exception as error:
            self._enabled = False
            self._say(f"{what}; the job continues without it", error)

    def _keep(self, what: str, action: Callable[[], None]) -> None:
        """Store an artifact; if that fails but the server still answers, only artifacts are disabled."""

        def keep() -> None:
            try:
                action()
            except Exception as error:
                self._client.get_run(self.run_id)  # if the server itself is gone, this raises its own error
                self._keeps = False
                self._say(f"lost {what}; the job continues without artifacts, its metrics are still tracked", error)

        if self._keeps:
            self._attempt(f"lost {what}", keep)

    def _say(self, what: str, error: Exception) -> None:
        reason = without_secrets(str(error), self.uri)
        print(f"tracking: {shown_uri(self.uri, self.root)} {what} ({reason})", file=sys.stderr)


def _home(uri: str, root: Path) -> Path:
    """Return the folder of the jobs' lock and of artifacts: that of a sqlite database, else the project's root.

    Copies of a project share a database, such as DVC's experiments, which run in temporary folders.
    """
    if uri.startswith("sqlite:///") and "?" not in uri:
        return (root.resolve() / uri.removeprefix("sqlite:///")).parent
    return root.resolve()


def _project(root: Path) -> str:
    """Return the identity of a project's folder: two clones differ, and so does a copy in another place.

    The caller holds the lock.
    """
    path = root / ".mmfuse" / "project"
    known = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
    if not re.fullmatch("[0-9a-f]{32}", known):
        known = uuid.uuid4().hex
        write_text(path, f"{known}\n")
    return hashlib.sha256(f"{known}\0{root.resolve()}".encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _lock(home: Path) -> FileLock:
    """Return the lock for tracking actions that two jobs must not do at once."""
    folder = home / ".mmfuse"
    folder.mkdir(exist_ok=True)
    return FileLock(folder / "mlflow.lock")


def _make_database(uri: str) -> None:
    """Make a new sqlite database under a temporary name: one left incomplete by a kill could never be used."""
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or "?" in uri or path.exists():
        return
    from mlflow import MlflowClient

    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    MlflowClient(f"sqlite:///{part}").search_experiments()
    part.replace(path)


def _shown(tags: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in tags.items() if value is not None}


def _texts(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return nested parameters as MLflow stores them: one level, texts of limited length."""
    return {key: str(value)[:5900] for key, value in flatten(parameters).items()}


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

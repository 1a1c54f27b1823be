"""MLflow, in this file only: one run for each job. It mirrors what jobs do and never feeds them.

Whatever goes wrong here (no server, a full disk, a locked database) is said once, and the job goes on.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock

from mmfuse.images import Bytes
from mmfuse.parameters import flatten

# a dead server must not hold a job for minutes, and no host is asked for anything but tracking
_QUIET = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
_LIMIT = 1000  # metrics in one request
_ALIVE, _JOB = "mmfuse.process", "mmfuse.job"


def default_uri(root: Path) -> str:
    """Return where runs are tracked: `MLFLOW_TRACKING_URI`, else a sqlite file in the project's root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve()}/mlflow.db"


class Tracker:
    """One MLflow run; used as a context manager around the job.

    A job that runs again with the same fingerprint goes on in its old run, so that a resumed or repeated job gives no
    second line in MLflow and no other run id in its record. Runs whose process is gone are closed as KILLED.

    Args:
        root: The project's root (place of the default database).
        experiment: The study's name.
        name: The run's name.
        fingerprint: Identifies the job.
        tags: stage, method, variant, task, dataset, seed, commit.
        parameters: Nested parameters of the job.
        enabled: False leaves MLflow alone.
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
        enabled: bool = True,
    ) -> None:
        self.root, self.experiment, self.name = root, experiment, name
        self.fingerprint, self.tags, self.parameters = fingerprint, tags, parameters
        self.uri = default_uri(root)
        self.run_id: str | None = None
        self._client: Any = None
        self._enabled = enabled

    def __enter__(self) -> Self:
        self._attempt("cannot be reached", self._open)
        return self

    def __exit__(self, kind: type[BaseException] | None, _value: object, _trace: TracebackType | None) -> None:
        status = "FINISHED" if kind is None else "FAILED"
        self._attempt("lost the end of this run", lambda: self._client.set_terminated(self.run_id, status))

    def log_rows(self, rows: list[dict[str, float]]) -> None:
        """Log history rows; each has a `step` and any number of metrics."""
        self._attempt("lost metrics", lambda: self._log_rows(rows))

    def log_metrics(self, values: Mapping[str, float]) -> None:
        """Log final values, one a name."""
        self.log_rows([{"step": 0, **values}])

    def log_picture(self, name: str, pixels: Bytes) -> None:
        """Log a picture under pictures/NAME.png."""
        file = f"pictures/{name}.png"
        self._attempt("lost a picture", lambda: self._client.log_image(self.run_id, pixels, artifact_file=file))

    def log_file(self, path: Path) -> None:
        """Log a file as an artifact."""
        self._attempt("lost a file", lambda: self._client.log_artifact(self.run_id, str(path)))

    def record(self) -> dict[str, str] | None:
        """Return what a run.json says of the run; None where nothing was tracked."""
        if self.run_id is None:
            return None
        return {"uri": shown_uri(self.uri, self.root), "experiment": self.experiment, "run_id": self.run_id}

    def _open(self) -> None:
        os.environ.update({key: os.environ.get(key, value) for key, value in _QUIET.items()})
        for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.utils.environment"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        from mlflow import MlflowClient
        from mlflow.entities import Param, RunTag

        folder = self.root / ".mmfuse"
        folder.mkdir(exist_ok=True)
        # the first use of a new database creates its tables: two jobs at once would break it for good
        with FileLock(folder / "mlflow.lock"):
            _make_database(self.uri)
            self._client = MlflowClient(self.uri)
            found = self._client.get_experiment_by_name(self.experiment)
            place = None if self.uri.startswith("http") else (self.root.resolve() / "mlruns").as_uri()
            experiment = found.experiment_id if found else self._client.create_experiment(self.experiment, place)
        self._close_orphans(experiment)
        own = self._client.search_runs([experiment], f"tags.`{_JOB}` = '{self.fingerprint}'", max_results=1)
        process = f"{socket.gethostname()}:{os.getpid()}"
        tags = {_JOB: self.fingerprint, _ALIVE: process, **{k: str(v) for k, v in self.tags.items() if v is not None}}
        if own:
            self.run_id = own[0].info.run_id
            self._client.update_run(self.run_id, status="RUNNING")
        else:
            self.run_id = self._client.create_run(experiment, run_name=self.name).info.run_id
        parameters = [] if own else [Param(k, str(v)[:5900]) for k, v in flatten(self.parameters).items()]
        self._client.log_batch(self.run_id, params=parameters, tags=[RunTag(k, v) for k, v in tags.items()])

    def _close_orphans(self, experiment: str) -> None:
        """Mark runs as killed whose process on this machine is gone."""
        for run in self._client.search_runs([experiment], "attributes.status = 'RUNNING'"):
            host, _, number = run.data.tags.get(_ALIVE, "").partition(":")
            if host == socket.gethostname() and number.isdigit() and not _is_alive(int(number)):
                self._client.set_terminated(run.info.run_id, "KILLED")

    def _log_rows(self, rows: list[dict[str, float]]) -> None:
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        metrics = [
            Metric(key, value, now, int(row["step"])) for row in rows for key, value in row.items() if key != "step"
        ]
        for start in range(0, len(metrics), _LIMIT):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + _LIMIT])

    def _attempt(self, what: str, action: Callable[[], None]) -> None:
        """Do a piece of tracking; on an error say so once and leave tracking off for the rest of the job."""
        if not self._enabled:
            return
        try:
            action()
        except Exception as error:
            self._enabled = False
            login = self.uri.partition("://")[2].rpartition("@")[0]
            reason = str(error).replace(f"{login}@", "") if login else str(error)  # MLflow quotes the whole address
            print(
                f"tracking: {shown_uri(self.uri, self.root)} {what}; the job goes on without it ({reason})",
                file=sys.stderr,
            )


def _make_database(uri: str) -> None:
    """Make a new sqlite database under another name first: after a kill in the middle of it, it could never be used."""
    path = Path(uri.removeprefix("sqlite:///"))
    if uri == str(path) or path.exists():
        return
    from mlflow import MlflowClient

    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    MlflowClient(f"sqlite:///{part}").search_experiments()
    part.replace(path)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def shown_uri(uri: str, root: Path) -> str:
    """Return an address that may be shown: without a login, and the default database relative to the project."""
    if uri == f"sqlite:///{root.resolve()}/mlflow.db":
        return "sqlite:///mlflow.db"
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else uri

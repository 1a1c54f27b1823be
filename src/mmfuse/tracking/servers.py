"""MLflow's server: its address, the part of it that may be shown, and a client that fails soon without an answer."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from mmfuse.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

# a dead server must not delay a job for minutes, and hosts are contacted for nothing but tracking
_QUIET = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "PGCONNECT_TIMEOUT": "5",
    "AWS_MAX_ATTEMPTS": "2",
    "GIT_PYTHON_REFRESH": "quiet",
}
# at the end of a run, MLflow prints its address, including the login
_ALWAYS = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
_SECRET_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_SECRET_KEY = re.compile("pass|pwd|secret|token|key", re.IGNORECASE)
_DELIMITER = re.compile(r"[/?#@\s]")  # inside a password, an address must encode these as %XX
LOCAL_PAGES = "http://127.0.0.1:5000"  # where `make ui` serves MLflow's pages
_DATABASES = {"postgresql", "mysql", "mssql"}  # MLflow's databases that are servers


def default_uri(root: Path) -> str:
    """Return the address for tracking: `MLFLOW_TRACKING_URI`, else a sqlite file in the project's root.

    Raises:
        UserError: the path of the project cannot be part of an address.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI")
    if given:
        return given
    path = f"{root.resolve()}/mlflow.db"
    if "?" in path:  # in an address, a query begins there
        path = os.path.relpath(path)
    if "?" in path:
        raise UserError(
            "The tracking database cannot be in this folder.", expected="a path without a question mark", found=path,
            fix="run the command in the project's root, rename the folder, or set MLFLOW_TRACKING_URI",
        )  # fmt: skip
    return f"sqlite:///{path}"


def shown_uri(uri: str, root: Path) -> str:
    """Return an address that may be shown: without login and query, the default database relative to the project."""
    if uri == f"sqlite:///{root.resolve()}/mlflow.db":
        return "sqlite:///mlflow.db"
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "sqlite":
        return uri
    return f"{scheme}{separator}{re.split('[?#&]', rest.rpartition('@')[2])[0]}"


def page(uri: str, root: Path, experiment_id: str, run_id: str = "") -> str:
    """Return the address of MLflow's page with the runs of a study, or with one of them.

    A database has no pages of its own, so that the address is the one at which `make ui` shows them.
    """
    server = shown_uri(uri, root).rstrip("/") if uri.startswith("http") else LOCAL_PAGES
    # without the last part, the page may show what concerns language models
    return f"{server}/#/experiments/{experiment_id}/runs{f'/{run_id}' * bool(run_id)}?workflowType=machine_learning"


def without_secrets(text: str, uri: str) -> str:
    """Return the first line of a message of MLflow or its libraries, without secrets of the address or the environment.

    Some messages quote the whole address, others pieces of it, if a password breaks the address.
    """
    login = uri.partition("://")[2].rpartition("@")[0]
    user, separator, password = login.partition(":")
    if _DELIMITER.search(password):
        return "the message is hidden: the password in the address has characters that must be encoded as %XX"
    queried = [value for key, value in re.findall(r"[?&]([^=&]+)=([^&#]*)", uri) if _SECRET_KEY.search(key)]
    # a login without a password is a token
    secrets = [password if separator else user, *queried, *(os.environ.get(name, "") for name in _SECRET_VARIABLES)]
    line = text.partition("\n")[0].replace(f"{login}@", "") if login else text.partition("\n")[0]
    for secret in sorted({form for one in secrets for form in (one, unquote(one)) if form}, key=len, reverse=True):
        line = line.replace(secret, "***")
    return line


def keep_quiet() -> None:
    """Make MLflow fail soon, and print nothing about itself."""
    os.environ.update({key: os.environ.get(key, value) for key, value in _QUIET.items()} | _ALWAYS)
    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.utils.environment"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def connect(uri: str) -> MlflowClient:
    """Return a client; a database that does not answer raises at once, while MLflow alone would retry for minutes."""
    keep_quiet()
    from mlflow import MlflowClient

    if uri.partition(":")[0].partition("+")[0] in _DATABASES:
        import sqlalchemy

        sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool).connect().close()
    return MlflowClient(uri)


@contextlib.contextmanager
def answers_needed(problem: str, uri: str) -> Iterator[None]:
    """Turn any error of a server, its database or its artifact store into one message to the user.

    Raises:
        UserError: the server is gone or refuses, or a library for it is missing.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    kinds: tuple[type[Exception], ...] = (MlflowException, SQLAlchemyError, OSError, ImportError)
    with contextlib.suppress(ImportError):  # only installed with S3 support
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        kinds += (Boto3Error, BotoCoreError, ClientError)
    try:
        yield
    except kinds as error:
        raise UserError(
            problem,
            found=without_secrets(str(error), uri),
            fix="check that the server, its database and its artifact store run, then run the same command again",
        ) from error

"""Where MLflow is: its address, what of it may be shown, and a client that says soon when nobody answers."""

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

# a dead server must not hold a job for minutes, and no host is asked for anything but tracking
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
# at the end of a run MLflow prints its address with the login in it
_ALWAYS = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
_SECRET_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_SECRET_KEY = re.compile("pass|pwd|secret|token|key", re.IGNORECASE)
_DELIMITER = re.compile(r"[/?#@\s]")  # an address has to write these as %XX inside a password
_DATABASES = {"postgresql", "mysql", "mssql"}  # those of MLflow that are servers


def default_uri(root: Path) -> str:
    """Return where runs are tracked: `MLFLOW_TRACKING_URI`, else a sqlite file in the project's root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve()}/mlflow.db"


def shown_uri(uri: str, root: Path) -> str:
    """Return an address that may be shown: without login and query, the default database relative to the project."""
    if uri == f"sqlite:///{root.resolve()}/mlflow.db":
        return "sqlite:///mlflow.db"
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "sqlite":
        return uri
    return f"{scheme}{separator}{re.split('[?#&]', rest.rpartition('@')[2])[0]}"


def without_secrets(text: str, uri: str) -> str:
    """Return what MLflow or a library below it says, its first line, without what the address and the environment hide.

    Addresses are quoted whole in some messages, and in pieces where a password breaks the address.
    """
    login = uri.partition("://")[2].rpartition("@")[0]
    user, separator, password = login.partition(":")
    if _DELIMITER.search(password):
        return "its words are not shown: the password in the address has characters that must stand there as %XX"
    queried = [value for key, value in re.findall(r"[?&]([^=&]+)=([^&#]*)", uri) if _SECRET_KEY.search(key)]
    # a login without a password is a token
    secrets = [password if separator else user, *queried, *(os.environ.get(name, "") for name in _SECRET_VARIABLES)]
    line = text.partition("\n")[0].replace(f"{login}@", "") if login else text.partition("\n")[0]
    for secret in sorted({form for one in secrets for form in (one, unquote(one)) if form}, key=len, reverse=True):
        line = line.replace(secret, "***")
    return line


def keep_quiet() -> None:
    """Let MLflow fail soon, and say nothing about itself."""
    os.environ.update({key: os.environ.get(key, value) for key, value in _QUIET.items()} | _ALWAYS)
    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.utils.environment"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def connect(uri: str) -> MlflowClient:
    """Return a client; a database that does not answer raises at once, where MLflow alone asks it for minutes."""
    keep_quiet()
    from mlflow import MlflowClient

    if uri.partition(":")[0].partition("+")[0] in _DATABASES:
        import sqlalchemy

        sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool).connect().close()
    return MlflowClient(uri)


@contextlib.contextmanager
def answers_needed(problem: str, uri: str) -> Iterator[None]:
    """Turn whatever a server, its database or its store of artifacts answers with into one message to the user.

    Raises:
        UserError: the server is gone, refuses, or lacks a library to talk to it.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    kinds: tuple[type[Exception], ...] = (MlflowException, SQLAlchemyError, OSError, ImportError)
    with contextlib.suppress(ImportError):  # only an installation with S3 has them
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        kinds += (Boto3Error, BotoCoreError, ClientError)
    try:
        yield
    except kinds as error:
        raise UserError(
            problem,
            found=without_secrets(str(error), uri),
            fix="see that the server, its database and its store of artifacts run, then run the same command again",
        ) from error

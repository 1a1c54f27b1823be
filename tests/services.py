"""An S3 server (moto), a PostgreSQL database and an MLflow server on loopback, which the tests start and stop."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from loopback import free_port, listens, wait_for

ROOT = Path(__file__).parents[1]
MOTO = ROOT / ".venv-services/bin/moto_server"
KEY, SECRET = "AKIATESTONLY", "s3-secret-of-the-tests"
PASSWORD = "p@ss/w%rd of the tests"  # noqa: S105 - every character that an address must escape
AWS = {
    "AWS_ACCESS_KEY_ID": KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def missing() -> str:
    """Tell what keeps the servers from being started here; empty if nothing does."""
    absent = [name for name in ("dvc_s3", "boto3", "psycopg2") if importlib.util.find_spec(name) is None]
    absent += [] if _programs() else ["PostgreSQL"]
    absent += [] if MOTO.is_file() else ["moto"]
    if absent:
        return f"needs {', '.join(absent)}: make test-services"
    if os.geteuid() == 0 and not _owner():
        return "needs the user postgres, which Debian's package makes: PostgreSQL does not run as root"
    return ""


def _programs() -> str:
    """Return the folder of PostgreSQL's programs; Debian keeps them off the path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    found = shutil.which("initdb", path=os.pathsep.join([*map(str, reversed(folders)), os.environ["PATH"]]))
    return str(Path(found).resolve().parent) if found else ""


def _owner() -> dict[str, str]:
    """Return as whom `subprocess` starts PostgreSQL: root takes Debian's user for it, anybody else himself."""
    import pwd

    known = {entry.pw_name for entry in pwd.getpwall()}
    return {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 and "postgres" in known else {}


@contextmanager
def s3(folder: Path) -> Iterator[int]:
    """Start an S3 server and yield its port; what it holds goes with it."""
    port = free_port()
    with (folder / "s3.log").open("wb") as log:
        server = subprocess.Popen([MOTO, "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log)
        try:
            wait_for(lambda: listens(port), "the S3 server", 120)
            yield port
        finally:
            server.kill()
            server.wait()


@dataclass
class Database:
    """A PostgreSQL cluster with one database, in a folder that goes with it."""

    folder: Path
    port: int

    @property
    def uri(self) -> str:
        """Its address, with the password."""
        return f"postgresql://study:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/mlflow"

    def call(self, program: str, *arguments: object, **options: object) -> str:
        """Run one of PostgreSQL's programs as its owner and return what it says."""
        return subprocess.run(
            [f"{_programs()}/{program}", *map(str, arguments)], check=True, text=True, cwd=self.folder,
            env={"PATH": os.environ["PATH"], "PGPASSWORD": PASSWORD}, stdin=subprocess.DEVNULL,
            **({"stdout": subprocess.PIPE} | options), **_owner(),
        ).stdout  # fmt: skip

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off -k {self.folder}"
        log = self.folder / "server.log"
        # the server keeps what it is given for output open, so it is given nothing
        self.call("pg_ctl", "start", "-w", "-D", "data", "-l", log, "-o", options, stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        """Stop it at once, as in a power cut; what was committed is kept."""
        self.call("pg_ctl", "stop", "-w", "-D", "data", "-m", "immediate")

    def dump(self) -> str:
        """Return everything that it holds as text."""
        return self.call("pg_dump", "-h", "127.0.0.1", "-p", self.port, "-U", "study", "mlflow")


@contextmanager
def postgresql() -> Iterator[Database]:
    """Start a cluster that asks for a password, with an empty database."""
    # not in pytest's folder: the owner of the cluster may not enter it
    with tempfile.TemporaryDirectory() as name:
        base = Database(Path(name), free_port())
        secret = base.folder / "password"
        secret.write_text(PASSWORD)
        if owner := _owner():
            for path in (base.folder, secret):
                shutil.chown(path, **owner)
        words = ("-U", "study", "--auth=scram-sha-256", f"--pwfile={secret}", "--no-sync", "--no-instructions")
        base.call("initdb", "-D", "data", "-E", "UTF8", *words)
        base.start()
        try:
            base.call("createdb", "-h", "127.0.0.1", "-p", base.port, "-U", "study", "mlflow")
            yield base
        finally:
            if (base.folder / "data/postmaster.pid").exists():
                base.stop()


class Server:
    """An MLflow server with its database and a place for artifacts, which can be killed and started again.

    Attributes:
        port: Where it listens, the same after each start.
        log: What it says.
    """

    def __init__(self, folder: Path, database: str, artifacts: str, environment: Mapping[str, str]) -> None:
        self.port, self.log = free_port(), folder / "mlflow_server.log"
        # the address of the database has a password, which a command line would show to everybody on the machine
        self._environment = {
            **environment,
            **AWS,
            "MLFLOW_BACKEND_STORE_URI": database,
            "MLFLOW_ARTIFACTS_DESTINATION": artifacts,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        program = Path(sys.executable).parent / "mlflow"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [program, "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"],
                cwd=self.log.parent, env=self._environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        wait_for(lambda: listens(self.port) or self._process.poll() is not None, "the MLflow server", 300)
        assert self._process.poll() is None, self.log.read_text()

    def kill(self) -> None:
        """Kill it and its workers at once."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

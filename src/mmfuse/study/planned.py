"""The parameters with which an engine has planned its jobs.

Snakemake reads `params.yaml` once and then runs for hours. Its jobs read a copy made at the time of planning, so that
an edit during the run takes effect at the next start, and never in only some of the jobs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path

from mmfuse.data.origins import mirror_of
from mmfuse.files.writing import whole_file
from mmfuse.study.parameters import load_parameters
from mmfuse.study.types import Parameters

VARIABLE = "MMFUSE_PARAMS"  # the file that jobs read instead of params.yaml
FOLDER = Path(".mmfuse/planned")
_LAST, _LONG = 20, 60 * 86400  # copies that are kept in any case; seconds that no run takes


def planned_parameters(path: Path) -> Parameters:
    """Read and check the parameters, and make all processes that this one starts read the same ones.

    Copies of runs that began more than 60 days ago are removed, except the last 20.

    The environment variable `MMFUSE_PARAMS` names the copy. A process that finds it set, such as Snakemake inside a
    cluster job, reads that copy.

    Args:
        path: The study's parameters.

    Raises:
        UserError: as `mmfuse.study.parameters.load_parameters` and `mmfuse.data.origins.mirror_of`.
    """
    given = os.environ.get(VARIABLE)
    if given:
        return load_parameters(Path(given))
    content, parameters = b"", None
    while parameters is None or path.read_bytes() != content:  # again if the file was edited while it was read
        content = path.read_bytes() if path.is_file() else b""
        parameters = load_parameters(path)
    mirror_of(parameters["download"]["mirror"])  # refuses a missing one before the first job
    copy = FOLDER / f"{hashlib.sha256(content).hexdigest()}.yaml"
    if not copy.is_file():
        copy.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(copy) as temporary:
            temporary.write_bytes(content)
    os.utime(copy)
    _remove_old()
    os.environ[VARIABLE] = copy.as_posix()
    return parameters


def _remove_old() -> None:
    """Remove copies that no run can need any more: those of runs that began long ago, unless they are the last ones."""
    began = {}
    for path in FOLDER.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another engine removes it, too
            began[path] = path.stat().st_mtime
    for path in sorted(began, key=lambda path: began[path], reverse=True)[_LAST:]:
        if began[path] < time.time() - _LONG:
            path.unlink(missing_ok=True)

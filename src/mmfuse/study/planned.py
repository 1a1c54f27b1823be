"""The parameters with which an engine has planned its jobs.

Snakemake reads `params.yaml` once and then runs for hours. Its jobs read a copy made at the time of planning, so that
an edit during the run takes effect at the next start, and never in only some of the jobs.
"""

from __future__ import annotations

import os
from pathlib import Path

from mmfuse.data.origins import mirror_of
from mmfuse.files.writing import sha256, whole_file
from mmfuse.study.parameters import load_parameters
from mmfuse.study.types import Parameters

VARIABLE = "MMFUSE_PARAMS"  # the file that jobs read instead of params.yaml
FOLDER = Path(".mmfuse/planned")


def planned_parameters(path: Path) -> Parameters:
    """Read and check the parameters, and make all processes that this one starts read the same ones.

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
    parameters = load_parameters(path)
    mirror_of(parameters["download"]["mirror"])  # refuses a missing one before the first job
    copy = FOLDER / f"{sha256(path)}.yaml"
    if not copy.is_file():
        copy.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(copy) as temporary:
            temporary.write_bytes(path.read_bytes())
    os.environ[VARIABLE] = copy.as_posix()
    return parameters

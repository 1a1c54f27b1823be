"""The results of a study, wherever they are: a folder, a commit of its repository, or a run in MLflow.

Each is brought to one form, a folder with the layout of a project: `params.yaml`, the scores, the results of detectors
and segmenters, and the jobs' records.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

from mmfuse.errors import UserError
from mmfuse.files.reading import read_yaml
from mmfuse.study.stages import DETECT, EVALUATE, report_inputs
from mmfuse.study.types import Parameters
from mmfuse.tracking.reading import fetch_kept

ARCHIVE = "study.zip"  # stored with the run of a study in MLflow
PARAMS, LOCK = Path("params.yaml"), Path("dvc.lock")
_MEASURED, _TEXTS = (f"{EVALUATE.folder}/", f"{DETECT.folder}/"), {".csv", ".json"}
_MOMENT = (1980, 1, 1, 0, 0, 0)  # fixed, so that equal results give equal archives


@dataclass(frozen=True)
class Place:
    """The location of one run's results.

    Attributes:
        name: The name that the user gave.
        kind: `folder`, `commit` or `mlflow`.
        root: A folder with the layout of a project.
        system: The only system requested, METHOD.VARIANT.sSEED; None for all of them.
    """

    name: str
    kind: str
    root: Path
    system: str | None = None


def small_files(parameters: Parameters) -> list[str]:
    """Return the small files with the results of a study: all measurements and all records."""
    found = report_inputs(parameters)
    measured = [file for file in found if file.startswith(_MEASURED) and Path(file).suffix in _TEXTS]
    records = [file for file in found if Path(file).name == "run.json" or file.endswith(".run.json")]
    return list(dict.fromkeys([*measured, *records]))


def pack(root: Path, params: Path, parameters: Parameters, target: Path) -> None:
    """Write the small files of a study into one archive."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in [(PARAMS.name, params), *((file, root / file) for file in small_files(parameters))]:
            member = zipfile.ZipInfo(name, _MOMENT)
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, path.read_bytes())


def find(run: str, scratch: Path) -> Place:
    """Return the results of a run by name: a folder, else a commit, else a run in MLflow.

    Args:
        run: A project's root or its reports, a commit, branch or tag, or a run's name or id in MLflow.
        scratch: An empty folder for fetched files.

    Raises:
        UserError: there is no such run, or it has no results.
    """
    if Path(run).is_dir():
        return Place(run, "folder", _project(Path(run)))
    commit = _commit(run)
    if commit is not None:
        _checkout(run, commit, scratch)
        return Place(run, "commit", scratch)
    study = str(read_yaml(PARAMS)["study"]["name"]) if PARAMS.is_file() else None
    archive, system = fetch_kept(Path(), run, study=study, name=ARCHIVE, folder=scratch)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(scratch)
    return Place(run, "mlflow", scratch, system)


def _project(folder: Path) -> Path:
    """Return the folder above `reports`, from a project's root, its reports or its scores."""
    for root in (folder, folder.resolve().parent, folder.resolve().parent.parent):
        scores = root / EVALUATE.folder
        if scores.is_dir() and folder.resolve() in {root.resolve(), scores.parent.resolve(), scores.resolve()}:
            return root
    raise UserError(
        f"There are no results in {folder}.",
        expected=f"{folder / EVALUATE.folder}, with what the stage `evaluate` writes",
        found="no such folder",
        fix="run the study there, or name the root of another project, a commit, or a run in MLflow",
    )


def _commit(run: str) -> str | None:
    """Return the full hash of a commit, branch or tag; None if it is none."""
    asked = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{run}^{{commit}}"]
    try:
        found = subprocess.run(asked, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def _checkout(run: str, commit: str, target: Path) -> None:
    """Copy a commit's parameters and small results to a folder; the results come from DVC's cache.

    Raises:
        UserError: the commit has no results, or the cache lacks them.
    """
    for path in (PARAMS, LOCK):
        shown = subprocess.run(["git", "show", f"{commit}:./{path}"], capture_output=True, check=False)
        if shown.returncode:
            raise UserError(
                f"The commit {run} has no results.",
                expected=f"{PARAMS} and {LOCK} in the commit",
                found=f"no {path}",
                fix=f"after a complete run: `mmfuse sync`, then commit {PARAMS}, dvc.yaml and {LOCK}",
            )
        (target / path).write_bytes(shown.stdout)
    wanted = set(small_files(read_yaml(target / PARAMS)))
    cache = cache_folder()
    for stage in read_yaml(target / LOCK).get("stages", {}).values():
        for out in stage.get("outs", []):
            if out["path"] in wanted:
                if not re.fullmatch("[0-9a-f]{32}", str(out["md5"])):
                    raise UserError(
                        f"{LOCK} of {run} is damaged.", expected=f"the MD5 of {out['path']}", found=out["md5"]
                    )
                _take(cache / out["md5"][:2] / out["md5"][2:], target / out["path"], run)


def cache_folder() -> Path:
    """Return the folder of files in DVC's cache.

    Raises:
        UserError: DVC is not installed, or the current folder is not that of a DVC project.
    """
    try:
        run = subprocess.run(["dvc", "cache", "dir"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            "DVC's cache cannot be found.", found=error, fix="run the command in the project's root"
        ) from error
    return Path(run.stdout.strip()) / "files" / "md5"


def _take(source: Path, target: Path, run: str) -> None:
    if not source.is_file():
        raise UserError(
            f"DVC's cache lacks a result of {run}.",
            expected=target.name,
            found="no such file in the cache",
            fix="run `dvc fetch --all-commits`, if its results were pushed",
        )
    if not is_whole(source):
        raise UserError(
            f"DVC's cache has a damaged result of {run}.",
            expected=f"{target.name} as it was committed",
            found=f"{source}, whose content has another MD5 than its name says",
            fix="delete it, then run `dvc fetch --all-commits` if its results were pushed, else the study again",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def is_whole(cached: Path) -> bool:
    """Whether a file in DVC's cache has the content that it is named after."""
    with cached.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return found == cached.parent.name + cached.name.removesuffix(".dir")

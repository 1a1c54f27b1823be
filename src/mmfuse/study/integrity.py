"""Do files still hold what the jobs wrote that made them, and do the records fit the study?

Each record lists the checksums of its job's outputs. Every reader compares them with the files that it finds, so that a
number is never shown beside data that it does not belong to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mmfuse.errors import UserError
from mmfuse.files.records import read_record
from mmfuse.files.writing import checksum
from mmfuse.progress import progress
from mmfuse.study.parameters import pick_all
from mmfuse.study.stage import KEYS, Key, Stage
from mmfuse.study.stages import STAGES, jobs_of
from mmfuse.study.types import Parameters
from mmfuse.words import number_of

_SHOWN = 10
_AGAIN = "restore it, or delete it and run the study again"


def maker_of(path: str) -> tuple[Stage, Key] | None:
    """Return the stage and the key of the job that writes a path (relative to the project's root), if one does."""
    for stage, form in _forms():
        found = form.fullmatch(path)
        if found:
            return stage, found.groupdict()
    return None


@cache
def _forms() -> list[tuple[Stage, re.Pattern[str]]]:
    """Return a pattern for each output of each stage."""
    found = []
    for stage in STAGES.values():
        for path in stage.outputs.values():
            pieces = re.split(r"\{(\w+)\}", path.rstrip("/"))
            form = "".join(f"(?P<{p}>{KEYS[p][0]})" if n % 2 else re.escape(p) for n, p in enumerate(pieces))
            found.append((stage, re.compile(form)))
    return found


def check_made(root: Path, checksums: Mapping[str, str]) -> None:
    """Check that files and folders are what the jobs that made them recorded.

    Files that no job makes, and files without a record, such as images made elsewhere, are not checked.

    Args:
        root: The project's folder.
        checksums: Current checksum of each path, relative to the root.

    Raises:
        UserError: a file differs from the record of the job that made it.
    """
    wrong = []
    for path, digest in checksums.items():
        made = maker_of(path)
        record = root / made[0].path("record", made[1]) if made else None
        if record is not None and record.is_file():
            outputs = read_record(record, fix=_AGAIN)["outputs"]
            if outputs.get(path) != digest:
                wrong.append(
                    f"{path} ({record.relative_to(root)} has {str(outputs.get(path))[:12]}, not {digest[:12]})"
                )
    _refuse(wrong, "the checksums that the jobs recorded when they wrote these files")


def check_study(root: Path, parameters: Parameters) -> int:
    """Check all records of the study and all files that its jobs wrote; return the number of files and folders.

    Raises:
        UserError: as `check_records` and `check_outputs`.
    """
    check_records(root, parameters)
    return check_outputs(root, parameters)


def check_present(root: Path, parameters: Parameters) -> None:
    """Check the files that are there, of a study that need not be complete.

    Raises:
        UserError: as `check_made`.
    """
    there = [path for path in _written(parameters) if (root / path).exists()]
    read = progress(there, "compare with the records", unit="results")
    check_made(root, {path: checksum(root / path) for path in read})


def check_records(root: Path, parameters: Parameters) -> None:
    """Check that each job of the study was done with the study's present parameters and code.

    Raises:
        UserError: a record is missing, or lists other parameters or other code.
    """
    _refuse(list(_other_records(root, parameters)), "jobs done with the present parameters and code")


def check_outputs(root: Path, parameters: Parameters) -> int:
    """Check all files that the jobs of the study wrote against their records, byte by byte; return their number.

    Raises:
        UserError: a file is missing or differs from its record.
    """
    missing = [f"{path} is missing; its record is {record}" for path, record in removed_outputs(root, parameters)]
    fix = "restore it; or delete its record, too, and run the study again, which remakes all that depends on it"
    _refuse(missing, "the files that the jobs recorded when they wrote them", fix)
    check_present(root, parameters)
    return len(_written(parameters))


def removed_outputs(root: Path, parameters: Parameters) -> list[tuple[str, str]]:
    """Return each file and folder that is missing although the record of the job that wrote it is there, with both.

    Snakemake remakes such a file only if a job needs it, which is no longer so once all jobs that read it are done.
    """
    pairs = [
        (path, stage.path("record", key)) for stage, key in jobs_of(parameters) for path in stage.written(key).values()
    ]
    return [pair for pair in pairs if not (root / pair[0]).exists() and (root / pair[1]).exists()]


def _written(parameters: Parameters) -> list[str]:
    return [path for stage, key in jobs_of(parameters) for path in stage.written(key).values()]


def _other_records(root: Path, parameters: Parameters) -> Iterator[str]:
    files: dict[str, Any] = {}
    code: dict[str, str] = {}
    for stage, key in jobs_of(parameters):
        path = root / stage.path("record", key)
        if not path.is_file():
            yield f"{path.relative_to(root)} is missing"
            continue
        record = read_record(path, fix=_AGAIN)
        watched = json.loads(json.dumps(pick_all(parameters, stage.watched(parameters, key), files)))
        other = _differing(record["parameters"], watched)
        if other:
            yield f"{path.relative_to(root)}: other values of {', '.join(other)}"
        sources = [name for name in stage.code(key) if (root / name).is_file()]
        code |= {name: checksum(root / name) for name in sources if name not in code}
        recorded = {n: digest for n, digest in record["inputs"].items() if n.startswith("src/mmfuse/")}
        other = _differing({n: recorded[n] for n in recorded if n in code}, {n: code[n] for n in sources})
        if other:
            yield f"{path.relative_to(root)}: another version of {', '.join(other)}"


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    return [
        name for name in {**first, **second} if name not in first or name not in second or first[name] != second[name]
    ]


def _refuse(wrong: Iterable[str], expected: str, fix: str = _AGAIN) -> None:
    """Raise one error that names what is wrong, if anything is."""
    listed = list(wrong)
    if listed:
        more = f"\n  … and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
        raise UserError(
            f"Not what the records of this study say: {number_of(len(listed), 'result')}.",
            expected=expected,
            found="; ".join(listed[:_SHOWN]) + more,
            fix=fix,
        )

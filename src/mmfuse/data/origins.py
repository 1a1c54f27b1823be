"""Where a dataset comes from: a mirror, files put there by hand, or its own sources."""

from __future__ import annotations

import os
from pathlib import Path

from mmfuse.data.catalog import Dataset
from mmfuse.errors import UserError
from mmfuse.files.writing import files_below

MANUAL = Path("data/manual")
_VARIABLE = "MMFUSE_MIRROR"


def mirror_of(named: str | None) -> Path | None:
    """Return the folder with copies of public datasets: `MMFUSE_MIRROR`, else `named`; None if neither is set.

    Args:
        named: `download.mirror` of the parameters.

    Raises:
        UserError: the folder does not exist.
    """
    variable = os.environ.get(_VARIABLE)
    chosen = variable or named
    if not chosen:
        return None
    if not Path(chosen).is_dir():
        where = f"the environment variable {_VARIABLE}" if variable else "download.mirror in params.yaml"
        raise UserError(
            "The mirror of the datasets does not exist.",
            expected="an existing folder with copies of public datasets",
            found=f"{chosen}, from {where}",
            fix=f"correct it; or {f'unset {_VARIABLE}' if variable else 'set it to null'} to do without a mirror",
        )
    return Path(chosen)


def mirrored(entry: Dataset, mirror: Path | None) -> Path | None:
    """Return the dataset's folder in the mirror; None if there is no mirror, or it lacks the dataset."""
    if mirror is None or entry.mirror is None or not (mirror / entry.mirror).is_dir():
        return None
    return mirror / entry.mirror


def by_hand(entry: Dataset, mirror: Path | None, manual: Path = MANUAL) -> Path | None:
    """Return the folder of the files that a person fetched, if the dataset comes from there; else None.

    A generator and a mirror take precedence. A folder that contains only hidden files counts as empty.
    """
    place = manual / entry.name
    taken = entry.generator is None and mirrored(entry, mirror) is None and place.is_dir() and files_below(place)
    return place if taken else None

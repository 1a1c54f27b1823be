"""The revision of the project's code: its commit, and a digest of what was changed since."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mmfuse.files.writing import sha256

# what the engines write themselves, such as dvc.lock, does not make the code dirty
_CODE = ("src", "workflow", "envs", "Snakefile", "data/catalog.yaml")


@dataclass(frozen=True)
class Revision:
    """A state of the code.

    Attributes:
        commit: The commit's full hash; None outside a repository.
        changes: SHA-256 of the uncommitted changes to the code, new files included; None if there are none.
    """

    commit: str | None
    changes: str | None


def revision_of(root: Path) -> Revision:
    """Return the revision of the project in a folder.

    Only a repository whose top folder is the project counts: the commit of a repository around it says nothing about
    its code. Neither variables such as GIT_DIR nor settings of git change the result.
    """
    try:
        if Path(_git(root, "rev-parse", "--show-toplevel").rstrip("\n")).resolve() != root.resolve():
            return Revision(None, None)
        commit = _git(root, "rev-parse", "HEAD").strip()
        changed = _git(root, "diff", "--name-only", "--no-renames", "--no-ext-diff", "-z", "HEAD", "--", *_CODE)
        changed += _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *_CODE)
    except (OSError, subprocess.CalledProcessError):
        return Revision(None, None)
    names = sorted(set(filter(None, changed.split("\0"))))
    lines = "".join(f"{name}\0{_content(root / name)}\n" for name in names)
    return Revision(commit, hashlib.sha256(os.fsencode(lines)).hexdigest() if names else None)


def _content(path: Path) -> str:
    """Return what a changed file is now."""
    if not path.is_file():
        return "removed"
    return sha256(path) + (" executable" if path.stat().st_mode & stat.S_IXUSR else "")


def _git(root: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    run = subprocess.run(
        ["git", *arguments], cwd=root, env=environment, capture_output=True, check=True, text=True,
        errors="surrogateescape",
    )  # fmt: skip
    return run.stdout

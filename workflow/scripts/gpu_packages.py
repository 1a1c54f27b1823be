"""The packages that a check on a GPU needs, and how to bring them to a machine that lacks some of them.

This module uses only the standard library, because it runs before anything else is imported.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
import sys
from pathlib import Path

# every package that training, fusing and scoring import, by the name that Python imports; torch comes with the machine
NEEDED = {
    "torch": "torch",
    "numpy": "numpy",
    "pandas": "pandas",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "tqdm": "tqdm",
    "filelock": "filelock",
    "safetensors": "safetensors",
    "jsonschema": "jsonschema",
    "lightning_fabric": "lightning-fabric",
}
# what the tests import in addition
FOR_TESTS = {"pytest": "pytest", "scipy": "scipy", "skimage": "scikit-image", "typer": "typer", "requests": "requests"}
TOO_LARGE = {"torch"}  # and all that only torch needs
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def read_lock(path: Path) -> tuple[dict[str, str], dict[str, set[str]]]:
    """Return the version of every package in a lock file, and the packages that need it."""
    versions: dict[str, str] = {}
    needed_by: dict[str, set[str]] = {}
    name = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        pinned = re.match(r"([a-z0-9._-]+)==(\S+)", line)
        if pinned:
            name = pinned[1]
            versions[name], needed_by[name] = pinned[2], set()
        elif name and line.strip().startswith("#"):
            user = line.strip().removeprefix("#").strip().removeprefix("via").strip()
            needed_by[name] |= {user} if user else set()
    return versions, needed_by


def with_their_needs(names: set[str], needed_by: dict[str, set[str]]) -> set[str]:
    """Return packages with all their dependencies, without torch and what only torch needs."""
    found = set(names) - TOO_LARGE
    while True:
        more = {name for name, users in needed_by.items() if users & found} - found - TOO_LARGE
        if not more:
            return found
        found |= more


def missing(needed: dict[str, str]) -> dict[str, str]:
    """Return the packages that cannot be imported, with the reason."""
    found = {}
    for module, package in needed.items():
        try:
            importlib.import_module(module)
        except ImportError as error:  # the package itself, or one of its dependencies
            found[package] = str(error)
    return found


def installed(package: str) -> str | None:
    """Return the version of an installed package; None if there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def how_to_carry(names: set[str], lock: Path, python: str) -> list[str]:
    """Return the commands that bring packages to a machine without a network.

    Args:
        names: The packages.
        lock: The lock file, which has their versions.
        python: The version of Python there, such as 3.12.
    """
    versions, _ = read_lock(lock)
    pinned = " ".join(f"{name}=={versions[name]}" for name in sorted(names))
    platforms = " ".join(f"--platform {name}" for name in PLATFORMS)
    return [
        "On a machine with a network, in the folder to copy:",
        f"  python -m pip download --no-deps --only-binary=:all: --python-version {python} --implementation cp "
        f"{platforms} --dest wheels {pinned}",
        "On the machine with the GPU, before `run`:",
        "  python -m pip install --no-index --no-deps --target site wheels/*.whl && export PYTHONPATH=$PWD/site",
    ]


def advice(lacking: dict[str, str], lock: Path) -> str:
    """Return one message with every missing package, and how to bring them to this machine."""
    versions, needed_by = read_lock(lock)
    lines = [f"packages that are missing on this machine: {len(lacking)}"]
    lines += [f"  {name}=={versions.get(name, '?')}  ({reason})" for name, reason in lacking.items()]
    if lacking.keys() & TOO_LARGE:
        lines.append("torch must be installed on the machine itself: its wheels are too large to copy.")
    carried = {name for name in with_their_needs(set(lacking), needed_by) if installed(name) is None}
    if carried:
        lines += how_to_carry(carried, lock, f"{sys.version_info.major}.{sys.version_info.minor}")
    return "\n".join(lines)


def listing(lacks: list[str], lock: Path, python: str) -> str:
    """Return what is needed, or how to bring the packages that a machine lacks, with their dependencies."""
    versions, needed_by = read_lock(lock)
    if lacks:
        unknown = sorted(set(lacks) - versions.keys())
        if unknown:
            return f"{lock} has no {', '.join(unknown)}; it has {', '.join((NEEDED | FOR_TESTS).values())} and others."
        return "\n".join(how_to_carry(with_their_needs(set(lacks), needed_by), lock, python))
    lines = [f"{name}=={versions[name]}" for name in NEEDED.values()]
    return "\n".join([*lines, *(f"{name}=={versions[name]}  (for the tests)" for name in FOR_TESTS.values())])


def differences(lock: Path) -> dict[str, str]:
    """Return the installed packages whose version differs from the lock, as `installed, locked`."""
    versions, _ = read_lock(lock)
    found = {}
    for package in (NEEDED | FOR_TESTS).values():
        own = installed(package)
        if own is not None and own.partition("+")[0] != versions.get(package):
            found[package] = f"{own}, locked {versions.get(package, 'none')}"
    return found

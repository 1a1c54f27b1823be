"""Which source files a stage's result depends on.

The engines see a command, not the code behind it. With these lists, a change of a network or metric reruns the jobs
that use it, and no others.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mmfuse.errors import UserError

PACKAGE = Path(__file__).parents[1]
SOURCE = Path("src/mmfuse")
# how a job is announced, recorded and tracked does not change its result
PLUMBING = {"errors", "terminal", "words", "files", "study", "weights", "pipeline", "tracking", "comparing", "cli"}

_IMPORT = re.compile(r"^[ \t]*from mmfuse(?:\.([\w.]+))? import (\([^)]*\)|[^\n]*)", re.MULTILINE)
_MENTION = re.compile(r"\bfrom[\s\\]+mmfuse\b")


def check_running_code(root: Path) -> None:
    """Check that the running package is the project's own, because records list the project's files and commit.

    Args:
        root: The project's root; a folder without `src/mmfuse` has no code, so it is not checked.

    Raises:
        UserError: the running package was installed from another folder.
    """
    own = root / SOURCE
    if own.is_dir() and own.resolve() != PACKAGE.resolve():
        raise UserError(
            "The running code is not the code of this project, so the records would be wrong.",
            expected=own.resolve(),
            found=PACKAGE,
            fix="run `make env` in this folder and use its .venv, or set PYTHONPATH=src",
        )


def code_of(stage: str, *entries: str) -> list[str]:
    """Return the files that a stage and further modules import from this package, relative to the project's root.

    Templates beside a module that names their folder count as part of it.

    Args:
        stage: The stage's name.
        entries: Modules that the stage loads by name, such as `methods.mma_unet`; `metrics.*` stands for all of them.
    """
    return list(_found(stage, entries))


@cache
def _found(stage: str, entries: Sequence[str]) -> tuple[str, ...]:
    """Return the files as `code_of` does; they do not change while a process runs."""
    found: set[Path] = set()
    waiting = [f"stages.{stage}"]
    for entry in entries:
        folder = PACKAGE / entry.removesuffix(".*")
        waiting += [f"{folder.name}.{file.stem}" for file in folder.glob("*.py")] if entry.endswith(".*") else [entry]
    while waiting:
        path = _file(waiting.pop())
        if path is not None and path not in found:
            found |= {path, *(path.parent.glob("templates/*") if _has_templates(path) else ())}
            waiting += _imports(path)
    return tuple(sorted((SOURCE / path.relative_to(PACKAGE)).as_posix() for path in found))


@cache
def _file(module: str) -> Path | None:
    """Return the file of a module inside the package; None for a name that is not a module, and for plumbing."""
    if module.partition(".")[0] in PLUMBING:
        return None
    path = PACKAGE.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.is_file()), None)


@cache
def _has_templates(path: Path) -> bool:
    return '"templates"' in path.read_text(encoding="utf-8")


@cache
def _imports(path: Path) -> tuple[str, ...]:
    return imports_of(path.read_text(encoding="utf-8"))


def imports_of(program: str) -> tuple[str, ...]:
    """Return the modules of this package that a program imports, without the package's own name."""
    found = _IMPORT.findall(program)
    # parsing takes twenty times as long, so only programs with an import of another form are parsed
    if len(found) != len(_MENTION.findall(program)) or any(set("\\;#") & set(names) for _, names in found):
        imports = [node for node in ast.walk(ast.parse(program)) if isinstance(node, ast.ImportFrom)]
        named = [((node.module or "").partition("."), ",".join(one.name for one in node.names)) for node in imports]
        found = [(module, names) for (package, _, module), names in named if package == "mmfuse"]
    modules: list[str] = []
    for module, names in found:
        imported = [one.split()[0] for one in names.strip("() \t").split(",") if one.strip()]
        modules += [module, *(f"{module}.{name}".lstrip(".") for name in imported)]
    return tuple(name for name in modules if name)

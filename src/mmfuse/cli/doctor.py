"""`mmfuse doctor`: is everything in place for a study?"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmfuse.errors import MmfuseError, UserError
from mmfuse.study import plan
from mmfuse.study.code_lists import PACKAGE, check_running_code
from mmfuse.study.integrity import check_study
from mmfuse.study.parameters import load_parameters, project_root
from mmfuse.study.stages import DOWNLOAD, jobs_of
from mmfuse.tracking import results
from mmfuse.words import number_of

LOCK = Path("envs/requirements.lock")
_OWN_CACHE = ".mmfuse/cache"  # in the project
_SHOWN = 10


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    what: str
    good: bool
    found: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.good else 'FAIL'} {self.what}: {self.found}"


def examine(params: Path, *, deep: bool = False) -> Iterator[Check]:
    """Yield the checks one by one; `deep` adds the results of a finished study, byte by byte."""
    yield _try("code", _code)
    yield _try("environment", _environment)
    yield _try("caches", _caches)
    yield _try("devices", _devices)
    yield _try("parameters", lambda: _parameters(params))
    yield _try("methods", lambda: _methods(params))
    yield _try("data", lambda: _data(params))
    yield _try("tracking", _tracking)
    if deep:
        yield _try("results", lambda: _results(params))
        yield _try("states", lambda: _states(params))
        yield _try("cache", _cached)


def _results(params: Path) -> str:
    count = check_study(Path.cwd(), load_parameters(params))
    return f"files and folders as their records say: {count}"


def _states(params: Path) -> str:
    """Check the saved states of unfinished trainings."""
    from mmfuse.training.checkpoints import is_whole

    states = [Path(s.resume.format(**key)) for s, key in jobs_of(load_parameters(params)) if s.resume]
    found = [path for path in states if path.is_file()]
    _refuse_damaged([path for path in found if not is_whole(path.read_bytes())], "delete it: its training restarts")
    return f"{number_of(len(found), 'whole state')} of unfinished trainings"


def _cached() -> str:
    """Check the files in DVC's cache."""
    folder = results.cache_folder()
    found = sorted(path for path in folder.glob("[0-9a-f][0-9a-f]/*") if path.is_file())
    fix = "delete it, then run `dvc pull` if it was pushed, else `mmfuse sync` or the study again"
    _refuse_damaged([path for path in found if not results.is_whole(path)], fix)
    return f"{number_of(len(found), 'file')} in DVC's cache with the content that the name says"


def _refuse_damaged(paths: Sequence[Path], fix: str) -> None:
    if paths:
        raise UserError(
            f"Damaged after writing: {number_of(len(paths), 'file')}.", expected="their checksums",
            found=", ".join(map(str, paths[:_SHOWN])) + (", …" if len(paths) > _SHOWN else ""), fix=fix,
        )  # fmt: skip


def _try(what: str, look: Callable[[], str]) -> Check:
    try:
        return Check(what, True, look())
    except MmfuseError as error:
        return Check(what, False, str(error))
    except Exception as error:  # whatever is broken, the other checks continue
        return Check(what, False, f"{type(error).__name__}: {error}")


def _code() -> str:
    root = project_root(Path.cwd())
    check_running_code(root)
    return f"mmfuse runs from {PACKAGE}"


def _environment() -> str:
    root = project_root(Path.cwd())
    if not (root / LOCK).is_file():
        raise MmfuseError(f"{LOCK} does not exist\n  to do:    git checkout {LOCK}")
    pinned = re.findall(r"^([A-Za-z0-9_.-]+)==([^\s\\]+)", (root / LOCK).read_text(encoding="utf-8"), re.MULTILINE)
    other = []
    for name, version in pinned:
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed = "missing"
        if installed.partition("+")[0] != version.partition("+")[0]:
            other.append(f"{name} {installed} (locked: {version})")
    if other:
        raise MmfuseError(f"Packages that differ from {LOCK}: {', '.join(other[:5])}\n  to do:    make env")
    missing = [tool for tool in ("git", "snakemake", "dvc") if shutil.which(tool) is None]
    if missing:
        raise MmfuseError(f"not found: {', '.join(missing)}\n  to do:    put .venv/bin first on PATH, or use `make`")
    return f"{number_of(len(pinned), 'package')} as locked; git, snakemake, dvc found"


def _caches() -> str:
    """Check the folder in which Snakemake keeps files, without which it does not start."""
    folder = _cache_folder()
    if cache_elsewhere():
        raise UserError(
            "Snakemake cannot write its cache.", expected="a folder that this user may write to",
            found=f"{folder}, with HOME={os.environ.get('HOME', '')}",
            fix=f"export XDG_CACHE_HOME={Path.cwd() / _OWN_CACHE}",
        )  # fmt: skip
    return f"{folder} can be written"


def _cache_folder() -> str:
    """Return the folder for the caches of programs, perhaps with a ~ for the home."""
    return os.environ.get("XDG_CACHE_HOME") or "~/.cache"


def cache_elsewhere() -> dict[str, str]:
    """Return a variable that moves caches into the project, if their usual folder cannot be written; else nothing."""
    try:
        folder = Path(_cache_folder()).expanduser() / "snakemake"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return {}
    except (OSError, RuntimeError):  # the latter if there is no home
        return {"XDG_CACHE_HOME": str(Path.cwd() / _OWN_CACHE)}


def _devices() -> str:
    import torch

    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return f"torch {torch.__version__}, {number_of(os.cpu_count() or 1, 'processor core')}, " + (
        ", ".join(names) or "no GPU"
    )


def _parameters(params: Path) -> str:
    parameters = load_parameters(params)
    jobs = len(plan.scored_pairs(parameters))
    return f"{params} is valid: study {parameters['study']['name']}, {jobs} systems x datasets to score"


def _methods(params: Path) -> str:
    """Build every method and variant of the study once, and look up its metrics."""
    from mmfuse.metrics import resolve
    from mmfuse.stages.train import check_parts
    from mmfuse.study.settings import network_options, without_adaptive
    from mmfuse.training.checkpoints import build, load_method

    parameters = load_parameters(params)
    block = parameters["evaluate"]
    resolve(block["convention"], block["metrics"], block["beside"])
    sizes = {}
    for entry in parameters["study"]["systems"]:
        settings = plan.settings_of(parameters, entry["method"], entry["variant"])
        systems = [plan.System(entry["method"], entry["variant"], task, 0) for task in entry["tasks"]]
        given = next(filter(None, (plan.given_weights(parameters, system) for system in systems)), None)
        method = load_method(given)[0] if given else build(entry["method"], without_adaptive(network_options(settings)))
        if method.parts and not given:
            check_parts(method, settings)
        count = sum(p.numel() for module in method.deployed_modules().values() for p in module.parameters())
        sizes[f"{entry['method']}.{entry['variant']}"] = f"{count / 1e6:.3g} M parameters"
    return ", ".join(f"{name} ({size})" for name, size in sizes.items())


def _data(params: Path) -> str:
    from mmfuse.data.catalog import load_catalog
    from mmfuse.data.origins import by_hand, mirror_of, mirrored

    parameters, catalog = load_parameters(params), load_catalog()
    mirror = mirror_of(parameters["download"]["mirror"])
    states = []
    for name in plan.datasets_of(parameters):
        entry = catalog[name]
        if Path(DOWNLOAD.folder, name).is_dir():
            states.append(f"{name}: here")
        elif entry.generator:
            states.append(f"{name}: to be generated")
        elif mirrored(entry, mirror):
            states.append(f"{name}: in the mirror")
        elif by_hand(entry, mirror):
            states.append(f"{name}: in data/manual")
        else:
            states.append(f"{name}: to be downloaded")
    states += [f"{folder}: here" for folder in plan.check_external(parameters, Path.cwd())]
    return "; ".join(states)


def _tracking() -> str:
    from mmfuse.tracking.servers import default_uri, shown_uri

    return shown_uri(default_uri(Path.cwd()), Path.cwd())

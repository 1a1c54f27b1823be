"""Analyses of trained networks, one file each, found by name.

An analysis file defines `CARD`, `analyse(network, pack, ...)` and `draw(results)`; `mmfuse.analyses.base` describes
them. Adding a file makes its name usable under `analyse` in params.yaml; nothing else needs to change.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from mmfuse.errors import unknown_name


def available() -> list[str]:
    """Return the names of all analyses, sorted, without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def load(name: str) -> ModuleType:
    """Return an analysis.

    Raises:
        UserError: there is no such analysis.
    """
    if name not in available():
        raise unknown_name(f"Unknown analysis {name!r}.", name, available(), "see `mmfuse list analyses`")
    return importlib.import_module(f"{__name__}.{name}")

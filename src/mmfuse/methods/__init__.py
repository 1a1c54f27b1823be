"""Fusion methods, one file each, found by name.

A method file defines `METHOD`, a subclass of `mmfuse.methods.base.FusionMethod`. Adding a file adds the method to
`mmfuse list methods`, to the tests and to the study's choices; nothing else needs to change.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from mmfuse.errors import unknown_name

if TYPE_CHECKING:
    from mmfuse.methods.base import FusionMethod


def available() -> list[str]:
    """Return the names of all methods, sorted, without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def load(name: str) -> type[FusionMethod]:
    """Return a method's class.

    Raises:
        UserError: there is no such method.
    """
    if name not in available():
        raise unknown_name(f"Unknown method {name!r}.", name, available(), "see `mmfuse list methods`")
    method: type[FusionMethod] = importlib.import_module(f"{__name__}.{name}").METHOD
    return method

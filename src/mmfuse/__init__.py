"""mmfuse: a reproducible benchmark of multimodal image fusion.

From Python, `align` aligns two images, `fuse` fuses them, `load` returns a network, and `metrics.evaluate` measures
fused images; docs/how-to/use-from-python.md shows how. They are imported when they are first used, because most need
torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mmfuse.errors import UserError

if TYPE_CHECKING:
    from mmfuse import metrics
    from mmfuse.alignment.registration import align
    from mmfuse.api import fuse, load

__version__ = "0.1.0"

__all__ = ["UserError", "__version__", "align", "fuse", "load", "metrics"]

# of names that are no modules themselves
_MODULES = {"align": "mmfuse.alignment.registration", "fuse": "mmfuse.api", "load": "mmfuse.api"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    return importlib.import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted(__all__)

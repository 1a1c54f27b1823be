"""Transformed weights that layers keep in eval mode, within a memory limit for the whole process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from mmfuse.fastconv.workspace import LIMITS

# bytes kept at present
_KEPT: WeakKeyDictionary[KeptSpectra, int] = WeakKeyDictionary()


class KeptSpectra:
    """Spectra kept by one layer; copies and files of it are empty, because spectra can be recomputed."""

    def __init__(self) -> None:
        self.tensor: Tensor | None = None
        self._of: tuple[object, ...] | None = None

    def has_room(self, size: int) -> bool:
        """Say whether spectra may take `size` bytes in addition to those of all layers."""
        others = sum(kept for layer, kept in _KEPT.items() if layer is not self)
        return others + size <= LIMITS.spectra * 2**20

    def get(self, weight: Tensor, length: int, make: Callable[[], Tensor]) -> Tensor | None:
        """Return a weight's spectra of one length; None at a weight's first use, because there may be no second."""
        key = (length, weight.dtype, weight.data_ptr(), weight._version)
        if self._of != key:
            self.forget()
            self._of = key
        elif self.tensor is None:
            self.tensor = make()
            _KEPT[self] = self.tensor.numel() * self.tensor.element_size()
        return self.tensor

    def forget(self) -> None:
        """Free the memory."""
        self.tensor = self._of = None
        _KEPT.pop(self, None)

    def __getstate__(self) -> dict[str, Any]:
        """Exclude the spectra."""
        return {"tensor": None, "_of": None}

"""Transformed weights that layers keep in eval mode, within the memory that all layers of the process share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from mmfuse.fastconv.workspace import LIMITS

# bytes of what is kept now
_KEPT: WeakKeyDictionary[KeptSpectra, int] = WeakKeyDictionary()


class KeptSpectra:
    """What one layer keeps; copies and files of it are empty, since spectra can be made anew."""

    def __init__(self) -> None:
        self.tensor: Tensor | None = None
        self._of: tuple[object, ...] | None = None

    def has_room(self, size: int) -> bool:
        """Say whether spectra may take so many bytes; what other layers keep already counts."""
        others = sum(kept for layer, kept in _KEPT.items() if layer is not self)
        return others + size <= LIMITS.spectra * 2**20

    def get(self, weight: Tensor, length: int, make: Callable[[], Tensor]) -> Tensor | None:
        """Return a weight's spectra of one length; none at a weight's first use, since there may be no second."""
        key = (length, weight.dtype, weight.data_ptr(), weight._version)
        if self._of != key:
            self.forget()
            self._of = key
        elif self.tensor is None:
            self.tensor = make()
            _KEPT[self] = self.tensor.numel() * self.tensor.element_size()
        return self.tensor

    def forget(self) -> None:
        """Give the memory back."""
        self.tensor = self._of = None
        _KEPT.pop(self, None)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the spectra out."""
        return {"tensor": None, "_of": None}

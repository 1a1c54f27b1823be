"""The fonts inside PDF figures: many figures of a report contain the same set of glyphs."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any


@contextlib.contextmanager
def fonts_made_once() -> Iterator[None]:
    """Let matplotlib reduce a font to a set of glyphs only once in a process; it takes a fifth of a figure's time.

    Matplotlib has no setting for this, so two of its private functions are replaced inside the block.
    """
    module: Any = importlib.import_module("matplotlib.backends._backend_pdf_ps")
    cut, written = module.get_glyphs_subset, module.font_as_file
    known = _known(cut, written)

    def subset(file: Any, glyphs: Iterable[int]) -> contextlib.nullcontext[SimpleNamespace]:
        font, numbers = known(file, frozenset(glyphs))
        return contextlib.nullcontext(SimpleNamespace(font=font, glyph_index_map=numbers))

    module.get_glyphs_subset, module.font_as_file = subset, io.BytesIO
    try:
        yield
    finally:
        module.get_glyphs_subset, module.font_as_file = cut, written


@functools.cache
def _known(cut: Any, written: Any) -> Any:
    @functools.lru_cache(maxsize=64)
    def known(file: Any, glyphs: frozenset[int]) -> tuple[bytes, dict[int, int]]:
        """Return a font file with only these glyphs, and their new indices."""
        with cut(file, set(glyphs)) as subset:
            return written(subset.font).getvalue(), dict(subset.glyph_index_map)

    return known

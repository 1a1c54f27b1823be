"""What several metrics need of the same images (grey levels, local moments, histograms) is worked out once.

A metric stays one function of its own: it calls a `shared` function as any other. Only inside `with sharing():` the
function's results are kept, and only for the very same tensors.
"""

from __future__ import annotations

import contextlib
import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

# Results in use at once: memory stays bounded however many metrics there are. The largest, the model of VIF, is as
# large as sixteen images.
_MOST = 24
# Key to (arguments, result). A key holds the ids of tensors; keeping the arguments keeps their ids from being reused.
_kept: ContextVar[OrderedDict[Hashable, tuple[object, object]] | None] = ContextVar("kept", default=None)


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """Keep the latest results of shared functions until the block ends; each thread has its own."""
    token = _kept.set(OrderedDict())
    try:
        yield
    finally:
        _kept.reset(token)


def shared(function: Callable[P, R]) -> Callable[P, R]:
    """Let metrics share the results of a function, which nobody may change in place.

    Args:
        function: A function without side effects of tensors and of values that can be keys of a dictionary.
    """

    @functools.wraps(function)
    def once(*args: P.args, **kwargs: P.kwargs) -> R:
        kept = _kept.get()
        if kept is None:
            return function(*args, **kwargs)
        given = (*args, *kwargs.values())
        key = (function, *kwargs, *(id(value) if isinstance(value, Tensor) else value for value in given))
        if key not in kept:
            kept[key] = (given, function(*args, **kwargs))
        kept.move_to_end(key)
        result = kept[key][1]
        if len(kept) > _MOST:
            kept.popitem(last=False)
        return result  # type: ignore[return-value]

    return once

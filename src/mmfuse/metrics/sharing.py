"""Intermediate results that several metrics need of the same images (grey levels, moments, histograms), computed once.

A metric remains an independent function that calls a `shared` function like any other. Only inside `with sharing():`
are the results of that function kept, and only for the same tensor objects.
"""

from __future__ import annotations

import contextlib
import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

_PLAIN = (int, float, str, tuple, type(None))  # arguments other than tensors

P = ParamSpec("P")
R = TypeVar("R")

# Results kept at once: memory stays bounded for any number of metrics. The largest, the model of VIF, is as large as
# sixteen images.
_MOST = 24
# Key to (arguments, result). A key contains the ids of tensors; keeping the arguments prevents the reuse of their ids.
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
    """Let metrics share the results of a function; no caller may change them in place.

    Args:
        function: A function of tensors and hashable values, without side effects.
    """

    @functools.wraps(function)
    def once(*args: P.args, **kwargs: P.kwargs) -> R:
        kept = _kept.get()
        if kept is None:
            return function(*args, **kwargs)
        given = (*args, *kwargs.values())
        key = (function, *kwargs, *(value if isinstance(value, _PLAIN) else id(value) for value in given))
        if key not in kept:
            kept[key] = (given, function(*args, **kwargs))
        kept.move_to_end(key)
        result = kept[key][1]
        if len(kept) > _MOST:
            kept.popitem(last=False)
        return result  # type: ignore[return-value]

    return once


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread: sums with many threads differ in their last digits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

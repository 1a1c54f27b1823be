"""Progress with the remaining time: a bar on a terminal, and a line from time to time in a file."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

_FIRST, _LAST = 10.0, 300.0  # seconds between lines, at first and at most
_SHORTEST = 9  # columns by which tqdm may shorten its bar of ten


def progress(
    items: Iterable[Any] | None = None,
    what: str = "",
    *,
    total: int | None = None,
    unit: str = "",
    always: bool = False,
    **options: Any,
) -> tqdm[Any]:
    """Return a tqdm bar on standard error; if that is not a terminal, one that writes plain lines.

    On a terminal, work of less than a second shows nothing. In a file, the first line comes after 10 seconds, and the
    time between lines grows with the time that has passed, up to 5 minutes.

    Args:
        items: What to iterate over; without it, call `update`.
        what: What is being done.
        total: Number of steps, if `items` does not tell it.
        unit: What is counted, such as `images`.
        always: Also show work that ends earlier.
        options: Further options of tqdm.
    """
    options |= {"desc": what, "total": total}
    if sys.stderr.isatty():
        width, height = shutil.get_terminal_size()  # some terminals have no size, for which tqdm would show nothing
        options |= {"ncols": width - 1, "nrows": height}
        return _Bar(items, unit=f" {unit}", delay=0 if always else 1, **options)
    return _Lines(items, unit=f" {unit}" if unit else "", always=always, **options)


@contextmanager
def steps(what: str, count: int) -> Iterator[Callable[[str], None]]:
    """Show how many of a number of steps are done; yields a function to call with the name of each step that begins.

    `count` is the largest number of steps; there may be fewer.
    """
    with progress(what=what, total=count, unit="steps", leave=False) as bar:
        begun: list[str] = []

        def begin(name: str) -> None:
            if begun:
                bar.update()
            begun.append(name)
            bar.set_description_str(f"{what}, {name}", refresh=sys.stderr.isatty())

        yield begin
        bar.update()


class _Bar(tqdm):
    """A bar that fits the terminal: it leaves out whole values, where tqdm cuts the last digits of a number."""

    @staticmethod
    def format_meter(**shown: Any) -> str:  # type: ignore[override]
        """Return the bar; with values (losses) it has no rate, and as many of the values as fit."""
        seconds = shown["elapsed"] / max(1, shown["n"] - shown["initial"])
        if shown["total"] and seconds > 1:  # the rate is then 2.00s/images
            shown["unit"] = shown["unit"].strip()
        values = shown["postfix"].split(", ") if shown["postfix"] else []
        if not values:
            return tqdm.format_meter(**shown)
        for kept in range(len(values), -1, -1):
            text = ", ".join(["{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}", *values[:kept]]) + "]"
            shown |= {"bar_format": text, "postfix": ""}
            if len(tqdm.format_meter(**shown | {"ncols": None})) - _SHORTEST <= shown["ncols"]:
                break
        return tqdm.format_meter(**shown)


class _Lines(tqdm):
    """Progress as lines. They come from the loop itself, and none from tqdm's own thread."""

    monitor_interval = 0

    def __init__(self, items: Iterable[Any] | None, *, always: bool, **options: Any) -> None:
        self.always = always
        text = "{desc}: {n_fmt} of {total_fmt}{unit}{postfix}, {elapsed} passed, {remaining} left"
        super().__init__(items, bar_format=text, delay=_FIRST, mininterval=_FIRST, miniters=1, smoothing=0, **options)

    def __iter__(self) -> Iterator[Any]:
        """Yield the items; tqdm's own loop counts wrongly if the interval between lines changes."""
        with self:
            for item in self.iterable:
                yield item
                self.update()

    def display(self, msg: str | None = None, pos: int | None = None) -> None:  # noqa: ARG002 - as tqdm has it
        """Write a line, and set the time until the next one."""
        self.fp.write(f"{msg or self}\n")
        self.fp.flush()
        self.mininterval = min(_LAST, max(_FIRST, (self.last_print_t - self.start_t) / 20))

    def close(self) -> None:
        """Write a last line if there was one before, or if there is always one."""
        if not self.disable:
            shown = self.last_print_t >= self.start_t + _FIRST
            if self.n > self.last_print_n and (shown or self.always):
                self.display()
            self.sp = None  # tqdm itself has nothing more to write
        super().close()

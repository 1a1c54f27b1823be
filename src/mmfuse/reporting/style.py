"""The style of all figures, and the album that draws each of them as SVG, PDF and PNG.

Equal numbers give equal bytes. Colours are distinguishable with every common form of colour blindness, and markers,
line styles or labels repeat what they show, so that the figures can be read in grey.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmfuse.files.writing import sha256
from mmfuse.reporting.kept_figures import KeptFigures
from mmfuse.reporting.pictures import PALETTE
from mmfuse.reporting.scores import Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#333333"
MARKERS = "osD^vPX*<>"
LINES = ("-", "--", ":", "-.")
# a column of a journal's page at this resolution is about 2000 pixels wide
_DPI = 200
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "mmfuse",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "path.simplify": True,
}
_ENDINGS: dict[str, dict[str, Any]] = {
    "svg": {"metadata": {"Date": None, "Creator": None}},
    "pdf": {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}},
    "png": {"metadata": {"Software": None}, "dpi": _DPI},
}
Paint = Callable[["Figure"], None]


def _matplotlib() -> Any:
    os.environ["MPLBACKEND"] = "Agg"  # matplotlib refuses to start with an unknown one
    import matplotlib as mpl

    return mpl


def _fonts() -> list[str]:
    """Return the checksums of the files of the fonts, which may be another version than that of matplotlib."""
    _matplotlib()
    from matplotlib.font_manager import FontProperties, findfont

    family = _STYLE["font.family"]
    return [sha256(Path(findfont(FontProperties(family=family, weight=weight)))) for weight in ("normal", "bold")]


def _files(paint: Paint, width: float, height: float) -> dict[str, bytes]:
    """Paint a figure in the report's style; return its files by suffix."""
    mpl = _matplotlib()
    from matplotlib.figure import Figure

    # the user's matplotlibrc changes nothing
    defaults = {key: value for key, value in mpl.rcParamsDefault.items() if key != "backend"}
    with mpl.rc_context(defaults | _STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure)
        _lay_out(figure)
        found = {}
        for ending, options in _ENDINGS.items():
            stream = io.BytesIO()
            figure.savefig(stream, format=ending, **options)
            found[ending] = stream.getvalue()
        figure.clear()  # its parts refer to each other, so that their memory would be freed much later
    return found


def _lay_out(figure: Figure) -> None:
    """Compute the layout of all files with the text widths of SVG; `savefig` would draw everything once more for it."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    dpi, engine = figure.dpi, figure.get_layout_engine()
    FigureCanvasSVG(figure)
    if figure.axes and engine is not None:
        engine.execute(figure)
    figure.set_layout_engine(None)
    figure.dpi = dpi  # SVG has its own


def seconds(axes: Axes, values: Sequence[float]) -> None:
    """Show seconds along x on a log scale, with as many plain tick labels as fit."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    known = [value for value in values if value > 0]
    decades = math.log10(max(known) / min(known)) if known else 0.0
    steps = (1.0,) if decades > 3 else ((1.0, 3.0) if decades > 1 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))
    axes.set(xscale="log", xlabel="seconds per image")
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def inks(groups: Sequence[Group]) -> list[str]:
    """Return one colour for each method."""
    methods = list(dict.fromkeys(g.method for g in groups))
    return [PALETTE[methods.index(g.method) % len(PALETTE)] for g in groups]


@dataclass(frozen=True)
class Shown:
    """A figure of the page: its heading, its data URI, its caption, and its files (without suffix)."""

    title: str
    uri: str
    words: str
    alt: str
    file: str


class Album:
    """The figures of one report; `files` has their content by path relative to the report's folder.

    With `kept`, figures of the last report are used again where nothing that they depend on has changed.
    """

    def __init__(self, kept: KeptFigures | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.kept = kept

    def draw(
        self, group: str, name: str, title: str, words: str, size: tuple[float, float], paint: Paint, alt: str = ""
    ) -> Shown:
        """Draw one figure.

        Args:
            group: Its subject, such as a dataset: a folder below figures/.
            name: Its kind, the same for all groups: a file name without suffix.
            title: Its heading.
            words: Its caption.
            size: Width and height in inches.
            paint: Draws into an empty matplotlib figure.
            alt: Alternative text; by default, the heading and a reference to the caption.
        """
        file = f"figures/{group}/{name}"
        draw = partial(_files, paint, *size)
        found = self.kept.files(paint, (size, _STYLE, _ENDINGS, _fonts()), draw) if self.kept else draw()
        self.files |= {f"{file}.{ending}": content for ending, content in found.items()}
        code = base64.b64encode(found["svg"]).decode("ascii")
        return Shown(title, f"data:image/svg+xml;base64,{code}", words, alt or f"{title}; described below", file)

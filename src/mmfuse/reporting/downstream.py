"""Results of detectors and segmenters on each image set: tables with intervals, tests, transfer, curves, pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmfuse.data.images import read_image
from mmfuse.downstream import boxes
from mmfuse.files.writing import sheet_text
from mmfuse.reporting import latex, pictures, provenance, statistics
from mmfuse.reporting.downstream_scores import MEANS, WORDS, Seen, ends, mean
from mmfuse.reporting.latex import Head
from mmfuse.reporting.pictures import PALETTE, Picture
from mmfuse.reporting.study import Page, Study
from mmfuse.reporting.style import LINES, Album, Shown
from mmfuse.reporting.tables import printed, printed_p
from mmfuse.study import plan
from mmfuse.study.stages import STAGES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
_DIGITS = 3
_BY_CLASS = {"detect": "AP50", "segment": "IoU"}


@dataclass(frozen=True)
class Cell:
    """One number as printed, with the lines below it."""

    text: str
    below: tuple[str, ...]
    best: bool
    target: str


def pages(study: Study) -> list[Page]:
    """Return the page of each protocol.

    Raises:
        UserError: a result is missing.
    """
    found = []
    for protocol, block in plan.protocols(study.parameters).items():
        title = f"{'Detection' if block['goal'] == 'detect' else 'Segmentation'}: {protocol}"
        shown = _shown(study, protocol)
        found.append(Page(provenance.anchor("downstream", protocol), title, "downstream.html.jinja", shown))
    return found


def _shown(study: Study, protocol: str) -> dict[str, Any]:
    """Return one protocol's part of the page."""
    parameters, root = study.parameters, study.root
    block = parameters["downstream"][protocol]
    goal, key = block["goal"], _BY_CLASS[block["goal"]]
    sets = study.seen(protocol)
    classes = sets[0].classes
    main = tuple(MEANS[goal])
    columns = [(WORDS[name], [s.values(name) for s in sets]) for name in main]
    columns += [(f"{kind}", [s.by_class(key, kind) for s in sets]) for kind in classes]
    rows = [
        (s, [_cell(s, values, number, place == 0) for place, (_, values) in enumerate(columns)])
        for number, s in enumerate(sets)
    ]
    study.sheets[f"downstream.{protocol}.csv"] = _csv(sets, main, key, classes)
    study.sheets[f"downstream.{protocol}.tex"] = _latex(protocol, [name for name, _ in columns], rows)
    tests = _tests(sets)
    transfer = _transfer(sets, main[0]) if block["transfer"] and len(sets) > 1 else []
    measure = f"{protocol}: {WORDS[main[0]]}"
    names = ("Pair", "difference", "95 %", "adjusted p", "differs")
    _plain(study, f"downstream.{protocol}.tests", f"{measure}, differences", names, tests)
    heads = ("Trained on", *(f"tested on {s.title}" for s in sets))
    _plain(study, f"downstream.{protocol}.transfer", measure, heads, [(title, *found) for title, found in transfer])
    return {
        "name": protocol,
        "goal": goal,
        "dataset": block["dataset"],
        "model": block["model"]["name"],
        "parameters": sets[0].summaries[0]["parameters"],
        "folds": sets[0].summaries[0]["folds"],
        "divide": provenance.anchor("run", "divide", block["dataset"], protocol),
        "unlabelled": block.get("unlabelled"),
        "seeds": block["seeds"],
        "measure": WORDS[main[0]],
        "by_class": {"AP50": "AP@0.5", "IoU": "IoU"}[key],
        "heads": [name for name, _ in columns],
        "mains": len(main),
        "rows": rows,
        "verdict": _verdict(sets, main[0]),
        "brief": _brief(sets, main[0]),
        "tests": tests,
        "transfer": transfer,
        "curves": _curves(study.album, protocol, sets, classes) if goal == "detect" else None,
        "grid": _grid(protocol, sets, root, parameters["report"]["width"]),
    }


def _interval(resampled: Array) -> str:
    low, high = ends(resampled)
    return f"[{printed(low, _DIGITS)}, {printed(high, _DIGITS)}]"


def _cell(seen: Seen, columns: Sequence[Array], number: int, main: bool) -> Cell:
    means = [mean(values) for values in columns]
    below = []
    if main:
        below.append(_interval(seen.resampled()))
    if len(seen.summaries) > 1 and math.isfinite(means[number]):
        below.append(f"seeds ± {printed(float(np.std(columns[number], ddof=1)), _DIGITS)}")
    defined = [mean for mean in means if math.isfinite(mean)]
    best = bool(defined) and means[number] == max(defined)
    return Cell(printed(means[number], _DIGITS), tuple(below), best, seen.anchors[0])


def _tests(sets: Sequence[Seen]) -> list[tuple[str, str, str, str, str]]:
    """Return each pair of sets with the difference of their main measures, its interval, adjusted p, and the sign."""
    pairs = list(combinations(sets, 2))
    apart = [one.resampled() - other.resampled() for one, other in pairs]
    adjusted = statistics.holm(np.array([statistics.resampled_p(values) for values in apart]))
    found = []
    for (one, other), values, p in zip(pairs, apart, adjusted, strict=True):
        middle = mean(values)
        sign = "" if not p < statistics.LEVEL else ("+" if middle > 0 else "−")
        pair = f"{one.title} – {other.title}"
        found.append((pair, printed(middle, _DIGITS), _interval(values), printed_p(p), sign))
    return found


def _transfer(sets: Sequence[Seen], key: str) -> list[tuple[str, list[str]]]:
    """Return, for each set used for training, the main measure on every set, averaged over the seeds."""
    return [(s.title, [printed(mean(s.values(key, other.label)), _DIGITS) for other in sets]) for s in sets]


def _verdict(sets: Sequence[Seen], key: str) -> str:
    """Say in words which set is ahead, and whether by more than the spread between seeds."""
    order = sorted(sets, key=lambda s: -mean(s.values(key)))
    words = ", ".join(f"{s.title} {printed(mean(s.values(key)), _DIGITS)}" for s in order)
    alone = [s for s in sets if s.label in plan.MODALITIES]
    fused = [s for s in order if s not in alone]
    text = f"{WORDS[key]}, averaged over the seeds: {words}."
    if not alone or not fused:
        return text
    ahead = mean(fused[0].values(key)) - max(mean(s.values(key)) for s in alone)
    deviations = [float(np.std(s.values(key), ddof=1)) for s in (fused[0], *alone) if len(s.summaries) > 1]
    text += (
        f" The best fused set ({fused[0].title}) is {'ahead of' if ahead > 0 else 'behind'} the better modality alone"
    )
    text += f" by {printed(abs(ahead), _DIGITS)}"
    if deviations:
        text += f"; the largest standard deviation between seeds among them is {printed(max(deviations), _DIGITS)}"
    return f"{text}."


def _curves(album: Album, protocol: str, sets: Sequence[Seen], classes: Sequence[str]) -> Shown:
    """Draw precision over recall at an overlap of 0.5, one panel for each class, one line for each set."""
    across = min(3, len(classes))
    words = "Precision, made non-increasing, over recall at an overlap of 0.5; mean over the seeds. The area under a "
    words += "line is the AP@0.5 of the table."
    size = (3.1 * across, 2.4 * -(-len(classes) // across) + 0.4)
    alt = f"Precision over recall at an overlap of 0.5 for {', '.join(classes)}; the areas are in the table above"
    paint = partial(_paint_curves, sets, classes, across)
    return album.draw(protocol, "precision_recall", "Precision and recall", words, size, paint, alt)


def _paint_curves(sets: Sequence[Seen], classes: Sequence[str], across: int, figure: Figure) -> None:
    grid = figure.subplots(-(-len(classes) // across), across, squeeze=False, sharex=True, sharey=True)
    for axes, kind in zip(grid.flat, classes, strict=False):
        for number, seen in enumerate(sets):
            lines = [summary["curves"][kind] for summary in seen.summaries if summary["curves"][kind] is not None]
            if lines:
                line = LINES[number % len(LINES)]
                ink = PALETTE[number % len(PALETTE)]
                axes.plot(boxes.RECALLS, np.mean(lines, axis=0), line, color=ink, linewidth=1.3, label=seen.title)
        axes.set(title=kind, xlim=(0, 1), ylim=(0, 1.02))
    for axes in grid.flat[len(classes) :]:
        axes.set_visible(False)
    figure.supxlabel("recall", fontsize=9)
    figure.supylabel("precision", fontsize=9)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=4, fontsize=8)


def _grid(protocol: str, sets: Sequence[Seen], root: Path, width: int) -> list[tuple[str, list[tuple[str, Picture]]]]:
    """Return the example pictures by test image, one for each set, of the first seed."""
    folders = {
        s.title: root
        / STAGES[s.goal].path("pictures", {"protocol": protocol, "set": s.label, "seed": str(s.summaries[0]["seed"])})
        for s in sets
    }
    names = sorted(path.stem for path in next(iter(folders.values())).glob("*.png"))
    return [
        (
            name,
            [
                (
                    title,
                    pictures.picture(
                        read_image(folder / f"{name}.png"), width, f"{title}, image {name}, with the predictions"
                    ),
                )
                for title, folder in folders.items()
            ],
        )
        for name in names
    ]


def _brief(sets: Sequence[Seen], key: str) -> dict[str, Any]:
    """Return the summary for the overview: the best fused set and the better modality, with intervals and test."""
    order = sorted(sets, key=lambda s: -mean(s.values(key)))
    fused = next((s for s in order if s.label not in plan.MODALITIES), None)
    alone = next((s for s in order if s.label in plan.MODALITIES), None)
    brief: dict[str, Any] = {"fused": fused and _told(fused, key), "alone": alone and _told(alone, key), "apart": ""}
    if fused and alone:
        apart = fused.resampled() - alone.resampled()
        pair = {f"{fused.title} – {alone.title}", f"{alone.title} – {fused.title}"}
        p, sign = next(test[3:] for test in _tests(sets) if test[0] in pair)
        brief["apart"] = f"{printed(mean(apart), _DIGITS)} {_interval(apart)}"
        brief["p"] = f"p {p}" if p.startswith("<") else f"p = {p}"
        brief["differs"] = bool(sign)
    return brief


def _told(seen: Seen, key: str) -> str:
    return f"{seen.title} {printed(mean(seen.values(key)), _DIGITS)} {_interval(seen.resampled())}"


def _latex(protocol: str, names: Sequence[str], rows: Sequence[tuple[Seen, Sequence[Cell]]]) -> str:
    lines = []
    for seen, cells in rows:
        lines.append([latex.escape(seen.title), *(latex.marked(c.text, "best" if c.best else "") for c in cells)])
        for number in range(max(len(c.below) for c in cells)):
            lines.append(["", *(latex.marked("".join(c.below[number : number + 1]), "small") for c in cells)])
    caption = f"Results of {protocol} by the images used for training and testing. Below the means: 95 % bootstrap "
    caption += "interval over the test images, and the standard deviation between seeds. Bold: best of the column."
    heads = [Head("Images"), *(Head(f"{name} ↑") for name in names)]
    return latex.table(caption, f"tab:{protocol}", [heads], lines)


def _plain(study: Study, name: str, caption: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Store a table of printed numbers, if it has any rows, as CSV and as LaTeX."""
    if rows:
        study.sheets[f"{name}.csv"] = sheet_text([names, *([text.replace("−", "-") for text in row] for row in rows)])
        lines = [[latex.escape(text) for text in row] for row in rows]
        study.sheets[f"{name}.tex"] = latex.table(caption, f"tab:{name}", [[Head(text) for text in names]], lines)


def _csv(sets: Sequence[Seen], main: Sequence[str], key: str, classes: Sequence[str]) -> str:
    """Return the results with all digits: one line for each set trained on, seed and set tested on."""
    lines = [["trained on", "seed", "tested on", *main, *(f"{key} {kind}" for kind in classes)]]
    for seen in sets:
        for summary in seen.summaries:
            for tested, found in summary["results"].items():
                numbers = [*(found[name] for name in main), *(found[key][kind] for kind in classes)]
                values = ["" if value is None else repr(value) for value in numbers]
                lines.append([seen.label, summary["seed"], tested, *values])
    return sheet_text(lines)

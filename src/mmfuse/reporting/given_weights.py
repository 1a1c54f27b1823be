"""Systems with given weights: which file they use instead of training, and what it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mmfuse.errors import UserError
from mmfuse.files.writing import sha256, sheet_text
from mmfuse.reporting import dataset_cards, latex
from mmfuse.reporting.latex import Head
from mmfuse.reporting.study import Study
from mmfuse.study import plan
from mmfuse.weights.shipped import Shipped
from mmfuse.words import number_of

_UNKNOWN = "With weights from elsewhere, whose training pairs are unknown to the study"
_SEEN = {
    "training": "With shipped weights, trained on other pairs of this dataset",
    "validation": "With shipped weights, validated with other pairs of this dataset",
}
_NEVER = "With shipped weights, never trained or validated on this dataset"


@dataclass(frozen=True)
class Given:
    """One system on one task, with its weights file.

    Attributes:
        method: Its method.
        variant: Its variant.
        task: The task on which it is measured.
        file: The file, relative to the project's root.
        sources: The SHA-256 of each file that it was imported from; none if a training wrote it.
        options: The network's options.
        shipped: The index entry of shipped weights; None for a file from elsewhere.
    """

    method: str
    variant: str
    task: str
    file: str
    sources: Mapping[str, str]
    options: Mapping[str, Any]
    shipped: Shipped | None = None

    @property
    def system(self) -> str:
        """METHOD.VARIANT."""
        return f"{self.method}.{self.variant}"

    @property
    def digest(self) -> str:
        """The file's SHA-256."""
        return sha256(Path(self.file))


def read(study: Study) -> list[Given]:
    """Return the systems with given weights, task by task.

    Raises:
        UserError: a file is missing or has no header.
    """
    systems = {system: None for _, system in plan.scored_pairs(study.parameters)}
    found = ((system, plan.given_weights(study.parameters, system)) for system in systems)
    return [
        _one(system, file, plan.shipped_weights(study.parameters, system)) for system, file in found if file is not None
    ]


def _one(system: plan.System, file: Path, shipped: Shipped | None) -> Given:
    try:
        with safe_open(file, framework="numpy") as weights:
            card = json.loads(weights.metadata()["mmfuse"])
            sources, options = dict(card.get("sources", {})), dict(card["network"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"Not a readable weights file: {file}", found=error, fix="import the weights again, or train them"
        ) from error
    return Given(system.method, system.variant, system.task, file.as_posix(), sources, options, shipped)


def on_dataset(found: Sequence[Given], task: str, dataset: str) -> str:
    """Say which systems on a dataset have given weights, and what is known about these; nothing if there are none."""
    groups: dict[str, list[str]] = {}
    for one in (one for one in found if one.task == task):
        uses = [data.use for data in one.shipped.data if data.dataset == dataset] if one.shipped else []
        known = next((_SEEN[use] for use in _SEEN if use in uses), _NEVER)  # training counts before validation
        groups.setdefault(known if one.shipped else _UNKNOWN, []).append(one.system)
    return " ".join(f"{text}: {', '.join(names)}." for text, names in groups.items())


def _pairs(one: Given) -> list[tuple[str, str]]:
    """Return the pairs used for shipped weights in words, each with the licence of its dataset."""
    return [
        (f"{number_of(data.pairs, 'pair')} of {data.dataset} ({data.split}, {data.use})", data.licence)
        for data in (one.shipped.data if one.shipped else ())
    ]


def behind(found: Sequence[Given], rows: Mapping[str, str], task: str) -> str:
    """Say which rows of a table have given weights, and from which file."""
    files = {one.system: one.file for one in found if one.task == task}
    return "".join(f", {row} with weights from {files[system]}" for row, system in rows.items() if system in files)


def shown(study: Study, found: Sequence[Given]) -> list[dict[str, Any]]:
    """Return the rows of the page's table; also store them as tables."""
    if found:
        study.sheets["given.csv"] = _csv(found)
        study.sheets["given.tex"] = _latex(found)
    return [
        {
            "system": one.system,
            "task": dataset_cards.TASKS.get(one.task, one.task),
            "file": one.file,
            "digest": one.digest,
            "sources": one.sources,
            "pairs": _pairs(one),
            "training": ", ".join(f"{key} {value}" for key, value in one.shipped.training.items())
            if one.shipped
            else "",
            "options": ", ".join(f"{key}={value}" for key, value in one.options.items()),
        }
        for one in found
    ]


def _csv(found: Sequence[Given]) -> str:
    lines = [["method", "variant", "task", "weights", "SHA-256", "made from", "their SHA-256", "trained on", "options"]]
    for one in found:
        options = json.dumps(one.options, sort_keys=True)
        sources = [" ".join(one.sources), " ".join(one.sources.values())]
        pairs = "; ".join(f"{text}: {licence}" for text, licence in _pairs(one)) or "unknown"
        lines.append([one.method, one.variant, one.task, one.file, one.digest, *sources, pairs, options])
    return sheet_text(lines)


def _latex(found: Sequence[Given]) -> str:
    rows = []
    for one in found:
        sources = ", ".join(f"{name} ({digest[:12]})" for name, digest in one.sources.items()) or "a training"
        pairs = "; ".join(text for text, _ in _pairs(one)) or "unknown"
        task = dataset_cards.TASKS.get(one.task, one.task)
        cells = [one.system, task, f"{one.file} ({one.digest[:12]})", sources, pairs]
        rows.append([latex.escape(cell) for cell in cells])
    names = ("System", "Task", "Weights", "Made from", "Trained on")
    caption = "Systems with given weights; in brackets, the first digits of the files' SHA-256."
    return latex.table(caption, "tab:given", [[Head(name) for name in names]], rows, left=len(names))

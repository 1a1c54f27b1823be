"""The comparison viewer: a separate page, with one script for each picture, loaded on demand.

A page opened from disk may show image files, but not read their pixels. It may run scripts, so each picture is a script
that provides a PNG as text, with the image's scores.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from mmfuse.data.catalog import Dataset
from mmfuse.data.images import png
from mmfuse.data.packs import Pack
from mmfuse.files.writing import whole_file, whole_folder
from mmfuse.reporting import pictures, tables
from mmfuse.reporting.scores import Column, Group, Scores, existing
from mmfuse.study.stages import FUSE, PREPARE, key_of
from mmfuse.study.types import Parameters

FOLDER, PAGE = "viewer", "viewer.html"
_PROGRAMS = ("pictures", "drawing", "controls")  # in the order of their dependencies
_COLOUR_TYPE = 25  # offset in a PNG file; 0 means grey


def pairs(
    settings: Mapping[str, Any], dataset: str, names: Sequence[str], linked: Sequence[str] = ()
) -> dict[int, str]:
    """Return the test pairs in the viewer, by number.

    They are those chosen by `report.viewer`, those of the picture grid, and those to which the report links (`linked`).
    """
    count = settings["viewer"]["pairs"]
    kept = set(names)
    if count is not None:
        kept = {
            *pictures.evenly(names, count, offset=0.5),
            *pictures.chosen(settings["images"], dataset, names),
            *linked,
        }
    return {number: name for number, name in enumerate(names) if name in kept}


def _members(settings: Mapping[str, Any], group: Group) -> tuple[Scores, ...]:
    return group.members if settings["viewer"]["seeds"] == "all" else group.members[:1]


def _columns(scores: Scores) -> list[Column]:
    """Return the metrics to show: as in the report, without those of further conventions that equal the main one's."""
    return [column for head in tables.heads(scores.metrics, scores.convention) for column in head.columns]


def _script(key: str, picture: bytes, scores: Sequence[float] | None = None) -> str:
    """Return the script that provides one picture; undefined scores are null."""
    data = {
        "grey": picture[_COLOUR_TYPE] == 0,
        "scores": None if scores is None else [value if math.isfinite(value) else None for value in scores],
        "png": base64.b64encode(picture).decode("ascii"),
    }
    return f"mmfuse.layer({json.dumps(key)}, {json.dumps(data)});\n"


def _scripts(
    dataset: str, pack: Pack, shown: Mapping[int, str], members: Sequence[Scores], root: Path
) -> Iterator[tuple[str, str]]:
    """Yield the key and the script of each picture of a dataset; keys have numbers, because names can be any text."""
    rows = [{name: row for row, name in enumerate(member.images)} for member in members]
    chosen = [member.metrics.index(column) for member in members[:1] for column in _columns(member)]
    for number, name in shown.items():
        sample, start = pack[number], f"{dataset}/{number:04d}"
        yield f"{start}/a", _script(f"{start}/a", png(sample["a"]))
        yield f"{start}/b", _script(f"{start}/b", png(sample["b"]))
        for member, row in zip(members, rows, strict=True):
            label = member.system.label
            path = root / FUSE.path("folder", key_of(dataset, member.system)) / f"{name}.png"
            scores = member.values[chosen, row[name]].tolist()
            yield f"{start}/{label}", _script(f"{start}/{label}", existing(path, "fuse").read_bytes(), scores)


def _card(
    entry: Dataset, dataset: str, shown: Mapping[int, str], groups: Sequence[Group], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the page knows about a dataset before it loads any picture."""
    columns = _columns(groups[0].members[0])
    words = {m.definition: f"{m.definition}: {m.words}" for m in tables.legend(columns)}
    layers = [{"key": key, "label": f"{entry.roles[key]} ({key})"} for key in ("a", "b")]
    for group in groups:
        members = _members(settings, group)
        for member in members:
            seed = f", seed {member.system.seed}" if len(members) > 1 else ""
            layers.append({"key": member.system.label, "label": f"{group.label}{seed}"})
    return {
        "name": dataset,
        "title": entry.title,
        "layers": layers,
        "pairs": [[f"{number:04d}", name] for number, name in shown.items()],
        "metrics": [
            {"name": c.plain, "convention": c.convention, "sign": c.sign, "words": words[c.definition]} for c in columns
        ],
    }


def render(study: str, cards: Sequence[Mapping[str, Any]]) -> str:
    """Fill the page's template with the study's name and datasets; every value is escaped."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    def own(name: str) -> str:
        return files("mmfuse.reporting").joinpath("templates", name).read_text(encoding="utf-8")

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return environment.from_string(own("viewer.html.jinja")).render(
        study=study,
        cards=cards,
        style=Markup(own("viewer.css")),  # noqa: S704  # the package's own file, like the programs
        programs=[Markup(own(f"viewer_{name}.js")) for name in _PROGRAMS],  # noqa: S704
    )


def write(
    out: Path,
    *,
    parameters: Parameters,
    catalog: Mapping[str, Dataset],
    root: Path,
    groups: Mapping[str, Sequence[Group]],
    linked: Mapping[str, Sequence[str]],
) -> None:
    """Write the folder `viewer/` and then `viewer.html` into `out`, each completely or not at all.

    Args:
        out: The report's folder.
        parameters: The study's parameters; `report.viewer` chooses the pairs and seeds.
        catalog: The datasets' entries.
        root: The project's folder, with the prepared data and the fused images.
        groups: Each dataset's scores by method and variant.
        linked: Pairs of each dataset to which the report's pages link.

    Raises:
        UserError: a file of the study is missing; the message names the stage that writes it.
    """
    settings, cards = parameters["report"], []
    with whole_folder(out / FOLDER) as folder:
        for dataset, found in groups.items():
            pack = Pack(existing(root / PREPARE.path("test", {"dataset": dataset}), "prepare"))
            shown = pairs(settings, dataset, pack.names, linked.get(dataset, ()))
            members = [member for group in found for member in _members(settings, group)]
            for key, text in _scripts(dataset, pack, shown, members, root):
                path = folder / f"{key}.js"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            cards.append(_card(catalog[dataset], dataset, shown, found, settings))
    with whole_file(out / PAGE) as temporary:
        temporary.write_text(render(parameters["study"]["name"], cards), encoding="utf-8")

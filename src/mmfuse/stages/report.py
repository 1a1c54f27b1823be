"""The stage `report`: one page that shows the data, the numbers, the pictures and where each of them comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from mmfuse import analyses, plan
from mmfuse.catalog import Dataset, load_catalog
from mmfuse.files import whole_file
from mmfuse.images import read_image
from mmfuse.packs import Pack, Sample
from mmfuse.plain import read_json
from mmfuse.plan import System
from mmfuse.reporting import (
    cards,
    comparisons,
    figures,
    pictures,
    provenance,
    published,
    standing,
    statistics,
    tables,
    viewer,
)
from mmfuse.reporting import downstream as reports
from mmfuse.reporting.comparisons import Shown
from mmfuse.reporting.pictures import Picture
from mmfuse.reporting.provenance import Run
from mmfuse.reporting.scores import Group, Scores, existing, grouped, read_scores


@dataclass(frozen=True)
class Rooms:
    """The folders that the report reads."""

    prepared: Path
    checkpoints: Path
    fused: Path
    scores: Path
    analyses: Path
    downstream: Path


@dataclass(frozen=True)
class Tile:
    """One column of the picture grid: a whole picture and its zoomed patch."""

    label: str
    whole: Picture
    zoomed: Picture


def _run_anchor(dataset: str, scores: Scores) -> str:
    return provenance.anchor("run", "evaluate", dataset, scores.system.label)


def _samples(pack: Pack, names: Sequence[str]) -> list[Sample]:
    return [pack[pack.names.index(name)] for name in names]


def _representatives(groups: Sequence[Group]) -> list[Group]:
    """Return one group a method: the variant `base`, or the first that the study lists."""
    found: dict[str, Group] = {}
    for group in groups:
        if group.method not in found or group.variant == "base":
            found[group.method] = group
    return list(found.values())


def _tiles(
    sample: Sample, roles: tuple[str, str], folders: Mapping[str, Path], settings: Mapping[str, Any]
) -> list[Tile]:
    """Return the sources and each method's result on one pair, with the same window zoomed in all of them."""
    name = sample["name"]
    shown = {f"{roles[0]} (a)": sample["a"], f"{roles[1]} (b)": sample["b"]}
    for label, folder in folders.items():
        shown[label] = read_image(existing(folder / f"{name}.png", "fuse"))
    window = pictures.disagreement(sample["a"], sample["b"], int(settings["patch"]))
    width = int(settings["width"])
    return [
        Tile(
            label,
            pictures.picture(pixels, width, f"{label}, image {name}, with the zoomed window framed", window),
            pictures.patch(pixels, window, f"{label}, image {name}, zoomed window"),
        )
        for label, pixels in shown.items()
    ]


def _examples(pack: Pack, roles: tuple[str, str], settings: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Return a strip of pairs with their labels, others than those of the picture grid where there are enough."""
    width = int(settings["width"])
    strip: list[dict[str, Any]] = []
    for sample in _samples(pack, pictures.evenly(pack.names, count, offset=0.0)):
        name = sample["name"]
        views = [
            pictures.picture(sample["a"], width, f"{roles[0]}, image {name}"),
            pictures.picture(sample["b"], width, f"{roles[1]}, image {name}"),
        ]
        labels = pictures.labelled(sample, width, f"labels of image {name} over the mean of both sources")
        strip.append(
            {
                "name": name,
                "views": [*views, *([labels] if labels else [])],
                "labels": [k for k in ("mask", "boxes") if k in sample],
            }
        )
    return strip


def _groups(rooms: Rooms, dataset: str, systems: Sequence[System]) -> list[Group]:
    return grouped([read_scores(rooms.scores, dataset, system) for system in systems], dataset)


def _dataset(
    parameters: Mapping[str, Any], rooms: Rooms, catalog: Mapping[str, Dataset], dataset: str, systems: Sequence[System]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return one dataset's part of the page, and its tables as CSV by file name."""
    settings = parameters["report"]
    card = cards.card(catalog, dataset, rooms.prepared)
    groups = _groups(rooms, dataset, systems)
    table = tables.build(
        groups,
        lambda label: provenance.anchor("row", dataset, label),
        lambda scores: _run_anchor(dataset, scores),
    )
    pack = Pack(existing(rooms.prepared / dataset / "test.safetensors", "prepare"))
    names = pictures.chosen(settings["images"], dataset, pack.names)
    shown = _representatives(groups)
    meanings = tables.legend(groups[0].members[0].metrics)
    labels, images = [g.label for g in groups], len(groups[0].members[0].images)
    folders = {g.label: rooms.fused / dataset / g.members[0].system.label for g in shown}
    swept = [comparisons.sweep(parameters, entry, groups) for entry in settings.get("sweeps", [])]
    section = {
        "anchor": provenance.anchor("data", dataset),
        "card": card,
        "examples": _examples(pack, card.roles, settings, len(names) + len(names) % 2),
        "table": table,
        "legend": meanings,
        "words": {m.definition: m.words for m in meanings},
        "images": images,
        "too_few": len(groups) > 1 and not statistics.can_differ(len(groups), images),
        "verdict": standing.verdict(groups, table.ranking),
        "prepare": provenance.anchor("run", "prepare", dataset),
        "grid": [(s["name"], _tiles(s, card.roles, folders, settings)) for s in _samples(pack, names)],
        "by_rule": isinstance(pictures.wish_for(settings["images"], dataset), int),
        "reduced": len(shown) < sum(len(g.members) for g in groups),
        "boxes": figures.boxes(groups, table.heads[0].columns),
        "ranks": figures.ranks(groups, table.ranking) if table.ranking else "",
        "groups": labels,
        "greys": comparisons.modalities(pack, card.roles),
        "compared": [found for found in (*swept, _times(rooms, dataset, groups, table)) if found],
    }
    written = {
        f"{dataset}.csv": tables.as_csv(groups, table),
        f"{dataset}.pairs.csv": tables.pairs_as_csv(groups, table),
    }
    return section, written


def _times(rooms: Rooms, dataset: str, groups: Sequence[Group], table: tables.Table) -> Shown | None:
    """Return the figure of ranks against times, if there is something to rank."""
    if table.ranking is None:
        return None
    costs = [
        comparisons.cost([_fuse_run(rooms, dataset, member.system) for member in group.members]) for group in groups
    ]
    return comparisons.times(groups, table.ranking.ranks, costs)


def _fuse_run(rooms: Rooms, dataset: str, system: System) -> Run:
    path = rooms.fused / dataset / f"{system.label}.run.json"
    return provenance.read_run(path, "fuse", dataset, system.label)


def _trained(parameters: Mapping[str, Any], rooms: Rooms) -> list[dict[str, Any]]:
    """Return the training curves, one entry a system; variants that share a part show it again."""
    found = []
    for task in parameters["study"]["tasks"]:
        for system in plan.systems_of(parameters, task):
            parts = plan.parts_of(parameters, system.method)
            paths = [_weights(parameters, rooms, system, part) for part in parts]
            histories = [
                figures.read_history(existing(path.with_name(f"{part}.history.csv"), "train"), part)
                for path, part in zip(paths, parts, strict=True)
            ]
            if histories:
                found.append(
                    {
                        "task": cards.TASKS.get(task, task),
                        "label": system.label,
                        "runs": [
                            (
                                part,
                                _training_anchor(rooms, path),
                                plan.origin(parameters, system.method, system.variant, part),
                            )
                            for path, part in zip(paths, parts, strict=True)
                        ],
                        "variant": system.variant,
                        "figure": figures.curves(histories),
                    }
                )
    return found


def _analysis(rooms: Rooms, name: str, dataset: str, system: System) -> Path:
    return rooms.analyses / dataset / plan.analysis_file(name, system)


def _analysed(parameters: Mapping[str, Any], rooms: Rooms) -> list[dict[str, Any]]:
    """Return the figures of each analysis on each dataset."""
    results: dict[tuple[str, str], dict[System, Any]] = {}
    for name, dataset, system in plan.analysed(parameters):
        path = existing(_analysis(rooms, name, dataset, system), "analyse")
        results.setdefault((name, dataset), {})[system] = read_json(path, fix="run the stage `analyse` for it again")
    return [
        {
            "dataset": dataset,
            "card": analyses.load(name).CARD,
            "figures": [
                (d.title, d.caption, figures.drawn(d.paint, d.width, d.height)) for d in analyses.load(name).draw(found)
            ],
            "runs": [(s.label, provenance.anchor("run", "analyse", name, dataset, s.label)) for s in found],
        }
        for (name, dataset), found in results.items()
    ]


def _weights(parameters: Mapping[str, Any], rooms: Rooms, system: System, part: str) -> Path:
    return plan.checkpoint(
        parameters,
        rooms.checkpoints,
        task=system.task,
        method=system.method,
        variant=system.variant,
        seed=system.seed,
        part=part,
    )


def _training_anchor(rooms: Rooms, weights: Path) -> str:
    return provenance.anchor("run", "train", *weights.relative_to(rooms.checkpoints).with_suffix("").parts)


def _runs(parameters: Mapping[str, Any], rooms: Rooms) -> list[Run]:
    """Return every run behind the page, in the order in which the work was done."""
    runs = []
    for dataset in plan.datasets_of(parameters):
        raw = rooms.prepared.with_name("raw") / f"{dataset}.run.json"
        runs.append(provenance.read_run(raw, "download", dataset))
        runs.append(provenance.read_run(rooms.prepared / dataset / "run.json", "prepare", dataset))
    trainings = plan.trainings(parameters)
    packs: dict[tuple[str, Path], None] = {}
    for system, part in trainings:
        what = {"method": system.method, "variant": system.variant, "part": part}
        for dataset in parameters["study"]["tasks"][system.task]["train"]:
            packs[dataset, plan.training_pack(parameters, rooms.prepared, dataset, **what)] = None
    for dataset, pack in packs:
        if pack.name != "train.safetensors":  # a set of patches, with a run of its own
            runs.append(provenance.read_run(pack.with_suffix(".run.json"), "crop", dataset, pack.stem))
    for system, part in trainings:
        path = _weights(parameters, rooms, system, part)
        names = path.relative_to(rooms.checkpoints).with_suffix("").parts
        runs.append(provenance.read_run(path.with_suffix(".run.json"), "train", *names))
    for stage, room in (("fuse", rooms.fused), ("evaluate", rooms.scores)):
        runs += [
            provenance.read_run(room / dataset / f"{system.label}.run.json", stage, dataset, system.label)
            for dataset, system in plan.scored_pairs(parameters)
        ]
    for name, dataset, system in plan.analysed(parameters):
        path = _analysis(rooms, name, dataset, system)
        runs.append(provenance.read_run(path.with_suffix(".run.json"), "analyse", name, dataset, system.label))
    return [*runs, *_downstream_runs(parameters, rooms)]


def _downstream_runs(parameters: Mapping[str, Any], rooms: Rooms) -> list[Run]:
    """Return the runs behind the detectors and segmenters."""
    runs, fused = [], []
    for dataset in dict.fromkeys(block["dataset"] for block in plan.protocols(parameters).values()):
        runs.append(provenance.read_run(rooms.prepared / dataset / "labelled.run.json", "label", dataset))
    for protocol, block in plan.protocols(parameters).items():
        folder = rooms.prepared / block["dataset"]
        runs.append(provenance.read_run(folder / f"folds.{protocol}.run.json", "divide", protocol))
        fused += [
            (block["dataset"], label) for label, system in plan.image_sets(parameters, protocol).items() if system
        ]
    for dataset, label in dict.fromkeys(fused):
        path = rooms.fused / dataset / "labelled" / f"{label}.run.json"
        runs.append(provenance.read_run(path, "fuse", dataset, "labelled", label))
    for protocol, label, seed in plan.downstream_jobs(parameters):
        path = rooms.downstream / protocol / f"{label}.seed{seed}.run.json"
        runs.append(provenance.read_run(path, parameters["downstream"][protocol]["goal"], protocol, path.name[:-9]))
    return runs


def render(context: Mapping[str, Any]) -> str:
    """Fill the page's template; every value is escaped."""
    from jinja2 import Environment, StrictUndefined

    source = files("mmfuse.reporting").joinpath("templates/report.html.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return environment.from_string(source).render(context)


def run(
    *,
    parameters: dict[str, Any],
    prepared: Path,
    checkpoints: Path,
    fused: Path,
    scores: Path,
    analyses: Path,
    downstream: Path,
    out: Path,
    catalog: Path,
    printed: Path,
) -> None:
    """Write `index.html`, `tables/`, `viewer.html` and `viewer/` into `out`, all of it or nothing.

    The tables are DATASET.csv, DATASET.pairs.csv, downstream.PROTOCOL.csv and published.csv.

    Raises:
        UserError: something that the study names is missing (the message says which stage makes it), or scores
            cannot stand in one table.
    """
    rooms = Rooms(prepared, checkpoints, fused, scores, analyses, downstream)
    entries = load_catalog(catalog)
    systems: dict[str, list[System]] = {}
    for dataset, system in plan.scored_pairs(parameters):
        systems.setdefault(dataset, []).append(system)
    sections, written = [], {}
    for dataset, found in systems.items():
        section, texts = _dataset(parameters, rooms, entries, dataset, found)
        sections.append(section)
        written.update({out / "tables" / name: text for name, text in texts.items()})
    groups = {dataset: _groups(rooms, dataset, found) for dataset, found in systems.items()}
    beside = published.sections(parameters, printed, groups)
    written[out / "tables" / "published.csv"] = published.as_csv(beside)
    protocols = [
        reports.section(parameters, name, rooms.downstream, entries[block["dataset"]].roles)
        for name, block in plan.protocols(parameters).items()
    ]
    written |= {out / "tables" / f"downstream.{part['name']}.csv": part["csv"] for part in protocols}
    runs = _runs(parameters, rooms)
    made = provenance.makers(runs)
    context = {
        "study": parameters["study"]["name"],
        "seeds": parameters["study"]["seeds"],
        "settings": parameters["report"],
        "datasets": sections,
        "published": beside,
        "beside": published.shown,
        "trained": _trained(parameters, rooms),
        "protocols": protocols,
        "analysed": _analysed(parameters, rooms),
        "overview": provenance.overview(runs, parameters),
        "runs": [provenance.section(r, made) for r in runs],
    }
    # entered first, the page is also renamed last: whoever sees it sees tables of the same run
    written = {out / "index.html": render(context), **written}
    with ExitStack() as stack:
        for path, text in written.items():
            stack.enter_context(whole_file(path)).write_text(text, encoding="utf-8")
        viewer.write(out, parameters=parameters, catalog=entries, prepared=prepared, fused=fused, groups=groups)

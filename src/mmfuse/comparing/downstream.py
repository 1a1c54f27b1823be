"""The effect of a change on the detectors and segmenters of two runs: each image set of each protocol that both have.

Average precision and IoU are measures of a whole set of images, so intervals and tests resample the test images, with
the same draws for both runs, as in the report.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mmfuse.comparing.runs import AGAIN, Row, Run, direction, pairs
from mmfuse.downstream.boxes import Matched
from mmfuse.files.reading import read_json
from mmfuse.progress import progress
from mmfuse.reporting import statistics
from mmfuse.reporting.downstream_scores import MEANS, Array, Seen, ends, mean, read_set, set_name
from mmfuse.study import plan
from mmfuse.study.stages import DETECT
from mmfuse.study.types import Parameters
from mmfuse.tracking.results import Place

_FOLDER = Path(DETECT.folder)


def read(place: Place, parameters: Parameters) -> dict[str, dict[str, Seen]]:
    """Read the image sets of a run by protocol and name; missing ones are left out."""
    stems: dict[tuple[str, str, str], list[Path]] = {}
    for goal, protocol, label, stem in _named(place.root, parameters):
        there = all((place.root / _FOLDER / protocol / f"{stem}{end}").is_file() for end in (".json", ".csv"))
        if there and place.system in {None, label}:
            stems.setdefault((goal, protocol, label), []).append(place.root / _FOLDER / protocol / stem)
    found: dict[str, dict[str, Seen]] = {}
    for (goal, protocol, label), paths in stems.items():
        name = set_name(label)
        found.setdefault(protocol, {})[name] = read_set(paths, goal, label, name)
    return found


def _named(root: Path, parameters: Parameters) -> list[tuple[str, str, str, str]]:
    """Return goal, protocol, label and file name of each result: by the parameters, else of all results there."""
    if parameters:
        return [
            (parameters["downstream"][protocol]["goal"], protocol, label, f"{label}.seed{seed}")
            for protocol, label, seed in plan.downstream_jobs(parameters)
        ]
    found = []
    for path in sorted((root / _FOLDER).glob("*/*.seed*.json")):
        if not path.name.endswith(".run.json"):
            summary = read_json(path, fix=AGAIN)
            found.append((summary["goal"], path.parent.name, summary["set"], path.stem))
    return found


def rows(first: Run, other: Run) -> tuple[list[Row], list[str]]:
    """Return the rows of one run compared with the first, and notes on what could not be compared."""
    found: list[Row] = []
    notes = [
        f"{protocol}: left out, {run.name} lacks the results of its detectors or segmenters."
        for run, held in ((first, other), (other, first))
        for protocol in held.sets
        if protocol not in run.sets and f"downstream.{protocol}.goal" in run.parameters
    ]
    for protocol, sets in other.sets.items():
        for one, two in progress(list(pairs(first.sets.get(protocol, {}), sets)), f"compare {protocol}", unit="sets"):
            title = two.title if one.title == two.title else f"{one.title} -> {two.title}"
            if (one.goal, one.classes) != (two.goal, two.classes):
                notes.append(f"{protocol}, {title}: left out, other classes in {other.name}.")
                continue
            why = _unpaired(first, other, protocol, one, two)
            if why:
                notes.append(f"{protocol}, {title}: {why}")
            pair = (one, one) if _same(one, two) else (one, two)  # drawn once
            found += [_row(protocol, title, other.name, key, pair, not why) for key in MEANS[one.goal]]
    return found, notes


def _same(one: Seen, two: Seen) -> bool:
    """Return whether the results of two sets are the same, on the same images."""
    if one.images != two.images or len(one.found) != len(two.found):
        return False
    arrays = [
        [list(vars(found).values()) if isinstance(found, Matched) else [found] for found in seen.found]
        for seen in (one, two)
    ]
    return all(
        np.array_equal(first, second) for pair in zip(*arrays, strict=True) for first, second in zip(*pair, strict=True)
    )


def _unpaired(first: Run, other: Run, protocol: str, one: Seen, two: Seen) -> str:
    """Return why the test images are not the same; an empty text if they are."""
    end = "so neither an interval of the difference nor a test."
    if one.images != two.images:
        return f"different test images, {end}"
    packs = [_packs(run, protocol, seen) for run, seen in ((first, one), (other, two))]
    if packs[0] and packs[1] and packs[0] != packs[1]:
        return f"test images of equal names but other content or labels, {end}"
    return ""


def _packs(run: Run, protocol: str, seen: Seen) -> set[str]:
    """Return the checksums of the labelled pairs that the jobs of a set read."""
    names = [f"{_FOLDER}/{protocol}/{seen.label}.seed{summary['seed']}.run.json" for summary in seen.summaries]
    inputs = [run.records.get(name, {}).get("inputs", {}) for name in names]
    return {digest for read in inputs for path, digest in read.items() if path.endswith("/labelled.safetensors")}


def _row(protocol: str, system: str, run: str, key: str, pair: tuple[Seen, Seen], paired: bool) -> Row:
    by_class = MEANS[pair[0].goal][key]
    drawn = [seen.resampled(key) for seen in pair]
    reference, measured = (mean(seen.values(key)) for seen in pair)
    intervals = [ends(values) for values in drawn]
    found: dict[str, Any] = {}
    if paired:
        apart: Array = statistics.difference(drawn[1], drawn[0])
        low, high = ends(apart)
        verdict = direction(int(np.sign(mean(apart)))) if np.nan_to_num(apart).any() else "equal"
        found = {"difference_low": low, "difference_high": high, "p": statistics.resampled_p(apart), "verdict": verdict}
    return Row(
        dataset=pair[1].summaries[0]["dataset"],
        system=system,
        metric=key,
        definition=f"{by_class} of {', '.join(pair[1].classes)}",
        better="higher",
        run=run,
        images=len(pair[1].images),
        reference=reference,
        reference_low=intervals[0][0],
        reference_high=intervals[0][1],
        mean=measured,
        low=intervals[1][0],
        high=intervals[1][1],
        difference=measured - reference,
        protocol=protocol,
        **found,
    )

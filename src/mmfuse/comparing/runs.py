"""The data of a comparison: runs, and rows that compare one with another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mmfuse.files.reading import damaged, read_json, read_yaml
from mmfuse.reporting.downstream_scores import Seen
from mmfuse.reporting.scores import Group, grouped, read_scores
from mmfuse.study import plan
from mmfuse.study.plan import System
from mmfuse.study.stages import EVALUATE, key_of
from mmfuse.tracking.results import PARAMS, Place

One = TypeVar("One")

AGAIN = "run the stage that wrote it again"


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        name: The name that the user gave.
        kind: `folder`, `commit` or `mlflow`.
        parameters: By dotted key.
        records: By path.
        groups: Scores by dataset and METHOD.VARIANT.
        sets: Results of detectors and segmenters, by protocol and image set.
    """

    name: str
    kind: str
    parameters: Mapping[str, Any]
    records: dict[str, dict[str, Any]]
    groups: dict[str, dict[str, Group]]
    sets: dict[str, dict[str, Seen]]

    @property
    def commits(self) -> list[str]:
        """The commits of the code that produced it; `+` marks uncommitted changes."""
        records = self.records.values()
        return sorted({(r["commit"] or "no commit")[:9] + "+" * bool(r["dirty"]) for r in records})


@dataclass(frozen=True)
class Row:
    """One metric of one system in one run, compared with the first run; None where nothing is known.

    `mean` and `reference` have 95 % intervals over images; `difference` is run minus first run, on the same images.
    With a protocol, the system is an image set and the metric a measure of its detectors or segmenters.
    """

    dataset: str
    system: str
    metric: str
    definition: str
    better: str
    run: str
    images: int
    reference: float
    reference_low: float
    reference_high: float
    mean: float
    low: float
    high: float
    difference: float
    difference_low: float | None = None
    difference_high: float | None = None
    p: float | None = None
    verdict: str = "untested"
    protocol: str = ""


def scored(place: Place) -> dict[str, dict[str, Group]]:
    """Return the scores of a run by dataset and METHOD.VARIANT, averaged over the available seeds.

    The systems are those of the run's parameters, or all in its folder of scores if it has no parameters.

    Raises:
        UserError: scores are damaged.
    """
    scores, params = place.root / EVALUATE.folder, place.root / PARAMS
    if params.is_file():
        named = plan.scored_pairs(read_yaml(params))
    else:
        named = [_named(path) for path in sorted(scores.glob("*/*.json")) if not path.name.endswith(".run.json")]
    members: dict[tuple[str, str], list[System]] = {}
    for dataset, system in named:
        there = (place.root / EVALUATE.path("table", key_of(dataset, system))).is_file()
        if there and place.system in {None, system.label}:
            members.setdefault((dataset, f"{system.method}.{system.variant}"), []).append(system)
    groups: dict[str, dict[str, Group]] = {}
    for (dataset, name), systems in members.items():
        found = grouped([read_scores(place.root, dataset, system) for system in systems], dataset)
        groups.setdefault(dataset, {})[name] = found[0]
    return groups


def _named(summary: Path) -> tuple[str, System]:
    """Return the dataset and system of a summary of scores.

    Raises:
        UserError: the summary is damaged, or does not name its system.
    """
    value = read_json(summary, fix=AGAIN)
    kinds = {"method": str, "variant": str, "task": str, "seed": int}
    wrong = [name for name, kind in kinds.items() if not isinstance(value.get(name), kind)]
    if wrong:
        raise damaged(summary, "method, variant, task and seed of a system", f"no such {', '.join(wrong)}", AGAIN)
    return summary.parent.name, System(*(value[name] for name in kinds))


def pairs(first: Mapping[str, One], other: Mapping[str, One]) -> Iterator[tuple[One, One]]:
    """Yield the systems or image sets that both runs have; if each has a single one, these two, whatever they are."""
    if len(first) == len(other) == 1:
        yield next(iter(first.values())), next(iter(other.values()))
        return
    yield from ((first[name], other[name]) for name in first if name in other)


def direction(sign: int) -> str:
    """Return the verdict of a test that shows a difference; 1 is better, -1 worse."""
    return {1: "better", -1: "worse"}.get(sign, "different")

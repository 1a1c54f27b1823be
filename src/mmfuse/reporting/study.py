"""The input of the report: the study's parameters, its folder, the scores, and the runs behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmfuse.data.catalog import Dataset
from mmfuse.data.packs import Pack
from mmfuse.reporting import provenance
from mmfuse.reporting.downstream_scores import Seen, read_sets
from mmfuse.reporting.kept_figures import FOLDER, KeptFigures
from mmfuse.reporting.provenance import RecordedJob
from mmfuse.reporting.scores import Group, existing, grouped, read_scores
from mmfuse.reporting.style import Album
from mmfuse.reporting.tables import Table, build
from mmfuse.study import plan
from mmfuse.study.plan import System
from mmfuse.study.stage import Key, Stage
from mmfuse.study.stages import ANALYSE, FUSE, PREPARE, jobs_of, key_of
from mmfuse.study.types import Parameters


@dataclass(frozen=True)
class Page:
    """One page of the report: its anchor, its title in the contents, its template, and what the template shows."""

    anchor: str
    title: str
    template: str
    shown: Mapping[str, Any]


@dataclass(frozen=True)
class Study:
    """One study, read: `groups` and `boards` are the systems of each test dataset and their scores in tables.

    Pages store their figures in `album`, their tables in `sheets` (text by file name), and in `linked` (by dataset)
    the pairs in the viewer to which they link.
    """

    parameters: Parameters
    root: Path
    catalog: Mapping[str, Dataset]
    printed: Path
    groups: Mapping[str, Sequence[Group]]
    boards: Mapping[str, Table]
    runs: Sequence[RecordedJob]
    album: Album = field(default_factory=Album)
    sheets: dict[str, str] = field(default_factory=dict)
    linked: dict[str, list[str]] = field(default_factory=dict)
    _seen: dict[str, list[Seen]] = field(default_factory=dict)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The parameters of the report."""
        settings: Mapping[str, Any] = self.parameters["report"]
        return settings

    def pack(self, dataset: str) -> Pack:
        """Return the test pairs of a dataset."""
        return Pack(existing(self.path(PREPARE, "test", {"dataset": dataset}), "prepare"))

    def path(self, stage: Stage, output: str, key: Key) -> Path:
        """Return the path of one output of a job."""
        return self.root / stage.path(output, key)

    def seen(self, protocol: str) -> list[Seen]:
        """Return the image sets of a downstream protocol; they are read once."""
        if protocol not in self._seen:
            roles = self.catalog[self.parameters["downstream"][protocol]["dataset"]].roles
            self._seen[protocol] = read_sets(self.parameters, protocol, self.root, roles)
        return self._seen[protocol]

    def training_anchor(self, one: plan.Training) -> str:
        """Return the anchor of a training's run in the page."""
        return provenance.anchor("run", "train", one.trained_on, f"{one.method}.{one.variant}.s{one.seed}", one.part)

    def analysis(self, name: str, dataset: str, system: System) -> Path:
        """Return the path of an analysis's result."""
        return self.path(ANALYSE, "result", {**key_of(dataset, system), "analysis": name})

    def fuse_run(self, dataset: str, system: System) -> RecordedJob:
        """Return the run that fused a dataset's test pairs."""
        path = self.path(FUSE, "record", key_of(dataset, system))
        return provenance.read_run(path, "fuse", dataset, system.label)


def representatives(parameters: Parameters, groups: Sequence[Group]) -> list[Group]:
    """Return one group for each method, `base` or the first variant listed, and each group with given weights."""
    found: dict[tuple[str, str], Group] = {}
    for group in groups:
        given = plan.given_weights(parameters, group.members[0].system) is not None
        key = (group.method, group.variant if given else "")
        if key not in found or group.variant == "base":
            found[key] = group
    return list(found.values())


def read_study(parameters: Parameters, root: Path, catalog: Mapping[str, Dataset], printed: Path) -> Study:
    """Read the scores and the runs of a study.

    Raises:
        UserError: something that the study names is missing, or scores cannot be put in one table.
    """
    groups = read_groups(parameters, root)
    boards = {dataset: _board(dataset, found) for dataset, found in groups.items()}
    album = Album(KeptFigures(root / FOLDER))
    return Study(parameters, root, catalog, printed, groups, boards, _runs(parameters, root), album)


def read_groups(parameters: Parameters, root: Path) -> dict[str, list[Group]]:
    """Read the scores of each test dataset, by method and variant.

    Raises:
        UserError: a table is missing or damaged, or scores cannot be put in one table.
    """
    systems: dict[str, list[System]] = {}
    for dataset, system in plan.scored_pairs(parameters):
        systems.setdefault(dataset, []).append(system)
    return {
        dataset: grouped([read_scores(root, dataset, system) for system in found], dataset)
        for dataset, found in systems.items()
    }


def _board(dataset: str, groups: Sequence[Group]) -> Table:
    """Lay out the scores of one dataset, each number with the anchor of its run."""
    return build(
        groups,
        lambda label: provenance.anchor("row", dataset, label),
        lambda scores: provenance.anchor("run", "evaluate", dataset, scores.system.label),
    )


def _runs(parameters: Parameters, root: Path) -> list[RecordedJob]:
    """Return every run behind the page, in the order of the stages."""
    return [
        provenance.read_run(root / stage.path("record", key), stage.name, *stage.parts(key))
        for stage, key in jobs_of(parameters)
    ]

"""The card of shipped weights: what users should know before they use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmfuse import methods
from mmfuse.reporting.dataset_cards import TASKS
from mmfuse.reporting.scores import Column
from mmfuse.reporting.tables import decimals, printed
from mmfuse.weights.shipped import Shipped
from mmfuse.words import number_of

ARROWS = {1: " ↑", -1: " ↓", 0: ""}
PICTURES = "Pictures of difficult pairs are in `docs/difficult-cases.md` in the project's repository."


@dataclass(frozen=True)
class Agreement:
    """How images fused with the stored weights differ from the study's: grey levels, and share of differing values."""

    dataset: str
    pairs: int
    largest: int
    changed: float


@dataclass(frozen=True)
class Scored:
    """Mean and 95 % interval of each metric on a dataset, by system."""

    dataset: str
    pairs: int
    metrics: tuple[Column, ...]
    systems: Mapping[str, Sequence[tuple[float, float, float]]]

    def means(self, system: str) -> dict[str, float]:
        """Return a system's means by metric, with six digits."""
        return {
            metric.name: float(f"{mean:.6g}")
            for metric, (mean, *_) in zip(self.metrics, self.systems[system], strict=True)
        }


@dataclass(frozen=True)
class Training:
    """How a network was trained; `hours` are from start to end, summed over the parts."""

    study: str
    config: str
    commit: str
    hours: float
    seed: int
    machine: str
    steps: Mapping[str, int]


def card(
    one: Shipped,
    training: Training,
    agreements: Sequence[Agreement],
    scored: Sequence[Scored],
    use: str,
    weaknesses: Sequence[str],
    stored: tuple[int, int, str],
) -> str:
    """Return the text of a card.

    Args:
        one: The entry in the index.
        training: How the network was trained.
        agreements: The effect of half precision, by dataset.
        scored: The scores, by dataset.
        use: The intended use of the network.
        weaknesses: Its known weaknesses.
        stored: Number of trained values, bytes of the file, and its precision.
    """
    parameters, size, precision = stored
    method = methods.load(one.method)
    steps = ", ".join(f"{part} {count}" for part, count in training.steps.items())
    facts = {
        "Method": f"{one.method}, variant {one.variant}: {method.summary} ({method.source})",
        "Task": " and ".join(TASKS[task] for task in one.tasks),
        "File": f"`{one.file}`, {size} bytes, {precision} precision, {parameters} parameters",
        "SHA-256": f"`{one.sha256}`",
        "Study": f"{training.study}, `{training.config}`, seed {training.seed}",
        "Commit": training.commit,
        "Steps": steps,
        "Time": f"{training.hours:g} hours from start to end ({training.machine})",
    }
    lines = [f"# {one.name}", "", one.summary, "", "| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in facts.items()]
    lines += ["", "## Use", "", use, "", "```sh", f"mmfuse fuse A/ B/ OUT/ --weights {one.name}", "```", ""]
    lines += ["## Known weaknesses", "", *(f"- {text}" for text in weaknesses), "", PICTURES, "", *_data(one)]
    lines += ["## Scores", "", *_said(one, scored)]
    for dataset in scored:
        lines += _table(dataset)
    lines += [f"## Stored in {precision} precision", "", *_agreements(agreements)]
    return "\n".join(lines)


def _data(one: Shipped) -> list[str]:
    rows = [f"| {d.dataset} | {d.split} | {d.pairs} | {d.use} | {d.licence} |" for d in one.data]
    head = ["| dataset | split | pairs | use | licence |", "|---|---|---|---|---|"]
    return ["## Training data", "", *head, *rows, ""]


def _said(one: Shipped, scored: Sequence[Scored]) -> list[str]:
    seen = {data.dataset for data in one.data}
    other = [dataset.dataset for dataset in scored if dataset.dataset in seen]
    unseen = [dataset.dataset for dataset in scored if dataset.dataset not in seen]
    lines = [
        "Means over the study's test pairs, with the 95 % bootstrap interval over the pairs; ↑ higher is better,",
        "↓ lower is better. The scores come from the study, whose weights are in single precision.",
    ]
    lines += [f"Other pairs of {', '.join(other)} were used in training or validation."] if other else []
    lines += [f"No pair of {', '.join(unseen)} was used in training or validation."] if unseen else []
    return [*lines, ""]


def _table(scored: Scored) -> list[str]:
    names = list(scored.systems)
    lines = [f"### {scored.dataset}, {number_of(scored.pairs, 'test pair')}", "", f"| metric | {' | '.join(names)} |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for number, metric in enumerate(scored.metrics):
        found = [scored.systems[name][number] for name in names]
        digits = decimals(mean for mean, _, _ in found)
        cells = [f"{printed(m, digits)} [{printed(low, digits)}, {printed(high, digits)}]" for m, low, high in found]
        lines.append(f"| {metric.name}{ARROWS[metric.sign]} | {' | '.join(cells)} |")
    return [*lines, ""]


def _agreements(agreements: Sequence[Agreement]) -> list[str]:
    lines = ["Images fused with the stored weights compared with those of the study, on all test pairs:", ""]
    lines += ["| dataset | pairs | largest difference, grey levels | values that differ |", "|---|---|---|---|"]
    lines += [f"| {one.dataset} | {one.pairs} | {one.largest} | {one.changed:.2%} |" for one in agreements]
    return [*lines, ""]

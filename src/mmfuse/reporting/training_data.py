"""What each trained system was trained on, and which test datasets it has never seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmfuse.files.reading import read_table
from mmfuse.files.writing import sheet_text
from mmfuse.reporting import dataset_cards, latex
from mmfuse.reporting.latex import Head
from mmfuse.reporting.scores import existing
from mmfuse.reporting.study import Study
from mmfuse.study import plan
from mmfuse.study.stages import PREPARE
from mmfuse.study.training_sets import training_set
from mmfuse.words import number_of

Pairs = tuple[tuple[str, int], ...]  # datasets, and how many of their pairs


@dataclass(frozen=True)
class Trained:
    """One system on one task: its training set, and which of the task's test datasets it has seen.

    `seen` are the test datasets of which other pairs were used for training, `validated` those of which other pairs
    were used only for validation, `unseen` all others.
    """

    method: str
    variant: str
    task: str
    trained_on: str
    train: Pairs
    val: Pairs
    seen: tuple[str, ...]
    validated: tuple[str, ...]
    unseen: tuple[str, ...]

    @property
    def system(self) -> str:
        """METHOD.VARIANT."""
        return f"{self.method}.{self.variant}"


def read(study: Study) -> list[Trained]:
    """Return every trained system of the study, task by task, with the numbers of prepared pairs.

    Raises:
        UserError: a dataset is not prepared.
    """
    counts: dict[str, Counter[str]] = {}
    found = []
    for task, entry in study.parameters["study"]["tasks"].items():
        systems = [s for s in plan.systems_of(study.parameters, task) if plan.is_trained(study.parameters, s)]
        for method, variant in dict.fromkeys((system.method, system.variant) for system in systems):
            found.append(_one(study, task, method, variant, entry["test"], counts))
    return found


def _one(
    study: Study, task: str, method: str, variant: str, tested: Sequence[str], counts: dict[str, Counter[str]]
) -> Trained:
    used = training_set(study.parameters, plan.trained_on(study.parameters, method, variant, task))
    for dataset in used.datasets:
        if dataset not in counts:
            table = existing(study.path(PREPARE, "pairs", {"dataset": dataset}), "prepare")
            rows = read_table(table, ("name", "split"), fix="run the stage `prepare` for it again")
            counts[dataset] = Counter(row["split"] for row in rows)
    train = tuple((name, used.pairs.get(name, counts[name]["train"])) for name in used.train)
    # the set of a task uses the validation pairs of all its datasets, but not all of them have some
    val = tuple((name, counts[name]["val"]) for name in used.val if counts[name]["val"])
    seen = tuple(name for name in tested if name in used.train)
    validated = tuple(name for name in tested if name in dict(val) and name not in seen)
    unseen = tuple(name for name in tested if name not in (*seen, *validated))
    return Trained(method, variant, task, used.name, train, val, seen, validated, unseen)


def words(pairs: Pairs) -> str:
    """Say how many pairs of which datasets: `4200 pairs of m3fd and 1083 of msrs`."""
    first, *others = [f"{number_of(count, 'pair')} of {name}" for name, count in pairs] or ["no pair"]
    rest = [text.replace(" pairs of ", " of ") for text in others]
    return f"{', '.join([first, *rest[:-1]])} and {rest[-1]}" if rest else first


def shown(study: Study, found: Sequence[Trained]) -> list[dict[str, Any]]:
    """Return the rows of the page's table, one for variants trained in the same way; store all systems as tables."""
    study.sheets["trained.csv"] = _csv(found)
    study.sheets["trained.tex"] = _latex(found)
    rows = []
    for one, variants in _alike(found):
        several = len([other for other in found if (other.method, other.task) == (one.method, one.task)])
        rows.append(
            {
                "method": one.method,
                "variants": "" if len(variants) == several else ", ".join(variants),
                "task": dataset_cards.TASKS.get(one.task, one.task),
                "set": one.trained_on,
                "train": words(one.train),
                "val": words(one.val) if one.val else "",
                "seen": ", ".join([*one.seen, *(f"{name} (validation)" for name in one.validated)]),
                "unseen": ", ".join(one.unseen),
            }
        )
    return rows


def _alike(found: Sequence[Trained]) -> list[tuple[Trained, list[str]]]:
    """Return one system for each method, task and training set, with the variants that share it."""
    variants: dict[tuple[str, str, str], list[Trained]] = {}
    for one in found:
        variants.setdefault((one.task, one.method, one.trained_on), []).append(one)
    return [(alike[0], [one.variant for one in alike]) for alike in variants.values()]


def on_dataset(found: Sequence[Trained], dataset: str) -> str:
    """Say which systems were trained on or validated with other pairs of a test dataset, and which never saw it."""
    kinds: dict[str, list[Trained]] = {}
    texts = {
        "seen": "Trained on other pairs of this dataset",
        "validated": "validated with other pairs of this dataset",
        "unseen": "never trained or validated on this dataset",
    }
    for one in found:
        for kind in texts:
            if dataset in getattr(one, kind):
                kinds.setdefault(kind, []).append(one)
    asked = [one for alike in kinds.values() for one in alike]
    parts = [f"{texts[kind]}: {', '.join(_short(kinds[kind], asked))}" for kind in texts if kind in kinds]
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _short(chosen: Iterable[Trained], among: Sequence[Trained]) -> list[str]:
    """Return the systems' names; only the method's name if all of its variants are included."""
    own, every = Counter(one.method for one in chosen), Counter(one.method for one in among)
    return list(dict.fromkeys(one.method if own[one.method] == every[one.method] else one.system for one in chosen))


def behind(found: Sequence[Trained], rows: Mapping[str, str], task: str) -> str:
    """Say on what the systems behind the rows of a table were trained; nothing if none of them was."""
    by_system = {one.system: one for one in found if one.task == task}
    sets: dict[str, list[str]] = {}
    for row, system in rows.items():
        if system in by_system:
            sets.setdefault(words(by_system[system].train), []).append(row)
    if len(sets) == 1:
        return f", trained on {next(iter(sets))}"
    return "".join(f", {' and '.join(names)} trained on {pairs}" for pairs, names in sets.items())


def _csv(found: Sequence[Trained]) -> str:
    head = ["method", "variant", "task", "training set", "trained on", "pairs", "validated with", "pairs"]
    lines: list[list[Any]] = [[*head, "tests seen in training", "tests seen in validation", "tests never seen"]]
    for one in found:
        start = [one.method, one.variant, one.task, one.trained_on]
        for pairs in (one.train, one.val):
            start += [" ".join(name for name, _ in pairs), " ".join(str(count) for _, count in pairs)]
        lines.append([*start, *(" ".join(names) for names in (one.seen, one.validated, one.unseen))])
    return sheet_text(lines)


def _latex(found: Sequence[Trained]) -> str:
    rows = []
    for one, variants in _alike(found):
        more = f" ({len(variants)} variants)" if len(variants) > 1 else ""
        seen = ", ".join((*one.seen, *one.validated)) or "none"
        cells = [f"{one.method}{more}", dataset_cards.TASKS.get(one.task, one.task), words(one.train)]
        cells += [words(one.val) if one.val else "none", seen, ", ".join(one.unseen) or "none"]
        rows.append([latex.escape(cell) for cell in cells])
    names = ("Method", "Task", "Trained on", "Validated with", "Tests seen", "Tests never seen")
    caption = (
        "Training and validation pairs of each method; a test dataset is seen if other pairs of it are among them."
    )
    return latex.table(caption, "tab:trained", [[Head(name) for name in names]], rows, left=len(names))

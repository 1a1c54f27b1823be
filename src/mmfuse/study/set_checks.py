"""Checks of training sets and given weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from mmfuse.data.catalog import Dataset, load_catalog
from mmfuse.errors import UserError, closest, unknown_name
from mmfuse.files.records import read_record
from mmfuse.study import plan, stages
from mmfuse.study.training_sets import BOTH, TrainingSet, training_sets
from mmfuse.study.types import Parameters
from mmfuse.weights import shipped
from mmfuse.words import number_of


def check_sets(values: Parameters, path: Path, root: Path) -> None:
    """Check the training sets of a study: their names, their datasets, and the pairs for training and validation.

    Args:
        values: The study's parameters.
        path: The file that they come from.
        root: The project's root, which has the catalog.

    Raises:
        UserError: a name is unknown or taken, a dataset belongs to another task or has too few training pairs, or a
            part keeps the weights of the best validation without validation pairs.
    """
    known = training_sets(values)
    catalog = load_catalog(root / "data/catalog.yaml", schema=root / "workflow/schemas/catalog.schema.yaml")
    for task, entry in values["study"]["tasks"].items():
        for kind in ("train", "test"):
            _check_task_of(entry[kind], task, catalog, f"{path}: study.tasks.{task}.{kind}")
    _check_names(values, known, path)
    if "training_sets" in values["study"]:
        for name in values["study"]["training_sets"]:
            _check_datasets(known[name], catalog, path)
        _check_tasks(values, known, path)
    for training in plan.trainings(values):
        _check_training(values, training, known[training.trained_on], path)


def check_weights(values: Parameters, path: Path, root: Path) -> None:
    """Check that the weights that systems use instead of training exist.

    Args:
        values: The study's parameters.
        path: The file that they come from.
        root: The project's root; paths of weights are relative to it.

    Raises:
        UserError: a variant names no weights for one of its tasks in the study, or a missing file; or the study tests
            shipped weights on pairs that they were trained on.
    """
    for system in (system for task in values["study"]["tasks"] for system in plan.systems_of(values, task)):
        given = plan.settings_of(values, system.method, system.variant).get("weights")
        if given is None:
            continue
        key = f"{path}: methods.{system.method}, variant {system.variant}: weights"
        file = plan.given_weights(values, system)
        if file is None:
            raise UserError(
                f"{key} has no file for {system.task}, on which the study measures the system.",
                expected=f"{system.task}: FILE",
                found=", ".join(given),
                fix=f"name its file, or remove {system.task} from the system's tasks in study.systems",
            )
        one = plan.shipped_weights(values, system)
        if one is not None:
            shipped.verified(one, (root / file).parent)
            _check_unseen(values, one, system, key)
        elif not (root / file).is_file():
            raise UserError(
                f"{key} names a missing file.",
                expected="a file that `mmfuse import-weights` or a training wrote",
                found=file,
                fix="put it there (docs/how-to/import-published-weights.md), or remove the system from study.systems",
            )


def _check_unseen(values: Parameters, one: shipped.Shipped, system: plan.System, key: str) -> None:
    """Check that shipped weights were not trained or validated on pairs that the study tests on.

    Datasets are compared by name and split; a pair that occurs in two datasets is not noticed.
    """
    tested = values["study"]["tasks"][system.task]["test"]
    seen = next((data for data in one.data if data.split == "test" and data.dataset in tested), None)
    if seen is not None:
        raise UserError(
            f"{key}: the shipped weights {one.name} have seen the test pairs of {seen.dataset}.",
            expected=f"test datasets that were not used for their {seen.use}",
            found=f"{number_of(seen.pairs, 'pair')} of {seen.dataset}, split {seen.split}",
            fix=f"remove {seen.dataset} from study.tasks.{system.task}.test, or choose other weights",
        )


def _check_training(values: Parameters, training: plan.Training, used: TrainingSet, path: Path) -> None:
    """Check that a training has pairs, and validation pairs if its part keeps the weights of the best validation."""
    block = f"methods.{training.method}"
    if not used.train:
        raise UserError(
            f"{path}: {block}, variant {training.variant}, is trained on the set {used.name!r}, which has no dataset.",
            expected=f"at least one dataset under {used.key}",
            found="none",
            fix="name one there, or choose another training set with `trained_on`",
        )
    part = plan.settings_of(values, training.method, training.variant)["parts"][training.part]
    held = values["prepare"].get("val_pairs", {})
    if part.get("weights", "best") == "best" and all(held.get(name) == 0 for name in used.val):
        raise UserError(
            f"{path}: {block}, variant {training.variant}: the part {training.part} keeps the weights of the best "
            f"validation, but the training set {used.name!r} has no validation pairs.",
            expected="validation pairs, or `weights: last`, which keeps the weights of the last step",
            found=", ".join(f"{name} (prepare.val_pairs: 0)" for name in used.val) or "no dataset to validate with",
            fix=f"set {block}.parts.{training.part}.weights to last, or name a dataset to validate with",
        )


def _check_names(values: Parameters, known: Mapping[str, TrainingSet], path: Path) -> None:
    """Check that no set has the name of a task, and that every system's training set exists."""
    study = values["study"]
    taken = next((name for name in study.get("training_sets", {}) if name in {"ivif", "mif"}), None)
    if taken is not None:
        raise UserError(
            f"{path}: no training set may be called {taken!r}.",
            expected="a name that is not that of a task",
            found=taken,
            fix=f"rename it: the datasets of the set {taken} are under study.tasks.{taken}.train",
        )
    for entry in study["systems"]:
        choice = plan.settings_of(values, entry["method"], entry["variant"]).get("trained_on", {})
        names = list(choice.values()) if isinstance(choice, Mapping) else [choice]
        unknown = next((name for name in names if name not in known), None)
        if unknown is not None:
            system = f"{entry['method']}.{entry['variant']}"
            problem = f"{path}: {system} is trained on {unknown!r}, which is not a training set."
            raise unknown_name(problem, unknown, known, "define it under study.training_sets")


def _check_task_of(datasets: Iterable[str], task: str, catalog: Mapping[str, Dataset], what: str) -> None:
    """Check that datasets exist and belong to a task."""
    for name in datasets:
        entry = catalog.get(name)
        if entry is None or task not in {entry.task, BOTH}:
            fitting = [other for other, found in catalog.items() if task in {found.task, BOTH}]
            raise UserError(
                f"{what} names {name!r}, which is "
                + ("not in the catalog." if entry is None else f"a dataset of the task {entry.task}."),
                expected=f"datasets of {_name(task)}: {', '.join(fitting)}",
                found=name,
                fix=closest(name, fitting, "remove it, or add it to data/catalog.yaml"),
            )


def _check_datasets(one: TrainingSet, catalog: Mapping[str, Dataset], path: Path) -> None:
    """Check that the datasets of a named set exist, belong to its task, and have training pairs."""
    _check_task_of(one.datasets, one.task, catalog, f"{path}: {one.key}")
    for name in one.datasets:
        if not catalog[name].splits.can_train:
            fitting = [o for o, found in catalog.items() if one.task in {found.task, BOTH} and found.splits.can_train]
            raise UserError(
                f"{path}: {one.key} names {name!r}, which has only test pairs; these are never used for training.",
                expected=f"datasets with training pairs: {', '.join(fitting)}",
                found=name,
                fix="remove it, or change the splits of its entry in data/catalog.yaml",
            )
    for name, count in one.pairs.items():
        if name not in one.train:
            problem = f"{path}: {one.key}.pairs names {name!r}, which the set does not train on."
            raise unknown_name(problem, name, one.train, "remove it, or name it under `train`, too")
        whole = catalog[name].pairs.get("train")
        if whole is not None and count > whole:
            raise UserError(
                f"{path}: {one.key}.pairs requests more pairs than {name} has.",
                expected=f"at most {whole}",
                found=count,
                fix="lower the number, or remove it to use all pairs",
            )


def _name(task: str) -> str:
    return "either task" if task == BOTH else f"the task {task}"


def _check_tasks(values: Parameters, known: Mapping[str, TrainingSet], path: Path) -> None:
    """Check that each dataset of a set for both tasks is also in a task, or in a set of its own task."""
    named = {d for entry in values["study"]["tasks"].values() for d in (*entry["train"], *entry["test"])}
    named |= {dataset for one in known.values() if one.task != BOTH for dataset in one.datasets}
    for one in known.values():
        alone = next((dataset for dataset in one.datasets if dataset not in named), None)
        if alone is not None:
            raise UserError(
                f"{path}: only {one.key} names {alone!r}, so the study does not say which task it belongs to.",
                expected="the dataset in study.tasks, or in a training set of its own task",
                found=f"a set of the task {BOTH}",
                fix=f"name {alone} in study.tasks or in another training set",
            )


def check_fused(parameters: Parameters) -> None:
    """Check with the records in data/fused that each system's images were fused with its present weights.

    Raises:
        UserError: dvc.yaml belongs to another study, in which the system had another training set or other
            given weights.
    """
    for dataset, system in plan.scored_pairs(parameters):
        weights = stages.complete_weights(parameters, system)
        if weights is None:
            continue
        record = stages.FUSE.path("record", stages.key_of(dataset, system))
        inputs = read_record(Path(record), fix="run the stage `fuse` for it again")["inputs"]
        if weights.as_posix() not in inputs:
            raise UserError(
                f"The images of {system.label} on {dataset} were fused with weights other than its own.",
                expected=weights,
                found=", ".join(
                    name
                    for name in inputs
                    if name.startswith((f"{stages.TRAIN.folder}/", "data/external/", "src/mmfuse/weights/"))
                )
                or "none",
                fix="run `mmfuse sync --write-dvc`, then the study: params.yaml names other training sets or weights",
            )

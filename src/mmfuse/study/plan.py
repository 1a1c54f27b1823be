"""What the study consists of: systems, trainings and their training parts, test datasets, image sets.

Look-ups in the parameters, which the declarations of the stages (`mmfuse.study.stages`) use. This module does not
import torch, because the engines load it at every start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmfuse.errors import UserError
from mmfuse.study.settings import choice_of_weights, settings_of
from mmfuse.study.training_sets import BOTH, chosen, training_set, training_sets
from mmfuse.study.types import Parameters
from mmfuse.weights import shipped

MODALITIES = ("a", "b")  # image sets of a downstream protocol that are not fused images
EXTERNAL = "external"  # the variant of a method whose fused images were made elsewhere


@dataclass(frozen=True)
class System:
    """One method as the study measures it, trained or not: method, variant, task and seed."""

    method: str
    variant: str
    task: str
    seed: int

    @property
    def label(self) -> str:
        """The name in paths and tables: METHOD.VARIANT.sSEED."""
        return f"{self.method}.{self.variant}.s{self.seed}"


@dataclass(frozen=True)
class Training:
    """One training of one part of a method: with its training set, variant and seed."""

    trained_on: str
    method: str
    variant: str
    seed: int
    part: str


def parts_of(parameters: Parameters, method: str) -> list[str]:
    """Return the names of a method's training parts in order; none for a training-free method."""
    return list(parameters["methods"].get(method, {}).get("parts", {}))


def systems_of(parameters: Parameters, task: str) -> list[System]:
    """Return the systems that the study measures on a task; one that it does not train occurs once for all seeds."""
    named = [System(e["method"], e["variant"], task, 0) for e in parameters["study"]["systems"] if task in e["tasks"]]
    return [seeded for system in named for seeded in seeds_of(parameters, system)]


def seeds_of(parameters: Parameters, system: System) -> list[System]:
    """Return a system with each seed of the study; only with seed 0 if it is not trained."""
    seeds = parameters["study"]["seeds"] if is_trained(parameters, system) else [0]
    return [replace(system, seed=seed) for seed in seeds]


def given_weights(parameters: Parameters, system: System) -> Path | None:
    """Return the weights file that a system uses instead of training; None if it has none."""
    one = shipped_weights(parameters, system)
    choice = choice_of_weights(parameters, system.method, system.variant, system.task)
    return shipped.study_file(one) if one else Path(choice) if choice else None


def shipped_weights(parameters: Parameters, system: System) -> shipped.Shipped | None:
    """Return the shipped weights that a system uses instead of training; None if it uses none.

    Raises:
        UserError: its shipped weights do not exist, or belong to another method or task.
    """
    choice = choice_of_weights(parameters, system.method, system.variant, system.task)
    return shipped.chosen(choice, system.method, system.task) if choice and shipped.is_shipped(choice) else None


def is_trained(parameters: Parameters, system: System) -> bool:
    """Whether the study trains a system: neither a formula, nor images or weights from elsewhere."""
    elsewhere = system.variant == EXTERNAL or given_weights(parameters, system) is not None
    return not elsewhere and bool(parts_of(parameters, system.method))


def origin(parameters: Parameters, method: str, variant: str, part: str) -> str:
    """Return the variant whose training of `part` this variant shares, see `origins`."""
    settings_of(parameters, method, variant)  # refuses an unknown one
    return origins(parameters, method, part)[variant]


def origins(parameters: Parameters, method: str, part: str) -> dict[str, str]:
    """Return, for each variant of a method, the variant whose training of `part` it shares.

    That is the first variant with the same settings up to this part, in the order of the parameters but with `base`
    first; the study need not name it as a system.
    """
    variants = parameters["methods"].get(method, {}).get("variants", {})
    first: dict[Any, str] = {}
    names = ["base", *(name for name in variants if name != "base")]
    return {name: first.setdefault(_frozen(_up_to(parameters, method, name, part)), name) for name in names}


def _frozen(value: Any) -> Any:
    """Return a value of the parameters in a hashable form; equal values have equal forms."""
    if isinstance(value, Mapping):
        return frozenset((key, _frozen(inner)) for key, inner in value.items())
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _up_to(parameters: Parameters, method: str, variant: str, part: str) -> dict[str, Any]:
    """Return the settings of a variant that a training of `part` depends on: all but those of later parts."""
    settings = settings_of(parameters, method, variant)
    settings.pop("trained_on", None)
    needed = [*earlier_parts(parameters, method, part), part]
    return settings | {"parts": {name: settings["parts"][name] for name in needed}}


def trained_on(parameters: Parameters, method: str, variant: str, task: str) -> str:
    """Return the name of a variant's training set for `task`: the task's own, unless the variant names another."""
    return chosen(settings_of(parameters, method, variant), task)


def training_of(parameters: Parameters, system: System, part: str) -> Training:
    """Return the training that gives a system the weights of a part; variants that share a part share it."""
    name = trained_on(parameters, system.method, system.variant, system.task)
    return Training(name, system.method, origin(parameters, system.method, system.variant, part), system.seed, part)


def earlier_trainings(parameters: Parameters, training: Training) -> list[Training]:
    """Return the trainings whose weights a training starts from, in order; all of them are on its own training set."""
    method, variant = training.method, training.variant
    parts = earlier_parts(parameters, method, training.part)
    return [replace(training, variant=origin(parameters, method, variant, part), part=part) for part in parts]


def earlier_parts(parameters: Parameters, method: str, part: str) -> list[str]:
    """Return the parts whose weights this part starts from, in order."""
    parts = parts_of(parameters, method)
    return parts[: parts.index(part)]


def patches_of(parameters: Parameters, training: Training) -> str | None:
    """Return the patch set that a training reads; None if it reads whole images."""
    patches = settings_of(parameters, training.method, training.variant)["parts"][training.part]["patches"]
    return None if patches == "whole" else str(patches)


def external_systems(parameters: Parameters, task: str, dataset: str) -> list[System]:
    """Return the external methods that the study measures on a dataset: their fused images were made elsewhere."""
    methods = parameters["study"].get("external") or {}
    return [System(method, EXTERNAL, task, 0) for method, datasets in methods.items() if dataset in datasets]


def external_images(dataset: str, method: str) -> Path:
    """Return the folder in which the fused images of an external method are expected."""
    return Path("data/external") / method / dataset


def check_external(parameters: Parameters, root: Path) -> list[Path]:
    """Return the folders of all images that external methods fused, relative to the project's root.

    Raises:
        UserError: a folder is missing or empty.
    """
    methods = parameters["study"].get("external") or {}
    folders = [external_images(name, method) for method, datasets in methods.items() for name in datasets]
    missing = [str(folder) for folder in folders if not any((root / folder).glob("*"))]
    if missing:
        raise UserError(
            "The study names images that were fused elsewhere and are not here.",
            expected=f"images in {', '.join(missing)}",
            found="no such folder, or an empty one",
            fix="copy them from where the study was made (`dvc pull` if they were added with `dvc add`), or remove the "
            "methods from study.external",
        )
    return folders


def scored_pairs(parameters: Parameters) -> list[tuple[str, System]]:
    """Return every (dataset, system) that is fused and scored, in the order of the study, external methods last."""
    return [
        (dataset, system)
        for task, entry in parameters["study"]["tasks"].items()
        for dataset in entry["test"]
        for system in [*systems_of(parameters, task), *external_systems(parameters, task, dataset)]
    ]


def analysed(parameters: Parameters) -> list[tuple[str, str, System]]:
    """Return every (analysis, dataset, system) of the study, in the order of the parameters."""
    return [
        (name, dataset, system)
        for name, block in parameters.get("analyse", {}).items()
        for dataset in block["datasets"]
        for e in block["systems"]
        for system in seeds_of(parameters, System(e["method"], e["variant"], task_of(parameters, dataset), 0))
    ]


def protocols(parameters: Parameters, dataset: str | None = None) -> dict[str, Any]:
    """Return the downstream protocols of the study by name, or those on one dataset."""
    found = parameters.get("downstream", {})
    return {name: block for name, block in found.items() if dataset in {None, block["dataset"]}}


def image_set(parameters: Parameters, protocol: str, name: str) -> System | None:
    """Return the system behind an image set of a protocol; None for a single modality (`a` or `b`).

    A set is named METHOD.VARIANT in the parameters; a trained method uses the first seed of the study.
    """
    if name in MODALITIES:
        return None
    method, _, variant = name.partition(".")
    task = task_of(parameters, parameters["downstream"][protocol]["dataset"])
    return seeds_of(parameters, System(method, variant, task, 0))[0]


def image_sets(parameters: Parameters, protocol: str) -> dict[str, System | None]:
    """Return the image sets of a protocol by their label in paths: `a`, `b`, or that of a system."""
    systems = {name: image_set(parameters, protocol, name) for name in parameters["downstream"][protocol]["sets"]}
    return {system.label if system else name: system for name, system in systems.items()}


def seen_systems(parameters: Parameters, protocol: str, label: str) -> list[System]:
    """Return the systems whose images a detector or segmenter of one set sees: its own, or all with `transfer`."""
    block, sets = parameters["downstream"][protocol], image_sets(parameters, protocol)
    if label not in sets:
        raise UserError(f"The protocol {protocol} has no image set {label!r}.", expected=", ".join(sets), found=label)
    seen = sets.values() if block["transfer"] else [sets[label]]
    return [system for system in seen if system]


def downstream_jobs(parameters: Parameters) -> list[tuple[str, str, int]]:
    """Return every (protocol, label of an image set, seed), in the order of the parameters."""
    return [
        (protocol, label, seed)
        for protocol, block in protocols(parameters).items()
        for label in image_sets(parameters, protocol)
        for seed in block["seeds"]
    ]


def datasets_of(parameters: Parameters) -> list[str]:
    """Return every dataset of the study once, in the order of the study."""
    named = [d for entry in parameters["study"]["tasks"].values() for d in (*entry["train"], *entry["test"])]
    if "training_sets" in parameters["study"]:
        used = dict.fromkeys(training.trained_on for training in trainings(parameters))
        named += [dataset for name in used for dataset in training_set(parameters, name).datasets]
    return list(dict.fromkeys(named))


def task_of(parameters: Parameters, dataset: str) -> str:
    """Return the task of a dataset in the study."""
    for task, entry in parameters["study"]["tasks"].items():
        if dataset in (*entry["train"], *entry["test"]):
            return str(task)
    for one in training_sets(parameters).values():
        if dataset in one.datasets and one.task != BOTH:
            return one.task
    raise UserError(
        f"Dataset {dataset!r} is not part of the study.",
        expected=", ".join(datasets_of(parameters)),
        found=dataset,
        fix="name it in params.yaml under study.tasks; for DVC, run `mmfuse sync --write-dvc` afterwards",
    )


def trainings(parameters: Parameters) -> list[Training]:
    """Return every training of the study, each once: shared parts under the variant they belong to."""
    found: dict[Training, None] = {}
    shared: dict[tuple[str, str], dict[str, str]] = {}
    for task in parameters["study"]["tasks"]:
        for system in (system for system in systems_of(parameters, task) if is_trained(parameters, system)):
            for part in parts_of(parameters, system.method):
                if (system.method, part) not in shared:
                    shared[system.method, part] = origins(parameters, system.method, part)
                source = shared[system.method, part][system.variant]
                name = trained_on(parameters, system.method, system.variant, task)
                found[Training(name, system.method, source, system.seed, part)] = None
    return list(found)

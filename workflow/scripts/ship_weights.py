"""Put networks of a finished study into the package: its weights, an entry in the index, and a card.

Run it in the root of the study's project, after the study. docs/how-to/shipped-weights.md describes what it writes, and
the file of wishes that it reads. Equal inputs give equal bytes.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from ship_cards import Agreement, Scored, Training, card

from mmfuse.cli.registering import check_made_by
from mmfuse.data.catalog import load_catalog
from mmfuse.data.images import read_image
from mmfuse.data.packs import Pack
from mmfuse.errors import MmfuseError, UserError, check_choices, closest
from mmfuse.files.reading import read_table, read_yaml
from mmfuse.files.records import read_record
from mmfuse.files.writing import behind_link, sha256, whole_file, write_text
from mmfuse.inference.fast_copy import for_inference
from mmfuse.inference.fusing import best_device, fuse_pair
from mmfuse.progress import progress
from mmfuse.reporting import statistics
from mmfuse.reporting.scores import average, read_scores
from mmfuse.study import plan
from mmfuse.study.parameters import load_parameters
from mmfuse.study.plan import System
from mmfuse.study.stages import FUSE, PREPARE, TRAIN, complete_weights, key_of
from mmfuse.study.training_sets import training_set
from mmfuse.tracking.reading import hours_of
from mmfuse.training.checkpoints import load_method, read_weights, save_weights, weights_of
from mmfuse.weights import shipped

BASELINES = ("average", "maximum", "laplacian")
LARGEST, TOGETHER = 5_000_000, 25_000_000  # bytes of one file, and of all of them
GREY_LEVELS = 1  # by which a fused image may change
HEADER = "# Written by workflow/scripts/ship_weights.py; NAME.md describes the same weights in more detail.\n"
NEEDED = ("method", "variant", "tasks", "summary", "use", "weaknesses")
KEYS = (*NEEDED, "default", "seed", "hours", "precision")
PRECISIONS = {"half": torch.float16, "single": torch.float32}


@dataclass(frozen=True)
class Wish:
    """What to ship: a system of the study by its name, and the parts of its card that are written by hand."""

    name: str
    systems: tuple[System, ...]  # the same weights on each task
    default: tuple[str, ...]
    summary: str
    use: str
    weaknesses: tuple[str, ...]
    hours: float | None
    precision: str


def read_wishes(path: Path, parameters: Mapping[str, Any]) -> tuple[str, list[Wish]]:
    """Read the file of wishes: the name of the study's configuration, and what to ship.

    Raises:
        UserError: a key is missing or unknown, or the study does not train such a system.
    """
    content = read_yaml(path)
    if not isinstance(content, Mapping) or set(content) != {"config", "weights"}:
        raise UserError(f"{path} does not say what to ship.", expected="config and weights", found=content)
    return str(content["config"]), [
        _wish(name, block, parameters, path) for name, block in sorted(content["weights"].items())
    ]


def _wish(name: str, block: Mapping[str, Any], parameters: Mapping[str, Any], path: Path) -> Wish:
    wrong = [key for key in block if key not in KEYS]
    lacking = [key for key in NEEDED if key not in block]
    if wrong or lacking:
        raise UserError(
            f"{path}: weights.{name} is incomplete." if lacking else f"{path}: weights.{name} has an unknown key.",
            expected=", ".join(NEEDED),
            found=", ".join(wrong) or f"no {', '.join(lacking)}",
            fix=closest(wrong[0], KEYS, "remove it") if wrong else "add it",
        )
    other = next((task for task in block.get("default", ()) if task not in block["tasks"]), None)
    if other is not None:
        raise UserError(
            f"{path}: weights.{name} cannot be the default for a task that is not its own.",
            expected=", ".join(block["tasks"]),
            found=other,
        )
    precision = str(block.get("precision", "half"))
    check_choices(f"{path}: weights.{name}", {"precision": PRECISIONS}, precision=precision)
    seed = block.get("seed", parameters["study"]["seeds"][0])
    systems = tuple(System(block["method"], block["variant"], task, seed) for task in block["tasks"])
    for system in systems:
        known = [s for s in plan.systems_of(parameters, system.task) if plan.is_trained(parameters, s)]
        if system not in known:
            raise UserError(
                f"{path}: the study trains no system {system.label} for {system.task}.",
                expected=", ".join(one.label for one in known) or "a system that the study trains",
                found=f"weights.{name}",
            )
    return Wish(
        name, systems, tuple(block.get("default", ())), str(block["summary"]), str(block["use"]),
        tuple(map(str, block["weaknesses"])), block.get("hours"), precision,
    )  # fmt: skip


def checkpoint_of(parameters: Mapping[str, Any], wish: Wish) -> Path:
    """Return the weights of the last part, which must be the same file for all tasks.

    Raises:
        UserError: the study trains a separate network for each task.
    """
    files = {system.task: complete_weights(parameters, system) for system in wish.systems}
    if len(set(files.values())) != 1:
        raise UserError(
            f"{wish.name}: the study has different weights for each task.",
            expected="one training set for all tasks (`trained_on` in the variant)",
            found=", ".join(f"{task}: {file}" for task, file in files.items()),
            fix="ship them under a separate name for each task",
        )
    return Path(next(file for file in files.values() if file is not None))


def store(checkpoint: Path, precision: str, out: Path) -> int:
    """Write the tensors that inference needs, in half or single precision; return the number of trained values.

    Raises:
        UserError: a value is too large for half precision, or the file is too large to be shipped.
    """
    method, header = load_method(checkpoint)
    weights, _ = read_weights(checkpoint)
    kept = {name: weights[name] for name in weights_of(method.deployed_modules())}
    kind = PRECISIONS[precision]
    stored = {name: value.to(kind) if value.is_floating_point() else value for name, value in kept.items()}
    wrong = next((name for name, value in stored.items() if not value.isfinite().all()), None)
    if wrong is not None:
        raise UserError(
            f"{checkpoint} cannot be stored in half precision.", expected="numbers up to 65504",
            found=f"larger ones in {wrong}", fix="ship it with `precision: single`",
        )  # fmt: skip
    save_weights(out, stored, replace(header, sources={checkpoint.name: sha256(checkpoint)}))
    if out.stat().st_size > LARGEST:
        raise UserError(
            f"{checkpoint} is too large to be shipped.", expected=f"at most {LARGEST} bytes",
            found=out.stat().st_size, fix="ship a smaller network",
        )  # fmt: skip
    modules = method.deployed_modules().values()
    return sum(values.numel() for module in modules for values in module.parameters())


def agreement(stored: Path, system: System, dataset: str) -> Agreement:
    """Compare the fused images of a stored file with those of the study, in single precision, pair by pair.

    Raises:
        UserError: a pixel differs by more than one grey level.
    """
    device = best_device()
    net = for_inference(load_method(stored)[0].to(device))
    pack, largest, changed, pixels = Pack(Path(PREPARE.path("test", {"dataset": dataset}))), 0, 0, 0
    for sample in progress(pack, f"{dataset}, {system.label}", unit="pairs"):
        picture = Path(FUSE.path("folder", key_of(dataset, system))) / f"{sample['name']}.png"
        distance = np.abs(
            fuse_pair(net, sample["a"], sample["b"], device).astype(int) - read_image(picture).astype(int)
        )
        largest, changed, pixels = (
            max(largest, int(distance.max())),
            changed + int((distance > 0).sum()),
            pixels + distance.size,
        )
        if largest > GREY_LEVELS:
            raise UserError(
                f"The stored weights of {system.label} give another fused image of {sample['name']} of {dataset}.",
                expected=f"at most {GREY_LEVELS} grey level from {picture}",
                found=f"{largest} grey levels",
                fix="ship them with `precision: single`",
            )
    return Agreement(dataset, len(pack), largest, changed / pixels)


def scores_of(parameters: Mapping[str, Any], system: System, dataset: str) -> Scored:
    """Return the scores of a system and of the baselines on a dataset, with their 95 % intervals.

    Raises:
        UserError: the study has no scores of a baseline, or the scores of other fused images.
    """
    known = [one for name, one in plan.scored_pairs(parameters) if name == dataset]
    rows = [system, *(System(name, "base", system.task, 0) for name in BASELINES)]
    lacking = next((one for one in rows if one not in known), None)
    if lacking is not None:
        raise UserError(
            f"The study does not measure {lacking.label} on {dataset}.",
            expected=f"{', '.join(BASELINES)} in addition to the network",
            fix=f"add {lacking.method} to study.systems, and run the study again",
        )
    found = {}
    for one in rows:
        check_made_by(one, dataset, complete_weights(parameters, one))
        scores = read_scores(Path(), dataset, one)
        ends = statistics.interval(scores.values)
        name = "this network" if one == system else one.method
        found[name] = [
            (average(series), float(low), float(high)) for series, (low, high) in zip(scores.values, ends, strict=True)
        ]
    return Scored(dataset, len(scores.images), scores.metrics, found)


def training_of(parameters: Mapping[str, Any], wish: Wish, config: str) -> Training:
    """Return how the network was trained: the parts with their steps, the commit, and the hours of all parts.

    Raises:
        UserError: the record of a training is missing, or its duration is unknown.
    """
    system, steps, commits, hours = wish.systems[0], {}, {}, 0.0
    for part in plan.parts_of(parameters, system.method):
        key = asdict(plan.training_of(parameters, system, part))
        record = read_record(Path(TRAIN.path("record", key)), fix="run the study again")
        history = read_table(Path(TRAIN.path("history", key)), ("step",), fix="run the study again")
        steps[part] = int(history[-1]["step"])
        commit = record["commit"] or "unknown"
        commits[commit] = commits.get(commit, False) or record["dirty"]
        if wish.hours is None:
            hours += hours_of(Path.cwd(), record["mlflow"].get("run_id"))
    study = parameters["study"]["name"]
    machine = f"{record['machine'].get('processor')}, {record['machine'].get('device')}"
    total = round(hours if wish.hours is None else float(wish.hours), 2)
    known = ", ".join(f"{name} with uncommitted changes" if dirty else name for name, dirty in commits.items())
    return Training(study, config, known, total, system.seed, machine, steps)


def data_of(parameters: Mapping[str, Any], wish: Wish) -> list[shipped.Data]:
    """Return the pairs used to train and validate the network, with the licence of each dataset."""
    system, catalog, found = wish.systems[0], load_catalog(), []
    used = training_set(parameters, plan.trained_on(parameters, system.method, system.variant, system.task))
    for split, use, datasets in (("train", "training", used.train), ("val", "validation", used.val)):
        for dataset in datasets:
            table = Path(PREPARE.path("pairs", {"dataset": dataset}))
            rows = read_table(table, ("name", "split"), fix="run the study again")
            count = sum(row["split"] == split for row in rows)
            count = used.pairs.get(dataset, count) if split == "train" else count
            if count:
                # validation pairs are held back from the training pairs of the catalog, or a separate split
                found.append(shipped.Data(dataset, split, count, use, catalog[dataset].licence))
    return found


def ship(parameters: Mapping[str, Any], wish: Wish, config: str, out: Path) -> None:
    """Write the weights, the card and the index entry of one network; nothing if any check fails.

    Raises:
        UserError: a check failed; see the functions for each step.
    """
    checkpoint = checkpoint_of(parameters, wish)
    tests = [(one, dataset) for one in wish.systems for dataset in parameters["study"]["tasks"][one.task]["test"]]
    scored = [scores_of(parameters, *test) for test in tests]
    training, data = training_of(parameters, wish, config), data_of(parameters, wish)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{wish.name}.safetensors"
        count = store(checkpoint, wish.precision, file)
        agreements = [agreement(file, *test) for test in tests]
        entry = shipped.Shipped(
            wish.name, file.name, sha256(file), wish.systems[0].method, wish.systems[0].variant,
            tuple(one.task for one in wish.systems), wish.summary, tuple(data), _known(training),
            {one.dataset: one.means("this network") for one in scored},
        )  # fmt: skip
        others = sum(path.stat().st_size for path in out.glob("*.safetensors") if path.name != file.name)
        if others + file.stat().st_size > TOGETHER:
            raise UserError(
                f"{out} would be too large.", expected=f"at most {TOGETHER} bytes of weights",
                found=others + file.stat().st_size, fix="remove others, with their cards and entries",
            )  # fmt: skip
        text = card(
            entry, training, agreements, scored, wish.use, wish.weaknesses, (count, file.stat().st_size, wish.precision)
        )
        with whole_file(out / file.name) as temporary:
            shutil.copyfile(file, temporary)
    write_text(out / f"{wish.name}.md", text)
    _write_entry(entry, wish.default, out)
    print(f"{wish.name}: {out / entry.file}, sha256 {entry.sha256}")


def _known(training: Training) -> dict[str, Any]:
    return {key: value for key, value in asdict(training).items() if key != "machine"}


def _write_entry(entry: shipped.Shipped, default: Sequence[str], out: Path) -> None:
    """Put an entry into the index; it replaces an older one of the same name."""
    path = out / shipped.INDEX
    old = read_yaml(path) if path.is_file() else {"defaults": {}, "weights": {}}
    values = {key: value for key, value in asdict(entry).items() if key != "name"}
    values |= {"tasks": list(entry.tasks), "data": [dict(one) for one in values["data"]]}
    kept = {task: name for task, name in old["defaults"].items() if name != entry.name}
    content = {
        "defaults": dict(sorted((kept | dict.fromkeys(default, entry.name)).items())),
        "weights": dict(sorted((old["weights"] | {entry.name: values}).items())),
    }
    write_text(behind_link(path), HEADER + yaml.safe_dump(content, sort_keys=False, width=120, allow_unicode=True))


def main() -> None:
    """Ship the weights named in a file of wishes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wishes", type=Path, help="YAML file that lists what to ship")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="the study's parameters")
    parser.add_argument("--out", type=Path, default=shipped.FOLDER, help="folder of the shipped weights")
    asked = parser.parse_args()
    try:
        parameters = load_parameters(asked.params)
        torch.set_num_threads(parameters["fuse"]["threads"])
        config, wishes = read_wishes(asked.wishes, parameters)
        for wish in wishes:
            ship(parameters, wish, config, asked.out)
    except MmfuseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

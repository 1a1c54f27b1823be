"""The study's parameters: `params.yaml`, checked against its schema."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from mmfuse import methods
from mmfuse.errors import UserError, unknown_name
from mmfuse.files.reading import read_yaml
from mmfuse.files.schema import check_against_schema
from mmfuse.metrics import resolve_names
from mmfuse.study import plan
from mmfuse.study.code_lists import PACKAGE
from mmfuse.study.set_checks import check_sets, check_weights
from mmfuse.study.settings import place
from mmfuse.study.types import Parameters

SCHEMA = Path("workflow/schemas/params.schema.yaml")
FORBIDDEN_KEYS = {"size", "nfiles"}  # DVC omits nested keys of these names from its run cache (DVC issue 10296)


def project_root(start: Path) -> Path:
    """Return the nearest folder at or above `start` that holds the workflow's schemas.

    Raises:
        UserError: there is none.
    """
    start = start.resolve()
    for folder in (start, *start.parents):
        if (folder / SCHEMA).is_file():
            return folder
    raise UserError(
        f"No mmfuse project at {start}.",
        expected=f"a folder with {SCHEMA}",
        fix="run the command in the project's root",
    )


def load_parameters(path: Path, root: Path | None = None) -> Parameters:
    """Read and check the study's parameters.

    Args:
        path: The file.
        root: The project's root; by default, the one at or above the file.

    Raises:
        UserError: a key is unknown, missing or of the wrong kind, or the study names something that does not exist.
    """
    values = read_yaml(path)
    root = root or project_root(path.parent)
    schema = read_yaml(root / SCHEMA)
    _check_keys(values, path)
    check_against_schema(values, schema, str(path), path)
    _check_methods(values, schema, path)
    _check_study(values, path)
    check_sets(values, path, root)
    check_weights(values, path, root)
    _check_evaluated(values, path)
    _check_prepared(values, path)
    _check_analyses(values, path)
    _check_sweeps(values, path)
    _check_published(values, path)
    _check_downstream(values, path)
    return cast(Parameters, values)


def _check_keys(value: Any, path: Path, where: str = "") -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{path}: {where.rstrip('.')} is not a finite number.", found=value, fix="give a finite number")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise UserError(f"{path}: {where.rstrip('.')} is too large.", expected="less than 2 to the power of 63")
    if isinstance(value, list):
        for number, inner in enumerate(value):
            _check_keys(inner, path, f"{where}{number}.")
    if not isinstance(value, Mapping):
        return
    for key, inner in value.items():
        if not isinstance(key, str):
            raise UserError(
                f"{path}: a key in {where.rstrip('.') or '(top level)'} is not text.",
                expected="text",
                found=f"{key!r}, a {type(key).__name__}",
                fix="write it in quotes",
            )
        if key in FORBIDDEN_KEYS:
            raise UserError(
                f"{path}: no parameter may be called {key!r} ({where}{key}).",
                found=key,
                fix="rename it: DVC omits parameters of that name from its cache key and reuses stale results",
            )
        _check_keys(inner, path, f"{where}{key}.")


def _check_study(values: Parameters, path: Path) -> None:
    """Check the names of the study: methods, their variants and tasks."""
    named = Counter((e["method"], e["variant"], task) for e in values["study"]["systems"] for task in e["tasks"])
    twice = [f"{method}.{variant} for {task}" for (method, variant, task), count in named.items() if count > 1]
    if twice:
        raise UserError(
            f"{path}: study.systems names a system twice.", expected="each system once for a task",
            found=", ".join(twice), fix="remove one of the entries; seeds are in study.seeds",
        )  # fmt: skip
    for entry in values["study"]["systems"]:
        _check_name(entry["method"], f"{path}: study.systems")
        plan.settings_of(values, entry["method"], entry["variant"])  # refuses an unknown one
        for task in entry["tasks"]:
            if task not in values["study"]["tasks"]:
                raise UserError(
                    f"{path}: study.systems names the task {task!r}, which is not in study.tasks.",
                    expected=", ".join(values["study"]["tasks"]),
                    found=task,
                )
    tested = [name for task in values["study"]["tasks"].values() for name in task["test"]]
    for method, datasets in (values["study"].get("external") or {}).items():
        unknown = next((name for name in datasets if name not in tested), None)
        if unknown is not None:
            raise UserError(
                f"{path}: study.external.{method} names {unknown!r}, which is not a test dataset of the study.",
                expected=", ".join(tested),
                found=unknown,
            )


def _check_evaluated(values: Parameters, path: Path) -> None:
    """Check the names of metrics and conventions under `evaluate`."""
    block = values["evaluate"]
    try:
        resolve_names(block["convention"], block["metrics"], block["beside"])
    except UserError as error:
        problem = f"{path}: evaluate: {error.problem}"
        raise UserError(problem, expected=error.expected, found=error.found, fix=error.fix) from error


def _check_prepared(values: Parameters, path: Path) -> None:
    """Check the names of the datasets under `prepare.subset` and `prepare.val_pairs`."""
    known = plan.datasets_of(values)
    prepare = values["prepare"]
    for block, named in {"subset": prepare.get("subset"), "val_pairs": prepare.get("val_pairs")}.items():
        other = next((dataset for dataset in named or () if dataset not in known), None)
        if other is not None:
            problem = f"{path}: prepare.{block} names a dataset that is not part of the study."
            raise unknown_name(problem, other, known, "remove it")


def _check_analyses(values: Parameters, path: Path) -> None:
    """Check the names in the block `analyse`: analyses, datasets and systems of the study."""
    for name, block in values.get("analyse", {}).items():
        if not (PACKAGE / "analyses" / f"{name}.py").is_file():
            raise UserError(f"{path}: there is no analysis {name!r}.", found=name, fix="see `mmfuse list analyses`")
        for dataset in block["datasets"]:
            task = plan.task_of(values, dataset)
            # networks, trained here or given with their weights
            known = {
                (s.method, s.variant)
                for s in plan.systems_of(values, task)
                if plan.is_trained(values, s) or plan.given_weights(values, s)
            }
            other = next((e for e in block["systems"] if (e["method"], e["variant"]) not in known), None)
            if other is not None or dataset not in values["study"]["tasks"][task]["test"]:
                raise UserError(
                    f"{path}: analyse.{name} names a dataset or system that the study cannot analyse.",
                    expected=f"test datasets of the study, and for {dataset} "
                    + (", ".join(sorted(f"{method}.{variant}" for method, variant in known)) or "no system"),
                    found=dataset if other is None else f"{other['method']}.{other['variant']}",
                )


def _check_sweeps(values: Parameters, path: Path) -> None:
    """Check the names under `report.sweeps`: variants that the study measures, metrics, and the option for x."""
    for entry in values["report"].get("sweeps", []):
        known = [s["variant"] for s in values["study"]["systems"] if s["method"] == entry["method"]]
        variants = [variant for line in entry["lines"].values() for variant in line]
        other = next((variant for variant in variants if variant not in known), None)
        if other is not None:
            raise UserError(
                f"{path}: report.sweeps names {entry['method']}.{other}, which the study does not measure.",
                expected=", ".join(known) or "a method of study.systems",
                found=other,
                fix="add it to study.systems, or remove it from the sweep",
            )
        metric = next((name for name in entry["metrics"] if name not in values["evaluate"]["metrics"]), None)
        if metric is not None:
            raise UserError(
                f"{path}: report.sweeps names the metric {metric!r}, which the study does not measure.",
                expected=", ".join(values["evaluate"]["metrics"]),
                found=metric,
            )
        for variant in variants:
            place(values, entry["method"], variant, entry["x"])


def _check_published(values: Parameters, path: Path) -> None:
    """Check the names under `report.published`: test datasets and systems, or a protocol and its image sets."""
    scored = [(dataset, f"{s.method}.{s.variant}") for dataset, s in plan.scored_pairs(values)]
    for entry in values["report"].get("published", []):
        kinds = [key for key in ("datasets", "protocol") if key in entry]
        misplaced = [key for key in ("classes", "means") if key in entry and "protocol" not in entry]
        if len(kinds) != 1 or misplaced:
            raise UserError(
                f"{path}: report.published, Table {entry['table']} of {entry['paper']}: "
                "it needs either `datasets` or `protocol`.",
                expected="`datasets` for scores, or `protocol` (optionally with `classes` and `means`) for detectors "
                "and segmenters",
                found=", ".join([*kinds, *misplaced]) or "neither",
            )
        if "protocol" in entry:
            protocol = plan.protocols(values).get(entry["protocol"])
            _check_rows(entry, protocol["sets"] if protocol else [], path)
        for dataset in entry.get("datasets", []):
            _check_rows(entry, [system for name, system in scored if name == dataset], path, dataset)
        _check_claims(entry, path)


def _check_claims(entry: Mapping[str, Any], path: Path) -> None:
    """Check that each claim of a table has its own row, and that `base` of the same method has one, too."""
    rows = {} if "protocol" in entry else entry["rows"]
    for row in entry.get("claims", {}):
        method, _, variant = rows.get(row, "").partition(".")
        if variant in {"", "base"} or f"{method}.base" not in rows.values():
            raise UserError(
                f"{path}: report.published, Table {entry['table']} of {entry['paper']}: a claim cannot be checked.",
                expected="a variant under `rows`, and `base` of the same method under `rows`, too",
                found=f"{row}: {rows.get(row, 'no such row')}",
            )


def _check_rows(entry: Mapping[str, Any], measured: Sequence[str], path: Path, dataset: str = "") -> None:
    """Check that a paper's table names only what the study measures."""
    known = list(dict.fromkeys(measured))
    other = next((system for system in entry["rows"].values() if system not in known), None)
    if other is not None or not known:
        where = dataset or entry["protocol"]
        raise UserError(
            f"{path}: report.published names a result that the study does not measure on {where}.",
            expected=", ".join(known)
            or ("a test dataset of the study" if dataset else "a protocol under `downstream`"),
            found=other if known else where,
            fix="add it to the study, or remove it from the table",
        )


def _check_downstream(values: Parameters, path: Path) -> None:
    """Check the names under `downstream`: a dataset of the study, and image sets that the study can produce."""
    for name, block in plan.protocols(values).items():
        if block["dataset"] not in plan.datasets_of(values):
            raise UserError(
                f"{path}: downstream.{name}.dataset is not a dataset of the study.",
                expected=", ".join(plan.datasets_of(values)),
                found=block["dataset"],
            )
        if (block["goal"] == "segment") != ("unlabelled" in block):
            raise UserError(
                f"{path}: downstream.{name}: `unlabelled` is required for segment, and only allowed there.",
                expected="unlabelled: class or unlabelled: ignore" if block["goal"] == "segment" else "no such key",
                found=block.get("unlabelled", "no such key"),
            )
        task = plan.task_of(values, block["dataset"])
        systems = [*plan.systems_of(values, task), *plan.external_systems(values, task, block["dataset"])]
        known = [*plan.MODALITIES, *dict.fromkeys(f"{system.method}.{system.variant}" for system in systems)]
        unknown = next((image_set for image_set in block["sets"] if image_set not in known), None)
        if unknown is not None:
            raise UserError(
                f"{path}: downstream.{name}.sets names {unknown!r}, which the study lacks on {block['dataset']}.",
                expected=", ".join(known),
                found=unknown,
                fix="add the system to study.systems, or remove it from the sets",
            )


def _check_name(method: str, what: str) -> None:
    if method not in methods.available():
        problem = f"{what} names the method {method!r}, which does not exist."
        raise unknown_name(problem, method, methods.available(), "see `mmfuse list methods`")


def _check_methods(values: Parameters, schema: Mapping[str, Any], path: Path) -> None:
    """Check each method's block with each variant applied, so that no misspelt change is silently ignored."""
    one = {"$ref": "#/$defs/method", "$defs": schema["$defs"]}
    for method, block in values["methods"].items():
        _check_name(method, f"{path}: methods")
        for variant in block.get("variants", {"base": {}}):
            if variant == plan.EXTERNAL:
                raise UserError(
                    f"{path}: no variant may be called {variant!r} (methods.{method}).",
                    found=variant,
                    fix="rename it: this name is reserved for images that were fused elsewhere",
                )
            what = f"{path}: methods.{method}, variant {variant}"
            settings = plan.settings_of(values, method, variant)
            check_against_schema(settings, one, what)
            for part, chosen in settings.get("parts", {}).items():
                _check_patches(values, part, chosen["patches"], what)
                _check_turns(part, chosen, what)
            _check_moments(settings.get("parts", {}), what)


def _check_moments(parts: Mapping[str, Any], what: str) -> None:
    """Check that moments to be continued were kept by the previous part, and belong to its weights."""
    before: Mapping[str, Any] = {}
    for part, chosen in parts.items():
        if chosen.get("keep_moments") and (chosen.get("weights", "best") != "last" or "averaging" in chosen):
            averaged = ", averaging" if "averaging" in chosen else ""
            raise UserError(
                f"{what}: parts.{part} keeps moments that do not belong to its weights.",
                expected="`weights: last` and no `averaging` with `keep_moments: true`",
                found=f"weights: {chosen.get('weights', 'best')}{averaged}",
            )
        if chosen.get("moments") == "continued" and not before.get("keep_moments"):
            raise UserError(
                f"{what}: parts.{part} continues moments that the previous part does not keep.",
                expected="`keep_moments: true` in the previous part",
                found="no previous part" if not before else "no keep_moments there",
                fix="set it there, or set `moments: fresh`",
            )
        before = chosen


def _check_turns(part: str, chosen: Mapping[str, Any], what: str) -> None:
    crop = chosen["crop"]
    if chosen.get("quarter_turns") and crop["height"] != crop["width"]:
        raise UserError(
            f"{what}: parts.{part} has `quarter_turns`, but its crops are not square.",
            expected="equal crop.height and crop.width with `quarter_turns: true`",
            found=f"{crop['height']} x {crop['width']}",
        )


def _check_patches(values: Parameters, part: str, patches: str, what: str) -> None:
    if patches != "whole" and patches not in values["prepare"]["patches"]:
        raise UserError(
            f"{what}: parts.{part}.patches is not a patch set.",
            expected=", ".join(["whole", *values["prepare"]["patches"]]),
            found=patches,
        )


def pick(values: Mapping[str, object], key: str, files: dict[str, Any] | None = None) -> Any:
    """Return the value of a dotted key, such as `prepare.patches.square` or `data/catalog.yaml:datasets.msrs`.

    Args:
        values: The study's parameters.
        key: Dotted key; FILE:KEY looks into another YAML file.
        files: Files already read; new ones are added to it.

    Raises:
        UserError: there is no such key.
    """
    file, _, path = key.rpartition(":")
    if file:
        files = {} if files is None else files
        values = files[file] if file in files else files.setdefault(file, read_yaml(Path(file)))
    found: Any = values
    for step in path.split("."):
        if not isinstance(found, Mapping) or step not in found:
            raise UserError(f"There is no parameter {key!r}.", fix="add it to params.yaml, as in workflow/configs")
        found = found[step]
    return found


def pick_all(values: Mapping[str, object], keys: Iterable[str], files: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the values of several dotted keys; `files` as in `pick`."""
    files = {} if files is None else files
    return {key: pick(values, key, files) for key in keys}


def flatten(values: Mapping[str, object], prefix: str = "", separator: str = ".") -> dict[str, Any]:
    """Return nested values as one level of keys, by default dotted ones."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}{separator}", separator)
        else:
            flat[f"{prefix}{key}"] = value
    return flat

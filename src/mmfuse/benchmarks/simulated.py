"""A simulated study of any size: all files that the engines and the report read, with random numbers as results.

Its parameters are the demo's with one trained method in many variants, on many copies of one dataset in the catalog.
"""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from mmfuse.data.images import write_image
from mmfuse.data.packs import write_pack
from mmfuse.errors import UserError
from mmfuse.files.reading import read_yaml
from mmfuse.files.writing import checksum, csv_text
from mmfuse.study import plan
from mmfuse.study.plan import System
from mmfuse.study.stages import DOWNLOAD, EVALUATE, FUSE, PREPARE, TRAIN, jobs_of, key_of

METHOD, DATASET = "mma_unet", "synthetic_road"
DEMO = Path("workflow/configs/demo.yaml")
PROJECT = (
    "Snakefile", "profiles", "workflow", "src", "envs", ".dvc/config", ".dvcignore", ".gitignore", "data/published.csv",
)  # fmt: skip
_SIDE, _SHOWN = 16, 2  # side of the images; pairs in the viewer


class Size(NamedTuple):
    """Size of a study: test pairs of each dataset, systems (variants of a method), datasets."""

    pairs: int
    systems: int
    datasets: int


def parameters(size: Size, root: Path) -> dict[str, Any]:
    """Return the parameters of a study of the given size, based on the demo of the project in `root`."""
    values: dict[str, Any] = read_yaml(root / DEMO)
    names = [f"simulated_{number:03d}" for number in range(size.datasets)]
    method = values["methods"][METHOD]
    changes = {f"v{n:03d}": {"parts": {"fusion": {"loss": {"detail": float(n)}}}} for n in range(1, size.systems)}
    method["variants"] = {"base": {}, **changes}
    values["study"] |= {
        "name": "simulated",
        "tasks": {"ivif": {"train": names[:1], "test": names}},
        "systems": [{"method": METHOD, "variant": variant, "tasks": ["ivif"]} for variant in method["variants"]],
    }
    values["generate"] = {name: {**values["generate"][DATASET], "test": size.pairs} for name in names}
    values["methods"] = {METHOD: method}
    values["report"] |= {"images": 1, "patch": 8, "viewer": {"pairs": _SHOWN, "seeds": "first"}}
    values["prepare"].pop("subset", None)
    return values | {"analyse": {}, "downstream": {}}


def catalog(size: Size, root: Path) -> dict[str, Any]:
    """Return a catalog with the required number of copies of one entry."""
    entry = read_yaml(root / "data/catalog.yaml")["datasets"][DATASET]
    return {"datasets": {f"simulated_{number:03d}": copy.deepcopy(entry) for number in range(size.datasets)}}


def make_texts(size: Size, root: Path, folder: Path) -> None:
    """Write `params.yaml` and the catalog of a study, and the other files of the project in `root` that engines read.

    Raises:
        UserError: `root` is not the root of a project.
    """
    for name in PROJECT:
        source, target = root / name, folder / name
        if not source.exists():
            raise UserError(
                "This is not the root of an mmfuse project.", expected=name, found=f"no such file in {root}"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    for path, values in (("params.yaml", parameters(size, root)), ("data/catalog.yaml", catalog(size, root))):
        (folder / path).write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)  # DVC needs a repository


def make_pairs(size: Size, folder: Path) -> None:
    """Write the files of the pairs in the layout of the catalog; their contents are not used."""
    for room in ("infrared", "visible", "mask", "boxes"):
        place = folder / DOWNLOAD.folder / "simulated_000" / "test" / room
        place.mkdir(parents=True)
        for name in _names(size.pairs):
            (place / f"{name}{'.txt' if room == 'boxes' else '.png'}").touch()


def make_results(size: Size, folder: Path) -> None:
    """Write everything that the report reads: packs, fused images that it shows, scores, histories and records."""
    from mmfuse.reporting import cases
    from mmfuse.reporting.study import read_groups

    values = read_yaml(folder / "params.yaml")
    random = np.random.default_rng(0)
    names, metrics = list(_names(size.pairs)), _metrics(values)
    datasets = plan.datasets_of(values)
    for dataset in datasets:
        room = (folder / PREPARE.path("test", {"dataset": dataset})).parent
        pixels = random.integers(0, 256, (2, _SIDE, _SIDE), dtype=np.uint8)
        write_pack(room / "test.safetensors", ({"name": name, "a": pixels[0], "b": pixels[1]} for name in names))
        lines = ["name,split,height,width,a,b", *(f"{name},test,{_SIDE},{_SIDE},a,b" for name in names)]
        (room / "pairs.csv").write_text("\n".join(lines), encoding="utf-8")
    for training in plan.trainings(values):
        history = folder / TRAIN.path("history", asdict(training))
        history.parent.mkdir(parents=True, exist_ok=True)
        rows = [f"{step},0.1,{1 / step},{1 / step if step % 5 == 0 else ''}" for step in range(1, 21)]
        history.write_text("\n".join(["step,lr,train/total,val/total", *rows]), encoding="utf-8")
    for dataset, system in plan.scored_pairs(values):
        _write_scores((folder / EVALUATE.path("table", key_of(dataset, system))).parent, names, metrics, system, random)
    linked = cases.pairs(values, read_groups(values, folder))
    for dataset, system in plan.scored_pairs(values):
        fused = folder / FUSE.path("folder", key_of(dataset, system))
        for name in _shown(values, dataset, names, linked.get(dataset, [])):
            write_image(fused / f"{name}.png", random.integers(0, 256, (_SIDE, _SIDE), dtype=np.uint8))
    for stage, key in jobs_of(values):
        outputs = {path: _checksum(folder / path) for path in stage.written(key).values()}
        _write_record(folder / stage.path("record", key), outputs)


def _names(count: int) -> Iterator[str]:
    return (f"{number:06d}" for number in range(count))


def _shown(values: dict[str, Any], dataset: str, names: list[str], linked: list[str]) -> Iterable[str]:
    from mmfuse.reporting import pictures, viewer

    pairs = viewer.pairs(values["report"], dataset, names, linked).values()
    return dict.fromkeys([*pairs, *pictures.chosen(values["report"]["images"], dataset, names)])


def _metrics(values: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Return the summary of each metric of the study, except for its mean."""
    from mmfuse.metrics import resolve

    block = values["evaluate"]
    found = resolve(block["convention"], block["metrics"], block["beside"])
    return {
        name: {
            "convention": name.partition(".")[2] or block["convention"],
            "definition": metric.name,
            "better": metric.card.better,
        }
        for name, metric in found.items()
    }


def _write_scores(
    folder: Path, names: list[str], metrics: dict[str, dict[str, str]], system: System, random: np.random.Generator
) -> None:
    """Write random scores in the format of the stage `evaluate`; systems differ less than images do."""
    folder.mkdir(parents=True, exist_ok=True)
    values = random.normal(5 + random.normal(0, 0.1), 1, (len(names), len(metrics)))
    lines = [[name, *row] for name, row in zip(names, values.tolist(), strict=True)]
    (folder / f"{system.label}.csv").write_text(csv_text([["name", *metrics], *lines]), encoding="utf-8")
    means = {
        name: {**known, "mean": float(mean)}
        for (name, known), mean in zip(metrics.items(), values.mean(0), strict=True)
    }
    summary = {"convention": "lkc_funet", "images": len(names), "metrics": means}
    (folder / f"{system.label}.json").write_text(json.dumps(summary), encoding="utf-8")


def _checksum(path: Path) -> str:
    """Return the checksum of a simulated result; of one that is left out, any."""
    return checksum(path) if path.exists() else "0" * 64


def _write_record(target: Path, outputs: dict[str, str]) -> None:
    """Write a record of typical length."""
    record = {
        "command": "mmfuse stage simulated",
        "inputs": {f"src/mmfuse/module_{number}.py": "0" * 64 for number in range(30)},
        "outputs": outputs,
        "parameters": {"simulated": {"steps": 1, "batch": 2, "rate": 0.1}},
        "versions": {"python": "3.11"},
        "commit": "0" * 40,
        "dirty": False,
        "seed": 0,
        "machine": {"system": "Linux", "processor": "simulated", "cores": 1, "device": "cpu"},
        "mlflow": {"uri": "", "experiment": "simulated", "run_id": "0" * 32},
        "measured": {"seconds_per_image": 0.1, "parameters": 1000, "width": _SIDE, "height": _SIDE},
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(record), encoding="utf-8")

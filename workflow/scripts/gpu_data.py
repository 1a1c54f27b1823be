"""The data of a check on a GPU: one small folder with the required pairs and the study's parameters.

The folder has `packs.zip` (DATASET/train.safetensors and DATASET/test.safetensors, reduced to the required pairs),
`params.yaml`, `data.json` (the content of the packs) and, if available, the expected values of the published networks
(`golden`) and the pair of MSRS that a test uses (`mirror`).
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmfuse.data.catalog import dataset as catalog_entry
from mmfuse.data.origins import mirror_of
from mmfuse.data.packs import Pack, spread, write_pack
from mmfuse.errors import UserError
from mmfuse.files.writing import files_below, sha256, write_json
from mmfuse.scenes import synthetic_brain
from mmfuse.stages import download, prepare
from mmfuse.study import plan
from mmfuse.study.parameters import load_parameters
from mmfuse.study.training_sets import TrainingSet, training_set

METHOD, VARIANT, TASK = "lkc_funet", "base", "mif"
MSRS_PAIR = "msrs/test/{kind}/00537D.png"
DRAWN = {"seed": 0, "height": 64, "width": 64, "train": 12, "val": 0, "test": 6}  # kinds in turn


def used_set(parameters: Mapping[str, Any]) -> TrainingSet:
    """Return the training set of the medical network."""
    return training_set(parameters, plan.trained_on(parameters, METHOD, VARIANT, TASK))


def write_folder(out: Path, *, params: Path, drawn: bool, golden: Path) -> dict[str, Any]:
    """Download and prepare the pairs with the study's own stages and write the folder; return its content.

    Args:
        out: The folder; its previous content is replaced.
        params: The study's parameters.
        drawn: Generate small synthetic pairs instead, which need neither a mirror nor a network.
        golden: Folder of the expected values of the published networks; may be missing.

    Raises:
        UserError: the folder contains something else, or the pairs are not available.
    """
    parameters = load_parameters(params)
    source = mirror_of(parameters["download"]["mirror"])
    if out.is_dir() and any(out.iterdir()) and not (out / "data.json").is_file():
        raise UserError(
            f"{out} contains something else.",
            expected="a new folder, or one that `prepare` wrote",
            found=", ".join(sorted(path.name for path in out.iterdir())[:5]),
            fix="choose another folder for --out",
        )
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        packs = list(_drawn_packs(parameters, room) if drawn else _real_packs(parameters, room, source))
        with zipfile.ZipFile(out / "packs.zip", "w", zipfile.ZIP_LZMA) as archive:
            for path in packs:
                archive.write(path, f"{path.parent.name}/{path.name}")
        held = {
            "drawn": drawn,
            "training set": used_set(parameters).name,
            "pairs": {f"{path.parent.name}/{path.stem}": len(Pack(path)) for path in packs},
            "sha256": {f"{path.parent.name}/{path.stem}": sha256(path) for path in packs},
        }
    _copy(params, out / "params.yaml")
    if golden.is_dir():
        for path in files_below(golden):
            _copy(path, out / "golden/networks" / path.relative_to(golden))
    for kind in ("ir", "vi"):
        image = MSRS_PAIR.format(kind=kind)
        if source is not None and (source / image).is_file():
            _copy(source / image, out / "mirror" / image)
    write_json(out / "data.json", held)
    return held


def _copy(source: Path, target: Path) -> None:
    """Copy a file without its permissions."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _real_packs(parameters: Mapping[str, Any], room: Path, mirror: Path | None) -> Iterator[Path]:
    """Yield the reduced packs of the training set and of the task's test sets."""
    used, block = used_set(parameters), parameters["prepare"]
    tested = parameters["study"]["tasks"][TASK]["test"]
    for dataset in dict.fromkeys([*used.train, *tested]):
        entry, raw, whole = catalog_entry(dataset), room / "raw" / dataset, room / "whole" / dataset
        download.obtain(entry, out=raw, mirror=mirror, generate=None)
        prepare.run(
            entry,
            raw=raw,
            out=whole,
            val_fraction=block["val_fraction"],
            val_pairs=block.get("val_pairs", {}).get(dataset),
            skip_broken=block["skip_broken"],
            subset=block.get("subset", {}).get(dataset),
        )
        if dataset in used.train:
            yield _reduced(whole / "train.safetensors", room, used.pairs.get(dataset))
        if dataset in tested:
            yield _reduced(whole / "test.safetensors", room, None)


def _reduced(path: Path, room: Path, count: int | None) -> Path:
    """Write a pack of those pairs of another pack that a training uses; all of them if `count` is None."""
    pack = Pack(path)
    chosen = set(pack.names if count is None else spread(pack.names, count, str(path), "the training set"))
    target = room / "packs" / path.parent.name / path.name
    write_pack(target, (sample for sample in pack if sample["name"] in chosen))
    return target


def _drawn_packs(parameters: Mapping[str, Any], room: Path) -> Iterator[Path]:
    """Yield packs of synthetic pairs named after the study's sets, whose kinds of image they imitate."""
    entry = catalog_entry("synthetic_brain")
    synthetic_brain.generate(room / "raw", **DRAWN)
    prepare.run(entry, raw=room / "raw", out=room / "whole", val_fraction=0.0, skip_broken=False)
    for dataset in parameters["study"]["tasks"][TASK]["test"]:
        kind = dataset.split("_")[1]  # harvard_KIND_mri
        for split in ("train", "test"):
            target = room / "packs" / dataset / f"{split}.safetensors"
            write_pack(target, (s for s in Pack(room / "whole" / f"{split}.safetensors") if s["name"].startswith(kind)))
            yield target


def unpack(folder: Path, target: Path, *, test_pairs: int | None = None) -> dict[str, Any]:
    """Unpack the packs of a folder and return its data.json.

    Args:
        folder: A folder that `write_folder` wrote.
        target: Folder for the packs, as TARGET/DATASET/SPLIT.safetensors.
        test_pairs: Number of test pairs to keep of each set; None for all.

    Raises:
        UserError: the folder is not such a folder, or a pack is damaged.
    """
    try:
        held: dict[str, Any] = json.loads((folder / "data.json").read_text(encoding="utf-8"))
        with zipfile.ZipFile(folder / "packs.zip") as archive:
            archive.extractall(target)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"There is no data for a check in {folder}.",
            expected="packs.zip and data.json",
            found=error,
            fix="write the folder with `gpu_check.py prepare --out FOLDER` on a machine with the data",
        ) from error
    for name, digest in held["sha256"].items():
        path = target / f"{name}.safetensors"
        if sha256(path) != digest:
            raise UserError(f"{path} is damaged.", expected=digest, found=sha256(path), fix="copy the folder again")
        if path.stem == "test" and test_pairs is not None:
            pack = Pack(path)
            write_pack(path, (pack[number] for number in range(min(test_pairs, len(pack)))))
    return held


def size_in_megabytes(folder: Path) -> float:
    """Return the size of a folder."""
    return sum(path.stat().st_size for path in files_below(folder)) / 1e6

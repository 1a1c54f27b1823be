"""Stage `divide`: training, validation and test folds of the labelled pairs of one protocol; it checks their labels."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmfuse.data.catalog import Dataset
from mmfuse.data.catalog import dataset as catalog_entry
from mmfuse.data.packs import Pack
from mmfuse.downstream.folds import FOLDS, divide
from mmfuse.downstream.labels import check_labels
from mmfuse.files.reading import read_table
from mmfuse.files.writing import csv_text, write_text
from mmfuse.pipeline.jobs import Work
from mmfuse.words import number_of


def work(job: Work) -> None:
    """Run one job of the stage."""
    block = job.parameters["downstream"][job.key["protocol"]]
    run(
        catalog_entry(job.key["dataset"]),
        goal=block["goal"],
        pack=job.read("pack"),
        out=job.outputs["folds"],
        splits=block["splits"],
        division={**block["division"]},
    )


def run(
    dataset: Dataset, *, goal: str, pack: Path, out: Path, splits: Collection[str], division: Mapping[str, Any]
) -> None:
    """Write OUT: name, scene, fold and checksum of each pair.

    The checksum covers pixels and labels, so that a published file of folds shows whether others have the same data.

    Args:
        dataset: The catalog's entry.
        goal: `detect` or `segment`.
        pack: data/prepared/DATASET/labelled.safetensors.
        out: data/prepared/DATASET/folds.PROTOCOL.csv.
        splits: Splits of the catalog that this protocol uses.
        division: Rule of the division; see `mmfuse.downstream.folds`.

    Raises:
        UserError: labels cannot be used, or no pairs are left for training or testing.
    """
    labelled = Pack(pack)
    rows = read_table(pack.with_suffix(".csv"), ("name", "split"), fix="run the stage `label` again")
    names = {row["name"]: row["split"] for row in rows if row["split"] in splits}
    check_labels(dataset, goal, labelled, list(names))
    folds = divide(names, division)
    kept = (sample for sample in labelled if sample["name"] in folds)
    lines = [[sample["name"], *folds[sample["name"]], _checksum(sample)] for sample in kept]
    write_text(out, csv_text([["name", "scene", "fold", "sha256"], *lines]))
    counts = {fold: sum(one == fold for _, one in folds.values()) for fold in FOLDS}
    scenes = len({scene for scene, _ in folds.values()})
    print(
        f"{dataset.name}: "
        + ", ".join(f"{count} {fold}" for fold, count in counts.items())
        + f", {number_of(scenes, 'scene')}"
    )


def _checksum(sample: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for key in ("a", "b", "mask", "boxes"):
        if key in sample:
            digest.update(f"{key} {sample[key].shape} {sample[key].dtype}\n".encode())
            digest.update(np.ascontiguousarray(sample[key]).tobytes())
    return digest.hexdigest()

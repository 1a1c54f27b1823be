"""Stage `label`: the labelled pairs of one dataset in one pack, in colour, for detectors and segmenters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from mmfuse.data.catalog import Dataset
from mmfuse.data.catalog import dataset as catalog_entry
from mmfuse.data.packs import pack_writer
from mmfuse.data.reading import find_pairs, read_pairs
from mmfuse.errors import UserError, first_of
from mmfuse.files.writing import write_text
from mmfuse.pipeline.jobs import Work
from mmfuse.study.plan import protocols
from mmfuse.words import number_of


def work(job: Work) -> None:
    """Run one job of the stage."""
    name = job.key["dataset"]
    run(
        catalog_entry(name),
        raw=job.read("raw"),
        out=job.outputs["pack"],
        splits=sorted({split for block in protocols(job.parameters, name).values() for split in block["splits"]}),
        skip_broken=job.parameters["prepare"]["skip_broken"],
    )


def run(dataset: Dataset, *, raw: Path, out: Path, splits: Collection[str], skip_broken: bool) -> None:
    """Write OUT, a pack of all pairs of some of the catalog's splits, and OUT's .csv with name and split of each pair.

    Pairs keep their names; if two of the splits share a name, the split is prepended.

    Args:
        dataset: The catalog's entry.
        raw: data/raw/DATASET.
        out: data/prepared/DATASET/labelled.safetensors.
        splits: Splits to include.
        skip_broken: Whether to leave out pairs that cannot be used.

    Raises:
        UserError: a pair lacks an image or a file is damaged, unless `skip_broken`; or there are no pairs.
    """
    found = find_pairs(dataset, raw)
    found.warn(dataset.name)
    pairs = [files for files in found.pairs if files.split in splits]
    often, problems = Counter(files.name for files in pairs), list(found.problems)
    rows: list[dict[str, str]] = []
    with pack_writer(out) as add:
        for files, sample in read_pairs(dataset, pairs, "labelled", problems):
            sample["name"] = f"{files.split}_{files.name}" if often[files.name] > 1 else files.name
            add(sample)
            rows.append({"name": sample["name"], "split": files.split})
        if (problems and not skip_broken) or not rows:
            raise UserError(
                f"Labelled pairs of {dataset.name} cannot be used.",
                expected=f"pairs in {', '.join(splits)}, with both images, readable and of one size",
                found=first_of(problems) or "no pair",
                fix=f"replace them in data/manual/{dataset.name}, or at their source and delete {raw}; or "
                "set prepare.skip_broken to true to leave them out",
            )
    write_text(out.with_suffix(".csv"), pd.DataFrame(rows).to_csv(index=False))
    print(f"{dataset.name}: {number_of(len(rows), 'labelled pair')}, {len(problems)} left out")

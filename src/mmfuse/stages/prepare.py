"""Stage `prepare`: pairs matched by name, one size, luminance, recorded splits, one pack for each split."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import pandas as pd

from mmfuse.data.catalog import Dataset
from mmfuse.data.catalog import dataset as catalog_entry
from mmfuse.data.images import luminance
from mmfuse.data.packs import Sample, pack_writer, spread
from mmfuse.data.reading import Files, find_pairs, read_pairs
from mmfuse.errors import UserError, first_of
from mmfuse.files.writing import write_text
from mmfuse.pipeline.jobs import Work
from mmfuse.words import number_of

SPLITS = ("train", "val", "test")


def work(job: Work) -> None:
    """Run one job of the stage."""
    name, block = job.key["dataset"], job.parameters["prepare"]
    run(
        catalog_entry(name),
        raw=job.read("raw"),
        out=job.outputs["pairs"].parent,
        val_fraction=block["val_fraction"],
        val_pairs=block.get("val_pairs", {}).get(name),
        skip_broken=block["skip_broken"],
        subset=cast("dict[str, int] | None", (block.get("subset") or {}).get(name)),
    )


def run(
    dataset: Dataset,
    *,
    raw: Path,
    out: Path,
    val_fraction: float,
    skip_broken: bool,
    val_pairs: int | None = None,
    subset: Mapping[str, int] | None = None,
) -> None:
    """Write data/prepared/DATASET: {train,val,test}.safetensors and pairs.csv.

    Train and val contain luminance; test keeps colour, because results are shown and compared in colour. A dataset
    without its own val split gives a fixed share or number of its training pairs, chosen by the checksum of their
    names, so that the choice hardly changes when pairs are added.

    Args:
        dataset: The catalog's entry.
        raw: data/raw/DATASET.
        out: data/prepared/DATASET.
        val_fraction: Share of the training pairs for validation, in [0, 1).
        skip_broken: Whether to leave out pairs that cannot be used; pairs.csv lists them as `dropped`.
        val_pairs: Number of training pairs for validation, instead of that share.
        subset: Number of pairs to use from a split, spread evenly over its names; all pairs of splits not listed. Names
            that the catalog lists as exceptions to a rule come first.

    Raises:
        UserError: files are missing, damaged or of unequal size (all of them listed), unless `skip_broken`; or a split
            has fewer pairs than `subset` or `val_pairs` requires.
    """
    found = find_pairs(dataset, raw)
    found.warn(dataset.name)
    problems = list(found.problems)
    by_split: dict[str, list[Files]] = {split: [] for split in SPLITS}
    held = _held_back(found.pairs, dataset, val_fraction, val_pairs)
    for files in found.pairs:
        takes = files.split == "train" and files.name in held
        by_split["val" if takes else files.split].append(files)
    for split, count in (subset or {}).items():
        by_split[split] = _subset(dataset, raw, split, by_split[split], count)
    rows: list[dict[str, object]] = []
    with contextlib.ExitStack() as packs:
        for split in SPLITS:
            add = packs.enter_context(pack_writer(out / f"{split}.safetensors"))
            for sample in _read(dataset, by_split[split], split, raw, rows, problems):
                add(sample)
        if problems and not skip_broken:
            raise UserError(
                f"{number_of(len(problems), 'pair')} of {dataset.name} cannot be used.",
                expected="both images of each pair, readable and of one size",
                found=first_of(problems),
                fix=f"replace them in data/manual/{dataset.name}, or at their source and delete {raw}; or "
                "set prepare.skip_broken to true to leave them out (pairs.csv lists them)",
            )
    counts = Counter(row["split"] for row in rows)
    rows += [{"name": problem, "split": "dropped"} for problem in problems]
    frame = pd.DataFrame(rows, columns=["name", "split", "height", "width", "a", "b"])
    frame = frame.astype({"height": "Int64", "width": "Int64"})
    write_text(out / "pairs.csv", frame.to_csv(index=False))
    print(f"{dataset.name}: " + ", ".join(f"{counts[split]} {split}" for split in SPLITS))


def _held_back(pairs: Sequence[Files], dataset: Dataset, share: float, count: int | None) -> set[str]:
    """Return the names of the training pairs that are held back for validation, by the checksum of their names.

    Raises:
        UserError: there are fewer pairs than required, or the dataset has a validation split of its own.
    """
    names = [files.name for files in pairs if files.split == "train"]
    own = any(files.split == "val" for files in pairs)
    if count is None:
        return set() if own else {name for name in names if _unit(name) < share}
    if own or count > len(names):
        raise UserError(
            f"prepare.val_pairs cannot hold back {number_of(count, 'pair')} of {dataset.name}.",
            expected="a dataset without its own validation split" if own else f"at most {len(names)}",
            found="a validation split in the catalog" if own else count,
            fix="remove it; `val` of a training set sets whether its pairs are used" if own else "lower the number",
        )
    return set(sorted(names, key=lambda name: (_unit(name), name))[:count])


def _subset(dataset: Dataset, raw: Path, split: str, pairs: Sequence[Files], count: int) -> list[Files]:
    """Return `count` pairs of a split, evenly spread over the names, with the exceptions to a rule first.

    Raises:
        UserError: there are fewer pairs.
    """
    what, asked = f"{dataset.name}, split {split}", "prepare.subset"
    exceptions = dataset.splits.listed(raw, {files.name for files in pairs}) if dataset.splits.by == "every" else {}
    first = [files for files in pairs if files.name in exceptions]
    if count > len(pairs) or not first:
        return spread(pairs, count, what, asked)
    others = [files for files in pairs if files.name not in exceptions]
    chosen = spread(first, min(count, len(first)), what, asked)
    chosen += spread(others, count - len(chosen), what, asked)
    return sorted(chosen, key=lambda files: files.name)


def _unit(name: str) -> float:
    """Return a number in [0, 1) that depends only on the name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32


def _read(
    dataset: Dataset, pairs: list[Files], split: str, raw: Path, rows: list[dict[str, object]], problems: list[str]
) -> Iterator[Sample]:
    for files, sample in read_pairs(dataset, pairs, split, problems):
        if split != "test":
            sample["a"], sample["b"] = luminance(sample["a"]), luminance(sample["b"])
        height, width = sample["a"].shape[:2]
        sides = {side: files.paths[side].relative_to(raw).as_posix() for side in ("a", "b")}
        rows.append({"name": files.name, "split": split, "height": height, "width": width, **sides})
        yield sample

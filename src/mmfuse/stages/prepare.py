"""Stage `prepare`: pairs by name, one size, one luminance, splits written down, one pack for each split."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from mmfuse.catalog import Dataset
from mmfuse.datasets.reading import Files, find_pairs, first_of, read_pairs
from mmfuse.errors import UserError
from mmfuse.files import write_text
from mmfuse.images import luminance
from mmfuse.packs import Sample, pack_writer

SPLITS = ("train", "val", "test")


def run(
    dataset: Dataset,
    *,
    raw: Path,
    out: Path,
    val_fraction: float,
    skip_broken: bool,
    subset: Mapping[str, int] | None = None,
) -> None:
    """Write data/prepared/DATASET: {train,val,test}.safetensors and pairs.csv.

    Train and val hold luminance; test keeps colour, since results are shown and compared in colour. A dataset without
    a val split of its own gives a fixed share of its training pairs, chosen by the checksum of their names, so that
    the choice does not change when pairs are added.

    Args:
        dataset: The catalog's entry.
        raw: data/raw/DATASET.
        out: data/prepared/DATASET.
        val_fraction: Share of the training pairs for validation, in [0, 1).
        skip_broken: Go on without pairs that cannot be used; pairs.csv lists them as `dropped`.
        subset: How many pairs of a split are taken, spread evenly over its names; all pairs of splits that it does not
            name.

    Raises:
        UserError: files are missing, damaged or of unequal size (all of them listed), unless `skip_broken`; or a split
            has fewer pairs than `subset` asks for.
    """
    found = find_pairs(dataset, raw)
    problems = list(found.problems)
    by_split: dict[str, list[Files]] = {split: [] for split in SPLITS}
    own_val = any(files.split == "val" for files in found.pairs)
    for files in found.pairs:
        takes = files.split == "train" and not own_val and _unit(files.name) < val_fraction
        by_split["val" if takes else files.split].append(files)
    for split, count in (subset or {}).items():
        by_split[split] = _spread(by_split[split], count, f"{dataset.name}, split {split}")
    rows: list[dict[str, object]] = []
    with contextlib.ExitStack() as packs:
        for split in SPLITS:
            add = packs.enter_context(pack_writer(out / f"{split}.safetensors"))
            for sample in _read(dataset, by_split[split], split, raw, rows, problems):
                add(sample)
        if problems and not skip_broken:
            raise UserError(
                f"{len(problems)} pairs of {dataset.name} cannot be used.",
                expected="both images of each pair, readable and of one size",
                found=first_of(problems),
                fix="download them again; or set prepare.skip_broken to true to leave them out, which pairs.csv says",
            )
    counts = Counter(row["split"] for row in rows)
    rows += [{"name": problem, "split": "dropped"} for problem in problems]
    table = io.StringIO()
    frame = pd.DataFrame(rows, columns=["name", "split", "height", "width", "a", "b"])
    frame.astype({"height": "Int64", "width": "Int64"}).to_csv(table, index=False)
    write_text(out / "pairs.csv", table.getvalue())
    print(f"{dataset.name}: " + ", ".join(f"{counts[split]} {split}" for split in SPLITS))


def _spread(pairs: list[Files], count: int, what: str) -> list[Files]:
    """Return `count` of the pairs, evenly spread over their order, so that every case or scene has its share."""
    if count > len(pairs):
        raise UserError(
            f"{what}: there are fewer pairs than prepare.subset asks for.",
            expected=f"at least {count}",
            found=len(pairs),
            fix="lower the number in params.yaml, or take it out to use all pairs",
        )
    return [pairs[number * len(pairs) // count] for number in range(count)]


def _unit(name: str) -> float:
    """Return a number in [0, 1) that depends on the name alone."""
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

"""What the stages `detect` and `segment` share: the job's data and the paths of its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmfuse.data.catalog import Dataset
from mmfuse.data.catalog import dataset as catalog_entry
from mmfuse.data.images import Bytes, write_image
from mmfuse.data.packs import Pack
from mmfuse.downstream.folds import read_folds
from mmfuse.downstream.images import Labelled, load_images
from mmfuse.downstream.labels import class_index, class_names
from mmfuse.errors import UserError
from mmfuse.files.writing import whole_folder
from mmfuse.pipeline.jobs import Work
from mmfuse.study.plan import MODALITIES


def trial_of(job: Work) -> Trial:
    """Return the trial of one job of the stage `detect` or `segment`."""
    block, own = job.parameters["downstream"][job.key["protocol"]], job.key["set"]
    modalities = [name for name in MODALITIES if name in block["sets"] and (block["transfer"] or name == own)]
    return Trial(
        dataset=catalog_entry(block["dataset"]),
        block=block,
        pack=job.read("pack"),
        folds=job.read("folds"),
        sources={**{name: name for name in modalities}, **{folder.name: folder for folder in job.inputs["fused"]}},
        own=own,
        seed=int(job.key["seed"]),
        out=job.outputs["summary"].with_suffix(""),
        resume=job.resume,
    )


@dataclass(frozen=True)
class Trial:
    """One detector or segmenter to train and test.

    Attributes:
        dataset: The catalog's entry.
        block: The protocol's block of the parameters.
        pack: data/prepared/DATASET/labelled.safetensors.
        folds: data/prepared/DATASET/folds.PROTOCOL.csv.
        sources: Label of each image set of the job to `a`, `b` or the folder of its images.
        own: The label of the training set.
        seed: Seed of the training.
        out: The path of the results without suffix.
        resume: File of the state of an unfinished training.
    """

    dataset: Dataset
    block: Mapping[str, Any]
    pack: Path
    folds: Path
    sources: Mapping[str, str | Path]
    own: str
    seed: int
    out: Path
    resume: Path
    names: dict[str, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", read_folds(self.folds))
        if self.own not in self.sources:
            raise UserError(
                f"There are no images for the set {self.own!r}.",
                expected="a or b, or the label of a folder given with --fused",
                found=", ".join(self.sources),
            )

    @property
    def classes(self) -> list[str]:
        """Names of the measured classes."""
        return class_names(self.dataset, self.block["goal"], self.block.get("unlabelled"))

    @property
    def index(self) -> dict[int, int]:
        """Class id to class index."""
        return class_index(self.dataset, self.block["goal"], self.block.get("unlabelled"))

    def images(self, label: str, fold: str) -> list[Labelled]:
        """Return the images of a set in a fold."""
        return load_images(
            Pack(self.pack),
            self.sources[label],
            self.names[fold],
            height=self.block["training"]["height"],
            width=self.block["training"]["width"],
            index=self.index,
        )

    def steps(self) -> int:
        """Return the number of training steps: as set, or enough for the epochs that are set."""
        training = self.block["training"]
        if "steps" in training:
            return int(training["steps"])
        return max(1, round(training["epochs"] * len(self.names["train"]) / training["batch"]))

    def others(self) -> list[str]:
        """Return the other sets on which the result is also tested."""
        return [label for label in self.sources if label != self.own] if self.block["transfer"] else []

    def summary(self, **found: Any) -> dict[str, Any]:
        """Return the common fields of the result's summary, followed by `found`."""
        return {
            "goal": self.block["goal"],
            "dataset": self.dataset.name,
            "set": self.own,
            "seed": self.seed,
            "model": self.block["model"]["name"],
            "folds": {fold: len(names) for fold, names in self.names.items()},
            "classes": self.classes,
            **found,
        }

    def shown(self, images: Sequence[Labelled]) -> list[int]:
        """Return the indices of the evenly spaced test images on which results are drawn."""
        count = min(self.block["pictures"], len(images))
        return [(2 * k + 1) * len(images) // (2 * count) for k in range(count)]

    @contextmanager
    def pictures(self) -> Iterator[dict[str, Bytes]]:
        """Yield a dictionary; pictures added to it are written to OUT.pictures by name."""
        found: dict[str, Bytes] = {}
        yield found
        with whole_folder(self.out.with_name(f"{self.out.name}.pictures")) as folder:
            for name, pixels in found.items():
                write_image(folder / f"{name}.png", pixels)

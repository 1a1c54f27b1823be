"""The stages of the study, each declared once: key, inputs, outputs, and the parameters and code that it depends on.

The module of the same name in `mmfuse.stages` does the work; `workflow/rules` has a rule for each stage. This module
does not import torch, because the engines load it at every start.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmfuse.data import catalog, origins
from mmfuse.errors import UserError
from mmfuse.files.reading import read_json
from mmfuse.study import plan
from mmfuse.study.stage import Key, Parameters, Stage
from mmfuse.study.training_sets import training_set
from mmfuse.weights import shipped

_CATALOG = "data/catalog.yaml:datasets"
PUBLISHED = "data/published.csv"  # the numbers printed in the papers
_SYSTEM = ("method", "variant", "seed")


def key_of(dataset: str, system: plan.System) -> Key:
    """Return the key of a system on a dataset, for the stages `fuse`, `evaluate` and `fuse_labelled`."""
    return {"dataset": dataset, "method": system.method, "variant": system.variant, "seed": str(system.seed)}


class Download(Stage):
    """Put one dataset into data/raw: generated, from a mirror, or from its source; verified by checksum."""

    name = "download"
    key = ("dataset",)
    outputs = {"folder": "data/raw/{dataset}/"}
    record = "data/raw/{dataset}.run.json"
    unread = ("folder",)

    def jobs(self, parameters: Parameters) -> Iterable[Key]:
        return [{"dataset": name} for name in plan.datasets_of(parameters)]

    def inputs(self, parameters: Parameters, key: Key) -> dict[str, list[str]]:
        manifest = catalog.dataset(key["dataset"]).manifest
        return {"manifest": [manifest.as_posix()] if manifest else []}

    def by_hand(self, parameters: Parameters, key: Key) -> list[str]:
        place = origins.by_hand(catalog.dataset(key["dataset"]), origins.mirror_of(parameters["download"]["mirror"]))
        return [place.as_posix()] if place else []

    def checksums(self, parameters: Parameters, key: Key) -> dict[str, str]:
        """See `Stage.checksums`; data/raw keeps its files if those that they were copied from have been removed."""
        found = super().checksums(parameters, key)
        record = Path(self.path("record", key))
        if found or not record.is_file() or not Path(self.path("folder", key)).is_dir():
            return found
        name = (origins.MANUAL / key["dataset"]).as_posix()
        read = read_json(record, fix=f"delete it and {self.path('folder', key)}, and run the study again")
        inputs = read.get("inputs") or {}
        return {name: inputs[name]} if name in inputs else {}

    def watched(self, parameters: Parameters, key: Key) -> list[str]:
        drawn = key["dataset"] in parameters["generate"]
        return [f"{_CATALOG}.{key['dataset']}", *([f"generate.{key['dataset']}"] if drawn else [])]

    def entries(self, key: Key) -> list[str]:
        generator = catalog.dataset(key["dataset"]).generator
        return [generator.removeprefix("mmfuse.")] if generator else []


class Prepare(Stage):
    """Pair the images by name, bring each pair to one size, record the splits, and pack the pairs."""

    name = "prepare"
    key = ("dataset",)
    outputs = {
        "train": "data/prepared/{dataset}/train.safetensors",
        "val": "data/prepared/{dataset}/val.safetensors",
        "test": "data/prepared/{dataset}/test.safetensors",
        "pairs": "data/prepared/{dataset}/pairs.csv",
    }
    record = "data/prepared/{dataset}/run.json"

    def jobs(self, parameters: Parameters) -> Iterable[Key]:
        return DOWNLOAD.jobs(parameters)

    def inputs(self, parameters: Parameters, key: Key) -> dict[str, list[str]]:
        return {"raw": [DOWNLOAD.path("folder", key)]}

    def watched(self, parameters: Parameters, key: Key) -> list[str]:
        block, name = parameters["prepare"], key["dataset"]
        validated = f"prepare.val_pairs.{name}" if name in block.get("val_pairs", {}) else "prepare.val_fraction"
        subset = [f"prepare.subset.{name}"] if name in block.get("subset", {}) else []
        return [f"{_CATALOG}.{name}", "prepare.skip_broken", validated, *subset]


class Crop(Stage):
    """Cut the training pairs into patches, together with their masks and boxes."""

    name = "crop"
    key = ("dataset", "patches")
    outputs = {"pack": "data/prepared/{dataset}/patches.{patches}.safetensors"}
    record = "data/prepared/{dataset}/patches.{patches}.run.json"
    unread = ("pack",)

    def jobs(self, parameters: Parameters) -> Iterable[Key]:
        found: dict[tuple[str, str], None] = {}
        for training in plan.trainings(parameters):
            patches = plan.patches_of(parameters, training)
            if patches:
                found |= dict.fromkeys((name, patches) for name in training_set(parameters, training.trained_on).train)
        return [{"dataset": name, "patches": patches} for name, patches in found]

    def inputs(self, parameters: Parameters, key: Key) -> dict[str, list[str]]:
        return {"pack": [PREPARE.path("train", key)]}

    def watched(self, parameters: Parameters, key: Key) -> list[str]:
        return [f"prepare.patches.{key['patches']}"]


class Train(Stage):
    """Train one part of a method; a killed training resumes from its last saved state."""

    name = "train"
    key = ("trained_on", *_SYSTEM, "part")
    outputs = {
        "best": "data/checkpoints/{trained_on}/{method}/{variant}/s{seed}/{part}.safetensors",
        "last": "data/checkpoints/{trained_on}/{method}/{variant}/s{seed}/{part}.last.safetensors",
        "history": "data/checkpoints/{trained_on}/{method}/{variant}/s{seed}/{part}.history.csv",
    }
    record = "data/checkpoints/{trained_on}/{method}/{variant}/s{seed}/{part}.run.json"
    unread = ("last",)
    resume = "data/resume/{trained_on}/{method}/{variant}/s{seed}/{part}.pt"

    def jobs(self, parameters: Parameters) -> Iterable[Key]:
        return [asdict(training) | {"seed": str(training.seed)} for training in plan.trainings(parameters)]

    def inputs(self, parameters: Parameters, key: Key) -> dict[str, list[str]]:
        one = self.training(key)
        used, patches = training_set(parameters, one.trained_on), plan.patches_of(parameters, one)
        return {
            "train": [
                CROP.path("pack", {"dataset": name, "patches": patches})
                if patches
                else PREPARE.path("train", {"dataset": name})
                for name in used.train
            ],
            "val": [PREPARE.path("val", {"dataset": name}) for name in used.val],
            "start": [self.path("best", asdict(earlier)) for earlier in plan.earlier_trainings(parameters, one)],
        }

    def watched(self, parameters: Parameters, key: Key) -> list[str]:
        method, used = f"methods.{key['method']}", training_set(parameters, key["trained_on"]).key
        return [f"{method}.network", f"{method}.parts.{key['part']}", "train", used, *_variant(parameters, key)]

    def entries(self, key: Key) -> list[str]:
        return [f"methods.{key['method']}"]

    def system(self, parameters: Parameters, key: Key) -> plan.System | None:
        task = self.task(parameters, key) or ""
        return plan.System(key["method"], key["variant"], task, int(key["seed"]))

    def task(self, parameters: Parameters, key: Key) -> str | None:
        return training_set(parameters, key["trained_on"]).task

    def training(self, key: Key) -> plan.Training:
        """Return the training that a key names."""
        return plan.Training(key["trained_on"], key["method"], key["variant"], int(key["seed"]), key["part"])


class Fuse(Stage):
    """Apply one system to the test pairs of one dataset, or import images that were fused elsewhere."""

    name = "fuse"
    key = ("dataset", *_SYSTEM)
    outputs = {"folder": "data/fused/{dataset}/{method}.{variant}.s{seed}/"}
    record = "data/fused/{dataset}/{method}.{variant}.s{seed}.run.json"

    def jobs(self, parameters: Parameters) -> Iterable[Key]:
        return [key_of(*pair) for pair in plan.scored_pairs(parameters)]

    def inputs(self, parameters: Parameters, key: Key) -> dict[str, list[str]]:
        return {"test": [PREPARE.path("test", key)], **self.sources(parameters, key)}

    def sources(self, parameters: Parameters, key: Key) -> dict[str, list[str]]:
        """Return the source of the fused images: complete weights, the folder of the images themselves, or neither."""
        if key["variant"] == plan.EXTERNAL:
            return {"weights": [], "external": [plan.external_images(key["dataset"], key["method"]).as_posix()]}
        return {"weights": _weights(self, parameters, key), "external": []}

    def by_hand(self, parameters: Parameters, key: Key) -> list[str]:
        images = [path for path in self.sources(parameters, key)["external"] if Path(path).exists()]
        return images or _weights_by_hand(self, parameters, key)

    def watched(self, parameters: Parameters, key: Key) -> list[str]:
        method, block = f"methods.{key['method']}", parameters["methods"].get(key["method"], {})
        if key["variant"] == plan.EXTERNAL or "parts" in block:  # a trained network's options come with its weights
            return ["fuse"]
        return ["fuse", *([f"{method}.network"] if "network" in block else []), *_variant(parameters, key)]

    def entries(self, key: Key) -> list[str]:
        return [] if key["variant"] == plan.EXTERNAL else [f"methods.{key['method']}"]


class Evaluate(Stage):
    """Measure the fused images of one system against their sources."""

    name = "evaluate"
    key = ("dataset", *_SYSTEM)
    outputs = {
        "table": "reports/scores/{dataset}/{method}.{variant}.s{seed}.csv",
        "summary": "reports/scores/{dataset}/{method}.{variant}.s{seed}.json",
    }
    record = "reports/scores/{dataset}/{method}.{variant}.s{seed}.run.json"

    def jobs(self, parameters: Parameters) -> Iterable[Key]:
        return FUSE.jobs(parameters)

    def inputs(self, parameters: Parameters, key: Key) -> dict[str, list[str]]:
        return {"test": [PREPARE.path("test", key)], "fused": [FUSE.path("folder", key)]}

    def watched(self, parameters: Parameters, key: Key) -> list[str]:
        return ["evaluate.convention", "evaluate.beside", "evaluate.metrics"]

    def entries(self, key: Key) -> list[str]:
        return ["metrics.*"]


class Analyse(Stage):
    """Run one analysis of a trained system on the test pairs of one dataset."""

    name = "analyse"
    key = ("dataset", "analysis", *_SYSTEM)
    outputs = {"result": "reports/analysis/{dataset}/{analysis}.{method}.{variant}.s{seed}.json"}
    record = "reports/analysis/{dataset}/{analysis}.{method}.{variant}.s{seed}.run.json"

    def jobs(self, parameters: Parameters) -> Iterable[Key]:
        return [{**key_of(dataset, system), "analysis": name} for name, dataset, system in plan.analysed(parameters)]

    def inputs(self, parameters: Parameters, key: Key) -> dict[str, list[str]]:
        return {"test": [PREPARE.path("test", key)], "weights": _weights(self, parameters, key)}

    def by_hand(self, parameters: Parameters, key: Key) -> list[str]:
        return _weights_by_hand(self, parameters, key)

    def watched(self, parameters: Parameters, key: Key) -> list[str]:
        return [f"analyse.{key['analysis']}.options"]

    def entries(self, key: Key) -> list[str]:
        return [f"analyses.{key['analysis']}", f"methods.{key['method']}"]


class Label(Stage):
    """Pack the labelled pairs of one dataset, in colour, for detectors and segmenters."""

    name = "label"
    key = ("dataset",)
    outputs = {
        "pack": "data/prepared/{dataset}/labelled.safetensors",
        "names": "data/prepared/{dataset}/labelled.csv",
    }
    record = "data/prepared/{dataset}/labelled.run.json"
    unread = ("pack", "names")

    def jobs(self, parameters: Parameters) -> Iterable[Key]:
        blocks = plan.protocols(parameters).values()
        return [{"dataset": name} for name in dict.fromkeys(block["dataset"] for block in blocks)]

    def inputs(self, parameters: Parameters, key: Key) -> dict[str, list[str]]:
        return {"raw": [DOWNLOAD.path("folder", key)]}

    def watched(self, parameters: Parameters, key: Key) -> list[str]:
        names = plan.protocols(parameters, key["dataset"])
        own = [f"downstream.{name}.{word}" for name in names for word in ("dataset", "splits")]
        return [f"{_CATALOG}.{key['dataset']}", "prepare.skip_broken", *own]


class Divide(Stage):
    """Check the labels of a downstream protocol, and divide its pairs into folds for training and testing."""

    name = "divide"
    key = ("dataset", "protocol")
    outputs = {"folds": "data/prepared/{dataset}/folds.{protocol}.csv"}
    record = "data/prepared/{dataset}/folds.{protocol}.run.json"

    def jobs(self, parameters: Parameters) -> Iterable[Key]:
        return [{"dataset": b["dataset"], "protocol": name} for name, b in plan.protocols(parameters).items()]

    def inputs(self, parameters: Parameters, key: Key) -> dict[str, list[str]]:
        return {"pack": [LABEL.path("pack", key)], "names": [LABEL.path("names", key)]}

    def watched(self, parameters: Parameters, key: Key) -> list[str]:
        own = [f"downstream.{key['protocol']}.{word}" for word in ("goal", "dataset", "splits", "division")]
        return [f"{_CATALOG}.{key['dataset']}.labels", *own]


class FuseLabelled(Fuse):
    """Apply one system to the labelled pairs of one dataset."""

    name = "fuse_labelled"
    module = "fuse"
    outputs = {"folder": "data/fused/{dataset}/labelled/{method}.{variant}.s{seed}/"}
    record = "data/fused/{dataset}/labelled/{method}.{variant}.s{seed}.run.json"
    unread = ("folder",)

    def jobs(self, parameters: Parameters) -> Iterable[Key]:
        found: dict[tuple[str, plan.System], None] = {}
        for protocol, block in plan.protocols(parameters).items():
            for system in plan.image_sets(parameters, protocol).values():
                if system:
                    found[block["dataset"], system] = None
        return [key_of(*pair) for pair in found]

    def inputs(self, parameters: Parameters, key: Key) -> dict[str, list[str]]:
        return {"test": [LABEL.path("pack", key)], **self.sources(parameters, key)}


class Detect(Stage):
    """Train a detector on one image set and measure its average precision."""

    name = "detect"
    key = ("protocol", "set", "seed")
    outputs = {
        "summary": "reports/downstream/{protocol}/{set}.seed{seed}.json",
        "predictions": "reports/downstream/{protocol}/{set}.seed{seed}.csv",
        "pictures": "reports/downstream/{protocol}/{set}.seed{seed}.pictures/",
    }
    record = "reports/downstream/{protocol}/{set}.seed{seed}.run.json"
    resume = "data/resume/downstream/{protocol}/{set}.seed{seed}.pt"

    def jobs(self, parameters: Parameters) -> Iterable[Key]:
        return [
            {"protocol": protocol, "set": label, "seed": str(seed)}
            for protocol, label, seed in plan.downstream_jobs(parameters)
            if parameters["downstream"][protocol]["goal"] == self.name
        ]

    def inputs(self, parameters: Parameters, key: Key) -> dict[str, list[str]]:
        dataset = {"dataset": self.block(parameters, key)["dataset"]}
        systems = plan.seen_systems(parameters, key["protocol"], key["set"])
        return {
            "pack": [LABEL.path("pack", dataset)],
            "folds": [DIVIDE.path("folds", {**dataset, **key})],
            "fused": [FUSE_LABELLED.path("folder", key_of(dataset["dataset"], system)) for system in systems],
        }

    def watched(self, parameters: Parameters, key: Key) -> list[str]:
        block = self.block(parameters, key)
        # with `transfer`, a job also reads the images of the other sets
        own = ["goal", "dataset", "model", "training", "pictures", "transfer", *(["sets"] if block["transfer"] else [])]
        own += ["unlabelled"] if "unlabelled" in block else []
        return [f"{_CATALOG}.{block['dataset']}.labels", *(f"downstream.{key['protocol']}.{word}" for word in own)]

    def system(self, parameters: Parameters, key: Key) -> plan.System | None:
        return plan.image_sets(parameters, key["protocol"]).get(key["set"])

    def task(self, parameters: Parameters, key: Key) -> str | None:
        return plan.task_of(parameters, self.block(parameters, key)["dataset"])

    def tags(self, parameters: Parameters, key: Key) -> dict[str, Any]:
        return {**super().tags(parameters, key), "dataset": self.block(parameters, key)["dataset"]}

    def parts(self, key: Key) -> tuple[str, ...]:
        return key["protocol"], f"{key['set']}.seed{key['seed']}"

    def block(self, parameters: Parameters, key: Key) -> dict[str, Any]:
        """Return the protocol's block of the parameters.

        Raises:
            UserError: there is no such protocol of this stage.
        """
        known = {name: b for name, b in plan.protocols(parameters).items() if b["goal"] == self.name}
        if key["protocol"] not in known:
            raise UserError(
                f"There is no protocol {key['protocol']!r} of the stage {self.name}.",
                expected=", ".join(known) or "none",
                found=key["protocol"],
            )
        return dict(known[key["protocol"]])


class Segment(Detect):
    """Train a segmenter on one image set and measure its intersection over union."""

    name = "segment"


class Report(Stage):
    """Write the report of the study, with its tables and figures."""

    name = "report"
    outputs = {
        "page": "reports/index.html",
        "viewer": "reports/viewer.html",
        "pictures": "reports/viewer/",
        "means": "reports/metrics.json",
        "tables": "reports/tables/",
        "figures": "reports/figures/",
    }
    record = "reports/index.run.json"

    def jobs(self, parameters: Parameters) -> Iterable[Key]:
        return [{}]

    def inputs(self, parameters: Parameters, key: Key) -> dict[str, list[str]]:
        return {"study": report_inputs(parameters), "printed": [PUBLISHED]}

    def watched(self, parameters: Parameters, key: Key) -> list[str]:
        own = [name for name in parameters if name != "download"]
        return [*own, *(f"{_CATALOG}.{name}" for name in plan.datasets_of(parameters))]

    def entries(self, key: Key) -> list[str]:
        return ["reporting.*", "metrics.*", "analyses.*"]


def _variant(parameters: Parameters, key: Key) -> list[str]:
    """Return the dotted key of a variant; none for `base` if the parameters do not define it."""
    variants = parameters["methods"].get(key["method"], {}).get("variants", {})
    return [f"methods.{key['method']}.variants.{key['variant']}"] if key["variant"] in variants else []


def complete_weights(parameters: Parameters, system: plan.System) -> Path | None:
    """Return the file with a system's whole network: given weights, or those of its last part."""
    if not plan.is_trained(parameters, system):
        return plan.given_weights(parameters, system)
    last = plan.parts_of(parameters, system.method)[-1]
    return Path(TRAIN.path("best", asdict(plan.training_of(parameters, system, last))))


def _weights(stage: Stage, parameters: Parameters, key: Key) -> list[str]:
    """Return the file of the complete weights that a job reads; a training-free method has none."""
    system = stage.system(parameters, key)
    file = complete_weights(parameters, system) if system else None
    return [file.as_posix()] if file else []


def _weights_by_hand(stage: Stage, parameters: Parameters, key: Key) -> list[str]:
    """Return the file of weights from elsewhere that a job reads, if it exists."""
    system = stage.system(parameters, key)
    given = plan.given_weights(parameters, system) if system else None
    elsewhere = given and system and not plan.shipped_weights(parameters, system) and given.is_file()
    return [given.as_posix()] if given and elsewhere else []


DOWNLOAD, PREPARE, CROP, TRAIN, FUSE, EVALUATE = Download(), Prepare(), Crop(), Train(), Fuse(), Evaluate()
ANALYSE, LABEL, DIVIDE, FUSE_LABELLED = Analyse(), Label(), Divide(), FuseLabelled()
DETECT, SEGMENT, REPORT = Detect(), Segment(), Report()
STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        DOWNLOAD, PREPARE, CROP, TRAIN, FUSE, EVALUATE, ANALYSE, LABEL, DIVIDE, FUSE_LABELLED, DETECT, SEGMENT, REPORT,
    )
}  # fmt: skip


def jobs_of(parameters: Parameters) -> list[tuple[Stage, Key]]:
    """Return every job of the study except the report, in the order of the stages."""
    return [(stage, key) for stage in STAGES.values() if stage is not REPORT for key in stage.jobs(parameters)]


def report_inputs(parameters: Parameters) -> list[str]:
    """Return every file and folder that the report reads: those of all jobs, and given weights."""
    files = [path for stage, key in jobs_of(parameters) for path in stage.reported(key)]
    for _, system in plan.scored_pairs(parameters):
        given = plan.given_weights(parameters, system)
        files += [given.as_posix()] if given else []
        files += [shipped.study_index().as_posix()] if plan.shipped_weights(parameters, system) else []
    return list(dict.fromkeys(files))

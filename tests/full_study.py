"""A made-up study with something for every page of the report: seeds, variants, papers, protocols, times."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mmfuse.data.images import write_image
from mmfuse.data.packs import Sample, write_pack
from mmfuse.stages import report
from mmfuse.study import plan
from mmfuse.study.stages import TRAIN
from simulated import ROAD_BOXES, ROAD_MASKS, write_protocol
from test_report import ROOT, _entry, _record

NAMES = [f"day_{number:04d}" for number in range(10)]
METRICS = ("EN", "SD", "SF", "AG", "MI", "SSIM", "VIF", "Qabf", "PSNR", "Qcb")
CONVENTIONS = ("lkc_funet", "mma_unet", "smfnet")
NOTE = "Other images & another 50 % of the size: drawn_scenes, not M3FD."


def _protocol(goal: str) -> dict[str, Any]:
    sets = ["a", "b", "average.base", "net.base"]
    found = {"goal": goal, "dataset": "road", "sets": sets, "seeds": [0, 1], "transfer": True}
    return found | {"model": {"name": {"detect": "centre", "segment": "small_deeplabv3plus"}[goal]}}


def _published(paper: str, table: str, of: str, where: str, rows: dict[str, str], **more: Any) -> dict[str, Any]:
    place = {"datasets": [where]} if where == "road" else {"protocol": where}
    return {"paper": paper, "table": table, "of": of, **place, "rows": rows, "note": NOTE, **more}


_ALONE = {"infrared": "a", "visible": "b"}
PARAMETERS: dict[str, Any] = {
    "study": {
        "name": "everything_at_once",
        "seeds": [0, 1],
        "tasks": {"ivif": {"train": ["road"], "test": ["road"]}},
        "systems": [
            {"method": method, "variant": variant, "tasks": ["ivif"]}
            for method, variant in (
                ("average", "base"),
                ("maximum", "base"),
                ("laplacian", "base"),
                ("net", "base"),
                ("net", "small_kernels"),
                ("net", "no_attention"),
                ("other", "base"),
            )
        ],
    },
    "downstream": {
        "road_boxes": _protocol("detect"),
        "road_masks": _protocol("segment") | {"unlabelled": "class"},
    },
    "report": {
        "images": 2,
        "patch": 16,
        "zoom": 4,
        "width": 160,
        "viewer": {"pairs": None, "seeds": "all"},
        "published": [
            _published("mma_unet", "1", "M3FD", "road", {"MMA-UNet": "net.base"}),
            _published("mma_unet", "2", "M3FD", "road_boxes", _ALONE | {"MMA-UNet": "net.base"}),
            _published(
                "mma_unet", "3", "MSRS", "road_masks", _ALONE | {"MMA-UNet": "net.base"},
                classes={"Background": "unlabelled"}, means="printed",
            ),
            _published("lkc_funet", "4", "M3FD", "road_boxes", _ALONE | {"LKC-FUNet": "net.base"}),
            _published("lkc_funet", "5", "MSRS", "road_masks", _ALONE | {"LKC-FUNet": "net.base"}),
            _published("smfnet", "1", "TNO", "road", {"SMFNet": "net.base", "U2Fusion": "average.base"}),
        ],
    },
    "methods": {
        "net": {
            "parts": {"first": {"patches": "whole"}, "second": {"patches": "whole"}},
            "variants": {"base": {}, "small_kernels": {"network": {"k": 3}}, "no_attention": {"network": {"a": 0}}},
        },
        "other": {"parts": {"net": {"patches": "whole"}}},
    },
}  # fmt: skip


def _data(root: Path, random: np.random.Generator) -> None:
    samples: list[Sample] = []
    for number, name in enumerate(NAMES):
        ramp = np.linspace(0, 180, 80)[None] + 3 * number
        a = np.clip(np.tile(ramp, (60, 1)) + random.normal(0, 12, (60, 80)), 0, 255).astype(np.uint8)
        b = np.clip(ramp[..., ::-1, None] + random.normal(0, 12, (60, 80, 3)), 0, 255).astype(np.uint8)
        samples.append({"name": name, "a": a, "b": b})
    folder = root / "data/prepared/road"
    write_pack(folder / "test.safetensors", samples)
    rows = [f"t{n},train,60,80,x,y" for n in range(7)] + [f"{name},test,60,80,x,y" for name in NAMES]
    (folder / "pairs.csv").write_text("\n".join(["name,split,height,width,a,b", *rows]), encoding="utf-8")
    (root / "data/raw").mkdir()
    _record(root / "data/raw/road.run.json", "download", root, [], [])
    _record(folder / "run.json", "prepare", root, [], [folder / "test.safetensors"])
    _record(folder / "labelled.run.json", "label", root, [], [])


def _trained(root: Path) -> None:
    for training in plan.trainings(PARAMETERS):
        weights = root / TRAIN.path("best", asdict(training))
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.write_bytes(training.part.encode())
        rows = [f"{i},0.1,{1 / i + 0.1 * training.seed},{1 / i if i % 5 == 0 else ''}" for i in range(1, 21)]
        history = "\n".join(["step,lr,train/total,val/total", *rows])
        weights.with_name(f"{training.part}.history.csv").write_text(history, encoding="utf-8")
        _record(weights.with_suffix(".run.json"), "train", root, [], [weights])


def _measured(root: Path, random: np.random.Generator) -> None:
    """Scores of each system: noise around a level of its own, so that some can be told apart."""
    systems = [system for _, system in plan.scored_pairs(PARAMETERS)]
    levels = {label: random.uniform(0.5, 1.0, len(METRICS)) for label in dict.fromkeys(s.method for s in systems)}
    noise = random.normal(0, 0.02, (len(NAMES), len(METRICS)))
    scale = np.array([7.0, 40.0, 12.0, 4.0, 2.0, 0.9, 0.8, 0.6, 16.0, 0.5])
    room = root / "reports/scores/road"
    room.mkdir(parents=True)
    for system in systems:
        names = [*METRICS, *(f"{m}.{c}" for c in CONVENTIONS[1:] for m in METRICS)]
        own = scale * (levels[system.method] + noise + random.normal(0, 0.01, noise.shape))
        values = np.concatenate([own, 0.9 * own, 1.1 * own], axis=1)
        with (room / f"{system.label}.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["name", *names])
            writer.writerows([name, *row] for name, row in zip(NAMES, values.tolist(), strict=True))
        cards = {
            name: {
                "convention": name.partition(".")[2] or CONVENTIONS[0],
                "definition": name.replace(".", "_").lower(),
                "better": "higher",
                "mean": float(column.mean()),
            }
            for name, column in zip(names, values.T, strict=True)
        }
        summary = {"dataset": "road", "convention": CONVENTIONS[0], "images": len(NAMES), "metrics": cards}
        (room / f"{system.label}.json").write_text(json.dumps(summary), encoding="utf-8")
        _record(
            room / f"{system.label}.run.json",
            "evaluate",
            root,
            [],
            [room / f"{system.label}{end}" for end in (".csv", ".json")],
        )


def _fused(root: Path, random: np.random.Generator) -> None:
    for _, system in plan.scored_pairs(PARAMETERS):
        folder = root / "data/fused/road" / system.label
        for name in NAMES:
            write_image(folder / f"{name}.png", random.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        path = folder.with_name(f"{system.label}.run.json")
        _record(path, "fuse", root, [], sorted(folder.iterdir()))
        record = json.loads(path.read_text(encoding="utf-8"))
        size = {"height": 60, "width": 80, "multiply_adds": 1_500_000_000 + len(system.label), "peak_mib": 512.25}
        record["measured"] = {"seconds_per_image": 0.01 * len(system.label), "parameters": 12345} | size
        path.write_text(json.dumps(record), encoding="utf-8")


def _downstream(root: Path) -> None:
    (root / "data/fused/road/labelled").mkdir(parents=True)
    for protocol, block in PARAMETERS["downstream"].items():
        labels = list(plan.image_sets(PARAMETERS, protocol))
        classes = ROAD_BOXES if block["goal"] == "detect" else ROAD_MASKS
        write_protocol(root / "reports/downstream" / protocol, block, labels, classes, images=16)
        _record(root / f"data/prepared/road/folds.{protocol}.run.json", "divide", root, [], [])
        for label in labels:
            if label not in plan.MODALITIES:
                _record(root / f"data/fused/road/labelled/{label}.run.json", "fuse", root, [], [])
            for seed in block["seeds"]:
                stem = root / "reports/downstream" / protocol / f"{label}.seed{seed}"
                _record(stem.with_name(f"{stem.name}.run.json"), block["goal"], root, [], [])


def make(root: Path) -> None:
    """Write the study into a folder."""
    random = np.random.default_rng(0)
    entries = {"datasets": {"road": _entry("ivif", "Drawn roads by day & night, 100 % made up")}}
    (root / "catalog.yaml").write_text(json.dumps(entries), encoding="utf-8")
    _data(root, random)
    _trained(root)
    _measured(root, random)
    _fused(root, random)
    _downstream(root)


def write_report(root: Path, out: Path) -> None:
    """Write its report."""
    report.run(
        parameters=PARAMETERS,
        root=root,
        out=out,
        catalog=root / "catalog.yaml",
        printed=ROOT / "data/published.csv",
    )

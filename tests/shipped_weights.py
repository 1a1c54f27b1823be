"""A folder of shipped weights made for a test: small networks that were never trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from mmfuse.files.writing import sha256
from mmfuse.training.checkpoints import WeightsCard, build, save_weights, weights_of

NETWORKS: dict[str, dict[str, Any]] = {
    "lkc_funet": {"width": 4, "channels": 4, "groups": 2, "kernels": [3, 3, 3]},
    "mma_unet": {"width": 4},
}
TRAINED_ON = ({"dataset": "msrs", "split": "train", "pairs": 1083, "use": "training", "licence": "none stated"},)


def make(
    folder: Path,
    name: str,
    *tasks: str,
    method: str = "mma_unet",
    default: Sequence[str] = (),
    data: Sequence[dict[str, Any]] = TRAINED_ON,
) -> Path:
    """Add weights to a folder and its index, as the default for some tasks; equal names have equal weights."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(sum(name.encode()))
    net = build(method, NETWORKS[method])
    held = {key: value.half() if value.is_floating_point() else value for key, value in _tensors(net).items()}
    path, index = folder / f"{name}.safetensors", folder / "index.yaml"
    save_weights(path, held, WeightsCard(method, "base", tasks[0], 0, net.parts[-1], NETWORKS[method], complete=True))
    content = yaml.safe_load(index.read_text()) if index.is_file() else {"defaults": {}, "weights": {}}
    content["defaults"] |= dict.fromkeys(default, name)
    content["weights"][name] = {
        "file": path.name, "sha256": sha256(path), "method": method, "variant": "base", "tasks": list(tasks),
        "summary": "made for a test", "data": list(data), "training": {"commit": "abc", "hours": 0.1},
        "scores": {"msrs": {"EN": 6.5}},
    }  # fmt: skip
    index.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def _tensors(net: Any) -> dict[str, torch.Tensor]:
    return weights_of(net.deployed_modules())

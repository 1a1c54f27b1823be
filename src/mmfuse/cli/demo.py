"""`mmfuse demo`: the first fused picture, from a drawn pair and the shipped weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmfuse.cli.own_images import fuse_folders
from mmfuse.data.images import read_image, write_image
from mmfuse.errors import UserError
from mmfuse.scenes import synthetic_road

_NAME, _HEIGHT, _WIDTH = "night.png", 240, 320
_OURS = {"infrared", "visible", "fused", "picture.png"}


def run(out: Path) -> Iterator[str]:
    """Draw an infrared and a visible image of a street at night, fuse them, and yield what was done, line by line.

    Writes OUT/infrared/night.png, OUT/visible/night.png, OUT/fused/night.png, and all three side by side as
    OUT/picture.png. The same bytes at each call.

    Raises:
        UserError: the folder contains other files.
    """
    from mmfuse.inference.fusing import strip

    others = sorted(path.name for path in out.iterdir() if path.name not in _OURS) if out.is_dir() else []
    if others or out.is_file():
        raise UserError(
            f"{out} is not empty.", expected="a new folder, or that of an earlier demo",
            found=", ".join(others[:3]) or "a file", fix="choose another folder with --out",
        )  # fmt: skip
    pair = synthetic_road.render(np.random.default_rng(0), "night", _HEIGHT, _WIDTH)
    for kind in ("infrared", "visible"):
        write_image(out / kind / _NAME, getattr(pair, kind))
    fuse_folders(out / "infrared", out / "visible", out / "fused", task="ivif")
    fused = read_image(out / "fused" / _NAME)
    write_image(out / "picture.png", strip(pair.infrared, pair.visible, fused))
    yield f"{out / 'picture.png'}: infrared, visible and fused image, from left to right"
    yield "next, fuse your own images, measure the fused images, or run the whole study:"
    yield "  mmfuse fuse INFRARED/ VISIBLE/ OUT/"
    yield "  mmfuse evaluate --a INFRARED/ --b VISIBLE/ --fused OUT/ --out scores.csv"
    yield "  make run"

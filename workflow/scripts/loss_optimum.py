"""Find the optimum of a weighting of loss terms, independent of a network: optimise the pixels themselves.

    python workflow/scripts/loss_optimum.py A/ B/ --loss ssim=1,intensity=1,gradient=1 --loss ssim=1,information=0.3

For each pair of the folders, an image is initialised with the Laplacian pyramid and optimised under the loss with Adam.
The table has the metrics' means of these images and of average, maximum and Laplacian pyramid, and the mean rank of
each loss among these three and itself, over all metrics and pairs. A loss whose own optimum is behind the pyramid
cannot bring a network ahead of it. Use pairs that are not used for testing. Terms: those of LKC-FUNet's loss and of
`mmfuse.nn.further_losses`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mmfuse.data.images import luminance, read_image
from mmfuse.data.pairs import check_equal_sizes, match_folders
from mmfuse.errors import UserError, closest
from mmfuse.fastconv.workspace import keep_freed_memory
from mmfuse.metrics import resolve, score
from mmfuse.nn.further_losses import TERMS
from mmfuse.nn.losses import strongest_gradient_loss, strongest_intensity_loss, two_source_ssim_loss
from mmfuse.progress import progress
from mmfuse.training.checkpoints import build

OWN = {"ssim": two_source_ssim_loss, "intensity": strongest_intensity_loss, "gradient": strongest_gradient_loss}
KNOWN = {**OWN, **TERMS}
BASELINES = {"average": {}, "maximum": {}, "laplacian": {"levels": 4}}
METRICS = ("EN", "SD", "SF", "AG", "MI", "SCD", "SSIM", "VIF", "VIFF", "Qabf", "CC", "PSNR")
RATE = 0.02  # learning rate of the first step, in grey levels of [0, 1]; it falls to zero
OUTSIDE = 5.0  # weight of the mean squared distance of pixels from [0, 1]


def weights_of(text: str) -> dict[str, float]:
    """Read TERM=WEIGHT,TERM=WEIGHT.

    Raises:
        UserError: a term is unknown or a weight is not a number.
    """
    found = {}
    for item in text.split(","):
        name, _, value = item.partition("=")
        if name not in KNOWN:
            raise UserError(
                f"There is no loss term {name!r}.", expected=", ".join(KNOWN), found=text, fix=closest(name, KNOWN, "")
            )
        try:
            found[name] = float(value)
        except ValueError as error:
            raise UserError(f"{name} has no weight.", expected="TERM=NUMBER", found=item) from error
    return found


def optimum(a: Tensor, b: Tensor, weights: Mapping[str, float], steps: int) -> Tensor:
    """Return the image, (1, 1, H, W) in [0, 1], that is a local optimum of the loss."""
    with torch.no_grad():
        image = build("laplacian", BASELINES["laplacian"])(a, b).clone()
    image.requires_grad_(True)
    optimiser = torch.optim.Adam([image], lr=RATE)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = RATE * (1 - step / steps)
        loss = torch.stack([weight * KNOWN[name](image, a, b) for name, weight in weights.items()]).sum()
        optimiser.zero_grad()
        (loss + OUTSIDE * (image - image.clamp(0, 1)).square().mean()).backward()
        optimiser.step()
    return image.detach().clamp(0, 1)


def centre(image: Tensor, side: int) -> Tensor:
    """Return the central crop of an image, at most `side` pixels high and wide."""
    top, left = (max(0, (length - side) // 2) for length in image.shape[-2:])
    return image[..., top : top + side, left : left + side]


def pairs(a: Path, b: Path, count: int, side: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return some pairs of two folders, spread evenly over their names, cropped to their centre."""
    matched = match_folders(a=a, b=b)
    chosen = [matched[k * len(matched) // min(count, len(matched))] for k in range(min(count, len(matched)))]
    found = {}
    for name, paths in chosen:
        images = {side_: read_image(paths[side_]) for side_ in ("a", "b")}
        check_equal_sizes(*((paths[key], image) for key, image in images.items()))
        levels = [torch.from_numpy(luminance(image) / np.float32(255))[None, None] for image in images.values()]
        found[name] = (centre(levels[0], side), centre(levels[1], side))
    return found


def measured(images: Mapping[str, Tensor], sources: Mapping[str, tuple[Tensor, Tensor]]) -> pd.DataFrame:
    """Return one row for each image, one column for each metric; images are rounded to 8 bits."""
    meaning = resolve("lkc_funet", METRICS)
    rows = {}
    for name, (a, b) in sources.items():
        fused, first, second = ((image.double() * 255).round() / 255 for image in (images[name], a, b))
        rows[name] = {metric: float(value) for metric, value in score(fused, first, second, meaning).items()}
    return pd.DataFrame(rows).T


def table(a: Path, b: Path, losses: list[str], count: int, side: int, steps: int) -> pd.DataFrame:
    """Return the means and the mean ranks of every loss and baseline.

    Raises:
        UserError: a loss or an image cannot be used.
    """
    wanted = {text: weights_of(text) for text in losses}
    sources = pairs(a, b, count, side)
    with torch.inference_mode():
        scores = {
            name: measured({key: build(name, options)(*pair) for key, pair in sources.items()}, sources)
            for name, options in BASELINES.items()
        }
    for text, weights in wanted.items():
        images = {key: optimum(*pair, weights, steps) for key, pair in progress(sources.items(), text, unit="pairs")}
        scores[text] = measured(images, sources)
    means = pd.DataFrame({name: frame.mean() for name, frame in scores.items()}).T
    for text in wanted:
        among = pd.concat({name: scores[name] for name in (*BASELINES, text)}).groupby(level=1).rank(ascending=False)
        ranks = among.groupby(level=0).mean().mean(axis=1)
        means.loc[text, "rank of 4"] = ranks[text]
        means.loc[text, "best baseline"] = f"{ranks[list(BASELINES)].idxmin()} {ranks[list(BASELINES)].min():.2f}"
    return means


def main() -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("a", type=Path, help="folder of infrared (or MRI) images")
    parser.add_argument("b", type=Path, help="folder of visible (or CT, PET, SPECT) images")
    parser.add_argument("--loss", action="append", required=True, help="TERM=WEIGHT,...; may be repeated")
    parser.add_argument("--pairs", type=int, default=8, help="number of pairs")
    parser.add_argument("--side", type=int, default=224, help="side of the central crop in pixels")
    parser.add_argument("--steps", type=int, default=60, help="number of Adam steps")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        found = table(chosen.a, chosen.b, chosen.loss, chosen.pairs, chosen.side, chosen.steps)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(found.to_string(float_format=lambda value: f"{value:.3f}", na_rep=""))
    return 0


if __name__ == "__main__":
    sys.exit(main())

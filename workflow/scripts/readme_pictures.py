"""Make the pictures of the README: the top of a study's report, and real pairs with their fused images.

`report` takes a screenshot of a report's first page with headless Chromium. `strip` fuses pairs of public datasets with
the Laplacian pyramid and with a network, and puts sources and results side by side. It takes pairs from the mirror
(MMFUSE_MIRROR) or from data/manual, and only from datasets whose licence allows others to show them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmfuse.data.catalog import Dataset
from mmfuse.data.catalog import dataset as catalog_entry
from mmfuse.data.images import Bytes, resize
from mmfuse.data.origins import mirror_of
from mmfuse.data.packs import Sample
from mmfuse.data.reading import find_pairs, read_pair
from mmfuse.errors import MmfuseError, UserError, closest
from mmfuse.files.writing import whole_file
from mmfuse.inference.fast_copy import for_inference
from mmfuse.inference.fusing import best_device, fuse_pair
from mmfuse.methods.base import FusionMethod
from mmfuse.stages import download
from mmfuse.training.checkpoints import build, load_method
from mmfuse.weights import shipped

# licences of the catalog that allow others to show images with attribution
FREE = ("MIT", "CC BY", "CC0", "MIT, as this project")
REPORT_SIZE = (1280, 860)
GAP, TEXT, QUALITY = 8, 18, 88  # pixels between pictures, height of the letters, and JPEG's quality
TITLES = {"laplacian": "Laplacian pyramid", "lkc_funet": "LKC-FUNet", "mma_unet": "MMA-UNet", "smfnet": "SMFNet"}


@dataclass(frozen=True)
class Row:
    """One pair: its pictures from left to right, each with what it shows."""

    titles: Sequence[str]
    pictures: Sequence[Bytes]


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    report = commands.add_parser("report", help="a screenshot of a report's first page")
    report.add_argument("--page", type=Path, default=Path("reports/index.html"), help="the report")
    report.add_argument("--out", type=Path, default=Path("docs/pictures/report.jpg"), help="the picture to write")
    strip = commands.add_parser("strip", help="real pairs with their fused images")
    strip.add_argument("pairs", nargs="+", metavar="DATASET:NAME", help="a pair of the catalog, one row each")
    strip.add_argument("--out", type=Path, default=Path("docs/pictures/fused.jpg"), help="the picture to write")
    strip.add_argument(
        "--weights", nargs="*", default=[], metavar="TASK=NAME",
        help="name of shipped weights or a file, for ivif or mif; by default, the task's default weights",
    )  # fmt: skip
    strip.add_argument("--width", type=int, default=300, help="pixels of each picture")
    return parser.parse_args(words)


def check_licence(entry: Dataset) -> None:
    """Check that others may show a dataset's images.

    Raises:
        UserError: its licence does not allow it.
    """
    if entry.licence not in FREE:
        raise UserError(
            f"Pictures of {entry.name} may not be shown.",
            expected=f"one of these licences in data/catalog.yaml: {'; '.join(FREE)}",
            found=entry.licence,
            fix="choose a pair of another dataset",
        )


def read_sample(entry: Dataset, name: str) -> Sample:
    """Put a dataset into a temporary folder and read one of its pairs.

    Raises:
        UserError: the dataset is not available, or has no such pair.
    """
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / entry.name
        download.obtain(entry, out=raw, mirror=mirror_of(None), generate=None)
        pairs = {files.name: files for files in find_pairs(entry, raw).pairs}
        if name not in pairs:
            raise UserError(
                f"{entry.name} has no pair {name!r}.", found=name, fix=closest(name, pairs, "see its pairs.csv")
            )
        return read_pair(entry, pairs[name])


def network(task: str, weights: Mapping[str, str]) -> tuple[str, FusionMethod]:
    """Return a task's network, with the name of its method.

    Raises:
        UserError: there are no such weights.
    """
    choice = weights.get(task)
    path = Path(choice) if choice and Path(choice).is_file() else None
    if path is None:
        path = shipped.verified(shipped.named(choice) if choice else shipped.default(task))
    net, card = load_method(path)
    return card.method, net


def make_row(dataset: str, name: str, weights: Mapping[str, str]) -> Row:
    """Fuse one pair with both methods.

    Raises:
        UserError: the pair may not be shown or is not available, or there are no weights for its task.
    """
    entry = catalog_entry(dataset)
    check_licence(entry)
    sample, device = read_sample(entry, name), best_device()
    pictures = {entry.roles["a"]: sample["a"], entry.roles["b"]: sample["b"]}
    for method, net in (("laplacian", build("laplacian", {}).eval()), network(entry.task, weights)):
        ready = for_inference(net.to(device))
        pictures[TITLES.get(method, method)] = fuse_pair(ready, sample["a"], sample["b"], device)
    print(f"{entry.name}, {name}: {entry.citation}. Licence: {entry.licence}.")
    return Row(list(pictures), list(pictures.values()))


def layout(rows: Sequence[Row], width: int) -> Bytes:
    """Stack the rows, with all pictures at one width and titles above them; returns (H, W, 3) uint8.

    Args:
        rows: The rows; all have the same number of pictures.
        width: Pixels of each picture.
    """
    font, head = ImageFont.load_default(TEXT), TEXT + 2 * GAP
    columns = len(rows[0].pictures)
    heights = [round(row.pictures[0].shape[0] * width / row.pictures[0].shape[1]) for row in rows]
    total = sum(heights) + len(rows) * head
    sheet = Image.new("RGB", (columns * width + (columns - 1) * GAP, total), "white")
    draw, top = ImageDraw.Draw(sheet), 0
    for row, height in zip(rows, heights, strict=True):
        for column, (title, pixels) in enumerate(zip(row.titles, row.pictures, strict=True)):
            left = column * (width + GAP)
            draw.text((left, top + GAP), title, fill="black", font=font)
            sheet.paste(Image.fromarray(resize(pixels, height, width)).convert("RGB"), (left, top + head))
        top += head + height
    return np.asarray(sheet)


def save(image: Image.Image, out: Path) -> None:
    """Write a picture as JPEG, completely or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as temporary:
        image.convert("RGB").save(temporary, format="JPEG", quality=QUALITY, optimize=True)
    print(f"{out}: {image.width} x {image.height} pixels, {out.stat().st_size / 1000:.0f} kB")


def take_report(page: Path, out: Path) -> None:
    """Take a screenshot of the top of a report's first page.

    Raises:
        UserError: the report or Chromium is missing.
    """
    from playwright.sync_api import sync_playwright

    if not page.is_file():
        raise UserError(f"There is no report {page}.", expected="reports/index.html", fix="make run")
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next((path for name in names if (path := shutil.which(name))), None)
    if chromium is None:
        raise UserError("There is no Chromium.", expected=" or ".join(names), fix="apt-get install chromium")
    width, height = REPORT_SIZE
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        # its sandbox does not work for root
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        sheet = browser.new_page(viewport={"width": width, "height": height})
        sheet.goto(page.resolve().as_uri())
        sheet.screenshot(path=f"{folder}/page.png")
        browser.close()
        with Image.open(f"{folder}/page.png") as image:
            save(image, out)


def chosen_weights(words: Sequence[str]) -> dict[str, str]:
    """Return the weights named on the command line, by task.

    Raises:
        UserError: an argument is not TASK=NAME.
    """
    found = dict(word.partition("=")[::2] for word in words)
    if not all(found.values()) or not set(found) <= set(shipped.TASKS):
        raise UserError(
            "Cannot read --weights.", expected="ivif=NAME or mif=NAME, a file or shipped weights", found=" ".join(words)
        )
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    asked = arguments(words)
    try:
        if asked.command == "report":
            take_report(asked.page, asked.out)
            return 0
        weights = chosen_weights(asked.weights)
        rows = [make_row(*word.partition(":")[::2], weights) for word in asked.pairs]
        save(Image.fromarray(layout(rows, asked.width)), asked.out)
    except MmfuseError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

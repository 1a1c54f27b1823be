"""Pictures inside the page: choice of images and windows, frames, label overlays and data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw

from mmfuse.data.images import luminance, resize
from mmfuse.data.packs import Sample
from mmfuse.errors import UserError

Bytes = NDArray[np.uint8]
# the palette of Okabe and Ito, distinguishable with every common form of colour blindness; without black
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442")
_FRAME = "#F0E442"
_QUALITY = 88  # ASSUME: JPEG artefacts are invisible in a thumbnail; the zoomed windows are lossless


def ink(kind: str, number: int) -> str:
    """Return the colour of a class of a `mask` or of `boxes` (whose classes start at 0)."""
    return PALETTE[(number + (kind == "boxes")) % len(PALETTE)]


@dataclass(frozen=True)
class Window:
    """A rectangle in pixels of the full-sized image."""

    top: int
    left: int
    height: int
    width: int

    def of(self, pixels: Bytes) -> Bytes:
        """Return the pixels inside."""
        return pixels[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True)
class Picture:
    """One picture of the page: its data URI, its width and height in pixels, its alternative text."""

    uri: str
    width: int
    height: int
    alt: str


def evenly(names: Sequence[str], count: int, *, offset: float) -> list[str]:
    """Cut the sorted names into `count` equal blocks and take the one at `offset` (0..1) of each block."""
    ordered, count = sorted(names), min(count, len(names))
    return [ordered[int((i + offset) * len(ordered) / count)] for i in range(count)]


def wish_for(images: Any, dataset: str) -> Any:
    """Return the parameter `report.images` for one dataset: a number or a list of names."""
    return images.get(dataset) if isinstance(images, Mapping) else images


def chosen(images: Any, dataset: str, names: Sequence[str]) -> list[str]:
    """Return the test images to show, from the parameter `report.images`.

    Args:
        images: A number or a list of names, for all datasets or (as a mapping) for each dataset.
        dataset: The dataset's name.
        names: The names of its test images.

    Raises:
        UserError: the parameter has no usable value for the dataset, or names an image that it does not have.
    """
    wish = wish_for(images, dataset)
    if isinstance(wish, int) and not isinstance(wish, bool) and wish > 0:
        return evenly(names, wish, offset=0.5)
    listed = [str(name) for name in wish] if isinstance(wish, list) else []
    unknown = [name for name in listed if name not in names]
    if unknown or not listed:
        raise UserError(
            f"Cannot choose the pictures for {dataset}.",
            expected="report.images: a positive number, or a list of names of test images, for this dataset",
            found=f"not among its test images: {', '.join(unknown)}" if unknown else wish,
            fix="change report.images in params.yaml",
        )
    return listed


def _box_sums(values: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Return the sum over every window of a size; (H, W) to (H - height + 1, W - width + 1)."""
    total = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    return total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]


def disagreement(a: Bytes, b: Bytes, side: int) -> Window:
    """Return the window in which both sources have structure and the structures differ most.

    For every window of `side` pixels (or the image's side, if that is smaller), we compute the Gram determinant of the
    two fields of luminance gradients: sum |A|^2 times sum |B|^2 minus (sum A.B)^2. It is zero where one source is flat
    and where both show the same edges. The largest wins; of equal ones, the first from the top left.
    """
    first, second = (np.array(np.gradient(luminance(image).astype(np.float64))) for image in (a, b))
    height, width = (min(side, n) for n in first.shape[1:])
    of_a, of_b, of_both = (
        _box_sums((x * y).sum(0), height, width) for x, y in ((first, first), (second, second), (first, second))
    )
    determinant = of_a * of_b - of_both**2
    # with the tolerance, round-off in the running sums does not decide between equal windows
    wins = determinant >= determinant.max() - 1e-9 * max(1.0, float((of_a * of_b).max()))
    top, left = np.unravel_index(int(wins.argmax()), wins.shape)
    return Window(int(top), int(left), height, width)


def colour(pixels: Bytes) -> Bytes:
    """Return an (H, W) or (H, W, 3) image as RGB."""
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


def _uri(pixels: Bytes, alt: str, *, lossless: bool) -> Picture:
    stream, image = io.BytesIO(), Image.fromarray(pixels)
    if lossless:
        image.save(stream, format="PNG", optimize=True)
    else:
        image.save(stream, format="JPEG", quality=_QUALITY, subsampling=0)
    code = base64.b64encode(stream.getvalue()).decode("ascii")
    return Picture(f"data:image/{'png' if lossless else 'jpeg'};base64,{code}", image.width, image.height, alt)


def _reduced(pixels: Bytes, width: int) -> Bytes:
    height = max(1, round(pixels.shape[0] * width / pixels.shape[1]))
    return resize(pixels, height, width) if width < pixels.shape[1] else pixels


def picture(pixels: Bytes, width: int, alt: str, window: Window | None = None) -> Picture:
    """Return an image of at most `width` pixels, with the window's frame drawn on it."""
    small = _reduced(pixels, width)
    if window is None:
        return _uri(small, alt, lossless=False)
    framed = Image.fromarray(colour(small))
    scale = small.shape[1] / pixels.shape[1]
    left, top = window.left * scale, window.top * scale
    right, bottom = (window.left + window.width) * scale, (window.top + window.height) * scale
    draw = ImageDraw.Draw(framed)
    # a dark line around the bright one keeps the frame visible on any background
    draw.rectangle((left - 1, top - 1, right, bottom), outline="#000000", width=4)
    draw.rectangle((left, top, right - 1, bottom - 1), outline=_FRAME, width=2)
    return _uri(np.asarray(framed), alt, lossless=False)


def patch(pixels: Bytes, window: Window, alt: str) -> Picture:
    """Return the window's own pixels without loss; the page enlarges them."""
    return _uri(np.ascontiguousarray(window.of(pixels)), alt, lossless=True)


def labelled(sample: Sample, width: int, alt: str) -> Picture | None:
    """Return the labels of a pair over the mean of both sources; None if the pair has none."""
    if "mask" not in sample and "boxes" not in sample:
        return None
    mean = (luminance(sample["a"]).astype(np.uint16) + luminance(sample["b"]) + 1) // 2
    ground = colour(mean.astype(np.uint8))
    if "mask" in sample:
        ground = with_mask(ground, sample["mask"])
    image = Image.fromarray(_reduced(ground, width))
    draw = ImageDraw.Draw(image)
    for number, x, y, w, h in sample.get("boxes", ()):
        corners = [(x - w / 2) * image.width, (y - h / 2) * image.height]
        corners += [(x + w / 2) * image.width, (y + h / 2) * image.height]
        draw.rectangle(corners, outline=ink("boxes", int(number)), width=2)
    return _uri(np.asarray(image), alt, lossless=False)


def with_boxes(
    ground: Bytes, boxes: NDArray[np.floating], kinds: NDArray[np.int64], truth: NDArray[np.floating]
) -> Bytes:
    """Draw boxes (n, 4) in pixels on an RGB image in the colours of their classes, over the true ones in thin white."""
    image = Image.fromarray(ground)
    draw = ImageDraw.Draw(image)
    for sides in truth.tolist():
        draw.rectangle(sides, outline="#ffffff", width=1)
    for sides, kind in zip(boxes.tolist(), kinds.tolist(), strict=True):
        draw.rectangle(sides, outline=ink("boxes", kind), width=2)
    return np.asarray(image)


def with_mask(ground: Bytes, mask: NDArray[np.uint8]) -> Bytes:
    """Overlay the classes of a mask on an RGB image at half opacity; class 0 stays clear."""
    tinted = ground.astype(np.float64)
    for kind in np.unique(mask[mask > 0]):
        tinted[mask == kind] = 0.5 * tinted[mask == kind] + 0.5 * np.array(ImageColor.getrgb(ink("mask", int(kind))))
    return np.rint(tinted).astype(np.uint8)

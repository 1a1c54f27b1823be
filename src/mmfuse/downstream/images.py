"""Labelled images as tensors: whole sets at one size, and batches that are randomly cropped and mirrored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mmfuse.data.images import Bytes, read_image, resize
from mmfuse.data.packs import Pack
from mmfuse.data.pairs import check_equal_sizes
from mmfuse.downstream.masks import IGNORED
from mmfuse.training.seeding import derived_seed

_ORDER = 10  # random stream of the order of the images
_IN_SIGHT = 0.4  # ASSUME: a box with less than this share inside a random crop is no longer an object


class Labelled(NamedTuple):
    """One image with its labels at the training size.

    `image` is (H, W, 3) uint8; `boxes` (n, 4) float32 left, top, right, bottom in pixels with `kinds` (n,) class
    indices; `mask` (H, W) uint8 class indices or `IGNORED`. Labels that the task does not need are empty.
    """

    name: str
    image: Bytes
    boxes: NDArray[np.float32]
    kinds: NDArray[np.int64]
    mask: Bytes


def pixels_of(pack: Pack, source: str | Path, number: int) -> Bytes:
    """Return an image of a set in colour: a pair's own image (`a` or `b`), or its fused image from a folder.

    Raises:
        UserError: the fused image is missing or differs in size from its pair.
    """
    sample = pack[number]
    if isinstance(source, Path):
        path = source / f"{sample['name']}.png"
        image = read_image(path, colour=True)
        check_equal_sizes((pack.path / sample["name"], sample["a"]), (path, image))
        return image
    image = sample["a"] if source == "a" else sample["b"]
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image


def load_images(
    pack: Pack,
    source: str | Path,
    names: Sequence[str],
    *,
    height: int,
    width: int,
    index: Mapping[int, int],
) -> list[Labelled]:
    """Return images of one set with their labels, resized to one size.

    Args:
        pack: The labelled pairs.
        source: `a`, `b` or a folder of fused images.
        names: Names of the pairs.
        height: Height of the resized images.
        width: Width of the resized images.
        index: Class id of the labels to class index; other mask ids are ignored.
    """
    places = {name: number for number, name in enumerate(pack.names)}
    table = np.full(256, IGNORED, np.uint8)
    for identity, number in index.items():
        table[identity] = number
    found = []
    for name in names:
        sample = pack[places[name]]
        image = resize(pixels_of(pack, source, places[name]), height, width)
        rows = np.array(sample.get("boxes", np.empty((0, 5))), np.float64).reshape(-1, 5)
        middle, half = rows[:, 1:3] * (width, height), rows[:, 3:5] * (width, height) / 2
        boxes = np.concatenate([middle - half, middle + half], axis=1)
        boxes = np.clip(boxes, 0, (width, height, width, height)).astype(np.float32)
        kinds = np.array([index[int(identity)] for identity in rows[:, 0]] if "boxes" in sample else [], np.int64)
        mask = table[sample["mask"]] if "mask" in sample else np.empty((0, 0), np.uint8)
        found.append(Labelled(name, image, boxes, kinds, _nearest(mask, height, width)))
    return found


def _nearest(mask: Bytes, height: int, width: int) -> Bytes:
    """Resize a mask by nearest neighbour, so that no new ids appear; an empty one stays empty."""
    if not mask.size or mask.shape == (height, width):
        return mask
    rows = (np.arange(height) + 0.5) * mask.shape[0] // height
    columns = (np.arange(width) + 0.5) * mask.shape[1] // width
    return mask[rows.astype(int)][:, columns.astype(int)]


def as_tensor(images: Sequence[Bytes]) -> Tensor:
    """Return images as (B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


class Batches:
    """Batches by step number: each image once per epoch, randomly mirrored and cropped.

    Args:
        images: Training images.
        settings: The training's block of the parameters: `batch`, `flip`, `zoom`.
        seed: Seed of the order; the rest is drawn from torch's global generator.
    """

    def __init__(self, images: Sequence[Labelled], settings: Mapping[str, Any], seed: int) -> None:
        self.images, self.settings, self.seed = images, settings, seed

    def __len__(self) -> int:
        return len(self.images)

    def chosen(self, step: int) -> list[Labelled]:
        """Return the images of a step."""
        batch, count = self.settings["batch"], len(self.images)
        places = range(step * batch, (step + 1) * batch)
        orders = {
            epoch: np.random.default_rng(derived_seed(self.seed, _ORDER, epoch)).permutation(count)
            for epoch in {place // count for place in places}
        }
        return [self.images[orders[place // count][place % count]] for place in places]

    def boxes(self, step: int) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """Return images (B, 3, H, W) and, for each, `boxes` (n, 4) and `labels` (n,)."""
        tensors, targets = [], []
        for one in self.chosen(step):
            image, crop = self._varied(as_tensor([one.image]))
            boxes, kinds = crop.boxes(torch.from_numpy(one.boxes), torch.from_numpy(one.kinds))
            tensors.append(image)
            targets.append({"boxes": boxes, "labels": kinds})
        return torch.cat(tensors), targets

    def masks(self, step: int) -> tuple[Tensor, Tensor]:
        """Return images (B, 3, H, W) and masks (B, H, W) of class indices, int64."""
        tensors, masks = [], []
        for one in self.chosen(step):
            image, crop = self._varied(as_tensor([one.image]))
            tensors.append(image)
            masks.append(crop.mask(torch.from_numpy(one.mask)))
        return torch.cat(tensors), torch.stack(masks).long()

    def _varied(self, image: Tensor) -> tuple[Tensor, _Crop]:
        """Draw a random crop and mirroring, and return the image so changed."""
        height, width = image.shape[-2:]
        low, high = self.settings["zoom"]
        share = low + (high - low) * float(torch.rand(()))
        h, w = round(height * share), round(width * share)
        top = int(torch.randint(height - h + 1, ()))
        left = int(torch.randint(width - w + 1, ()))
        flip = self.settings["flip"] and bool(torch.rand(()) < 0.5)
        crop = _Crop(top, left, h, w, height, width, flip)
        cut = image[..., top : top + h, left : left + w]
        if cut.shape != image.shape:
            cut = F.interpolate(cut, (height, width), mode="bilinear", antialias=True, align_corners=False)
        return (cut.flip(-1) if flip else cut), crop


class _Crop(NamedTuple):
    """A crop of an image, resized to the image's size and possibly mirrored."""

    top: int
    left: int
    h: int
    w: int
    height: int
    width: int
    flip: bool

    def boxes(self, boxes: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor]:
        moved = boxes - torch.tensor([self.left, self.top, self.left, self.top])
        inside = torch.stack([moved[:, 0::2].clamp(0, self.w), moved[:, 1::2].clamp(0, self.h)], 2).flatten(1)
        areas = [(b[:, 2:] - b[:, :2]).prod(1) for b in (moved, inside)]
        kept = (areas[1] > 0) & (areas[1] >= _IN_SIGHT * areas[0])
        scaled = inside[kept] * torch.tensor([self.width / self.w, self.height / self.h] * 2)
        if self.flip:
            scaled = torch.stack(
                [self.width - scaled[:, 2], scaled[:, 1], self.width - scaled[:, 0], scaled[:, 3]], dim=1
            )
        return scaled, kinds[kept]

    def mask(self, mask: Tensor) -> Tensor:
        cut = mask[self.top : self.top + self.h, self.left : self.left + self.w]
        if cut.shape != mask.shape:
            cut = F.interpolate(cut[None, None].float(), (self.height, self.width), mode="nearest-exact")[0, 0].byte()
        return cut.flip(-1) if self.flip else cut

"""Training batches of random crops, and the validation pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mmfuse.data.packs import Pack, pair_of, spread
from mmfuse.errors import UserError
from mmfuse.training.seeding import derived_seed
from mmfuse.words import number_of

Batch = tuple[Tensor, ...]  # a, b (B, 1, h, w) in [0, 1]; then, if requested, mask (B, h, w) int64
_ORDER = 0  # random stream of the order of the pairs, separate from that of the training steps


class TrainingPairs:
    """Batches of random crops from packs, chosen by step number.

    Args:
        packs: Packs of luminance pairs.
        settings: The part's block of the parameters: `batch`, `crop`, `flip`, `vertical_flip`, `quarter_turns`,
            `jitter`, `drop_last` and `repeat`.
        seed: Seed of order and crops.
        pairs_of: Number of pairs to take from a dataset, spread evenly over its names; all pairs of other datasets.

    Raises:
        UserError: there are no pairs, or fewer than requested.
    """

    def __init__(
        self, packs: Sequence[Pack], settings: Mapping[str, Any], seed: int, pairs_of: Mapping[str, int] | None = None
    ) -> None:
        repeat, counts = settings.get("repeat", {}), pairs_of or {}
        datasets = [pack.path.parent.name for pack in packs]  # data/prepared/DATASET/…
        self.index = [
            (pack, number)
            for pack, dataset in zip(packs, datasets, strict=True)
            for _ in range(repeat.get(dataset, 1))
            for number in _taken(pack, counts.get(dataset))
        ]
        self.settings, self.seed = settings, seed
        self.masks = False  # whether batches also contain the masks
        self._epoch, self._order = -1, np.empty(0, np.int64)
        if not self.index:
            raise UserError(
                "There are no training pairs.",
                expected="at least one training pair",
                found=", ".join(str(pack.path) for pack in packs),
                fix="name another dataset in the training set, or loosen the filter of the patch set",
            )

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, step: int) -> Batch:
        """Return the batch of a step; draws from torch's global generator."""
        count = self.settings["batch"]
        crops = [self._crop(*self.index[self._position(step * count + k)]) for k in range(count)]
        return tuple(torch.stack(kind) for kind in zip(*crops, strict=True))

    def _position(self, draw: int) -> int:
        """Return the pair of the n-th draw; each epoch draws every pair at most once, in a new order."""
        epoch, place = divmod(draw, pairs_of_an_epoch(self.settings, len(self.index)))
        if epoch != self._epoch:
            order = np.random.default_rng(derived_seed(self.seed, _ORDER, epoch))
            self._epoch, self._order = epoch, order.permutation(len(self.index))
        return int(self._order[place])

    def _crop(self, pack: Pack, number: int) -> Batch:
        """Return one random crop of both images and, if requested, of their mask."""
        sample, crop = pack[number], self.settings["crop"]
        shape = (crop["height"], crop["width"])
        size = sample["a"].shape
        if crop["scale"] is None:
            top, left, height, width = _window(size, shape)
        else:
            from torchvision.transforms import RandomResizedCrop  # slow to import, and most methods do not need it

            full = torch.empty(1, *size)  # only the shape of the image is used
            top, left, height, width = RandomResizedCrop.get_params(full, crop["scale"], crop["ratio"])
        window = (slice(top, top + height), slice(left, left + width))
        layers = [sample["a"], sample["b"], *([_mask(pack, number)] if self.masks else [])]
        pixels = np.stack([layer[window] for layer in layers])  # (2 or 3, height, width)
        if self.settings["flip"] and torch.rand(()) < 0.5:
            pixels = pixels[..., ::-1]
        if self.settings.get("vertical_flip") and torch.rand(()) < 0.5:
            pixels = pixels[..., ::-1, :]
        if self.settings.get("quarter_turns"):
            pixels = np.rot90(pixels, int(torch.randint(0, 4, (1,))), axes=(-2, -1))
        values = torch.from_numpy(np.ascontiguousarray(pixels)).float()[None]
        pair, mask = values[:, :2] / 255, values[:, 2:]
        if values.shape[-2:] != shape:
            pair = F.interpolate(pair, shape, mode="bilinear", antialias=True, align_corners=False)
            mask = F.interpolate(mask, shape, mode="nearest-exact") if self.masks else mask
        images = [self._jittered(pair[0, :1]), self._jittered(pair[0, 1:])]
        return images[0], images[1], *mask[0].long()

    def _jittered(self, image: Tensor) -> Tensor:
        """Return an image, (1, h, w) in [0, 1], changed in gamma and gain with the probability that the jitter sets."""
        jitter = self.settings.get("jitter")
        if jitter is None or torch.rand(()) >= jitter["share"]:
            return image
        gamma, gain = (_between(*jitter[name]) for name in ("gamma", "gain"))
        return (gain * image**gamma).clamp(0, 1)


def _between(low: float, high: float) -> float:
    """Draw a log-uniform number from torch's global generator."""
    return float(low * (high / low) ** torch.rand((), dtype=torch.float64))


def pairs_of_an_epoch(settings: Mapping[str, Any], pairs: int) -> int:
    """Return how many pairs an epoch takes: all, or, with `drop_last`, as many as fill whole batches.

    Raises:
        UserError: with `drop_last`, there are fewer pairs than the batch size.
    """
    if not settings.get("drop_last"):
        return pairs
    if pairs < settings["batch"]:
        raise UserError(
            "There are too few training pairs for one batch, and drop_last drops incomplete batches.",
            expected=f"at least {number_of(settings['batch'], 'training pair')}",
            found=pairs,
            fix="lower batch, or remove drop_last",
        )
    return pairs - pairs % int(settings["batch"])


def _taken(pack: Pack, count: int | None) -> Sequence[int]:
    """Return the indices of the samples of `count` pairs, spread evenly over the names; of all pairs if it is None.

    All patches of a pair are taken or none.
    """
    if count is None:
        return range(len(pack))
    names = [pair_of(name) for name in pack.names] if pack.path.name.startswith("patches.") else pack.names
    chosen = set(spread(list(dict.fromkeys(names)), count, str(pack.path), "`pairs` of the training set"))
    return [number for number, name in enumerate(names) if name in chosen]


def _mask(pack: Pack, number: int) -> NDArray[np.uint8]:
    """Return the mask of a sample, (H, W)."""
    sample = pack[number]
    if "mask" not in sample:
        raise UserError(
            f"{sample['name']} in {pack.path} has no mask.",
            expected="a mask for every training and validation pair, because the loss uses labels",
            fix="train on a dataset with masks, or choose another form of this loss",
        )
    return sample["mask"]


def _window(size: tuple[int, ...], shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a window anywhere in an image; draws from torch's global generator."""
    if size[0] < shape[0] or size[1] < shape[1]:
        raise UserError(
            "A training image is smaller than the crop.",
            expected=f"at least {shape[0]} x {shape[1]}",
            found=f"{size[0]} x {size[1]}",
            fix="lower crop.height and crop.width, or set crop.scale to resize",
        )
    if size == shape:
        return 0, 0, *shape
    top, left = (int(torch.randint(0, full - part + 1, (1,))) for full, part in zip(size, shape, strict=True))
    return top, left, *shape


def validation_pairs(packs: Sequence[Pack], limit: int, side: int, *, masks: bool = False) -> list[Batch]:
    """Return evenly chosen validation pairs in batches of one, centre-cropped to multiples of 32 up to `side`."""
    index = [(pack, number) for pack in packs for number in range(len(pack))]
    chosen = [index[k * len(index) // min(limit, len(index))] for k in range(min(limit, len(index)))]
    pairs = []
    for pack, number in chosen:
        images = [_centre(pack[number][key], side)[None].float() / 255 for key in ("a", "b")]
        pairs.append((*images, *([_centre(_mask(pack, number), side).long()] if masks else [])))
    return pairs


def _centre(image: NDArray[np.uint8], side: int) -> Tensor:
    """Return the central crop of an image, (1, h, w) uint8."""
    height, width = (min(length, side) // 32 * 32 or length for length in image.shape)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return torch.from_numpy(image[top : top + height, left : left + width].copy())[None]

"""A small detector that represents each object by a point: its centre on a heat map, and the distances to four sides.

Source: Zhou, Wang and Krähenbühl, Objects as Points, 2019 (heat map, focal loss, peaks instead of suppression); Liu et
al., Training-Time-Friendly Network, AAAI 2020 (sides are learned over the middle of an object, not in one point).
It was written for this project and has about 0.9 million parameters, so that training from scratch takes minutes
without a GPU.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, clip_boxes_to_image, generalized_box_iou_loss

Target = dict[str, Tensor]
_STRIDE = 4  # image pixels per cell of the heat map
_MIDDLE = 0.54  # ASSUME: standard deviation of the heat in an object: a sixth of this share of its sides


def _block(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(inplace=True)
    )


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _block(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


class CentreDetector(nn.Module):
    """Detector with torchvision's interface: losses in training, boxes in evaluation.

    Args:
        classes: Number of classes.
        width: Channels at stride 4; deeper levels have up to four times as many.
        most: Maximum number of boxes per image.
        least: Minimum score.
        overlap: Boxes of one class that overlap by more than this count as one object.
    """

    def __init__(
        self, classes: int, width: int = 32, most: int = 100, least: float = 0.02, overlap: float = 0.6
    ) -> None:
        super().__init__()
        self.most, self.least, self.overlap = most, least, overlap
        widths = [width, 2 * width, 3 * width, 4 * width]
        self.stem = nn.Sequential(_block(3, 16, 2), _block(16, widths[0], 2), _Residual(widths[0]))
        self.down = nn.ModuleList(nn.Sequential(_block(a, b, 2), _Residual(b)) for a, b in pairwise(widths))
        self.sideways = nn.ModuleList(nn.Conv2d(w, 2 * width, 1) for w in widths)
        self.merge = nn.ModuleList(_block(2 * width, 2 * width) for _ in range(3))
        self.heat = nn.Sequential(_block(2 * width, 2 * width), nn.Conv2d(2 * width, classes, 1))
        self.sides = nn.Sequential(_block(2 * width, 2 * width), nn.Conv2d(2 * width, 4, 1))
        # ASSUME: the prior for the focal loss: one cell in a hundred is a centre
        nn.init.constant_(self.heat[1].bias, -math.log(99))  # type: ignore[arg-type]

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return heat map logits (B, classes, H / 4, W / 4) and distances to the sides in pixels (B, 4, ...)."""
        levels = [self.stem((images - 0.45) / 0.225)]
        for step in self.down:
            levels.append(step(levels[-1]))
        x = self.sideways[3](levels[3])
        for number in (2, 1, 0):
            up = F.interpolate(x, levels[number].shape[-2:], mode="nearest")
            x = self.merge[number](up + self.sideways[number](levels[number]))
        return self.heat(x), F.softplus(self.sides(x)) * _STRIDE

    def forward(self, images: Tensor, targets: list[Target] | None = None) -> dict[str, Tensor] | list[Target]:
        """Return the losses (with targets), or the boxes, classes and scores of each image.

        Shape: images (B, 3, H, W) in [0, 1], sides multiples of 32; targets have `boxes` (n, 4) and `labels` (n,).
        """
        heat, sides = self.maps(images)
        if targets is not None:
            return self._losses(heat, sides, targets)
        return [self._found(h, s, images.shape[-2:]) for h, s in zip(heat.sigmoid(), sides, strict=True)]

    def _losses(self, heat: Tensor, sides: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        centres = _centres(heat.shape[-2:], heat.device)
        heats, boxes, weights = zip(*(_drawn(t, heat.shape[1:], centres) for t in targets), strict=True)
        truth, box, weight = torch.stack(heats), torch.stack(boxes), torch.stack(weights)
        objects = max(1, int((truth == 1).sum()))
        p = heat.sigmoid().clamp(1e-4, 1 - 1e-4)
        hit = (truth == 1) * (1 - p) ** 2 * p.log()
        miss = (truth < 1) * (1 - truth) ** 4 * p**2 * (1 - p).log()
        inside = weight > 0  # (B, h, w)
        found = _corners(sides, centres).permute(0, 2, 3, 1)[inside]
        apart = generalized_box_iou_loss(found, box[inside]) * weight[inside]
        return {
            "heat": -(hit + miss).sum() / objects,
            "box": apart.sum() / weight.sum().clamp(min=1e-6),
        }

    def _found(self, heat: Tensor, sides: Tensor, shape: torch.Size) -> Target:
        peaks = heat * (F.max_pool2d(heat[None], 3, 1, 1)[0] == heat)
        scores, places = peaks.flatten().topk(min(2 * self.most, peaks.numel()))
        places = places[scores > self.least]
        scores = scores[scores > self.least]
        cells = heat.shape[1] * heat.shape[2]
        labels, cell = places // cells, places % cells
        corners = _corners(sides[None], _centres(heat.shape[1:], heat.device))[0].flatten(1).T[cell]  # (n, 4)
        boxes = clip_boxes_to_image(corners, (shape[0], shape[1]))
        kept = batched_nms(boxes, scores, labels, self.overlap)[: self.most]
        return {"boxes": boxes[kept], "labels": labels[kept], "scores": scores[kept]}


def _centres(shape: torch.Size, device: torch.device) -> Tensor:
    """Return the pixel coordinates x, y of the centre of each cell, (2, h, w)."""
    y, x = ((torch.arange(n, device=device, dtype=torch.float32) + 0.5) * _STRIDE for n in shape)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))


def _corners(sides: Tensor, centres: Tensor) -> Tensor:
    """Convert distances to left, top, right and bottom into corners; (B, 4, h, w) in and out."""
    return torch.cat([centres - sides[:, :2], centres + sides[:, 2:]], dim=1)


def _drawn(target: Target, shape: torch.Size, centres: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the heat map of an image (classes, h, w), and each cell's target box (h, w, 4) and its weight.

    Larger objects are drawn first, so that small ones in front of them keep their cells.
    """
    heat = torch.zeros(shape, device=centres.device)
    box, weight = torch.zeros((*shape[1:], 4), device=centres.device), torch.zeros(shape[1:], device=centres.device)
    boxes = target["boxes"]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for number in torch.argsort(areas, descending=True, stable=True):
        left, top, right, bottom = boxes[number]
        column = int(((left + right) / 2 / _STRIDE).clamp(0, shape[2] - 1))
        row = int(((top + bottom) / 2 / _STRIDE).clamp(0, shape[1] - 1))
        spread_x = max(float(right - left) * _MIDDLE / 6, _STRIDE / 3)
        spread_y = max(float(bottom - top) * _MIDDLE / 6, _STRIDE / 3)
        away_x, away_y = centres[0] - centres[0, row, column], centres[1] - centres[1, row, column]
        bump = torch.exp(-((away_x / spread_x) ** 2 + (away_y / spread_y) ** 2) / 2)
        kind = int(target["labels"][number])
        heat[kind] = torch.maximum(heat[kind], bump)
        inside = bump > 0.1
        box[inside], weight[inside] = boxes[number], bump[inside]
    return heat, box, weight

"""Segmenters with the structure of DeepLabV3+: an encoder, pooling at several rates, a decoder with fine features.

Source: Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, ECCV 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.deeplabv3 import ASPP

from mmfuse.downstream.masks import IGNORED


def _block(inside: int, outside: int, stride: int = 1, rate: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, stride, rate, rate, bias=False), nn.BatchNorm2d(outside), nn.ReLU(inplace=True)
    )


class SmallEncoder(nn.Module):
    """Two levels of features: fine at stride 4 and deep at stride 16, with a dilated last block."""

    fine_width, deep_width = 48, 128

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(_block(3, 24, 2), _block(24, 48, 2), _block(48, 48))
        self.deep = nn.Sequential(
            _block(48, 80, 2), _block(80, 80), _block(80, 128, 2), _block(128, 128), _block(128, 128, 1, 2)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return fine and deep features of (B, 3, H, W)."""
        fine = self.fine(x)  # (B, 48, H / 4, W / 4)
        return fine, self.deep(fine)  # (B, 128, H / 16, W / 16)


class ResNetEncoder(nn.Module):
    """The levels of a torchvision ResNet, with dilation instead of stride in the last block (output stride 16)."""

    fine_width, deep_width = 256, 2048

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        names = ("conv1", "bn1", "relu", "maxpool", "layer1")
        self.fine = nn.Sequential(*(getattr(network, name) for name in names))
        self.deep = nn.Sequential(*(getattr(network, name) for name in ("layer2", "layer3", "layer4")))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return fine and deep features of (B, 3, H, W)."""
        fine = self.fine(x)  # (B, 256, H / 4, W / 4)
        return fine, self.deep(fine)  # (B, 2048, H / 16, W / 16)


class DeepLabV3Plus(nn.Module):
    """Segmenter: (B, 3, H, W) in [0, 1] to logits (B, classes, H, W).

    Args:
        encoder: Returns fine and deep features.
        classes: Number of classes.
        width: Channels of the pooled features and of the decoder.
        rates: Dilations of the pooling.
    """

    def __init__(self, encoder: SmallEncoder | ResNetEncoder, classes: int, width: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.encoder = encoder
        self.pool = ASPP(encoder.deep_width, list(rates), width)
        # PAPER: 48 channels of fine features
        self.reduce = nn.Sequential(nn.Conv2d(encoder.fine_width, 48, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU())
        self.decode = nn.Sequential(_block(width + 48, width), _block(width, width), nn.Conv2d(width, classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of each pixel."""
        fine, deep = self.encoder((images - 0.45) / 0.225)
        pooled = F.interpolate(self.pool(deep), fine.shape[-2:], mode="bilinear", align_corners=False)
        logits = self.decode(torch.cat([pooled, self.reduce(fine)], dim=1))  # (B, classes, H / 4, W / 4)
        return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)


def losses_of(logits: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """Return cross-entropy and one minus Dice, over all pixels that are not ignored.

    Dice is computed over all pixels of a batch for each class that occurs in it, and averaged over these classes.

    Shape: logits (B, classes, H, W), masks (B, H, W) of class indices or `IGNORED`.
    Source: Milletari et al., V-Net, 3DV 2016 (Dice).
    """
    known = masks != IGNORED
    if not known.any():
        return {"cross_entropy": logits.sum() * 0, "dice": logits.sum() * 0}
    entropy = F.cross_entropy(logits, masks, ignore_index=IGNORED)
    truth = F.one_hot(torch.where(known, masks, 0), logits.shape[1]).movedim(-1, 1) * known[:, None]
    shares = logits.softmax(1) * known[:, None]
    both, each = (shares * truth).sum((0, 2, 3)), (shares + truth).sum((0, 2, 3))
    occurs = truth.sum((0, 2, 3)) > 0
    return {"cross_entropy": entropy, "dice": 1 - ((2 * both + 1) / (each + 1))[occurs].mean()}

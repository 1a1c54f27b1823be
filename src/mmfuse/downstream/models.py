"""Detectors and segmenters by name.

All detectors have torchvision's interface: with targets (`boxes`, `labels`) they return losses by name, without them
the boxes, labels and scores of each image; labels are class indices from 0. Segmenters return logits
(B, classes, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection, resnet, segmentation

from mmfuse.downstream.centre import CentreDetector, Target
from mmfuse.downstream.deeplab import DeepLabV3Plus, ResNetEncoder, SmallEncoder
from mmfuse.errors import UserError

TORCHVISION = {
    "ssdlite": detection.ssdlite320_mobilenet_v3_large,
    "fasterrcnn": detection.fasterrcnn_mobilenet_v3_large_fpn,
    "retinanet": detection.retinanet_resnet50_fpn_v2,
}
DETECTORS = ("centre", *TORCHVISION)
NORMS = ("batch", "group")
_GROUPS = 8  # of group norm; fewer if the number of channels is not divisible


class TorchvisionDetector(nn.Module):
    """A torchvision detector with the common interface; its class 0 is the background, ours is an object.

    Args:
        name: Key of `TORCHVISION`.
        classes: Number of classes.
        height: Height of the images; they are not resized again.
        width: Width of the images.
        pretrained: Start with torchvision's backbone, which it downloads once.
        options: Further arguments of torchvision's function.
    """

    def __init__(self, name: str, classes: int, height: int, width: int, pretrained: bool, **options: Any) -> None:
        super().__init__()
        backbone = {"weights_backbone": "DEFAULT" if pretrained else None, "weights": None}
        self.network = TORCHVISION[name](num_classes=classes + 1, **backbone, **options)
        # otherwise torchvision would resize each image to its own default size
        sides: Any = self.network.transform
        sides.min_size, sides.max_size = (min(height, width),), max(height, width)
        sides.fixed_size = (width, height) if name == "ssdlite" else None

    def forward(self, images: Tensor, targets: list[Target] | None = None) -> dict[str, Tensor] | list[Target]:
        """Return losses (with targets), or boxes, labels and scores; see the module."""
        if targets is not None:
            shifted = [{"boxes": t["boxes"], "labels": t["labels"] + 1} for t in targets]
            losses: dict[str, Tensor] = self.network(list(images), shifted)
            return losses
        found = self.network(list(images))
        return [{**one, "labels": one["labels"] - 1} for one in found]


def _torchvision_segmenter(function: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    def build(classes: int, pretrained: bool) -> nn.Module:
        weights = "DEFAULT" if pretrained else None
        return _Logits(function(num_classes=classes, weights=None, weights_backbone=weights, aux_loss=False))

    return build


class _Logits(nn.Module):
    """A torchvision segmenter that returns only its logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network((images - 0.45) / 0.225)["out"]
        return logits


def _small(classes: int, pretrained: bool) -> nn.Module:
    if pretrained:
        raise UserError("The small segmenter has no pretrained weights.", expected="pretrained: false")
    return DeepLabV3Plus(SmallEncoder(), classes, 64, (2, 4, 6))


def _plus_resnet50(classes: int, pretrained: bool) -> nn.Module:
    network = resnet.resnet50(
        weights="DEFAULT" if pretrained else None, replace_stride_with_dilation=[False, False, True]
    )
    # PAPER: the rates for output stride 16
    return DeepLabV3Plus(ResNetEncoder(network), classes, 256, (6, 12, 18))


SEGMENTERS: Mapping[str, Callable[..., nn.Module]] = {
    "small_deeplabv3plus": _small,
    "deeplabv3plus_resnet50": _plus_resnet50,
    "deeplabv3_mobilenet_v3_large": _torchvision_segmenter(segmentation.deeplabv3_mobilenet_v3_large),
    "deeplabv3_resnet50": _torchvision_segmenter(segmentation.deeplabv3_resnet50),
}


def build_detector(name: str, classes: int, *, height: int, width: int, pretrained: bool, options: Any) -> nn.Module:
    """Return an untrained detector (YOLO trains itself, in a separate module).

    The option `norm: group` applies to all models here, see `with_norm`; the others are the model's own.

    Raises:
        UserError: there is no such detector, it does not take these options, or its pretrained backbone is missing.
    """
    if name not in DETECTORS:
        raise _unknown("detector", name, [*DETECTORS, "yolov5n and others from ultralytics"])
    norm, own = _norm_and_others(options)
    if name == "centre":
        if pretrained:
            raise UserError("The centre-point detector has no pretrained weights.", expected="pretrained: false")
        return with_norm(_made(name, lambda: CentreDetector(classes, **own)), norm)
    made = _made(name, lambda: TorchvisionDetector(name, classes, height, width, pretrained, **own))
    return with_norm(made, norm, pretrained=pretrained)


def build_segmenter(name: str, classes: int, *, pretrained: bool, options: Any) -> nn.Module:
    """Return an untrained segmenter.

    Raises:
        UserError: there is no such segmenter, it does not take these options, or its pretrained backbone is missing.
    """
    if name not in SEGMENTERS:
        raise _unknown("segmenter", name, list(SEGMENTERS))
    norm, own = _norm_and_others(options)
    return with_norm(_made(name, lambda: SEGMENTERS[name](classes, pretrained, **own)), norm, pretrained=pretrained)


def with_norm(network: nn.Module, norm: str, *, pretrained: bool = False) -> nn.Module:
    """Return the network with its batch norms unchanged (`batch`) or replaced with group norms (`group`).

    Batch norm trains with the statistics of zoomed crops and tests with their running mean. If training images are few
    or unlike the test images, such as slices of different patients, that mean does not fit. Group norm uses each
    image's own statistics, in training and in testing. It learns more slowly.

    Raises:
        UserError: there is no such norm, or it would replace the batch norm of pretrained weights.
    """
    if norm not in NORMS or (norm == "group" and pretrained):
        raise UserError(
            f"A model cannot be built with norm {norm!r}" + " and pretrained weights." * pretrained,
            expected=f"one of {', '.join(NORMS)}" + "; batch with pretrained: true" * pretrained,
            found=norm,
            fix="correct model.options",
        )
    if norm == "group":
        for parent in list(network.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    channels = child.num_features
                    setattr(parent, name, nn.GroupNorm(math.gcd(_GROUPS, channels), channels))
    return network


def _norm_and_others(options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    own = dict(options)
    return own.pop("norm", "batch"), own


def _unknown(what: str, name: str, known: list[str]) -> UserError:
    return UserError(f"There is no {what} {name!r}.", expected=", ".join(known), found=name)


def _made(name: str, make: Callable[[], nn.Module]) -> nn.Module:
    try:
        return make()
    except TypeError as error:
        raise UserError(f"{name} does not take these options.", found=error, fix="correct model.options") from error
    except OSError as error:  # includes URLError
        raise UserError(
            f"The pretrained backbone of {name} cannot be downloaded.",
            expected=f"network access, or the file named in the message, in {torch.hub.get_dir()}/checkpoints",
            found=error,
            fix="put the file there (TORCH_HOME moves the folder), or set pretrained to false",
        ) from error

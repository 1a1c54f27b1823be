"""LKC-FUNet: a UNet of large kernels that normalises each image by itself, with attention in place of plain skips.

Source: He et al., "Rethinking Normalization Strategies and Convolutional Kernels for Multimodal Image Fusion".
One part, `net`. Where the paper and its published code differ, docs/decisions says what we chose; L1 to L11 below name
the rows of that table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmfuse.errors import UserError
from mmfuse.methods.base import FusionMethod
from mmfuse.nn.large_kernel import LargeKernelConv2d
from mmfuse.nn.losses import strongest_gradient_loss, strongest_intensity_loss, two_source_ssim_loss
from mmfuse.nn.padding import pad_to_multiple
from mmfuse.nn.stochastic_depth import StochasticDepth

CHOICES = {
    "init_norm": ("instance", "batch", "group", "none", "per_modality"),
    "norm": ("group", "batch", "none"),
    "skip": ("mpafm", "concat"),
    "training_range": ("unit", "symmetric"),
    "padding": ("reflect", "replicate", "constant"),
}
MPAFM_CHOICES = {
    "norm": CHOICES["norm"],
    "sides": ("paper", "code"),
    "weighting": ("softmax", "sigmoid"),
    "recalibrated": ("decoder", "encoder"),
}


def _norm(kind: str, channels: int, groups: int | str) -> nn.Module:
    """Normalisation of a feature map; `groups` counts for the kind `group`, "channels" makes each channel a group."""
    if kind in ("none", "per_modality"):
        return nn.Identity()
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    count = channels if kind == "instance" or groups == "channels" else groups
    if not isinstance(count, int) or count < 1 or channels % count:
        raise UserError(
            "LKC-FUNet cannot divide its channels into these groups.",
            expected=f"a divisor of {channels}, or `channels`",
            found=groups,
            fix="choose groups that divide channels, twice the channels, and channels + width",
        )
    return nn.GroupNorm(count, channels)


def _check_choices(allowed: dict[str, tuple[str, ...]], chosen: dict[str, Any]) -> None:
    for option, names in allowed.items():
        if chosen[option] not in names:
            raise UserError(
                f"LKC-FUNet does not know this {option}.", expected=", ".join(names), found=str(chosen[option])
            )


def _shortcut(channels_in: int, channels_out: int) -> nn.Module:
    """What a residual block adds to: its input, by a 1x1 convolution where the channels differ."""
    return nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)


@dataclass(frozen=True)
class BlockOptions:
    """What all blocks of the encoder and the decoder have in common."""

    norm: str
    groups: int | str
    depthwise_groups: int | str
    dropout: float
    drop_path: float
    expansion: float


class InitBlock(nn.Module):
    """From the two images to the first features: 3x3, normalisation, ReLU, dropout, large kernel.

    Source: 3.2; L2: the published code has a batch norm in the place where the paper has the instance norm.
    """

    def __init__(self, width: int, channels: int, kernel: int, norm: str, groups: int | str, dropout: float) -> None:
        super().__init__()
        # the images themselves, each with its own mean and deviation: the paper's sentence taken by the word
        self.images = nn.GroupNorm(2, 2) if norm == "per_modality" else nn.Identity()
        self.thin = nn.Conv2d(2, width, 3, padding=1)
        self.wide = nn.Sequential(
            _norm(norm, width, groups), nn.ReLU(), nn.Dropout(dropout), LargeKernelConv2d(width, channels, kernel)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return thin features (B, width, H, W) and wide ones (B, channels, H, W) of images (B, 2, H, W)."""
        thin = self.thin(self.images(images))
        return thin, self.wide(thin)


class LKCBlock(nn.Module):
    """Twice normalisation, ReLU, dropout, large kernel, around a residual; (B, c, H, W) to (B, c', H, W).

    Source: 3.2, LKCBLOCK; L6.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, options: BlockOptions) -> None:
        super().__init__()

        def unit(channels: int) -> nn.Sequential:
            norm = _norm(options.norm, channels, options.groups)
            convolution = LargeKernelConv2d(channels, channels_out, kernel)
            return nn.Sequential(norm, nn.ReLU(), nn.Dropout(options.dropout), convolution)

        self.units = nn.Sequential(unit(channels_in), unit(channels_out))
        self.shortcut = _shortcut(channels_in, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Return the new features."""
        return self.shortcut(x) + self.units(x)


class LKDCBlock(nn.Module):
    """Normalisation, 1x1, depthwise large kernel, ReLU, 1x1, around a residual; (B, c, H, W) to (B, c', H, W).

    Source: 3.2, LKDCBLOCK, after RepLKNet; L6.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, options: BlockOptions) -> None:
        super().__init__()
        hidden = int(options.expansion * channels_out)
        self.units = nn.Sequential(
            # PAPER: 3.2, one group: depthwise kernels see one channel each, and groups would set some channels apart
            _norm(options.norm, channels_in, options.depthwise_groups),
            nn.Conv2d(channels_in, hidden, 1),
            LargeKernelConv2d(hidden, hidden, kernel, groups=hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, channels_out, 1),
            StochasticDepth(options.drop_path),
        )
        self.shortcut = _shortcut(channels_in, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Return the new features."""
        return self.shortcut(x) + self.units(x)


BLOCKS = {"lkc": LKCBlock, "lkdc": LKDCBlock}


class MPAFM(nn.Module):
    """Multipath adaptive fusion: encoder and decoder features weighted, gated by each other, recalibrated.

    Source: 3.3, eq. 1 to 5; L3, L4.

    Args:
        channels: Channels of both features.
        norm: group, batch (as in the code) or none.
        sides: `paper` weighs the encoder's channels and the decoder's places, `code` the other way round.
        weighting: Whether the two weights of a place add up to one (softmax) or not (sigmoid).
        residual: Whether the features are added to their weighted selves.
        attention: Eq. 1 to 3; without it both features count in full.
        gating: Eq. 4; without it they are added.
        recalibration: Eq. 5; without it the fused features go on as they are.
        recalibrated: The features that the pixel attention multiplies, decoder or encoder.
        reduction: Divisor of the channels within the channel attention.
    """

    def __init__(
        self,
        channels: int,
        *,
        norm: str = "group",
        sides: str = "paper",
        weighting: str = "softmax",
        residual: bool = True,
        attention: bool = True,
        gating: bool = True,
        recalibration: bool = True,
        recalibrated: str = "decoder",
        reduction: int = 8,
    ) -> None:
        super().__init__()
        chosen = {"norm": norm, "sides": sides, "weighting": weighting, "recalibrated": recalibrated}
        _check_choices(MPAFM_CHOICES, chosen)
        self.sides, self.weighting, self.recalibrated = sides, weighting, recalibrated
        self.residual, self.attention, self.gating, self.recalibration = residual, attention, gating, recalibration
        # ASSUME: no batch norm, as the paper says of the network; one group, which keeps the channels' order of weight
        if attention:
            hidden = max(4, channels // reduction)  # a narrower squeeze often starts dead in narrow networks
            # ASSUME: channels are pooled by their mean and weighted by a sigmoid; the place's map has no activation
            self.channel = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1),
                nn.Sigmoid(),
            )  # fmt: skip
            self.spatial = nn.Sequential(nn.Conv2d(2, 1, 1, bias=norm == "none"), _norm(norm, 1, 1))
            self.refine = nn.Sequential(_norm(norm, channels, 1), nn.Conv2d(channels, 2, 1))
        if recalibration:
            self.recalibrate = nn.Sequential(
                nn.Conv2d(channels, channels, 1, bias=norm == "none"), _norm(norm, channels, 1), nn.Sigmoid()
            )
        self.out = nn.Conv2d(channels, 2 * channels, 1)

    def weights(self, encoder: Tensor, decoder: Tensor) -> Tensor:
        """Eq. 1: how much encoder and decoder count at each place.

        Shape: encoder, decoder (B, c, H, W); returns (B, 2, H, W).
        Range: (0, 1); both add up to 1 under softmax.
        """
        by_channel, by_place = (encoder, decoder) if self.sides == "paper" else (decoder, encoder)
        places = torch.cat([by_place.mean(dim=1, keepdim=True), by_place.amax(dim=1, keepdim=True)], dim=1)
        maps = self.refine(self.channel(by_channel) + self.spatial(places))  # (B, 2, H, W)
        return maps.softmax(dim=1) if self.weighting == "softmax" else maps.sigmoid()

    def forward(self, encoder: Tensor, decoder: Tensor) -> Tensor:
        """Return what the decoder goes on with, (B, 2 c, H, W), from two features (B, c, H, W)."""
        e, d = encoder, decoder
        if self.attention:
            weight_e, weight_d = self.weights(encoder, decoder).chunk(2, dim=1)  # (B, 1, H, W)
            # L4: the code adds the features to their weighted selves, the paper's eq. 2 and 3 do not
            e = weight_e * e + e if self.residual else weight_e * e
            d = weight_d * d + d if self.residual else weight_d * d
        fused = e.sigmoid() * d + d.sigmoid() * e if self.gating else e + d
        if self.recalibration:
            # PAPER: 3.3, a "pixel attention map" that serves to "recalibrate the features of the input decoder"
            fused = self.recalibrate(fused) * (decoder if self.recalibrated == "decoder" else encoder)
        return self.out(fused)


class Concatenation(nn.Module):
    """The plain skip of a UNet, in the place of MPAFM (ablation VI)."""

    def forward(self, encoder: Tensor, decoder: Tensor) -> Tensor:
        """Return both features, (B, 2 c, H, W)."""
        return torch.cat([encoder, decoder], dim=1)


class Network(nn.Module):
    """The UNet of Fig. 2; level l of the encoder and the decoder works at 1/2^l of the resolution.

    The arguments are those of `LKCFUNet`; `mpafm` is None for plain skips.
    """

    def __init__(
        self,
        width: int,
        channels: int,
        kernels: Sequence[int],
        bottleneck_kernel: int,
        encoder_blocks: Sequence[str],
        decoder_blocks: Sequence[str],
        init: InitBlock,
        options: BlockOptions,
        mpafm: dict[str, Any] | None,
    ) -> None:
        super().__init__()

        def block(kind: str, kernel: int, channels_in: int = channels) -> nn.Module:
            return BLOCKS[kind](channels_in, channels, kernel, options)

        self.init = init
        self.encoder = nn.ModuleList(nn.Sequential(*(block(kind, k) for kind in encoder_blocks)) for k in kernels)
        # ASSUME: neither the paper nor the facts on the code say how the resolution changes
        self.downs = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in kernels[1:])
        self.bottleneck = nn.Sequential(*(block(kind, bottleneck_kernel) for kind in encoder_blocks))
        self.skips = nn.ModuleList(Concatenation() if mpafm is None else MPAFM(channels, **mpafm) for _ in kernels)
        inputs = [2 * channels] + [channels] * (len(decoder_blocks) - 1)
        kinds = list(zip(decoder_blocks, inputs, strict=True))
        levels = [nn.Sequential(*(block(kind, k, c) for kind, c in kinds)) for k in reversed(kernels[1:])]
        finest = nn.Sequential(*(block(kind, kernels[0], c) for kind, c in kinds[:-1]))
        self.decoder = nn.ModuleList([*levels, finest])
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(channels, channels, 3, padding=1)) for _ in kernels[1:]
        )
        # L5: the thin features of the first convolution join before the last block
        self.last = block(decoder_blocks[-1], kernels[0], inputs[-1] + width)
        # L6: no activation at the end
        norm = _norm(options.norm, channels, options.groups)
        self.out = nn.Sequential(norm, nn.ReLU(), nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the fused image, (B, 1, H, W), of (B, 2, H, W) with sides that divide by 2^(levels - 1)."""
        thin, x = self.init(images)  # (B, width, H, W), (B, channels, H, W)
        features: list[Tensor] = []
        for level, blocks in enumerate(self.encoder):
            x = blocks(self.downs[level - 1](x) if level else x)  # (B, channels, H / 2^level, W / 2^level)
            features.append(x)
        x = self.bottleneck(x)
        for step, (skip, blocks) in enumerate(zip(self.skips, self.decoder, strict=True)):
            x = self.ups[step - 1](x) if step else x  # (B, channels, H / 2^level, W / 2^level)
            x = blocks(skip(features.pop(), x))  # through (B, 2 channels, ...) back to (B, channels, ...)
        return self.out(self.last(torch.cat([x, thin], dim=1)))


class LKCFUNet(FusionMethod):
    """LKC-FUNet (He et al.), at the size of the paper unless told otherwise.

    Args:
        width: Channels of the first convolution.
        channels: Channels everywhere else.
        kernels: Kernel of each level, finest first; as many levels as kernels.
        bottleneck_kernel: Kernel between encoder and decoder.
        init_kernel: Kernel of the InitBlock.
        encoder_blocks: Kinds of block (lkc, lkdc) at each level of the encoder and in the bottleneck.
        decoder_blocks: Kinds of block at each level of the decoder.
        init_norm: Normalisation in the InitBlock: instance, batch, group, none; per_modality normalises each image.
        norm: Normalisation elsewhere: group, batch, none.
        groups: Number of groups, or `channels` for one each.
        depthwise_groups: The same within the LKDCBlock.
        dropout: Share of features dropped in the InitBlock and the LKCBlocks.
        drop_path: Share of images for which an LKDCBlock is left out in training.
        expansion: Hidden channels of an LKDCBlock, as a multiple.
        skip: mpafm, or concat for plain skips.
        mpafm: Options of MPAFM that differ from its defaults.
        training_range: unit trains on [0, 1], symmetric on [-1, 1] as the published code does.
        padding: How images are extended to a size that divides: reflect, replicate, constant (zeros).
    """

    summary = "UNet of large kernels with instance and group normalisation and attention between its paths"
    source = "He et al., LKC-FUNet"
    parts = ("net",)
    loss_terms: ClassVar[dict[str, tuple[str, ...]]] = {"net": ("ssim", "intensity", "gradient")}

    def __init__(
        self,
        *,
        width: int = 32,
        channels: int = 128,
        kernels: Sequence[int] = (15, 11, 5),
        bottleneck_kernel: int = 5,
        init_kernel: int = 15,
        encoder_blocks: Sequence[str] = ("lkc", "lkdc"),
        decoder_blocks: Sequence[str] = ("lkc", "lkdc", "lkc"),
        init_norm: str = "instance",
        norm: str = "group",
        groups: int | str = 32,
        depthwise_groups: int | str = 1,
        dropout: float = 0.2,
        drop_path: float = 0.2,
        expansion: float = 1.5,
        skip: str = "mpafm",
        mpafm: dict[str, Any] | None = None,
        training_range: str = "unit",
        padding: str = "reflect",
    ) -> None:
        super().__init__()
        chosen = {"init_norm": init_norm, "norm": norm, "skip": skip}
        _check_choices(CHOICES, chosen | {"training_range": training_range, "padding": padding})
        odd = all(kernel % 2 for kernel in (*kernels, bottleneck_kernel, init_kernel))
        known = {*encoder_blocks, *decoder_blocks} <= set(BLOCKS)
        if not (odd and known and kernels and encoder_blocks and decoder_blocks and min(width, channels) > 0):
            raise UserError(
                "LKC-FUNet cannot be built of these blocks.",
                expected="width and channels from 1; odd kernels, one a level; blocks " + " and ".join(BLOCKS),
                found=f"width {width}, channels {channels}, kernels {init_kernel}, {list(kernels)}, "
                f"{bottleneck_kernel}, blocks {list(encoder_blocks)}, {list(decoder_blocks)}",
            )
        if not (0 <= dropout < 1 and 0 <= drop_path < 1):
            raise UserError(
                "LKC-FUNet cannot drop such a share.",
                expected="dropout and drop_path from 0 to below 1",
                found=f"dropout {dropout}, drop_path {drop_path}",
            )
        self.multiple, self.training_range, self.padding = 2 ** (len(kernels) - 1), training_range, padding
        options = BlockOptions(norm, groups, depthwise_groups, dropout, drop_path, expansion)
        # ASSUME: a group norm in the InitBlock has groups of as many channels as elsewhere
        init_groups = groups if isinstance(groups, str) else max(1, groups * width // channels)
        init = InitBlock(width, channels, init_kernel, init_norm, init_groups, dropout)
        self.net = Network(
            width, channels, kernels, bottleneck_kernel, encoder_blocks, decoder_blocks, init, options,
            (mpafm or {}) if skip == "mpafm" else None,
        )  # fmt: skip

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """See `FusionMethod.forward`."""
        return self._fuse(a, b).clamp(0, 1)

    def _fuse(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the fused image before clamping, at the size of its sources."""
        height, width = a.shape[-2:]
        images = pad_to_multiple(torch.cat([a, b], dim=1), self.multiple, self.padding)
        return self.net(images)[..., :height, :width]

    def part_modules(self, part: str) -> dict[str, nn.Module]:
        """See `FusionMethod.part_modules`."""
        return {part: getattr(self, part)}

    def part_losses(self, part: str, a: Tensor, b: Tensor, weights: dict[str, float]) -> dict[str, Tensor]:
        """Structure, intensity and gradient (eq. 6 to 8)."""
        assert part == "net"
        if self.training_range == "symmetric":
            # ASSUME: L8, the published code trains on [-1, 1]; its similarity keeps the constants of a range of 1
            a, b = 2 * a - 1, 2 * b - 1
        fused = self._fuse(a, b)
        return {
            "ssim": weights["ssim"] * two_source_ssim_loss(fused, a, b),
            "intensity": weights["intensity"] * strongest_intensity_loss(fused, a, b),
            "gradient": weights["gradient"] * strongest_gradient_loss(fused, a, b),
        }


METHOD = LKCFUNet

"""LKC-FUNet: a UNet with large kernels, per-image normalisation, and attention instead of plain skip connections.

Source: He et al., "Rethinking Normalization Strategies and Convolutional Kernels for Multimodal Image Fusion".
One part, `net`. Here `a` is infrared (or MRI) and `b` visible (or CT, PET, SPECT). L1 to L14 below name the rows of the
table in docs/decisions/0012-lkc-funet.md, which gives our choices where the paper and its published code differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmfuse.errors import UserError, check_choices
from mmfuse.fastconv.large_kernel import LargeKernelConv2d
from mmfuse.methods.base import FusionMethod
from mmfuse.nn.losses import BORDERS, strongest_gradient_loss, strongest_intensity_loss, two_source_ssim_loss
from mmfuse.nn.mpafm import MPAFM, Concatenation
from mmfuse.nn.normalisation import normalisation
from mmfuse.nn.padding import pad_to_multiple
from mmfuse.nn.reach import spread
from mmfuse.nn.stochastic_depth import StochasticDepth

CHOICES = {
    "init_norm": ("instance", "batch", "group", "none", "per_modality"),
    "norm": ("group", "batch", "none"),
    "skip": ("mpafm", "concat"),
    "training_range": ("unit", "symmetric"),
    "ssim_border": tuple(BORDERS),
    "gradient_border": tuple(BORDERS),
    "padding": ("reflect", "replicate", "constant"),
}


def _shortcut(channels_in: int, channels_out: int) -> nn.Module:
    """The shortcut of a residual block: its input, through a 1x1 convolution if the channels differ."""
    return nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)


@dataclass(frozen=True)
class BlockOptions:
    """Options that all blocks of the encoder and the decoder share."""

    norm: str
    groups: int | str
    depthwise_groups: int | str
    dropout: float
    drop_path: float
    expansion: float


@dataclass(frozen=True)
class Blocks:
    """Kinds of block (lkc, lkdc) in the four sections of the network."""

    encoder: tuple[str, ...]
    bottleneck: tuple[str, ...]
    decoder: tuple[str, ...]
    finest: tuple[str, ...]


class InitBlock(nn.Module):
    """First features of the two images: 3x3 convolution, normalisation, ReLU, dropout, large kernel.

    Source: 3.2; L2: the published code has a batch norm instead of the paper's instance norm.
    """

    def __init__(self, width: int, channels: int, kernel: int, norm: str, groups: int | str, dropout: float) -> None:
        super().__init__()
        # the other reading of the paper's sentence: each input image, with its own mean and deviation
        self.images = normalisation("instance" if norm == "per_modality" else "none", 2)
        self.thin = nn.Conv2d(2, width, 3, padding=1)  # L14: not in the paper
        self.wide = nn.Sequential(
            normalisation("none" if norm == "per_modality" else norm, width, groups),
            nn.ReLU(),
            nn.Dropout(dropout),
            LargeKernelConv2d(width, channels, kernel),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return thin features (B, width, H, W) and wide features (B, channels, H, W) of images (B, 2, H, W)."""
        thin = self.thin(self.images(images))
        return thin, self.wide(thin)


class LKCBlock(nn.Module):
    """Normalisation, ReLU, dropout, large kernel, twice, with a shortcut; (B, c, H, W) to (B, c', H, W).

    Source: 3.2, LKCBLOCK; L6: "optional Dropout" is only in the second unit.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, options: BlockOptions) -> None:
        super().__init__()

        def unit(channels: int, dropout: nn.Module) -> nn.Sequential:
            norm = normalisation(options.norm, channels, options.groups)
            return nn.Sequential(norm, nn.ReLU(), dropout, LargeKernelConv2d(channels, channels_out, kernel))

        self.units = nn.Sequential(unit(channels_in, nn.Identity()), unit(channels_out, nn.Dropout(options.dropout)))
        self.shortcut = _shortcut(channels_in, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Return the new features."""
        return self.shortcut(x) + self.units(x)


class LKDCBlock(nn.Module):
    """1x1 convolution, depthwise large kernel, 1x1 convolution, with a shortcut; (B, c, H, W) to (B, c', H, W).

    Source: 3.2, LKDCBLOCK, after RepLKNet; order, widths and the four normalisations: L6.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, options: BlockOptions) -> None:
        super().__init__()
        hidden = int(options.expansion * channels_out)
        bias = options.norm == "none"  # a normalisation makes the bias of the preceding convolution redundant

        def norm(channels: int) -> nn.Module:
            # PAPER: 3.2, one group: depthwise kernels see one channel each, and groups would separate channels
            return normalisation(options.norm, channels, options.depthwise_groups)

        self.units = nn.Sequential(
            norm(channels_in),
            nn.Conv2d(channels_in, hidden, 1, bias=bias),
            norm(hidden),
            nn.ReLU(),
            LargeKernelConv2d(hidden, hidden, kernel, groups=hidden, bias=bias),
            norm(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, channels_out, 1, bias=bias),
            norm(channels_out),
            StochasticDepth(options.drop_path),
        )
        self.shortcut = _shortcut(channels_in, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Return the new features."""
        return self.shortcut(x) + self.units(x)


BLOCKS = {"lkc": LKCBlock, "lkdc": LKDCBlock}


class Network(nn.Module):
    """The UNet of Fig. 2; level l of the encoder and the decoder has 1/2^l of the resolution.

    The arguments are those of `LKCFUNet`; `mpafm` is None for plain skip connections.
    """

    def __init__(
        self,
        width: int,
        channels: int,
        kernels: Sequence[int],
        bottleneck_kernel: int,
        blocks: Blocks,
        init: InitBlock,
        options: BlockOptions,
        mpafm: dict[str, Any] | None,
    ) -> None:
        super().__init__()

        def block(kind: str, kernel: int, channels_in: int = channels) -> nn.Module:
            return BLOCKS[kind](channels_in, channels, kernel, options)

        def decoder(kinds: Sequence[str], kernel: int) -> nn.Sequential:
            inputs = [2 * channels] + [channels] * len(kinds)  # there may be no block before the last one
            return nn.Sequential(*(block(kind, kernel, c) for kind, c in zip(kinds, inputs, strict=False)))

        self.init = init
        self.encoder = nn.ModuleList(nn.Sequential(*(block(kind, k) for kind in blocks.encoder)) for k in kernels)
        self.downs = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in kernels[1:])
        self.bottleneck = nn.Sequential(*(block(kind, bottleneck_kernel) for kind in blocks.bottleneck))
        self.skips = nn.ModuleList(Concatenation() if mpafm is None else MPAFM(channels, **mpafm) for _ in kernels)
        coarse = [decoder(blocks.decoder, kernel) for kernel in reversed(kernels[1:])]
        self.decoder = nn.ModuleList([*coarse, decoder(blocks.finest[:-1], kernels[0])])
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(channels, channels, 3, padding=1)) for _ in kernels[1:]
        )
        # L5: the thin features of the first convolution join before the last block
        self.last = block(blocks.finest[-1], kernels[0], channels * (2 if len(blocks.finest) == 1 else 1) + width)
        # L6: no activation at the end
        norm = normalisation(options.norm, channels, options.groups)
        self.out = nn.Sequential(norm, nn.ReLU(), nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the fused image, (B, 1, H, W), of (B, 2, H, W) with sides divisible by 2^(levels - 1)."""
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
    """LKC-FUNet (He et al.), by default at the size of the paper.

    Args:
        width: Channels of the first convolution.
        channels: Channels everywhere else.
        kernels: Kernel of each level, finest first; their number sets the number of levels.
        bottleneck_kernel: Kernel between encoder and decoder.
        init_kernel: Kernel of the InitBlock.
        encoder_blocks: Kinds of block (lkc, lkdc) at each level of the encoder.
        bottleneck_blocks: Kinds of block between encoder and decoder.
        decoder_blocks: Kinds of block at each level of the decoder except the finest.
        finest_blocks: Kinds of block at the finest level of the decoder; the thin features join before the last one.
        init_norm: Normalisation in the InitBlock: instance, batch, group, none; per_modality normalises each image.
        norm: Normalisation elsewhere: group, batch, none.
        groups: Number of groups; `channels` makes each channel a group.
        depthwise_groups: The same for the LKDCBlock.
        dropout: Share of features dropped in the InitBlock and the LKCBlocks.
        drop_path: Share of images for which training drops an LKDCBlock.
        expansion: Hidden channels of an LKDCBlock, as a multiple of its output channels.
        skip: mpafm, or concat for plain skip connections.
        mpafm: Options of MPAFM that differ from its defaults.
        training_range: unit trains on [0, 1], symmetric on [-1, 1] like the published code.
        ssim_border: Border extension in the loss's SSIM: zeros (published code), reflect, replicate.
        ssim_range: Intensity range in the constants of SSIM; 1 (published code).
        gradient_border: Border extension in the loss's gradient: zeros (published code), reflect, replicate.
        padding: Padding of images to a divisible size: reflect, replicate, constant (zeros).
    """

    summary = "UNet with large kernels, instance and group normalisation, and attention in its skip connections"
    source = "He et al., LKC-FUNet"
    parts = ("net",)
    loss_terms: ClassVar[dict[str, tuple[str, ...]]] = {"net": ("ssim", "intensity", "gradient")}
    fused_parts = ("net",)
    # best_VIF.pth has a batch norm in the InitBlock; best_MIF.pth has the paper's instance norm
    published_options: ClassVar[tuple[dict[str, Any], ...]] = (
        {"init_norm": "batch", "mpafm": {"norm": "batch", "sides": "code"}},
        {"init_norm": "instance", "mpafm": {"norm": "batch", "sides": "code"}},
    )
    published_tasks = ("ivif", "mif")
    published_note = "The network's output is only clipped to [0, 1], as in the authors' test code."

    def __init__(
        self,
        *,
        width: int = 32,
        channels: int = 128,
        kernels: Sequence[int] = (15, 11, 5),
        bottleneck_kernel: int = 5,
        init_kernel: int = 15,
        encoder_blocks: Sequence[str] = ("lkc", "lkdc"),
        bottleneck_blocks: Sequence[str] = ("lkdc", "lkdc"),
        decoder_blocks: Sequence[str] = ("lkc", "lkdc", "lkdc"),
        finest_blocks: Sequence[str] = ("lkc", "lkdc", "lkc"),
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
        ssim_border: str = "zeros",
        ssim_range: float = 1.0,
        gradient_border: str = "zeros",
        padding: str = "reflect",
    ) -> None:
        super().__init__()
        check_choices(
            "LKC-FUNet", CHOICES, init_norm=init_norm, norm=norm, skip=skip, training_range=training_range,
            ssim_border=ssim_border, gradient_border=gradient_border, padding=padding,
        )  # fmt: skip
        blocks = Blocks(tuple(encoder_blocks), tuple(bottleneck_blocks), tuple(decoder_blocks), tuple(finest_blocks))
        _check_blocks(width, channels, (*kernels, bottleneck_kernel, init_kernel), len(kernels), blocks)
        if not (0 <= dropout < 1 and 0 <= drop_path < 1 and ssim_range > 0):
            raise UserError(
                "LKC-FUNet cannot use these values.",
                expected="dropout and drop_path from 0 to below 1, ssim_range above 0",
                found=f"dropout {dropout}, drop_path {drop_path}, ssim_range {ssim_range}",
            )
        self.multiple, self.training_range, self.padding = 2 ** (len(kernels) - 1), training_range, padding
        self.ssim_border, self.ssim_range, self.gradient_border = ssim_border, ssim_range, gradient_border
        options = BlockOptions(norm, groups, depthwise_groups, dropout, drop_path, expansion)
        # ASSUME: a group norm in the InitBlock has as many channels per group as elsewhere
        init_groups = groups if isinstance(groups, str) else max(1, groups * width // channels)
        init = InitBlock(width, channels, init_kernel, init_norm, init_groups, dropout)
        chosen = (mpafm or {}) if skip == "mpafm" else None
        self.net = Network(width, channels, kernels, bottleneck_kernel, blocks, init, options, chosen)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """See `FusionMethod.forward`."""
        return self._fuse(a, b).clamp(0, 1)

    def _fuse(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the fused image before clamping, at the size of the inputs."""
        height, width = a.shape[-2:]
        return self.net(self.stacked(a, b))[..., :height, :width]

    def reach(self) -> int | None:
        """See `FusionMethod.reach`: the kernels of the longest path, each at the scale of its level."""
        net, levels = self.net, len(self.net.encoder)
        total = spread(net.init) + spread(net.last) + spread(net.out) + spread(net.bottleneck) * self.multiple
        for level in range(levels):
            total += (spread(net.encoder[level]) + spread(net.decoder[levels - 1 - level])) * 2**level
        for step in range(levels - 1):
            total += (spread(net.downs[step]) + spread(net.ups[levels - 2 - step])) * 2**step
        return total + self.multiple - 1  # upsampling repeats pixels

    def stacked(self, a: Tensor, b: Tensor) -> Tensor:
        """Return both images as input of the network, (B, 2, H', W') with sides divisible by `multiple`."""
        return pad_to_multiple(torch.cat([b, a], dim=1), self.multiple, self.padding)  # L14: visible first

    def part_modules(self, part: str) -> dict[str, nn.Module]:
        """See `FusionMethod.part_modules`."""
        return {part: getattr(self, part)}

    def part_outputs(self, part: str, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Return `fused`, (B, 1, H, W), in the training range."""
        assert part == "net"
        return {"fused": self._fuse(self._in_training_range(a), self._in_training_range(b))}

    def part_terms(self, part: str, outputs: Mapping[str, Tensor], a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Structure, intensity and gradient (eq. 6 to 8)."""
        assert part == "net"
        fused, a, b = outputs["fused"], self._in_training_range(a), self._in_training_range(b)
        return {
            "ssim": two_source_ssim_loss(fused, a, b, border=self.ssim_border, data_range=self.ssim_range),
            "intensity": strongest_intensity_loss(fused, a, b),
            "gradient": strongest_gradient_loss(fused, a, b, border=self.gradient_border),
        }

    def _in_training_range(self, image: Tensor) -> Tensor:
        """L8: the published code trains on [-1, 1] and applies the trained network to [0, 1]."""
        return 2 * image - 1 if self.training_range == "symmetric" else image

    def published_names(self) -> dict[str, dict[str, str]]:
        """See `FusionMethod.published_names`; one file, one group."""
        return {"net": self.names_below(self._published_modules())}

    def _published_modules(self) -> Iterator[tuple[str, str]]:
        """Yield the authors' name and our name of each module with weights."""
        yield "model.init_conv", "net.init.thin"
        yield from ((f"model.IN_conv.{layer}", f"net.init.wide.{layer}") for layer in (0, 3))
        number = 0
        for level, blocks in enumerate(map(list, map(nn.Module.children, self.net.encoder))):
            for place, block in enumerate(blocks):
                yield from _published_block(f"model.downs.{number + place}", f"net.encoder.{level}.{place}", block)
            number += len(blocks) + 1
            if level < len(self.net.downs):
                yield f"model.downs.{number - 1}.conv", f"net.downs.{level}"
        for place, block in enumerate(self.net.bottleneck):
            yield from _published_block(f"model.mid.{place}", f"net.bottleneck.{place}", block)
        number = 0
        for step, blocks in enumerate(map(list, map(nn.Module.children, self.net.decoder))):
            yield from ((f"model.ups.{number}.{t}", f"net.skips.{step}.{o}") for t, o in PUBLISHED_MPAFM.items())
            for place, block in enumerate(blocks, start=1):
                yield from _published_block(f"model.ups.{number + place}", f"net.decoder.{step}.{place - 1}", block)
            number += len(blocks) + 1
            if step < len(self.net.ups):
                yield f"model.ups.{number}.conv", f"net.ups.{step}.1"
                number += 1
        yield from _published_block(f"model.ups.{number}", "net.last", self.net.last)
        yield from ((f"model.final_conv.block.{t}", f"net.out.{o}") for t, o in ((0, 0), (3, 2)))


PUBLISHED_LKC = {f"block{unit + 1}.block.{layer}": f"units.{unit}.{layer}" for unit in (0, 1) for layer in (0, 3)} | {
    "res_conv": "shortcut"
}
PUBLISHED_LKDC = {
    "prelkb_bn": "units.0", "pw1.conv": "units.1", "pw1.bn": "units.2", "large_kernel.lkb_origin.conv": "units.4",
    "large_kernel.lkb_origin.bn": "units.5", "pw2.conv": "units.7", "pw2.bn": "units.8",
}  # fmt: skip
PUBLISHED_MPAFM = {
    "multi.local.ca.0": "channel.1", "multi.local.ca.2": "channel.3", "multi.global_.proj.0": "spatial.0",
    "multi.global_.proj.1": "spatial.1", "multi.bn": "refine.0", "selection": "refine.1", "proj": "recalibrate.0",
    "bn": "recalibrate.1", "conv_block.0": "out",
}  # fmt: skip


def _published_block(theirs: str, ours: str, block: nn.Module) -> Iterator[tuple[str, str]]:
    layers = PUBLISHED_LKC if isinstance(block, LKCBlock) else PUBLISHED_LKDC
    yield from ((f"{theirs}.res_block.{their}", f"{ours}.{our}") for their, our in layers.items())


def _check_blocks(width: int, channels: int, kernels: Sequence[int], levels: int, blocks: Blocks) -> None:
    """Reject sizes and blocks from which the network cannot be built."""
    kinds = [*blocks.encoder, *blocks.bottleneck, *blocks.decoder, *blocks.finest]
    known = set(kinds) <= set(BLOCKS) and blocks.encoder and blocks.decoder and blocks.finest
    if not (known and levels and all(kernel % 2 for kernel in kernels) and min(width, channels) > 0):
        raise UserError(
            "LKC-FUNet cannot be built from these blocks.",
            expected="width and channels from 1; odd kernels, one per level; at each level, blocks "
            + " and ".join(BLOCKS),
            found=f"width {width}, channels {channels}, kernels {list(kernels)}, blocks {blocks}",
        )


METHOD = LKCFUNet

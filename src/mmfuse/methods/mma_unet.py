"""MMA-UNet: two UNets, one guided by the other, fused level by level with an offset between their levels.

Source: Huang et al., "MMA-UNet: A Multi-Modal Asymmetric UNet Architecture for Infrared and Visible Image Fusion".
Stage I trains `vi_unet` to reproduce the visible image, then `ir_unet` to reproduce the infrared image while the frozen
visible encoder guides it. Stage II (`fusion`) keeps both encoders frozen and trains the attention and the decoder.
Here `a` is infrared (or MRI) and `b` visible (or CT, PET, SPECT). M1 to M13 below name the rows of the table in
docs/decisions/0006-mma-unet.md, which gives our choices where the paper and its published code differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfuse.errors import UserError, check_choices
from mmfuse.methods.base import FusionMethod
from mmfuse.nn.cka import SMALLEST_BATCH, Alignment, best_pairing, centred_gram
from mmfuse.nn.level_fusion import LevelFusion, SoftLevelFusion
from mmfuse.nn.losses import BORDERS, sobel_magnitude, ssim_loss
from mmfuse.nn.padding import pad_to_multiple
from mmfuse.nn.reach import spread
from mmfuse.nn.stretch import Stretch
from mmfuse.nn.unet import OUTPUTS, DoubleConv, UNet, fitted

CHOICES = {
    "output": tuple(OUTPUTS),
    "attention": ("mixed", "pooled", "channel_spatial"),
    "channel": ("mean", "first"),
    "padding": ("reflect", "published"),
    "ssim_border": tuple(BORDERS),
    "gradient_border": tuple(BORDERS),
}
LEARNED = "learned"
PAPER_PAIRING = ((1, 2), (2, 3), (3, 4), (4, 5))  # PAPER: first four visible levels with last four infrared levels


class ShuffleUp(nn.Sequential):
    """Twice the resolution, half the channels: 3x3 convolution and pixel shuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False), nn.PixelShuffle(2))


class FusionDecoder(nn.Module):
    """Decoder from the fused levels to an image (stage II)."""

    def __init__(self, levels: list[int], width: int, channels: int, last_kernel: int) -> None:
        super().__init__()
        self.levels = levels
        widths = {level: width * 2 ** (level - 1) for level in range(1, 6)}
        self.ups = nn.ModuleDict({str(level): ShuffleUp(widths[level]) for level in range(max(levels), 1, -1)})
        joins = [level for level in levels if level < max(levels)]
        self.joins = nn.ModuleDict({str(level): DoubleConv(2 * widths[level], widths[level]) for level in joins})
        # M4: three convolutions to the image, no activation at the end; in the paper's text, the last has a 1x1 kernel
        half, quarter = max(1, width // 2), max(1, width // 4)
        self.out = nn.Sequential(
            nn.Conv2d(width, half, 3, padding=1),
            nn.BatchNorm2d(half),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, quarter, 3, padding=1),
            nn.BatchNorm2d(quarter),
            nn.ReLU(inplace=True),
            nn.Conv2d(quarter, channels, last_kernel, padding=last_kernel // 2),
        )

    def forward(self, fused: list[Tensor]) -> Tensor:
        """Return the image, (B, channels, H, W); `fused` in the order of `levels`."""
        features = dict(zip(self.levels, fused, strict=True))
        level = max(self.levels)
        x = features[level]
        while level > 1:
            x = self.ups[str(level)](x)
            level -= 1
            if level in features:
                x = self.joins[str(level)](torch.cat([features[level], fitted(x, features[level])], dim=1))
        return self.out(x)


class FusionNetwork(nn.Module):
    """All modules that stage II trains: level fusion and decoder; without a pairing, also the choice of pairs."""

    def __init__(
        self, pairing: list[tuple[int, int]] | None, width: int, channels: int, last_kernel: int, attention: str
    ) -> None:
        super().__init__()
        self.pairing = pairing
        levels = [max(pair) for pair in pairing or PAPER_PAIRING]
        # M3: the two shallow pairs have one kind of attention, the two deep pairs the other
        first_deep = {"mixed": len(levels) // 2, "pooled": len(levels), "channel_spatial": 0}[attention]
        self.pairs = nn.ModuleList(
            LevelFusion(*pairing[number], width, deep=number >= first_deep)
            if pairing
            else SoftLevelFusion(level, width, deep=number >= first_deep)
            for number, level in enumerate(levels)
        )
        self.decoder = FusionDecoder(levels, width, channels, last_kernel)

    def forward(self, visible: list[Tensor], infrared: list[Tensor]) -> Tensor:
        """Return the fused image from the features of both encoders."""
        if self.pairing is None:
            return self.decoder([fuse(visible, infrared) for fuse in self.pairs])
        pairs = zip(self.pairs, self.pairing, strict=True)
        return self.decoder([fuse(visible[v - 1], infrared[i - 1]) for fuse, (v, i) in pairs])

    def pair_weights(self) -> list[dict[str, float]]:
        """Return, for each fused level, the weight of each pair VISIBLE-INFRARED of levels."""
        if self.pairing is not None:
            return [{f"{v}-{i}": 1.0} for v, i in self.pairing]
        return [level.pair_weights() for level in self.pairs if isinstance(level, SoftLevelFusion)]


def _checked(pairing: list[list[int]] | str) -> list[tuple[int, int]] | None:
    """Return a pairing that the decoder supports, or None for a learned pairing."""
    if pairing == LEARNED:
        return None
    pairs: list[tuple[int, int]] = []
    try:
        pairs = [(v, i) for v, i in pairing]  # type: ignore[misc, str-unpack] # other strings are rejected below
        levels = [max(pair) for pair in pairs]
        good = levels == sorted(set(levels)) != [] and all(level in range(1, 6) for pair in pairs for level in pair)
    except (TypeError, ValueError):
        good = False
    if not good:
        raise UserError(
            "MMA-UNet cannot use this pairing of levels.",
            expected="pairs [visible, infrared] of levels 1 to 5 with increasing coarser levels; or learned; or, in a "
            "study, adaptive",
            found=pairing,
            fix="see PAPER_PAIRING in methods/mma_unet.py",
        )
    return pairs


class MMAUNet(FusionMethod):
    """The two UNets and the fusion network.

    Args:
        width: Channels of the first level; 64 in the paper.
        channels: Channels of the images in the network; PAPER: three, with repeated luminance.
        output: Activation of the stage-I networks: tanh (published code), sigmoid or linear.
        guidance: Whether the visible features guide the infrared encoder (off in E2 and E3).
        pairing: (visible level, infrared level) of each fused pair, from shallow to deep; or learned, which trains a
            weight for each pair in stage II. A study may set adaptive, see `found_options`.
        last_kernel: Kernel of the last convolution: 3 (published code) or 1 (paper).
        attention: Attention of the fused levels: mixed (published code), or pooled or channel_spatial for all levels.
        ssim_border: Border extension in the loss's SSIM: reflect (published code), zeros, replicate.
        ssim_range: Intensity range in the constants of SSIM.
        gradient_border: Border extension in the loss's gradient: zeros (published code), reflect, replicate.
        stretch: Whether `forward` stretches each image to the full range, like the published test code.
        channel: How `forward` reduces the three fused channels: mean, or first (published code).
        padding: How `forward` handles sides not divisible by 16: reflect extends the images; published drops and pads
            rows within the network and resizes its output.
    """

    summary = "asymmetric fusion of a visible UNet and an infrared UNet that it guides"
    source = "Huang et al., MMA-UNet"
    parts = ("vi_unet", "ir_unet", "fusion", "joint")
    optional_parts = ("joint",)  # ASSUME: not in the paper; narrow networks need it: docs/decisions/0006-mma-unet.md
    fused_parts = ("fusion", "joint")
    multiple = 16
    adaptive_options = ("pairing",)
    loss_terms: ClassVar[dict[str, tuple[str, ...]]] = {
        "vi_unet": ("mse",),
        "ir_unet": ("mse",),
        "fusion": ("mse", "ssim", "detail"),
        "joint": ("mse", "ssim", "detail"),
    }
    published_options: ClassVar[tuple[dict[str, Any], ...]] = (
        {"stretch": True, "channel": "first", "padding": "published"},
    )
    published_note = (
        "Each image is stretched over its three channels to the full range and only its first channel is kept, "
        "as in the authors' test code."
    )
    # filters of the loss, which the published code also saves when it is trained without a GPU
    published_extras = (r"(fusionloss\.)?sobelconv\.weight[xy]",)

    def __init__(
        self,
        *,
        width: int = 64,
        channels: int = 3,
        output: str = "tanh",
        guidance: bool = True,
        pairing: list[list[int]] | str | None = None,
        last_kernel: int = 3,
        attention: str = "mixed",
        ssim_border: str = "reflect",
        ssim_range: float = 1.0,
        gradient_border: str = "zeros",
        stretch: bool = False,
        channel: str = "mean",
        padding: str = "reflect",
    ) -> None:
        super().__init__()
        pairs = [(v, i) for v, i in PAPER_PAIRING] if pairing is None else _checked(pairing)
        check_choices(
            "MMA-UNet", CHOICES, output=output, attention=attention, channel=channel, padding=padding,
            ssim_border=ssim_border, gradient_border=gradient_border,
        )  # fmt: skip
        if min(width, channels) < 1 or last_kernel % 2 == 0 or ssim_range <= 0:
            raise UserError(
                "MMA-UNet cannot use these values.",
                expected="width and channels from 1, an odd last_kernel, ssim_range above 0",
                found=f"width {width}, channels {channels}, last_kernel {last_kernel}, ssim_range {ssim_range}",
            )
        self.channels, self.stretch, self.channel, self.padding = channels, stretch, channel, padding
        self.ssim_border, self.ssim_range, self.gradient_border = ssim_border, ssim_range, gradient_border
        self.vi_unet = UNet(channels, width, output, guided=False)
        self.ir_unet = UNet(channels, width, output, guided=guidance)
        self.fusion = FusionNetwork(pairs, width, channels, last_kernel, attention)
        self.to_full_range = Stretch() if stretch else nn.Identity()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """See `FusionMethod.forward`."""
        height, width = a.shape[-2:]
        if self.padding == "reflect":
            a, b = pad_to_multiple(a, 16), pad_to_multiple(b, 16)
        fused = self._fuse(a, b)[..., :height, :width]
        fused = self.to_full_range(fused)
        # M10: the published code keeps one of three channels with the same target; the mean is less noisy
        fused = fused[:, :1] if self.channel == "first" else fused.mean(dim=1, keepdim=True)
        if fused.shape[-2:] != (height, width):
            fused = F.interpolate(fused, (height, width), mode="bicubic", antialias=True)
        return fused.clamp(0, 1)

    def reach(self) -> int | None:
        """See `FusionMethod.reach`; 16 is the multiple of the sides, up to which the levels round positions."""
        if self.padding == "published":
            return None  # the position of a pixel in the levels depends on the size of the image
        decoder, ups = self.fusion.decoder, 0
        fine = spread(self.vi_unet.encoder.blocks, scale=2) + spread(decoder.out)
        for level in range(2, 6):
            ups += spread(decoder.ups[str(level)]) * 2 ** (level - 1) if str(level) in decoder.ups else 0
            ups += spread(decoder.joins[str(level)]) * 2 ** (level - 1) if str(level) in decoder.joins else 0
        return fine + ups + 2 * 16

    def _fuse(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the output of the fusion network, (B, channels, H, W)."""
        return self.fusion(*self._encode(a, b))

    def _encode(self, a: Tensor, b: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the five levels of the visible and of the infrared encoder."""
        visible = self.vi_unet.encoder(self._repeat(b))
        return visible, self.ir_unet.encoder(self._repeat(a), visible)

    def _repeat(self, luminance: Tensor) -> Tensor:
        """Repeat a grey image for the three input channels of the paper's UNets."""
        return luminance.expand(-1, self.channels, -1, -1)

    def part_modules(self, part: str) -> dict[str, nn.Module]:
        """See `FusionMethod.part_modules`; M9: stage II freezes the encoders, `joint` also trains them."""
        return self.deployed_modules() if part == "joint" else {part: getattr(self, part)}

    def deployed_modules(self) -> dict[str, nn.Module]:
        """Return both encoders and the fusion network; the decoders of stage I are only needed in training."""
        return {
            "vi_unet.encoder": self.vi_unet.encoder,
            "ir_unet.encoder": self.ir_unet.encoder,
            "fusion": self.fusion,
        }

    def found_options(self, names: Sequence[str], batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Any]:
        """Return the pairing of the four levels with the most similar features, by CKA of both trained encoders.

        Source: MMA-UNet 3.2 asks for "features from different modalities with same information space distributions" and
        pairs by hand; 5.2 leaves the choice to future work. The rule `mmfuse.nn.cka.best_pairing` is ours.
        """
        assert set(names) == {"pairing"}
        alignment = Alignment(10)
        with torch.no_grad():
            for a, b in batches:
                if len(a) < SMALLEST_BATCH:
                    raise UserError("An adaptive pairing needs larger batches.", expected=SMALLEST_BATCH, found=len(a))
                visible, infrared = self._encode(a, b)
                alignment.add([centred_gram(feature) for feature in (*visible, *infrared)])
        # PAPER: 3.2, four fused levels
        pairs = best_pairing(alignment.matrix()[:5, 5:], len(PAPER_PAIRING))
        return {"pairing": [list(pair) for pair in pairs]}

    def part_outputs(self, part: str, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Return `restored` in stage I, `fused` in stage II, (B, channels, H, W) each.

        Raises:
            UserError: the sides are not divisible by 16.
        """
        if a.shape[-2] % 16 or a.shape[-1] % 16:
            raise UserError(
                "MMA-UNet trains and validates on images with sides divisible by 16.",
                found=f"{a.shape[-2]} x {a.shape[-1]}",
                fix="choose such a height and width for crop; validation images need at least 32 pixels per side",
            )
        if part == "vi_unet":
            return {"restored": self.vi_unet(self._repeat(b))}
        if part == "ir_unet":
            with torch.no_grad():
                guidance = self.vi_unet.encoder(self._repeat(b))
            return {"restored": self.ir_unet(self._repeat(a), guidance)}
        return {"fused": self._fuse(a, b)}

    def part_terms(self, part: str, outputs: Mapping[str, Tensor], a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """MSE in stage I (eq. 1); MSE, SSIM and detail in stage II (eq. 3 to 5)."""
        a, b = self._repeat(a), self._repeat(b)
        if part in ("vi_unet", "ir_unet"):
            return {"mse": F.mse_loss(outputs["restored"], b if part == "vi_unet" else a)}
        fused = outputs["fused"]
        strengths = (sobel_magnitude(image, border=self.gradient_border) for image in (fused, a, b))
        of_fused, of_a, of_b = strengths
        similarity = (ssim_loss(fused, x, border=self.ssim_border, data_range=self.ssim_range) for x in (a, b))
        return {
            "mse": F.mse_loss(fused, (a + b) / 2),
            # M7: eq. 3 adds the similarity itself, which would reward dissimilar images
            "ssim": torch.stack(list(similarity)).sum(),
            # M7: square of the mean absolute difference, because eq. 4 leaves the norm open
            "detail": (of_fused - torch.maximum(of_a, of_b)).abs().mean() ** 2,
        }

    def published_names(self) -> dict[str, dict[str, str]]:
        """See `FusionMethod.published_names`; three files, one group each."""
        groups = {"vi": _published_unet("vi_unet"), "ir": _published_unet("ir_unet"), "fusion": _published_fusion()}
        return {group: self.names_below(modules) for group, modules in groups.items()}


def _published_unet(ours: str) -> Iterator[tuple[str, str]]:
    """Yield the authors' name and our name of each module with weights in a network of stage I."""
    yield "inc.double_conv", f"{ours}.encoder.blocks.0"
    for number in range(1, 5):
        yield f"down{number}.maxpool_conv.1.double_conv", f"{ours}.encoder.blocks.{number}"
        yield f"up{number}.up", f"{ours}.decoder.ups.{number - 1}"
        yield f"up{number}.conv.double_conv", f"{ours}.decoder.blocks.{number - 1}"
    for number in range(1, 6):
        yield f"attention{number}.fc.0", f"{ours}.encoder.guides.{number - 1}.squeeze"
        yield f"attention{number}.fc.2", f"{ours}.encoder.guides.{number - 1}.excite"
    yield "outc.conv", f"{ours}.decoder.out"


def _published_fusion() -> Iterator[tuple[str, str]]:
    """Yield the authors' name and our name of each module with weights in the fusion network (paper's pairing)."""
    for number in range(4):
        theirs, ours = f"fusion_encoder.ca{number + 1}", f"fusion.pairs.{number}.attention"
        yield f"fusion_encoder.down{number + 1}.maxpool_conv.1", f"fusion.pairs.{number}.visible.1"
        yield f"{theirs}.conv", f"{ours}.mix"
        yield f"{theirs}.cSE.fc1", f"{ours}.channel.squeeze"
        yield f"{theirs}.cSE.fc2", f"{ours}.channel.excite"
        yield f"{theirs}.sSE.conv", f"{ours}.spatial"
    for number in range(1, 4):
        yield f"decoder.up{number}.up.body.0", f"fusion.decoder.ups.{6 - number}.0"
        yield f"decoder.up{number}.conv.double_conv", f"fusion.decoder.joins.{5 - number}"
    yield "decoder.up4.body.0", "fusion.decoder.ups.2.0"
    yield "decoder.outc.output", "fusion.decoder.out"


METHOD = MMAUNet

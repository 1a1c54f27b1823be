"""MMA-UNet: two UNets, one guided by the other, fused level by level with an offset.

Source: Huang et al., "MMA-UNet: A Multi-Modal Asymmetric UNet Architecture for Infrared and Visible Image Fusion".
Stage I trains `vi_unet` to reproduce the visible image, then `ir_unet` to reproduce the infrared image while the frozen
visible encoder guides it. Stage II (`fusion`) keeps both encoders frozen and trains the attention and the decoder.
Here `a` is infrared (or MRI) and `b` visible (or CT, PET, SPECT).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfuse.errors import UserError
from mmfuse.methods.base import FusionMethod
from mmfuse.nn.attention import SqueezeExcite
from mmfuse.nn.cka import SMALLEST_BATCH, Alignment, best_pairing, centred_gram
from mmfuse.nn.levels import LevelFusion, SoftLevelFusion
from mmfuse.nn.losses import sobel_magnitude, ssim_loss
from mmfuse.nn.padding import pad_to_multiple

OUTPUTS = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "linear": nn.Identity}
ATTENTIONS = ("mixed", "pooled", "channel_spatial")
LEARNED = "learned"
PAPER_PAIRING = ((1, 2), (2, 3), (3, 4), (4, 5))  # PAPER: first four visible levels with last four infrared levels


class DoubleConv(nn.Sequential):
    """Twice convolution 3x3, batch norm, ReLU; (B, c, H, W) to (B, c', H, W)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )


class Encoder(nn.Module):
    """UNet encoder of five levels; level l has width * 2^(l-1) channels at 1/2^(l-1) of the resolution.

    Args:
        channels: Channels of the input image.
        width: Channels of the first level; 64 in the paper.
        guided: Whether each level is multiplied by weights taken from another encoder's level.
    """

    def __init__(self, channels: int, width: int, *, guided: bool) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        self.blocks = nn.ModuleList(DoubleConv(c, d) for c, d in zip([channels, *widths], widths, strict=False))
        # PAPER: 3.1, squeeze-and-excitation of the visible features, at every level (M5: reduction 16, no bias)
        self.guides = nn.ModuleList(SqueezeExcite(c, 16) for c in widths) if guided else None

    def forward(self, x: Tensor, guidance: list[Tensor] | None = None) -> list[Tensor]:
        """Return the features of levels 1 to 5.

        Shape: x (B, channels, H, W) with H, W multiples of 16; guidance as this method returns it.
        """
        features: list[Tensor] = []
        for level, block in enumerate(self.blocks):
            x = block(x if level == 0 else F.max_pool2d(x, 2))  # (B, width * 2^level, H / 2^level, W / 2^level)
            if self.guides is not None and guidance is not None:
                x = x * self.guides[level](guidance[level])
            features.append(x)
        return features


class Decoder(nn.Module):
    """UNet decoder back to the image: transposed convolution, concatenation, double convolution."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        self.ups = nn.ModuleList(nn.ConvTranspose2d(2 * c, c, 2, stride=2) for c in reversed(widths[:-1]))
        self.blocks = nn.ModuleList(DoubleConv(2 * c, c) for c in reversed(widths[:-1]))
        self.out = nn.Conv2d(width, channels, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Return the reconstructed image, (B, channels, H, W), before the output activation."""
        x = features[-1]
        for up, block, skip in zip(self.ups, self.blocks, reversed(features[:-1]), strict=True):
            x = block(torch.cat([skip, up(x)], dim=1))
        return self.out(x)


class UNet(nn.Module):
    """The autoencoder of one modality (stage I)."""

    def __init__(self, channels: int, width: int, output: str, *, guided: bool) -> None:
        super().__init__()
        self.encoder = Encoder(channels, width, guided=guided)
        self.decoder = Decoder(channels, width)
        # M6: the published code ends in tanh although the targets lie in [0, 1]
        self.activation = OUTPUTS[output]()

    def forward(self, x: Tensor, guidance: list[Tensor] | None = None) -> Tensor:
        """Reproduce the image; shapes as in `Encoder.forward`."""
        return self.activation(self.decoder(self.encoder(x, guidance)))


class ShuffleUp(nn.Sequential):
    """Twice the resolution, half the channels: convolution 3x3 and pixel shuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Conv2d(channels, 2 * channels, 3, padding=1, bias=False), nn.PixelShuffle(2))


class FusionDecoder(nn.Module):
    """From the fused levels back to an image (stage II)."""

    def __init__(self, levels: list[int], width: int, channels: int, last_kernel: int) -> None:
        super().__init__()
        self.levels = levels
        widths = {level: width * 2 ** (level - 1) for level in range(1, 6)}
        self.ups = nn.ModuleDict({str(level): ShuffleUp(widths[level]) for level in range(max(levels), 1, -1)})
        joins = [level for level in levels if level < max(levels)]
        self.joins = nn.ModuleDict({str(level): DoubleConv(2 * widths[level], widths[level]) for level in joins})
        # M4: three convolutions to the image, no activation at the end; the paper's text has a 1x1 kernel in the last
        self.out = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, channels, last_kernel, padding=last_kernel // 2),
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
                x = self.joins[str(level)](torch.cat([features[level], x], dim=1))
        return self.out(x)


class FusionNetwork(nn.Module):
    """Everything that stage II trains: level fusion and decoder; without a pairing, the choice of the pairs as well."""

    def __init__(
        self, pairing: list[tuple[int, int]] | None, width: int, channels: int, last_kernel: int, attention: str
    ) -> None:
        super().__init__()
        self.pairing = pairing
        levels = [max(pair) for pair in pairing or PAPER_PAIRING]
        # M3: the two shallow pairs have one kind of attention, the two deep ones the other
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
        """Return for each fused level how much each pair VISIBLE-INFRARED of levels counts in it."""
        if self.pairing is not None:
            return [{f"{v}-{i}": 1.0} for v, i in self.pairing]
        return [level.pair_weights() for level in self.pairs if isinstance(level, SoftLevelFusion)]


def _checked(pairing: list[list[int]] | str) -> list[tuple[int, int]] | None:
    """Return a pairing as it is used, if the decoder can work with it; None for one that is learned."""
    if pairing == LEARNED:
        return None
    pairs: list[tuple[int, int]] = []
    try:
        pairs = [(v, i) for v, i in pairing]  # type: ignore[misc, str-unpack] # another text is refused below
        levels = [max(pair) for pair in pairs]
        good = levels == sorted(set(levels)) != [] and all(level in range(1, 6) for pair in pairs for level in pair)
    except (TypeError, ValueError):
        good = False
    if not good:
        raise UserError(
            "MMA-UNet cannot use this pairing of levels.",
            expected="pairs [visible, infrared] of levels 1 to 5 whose coarser levels increase; or learned; or, in a "
            "study, adaptive",
            found=pairing,
            fix="see PAPER_PAIRING in methods/mma_unet.py",
        )
    return pairs


class MMAUNet(FusionMethod):
    """The three networks together.

    Args:
        width: Channels of the first level; 64 in the paper.
        channels: Channels of the images inside; PAPER: three, luminance is repeated.
        output: Activation of the stage-I networks: tanh (published code), sigmoid or linear.
        guidance: Whether the visible features guide the infrared encoder (off in E2 and E3).
        pairing: (visible level, infrared level) of each fused pair, from shallow to deep; or learned, which trains a
            weight for each pair along with stage II. A study may say adaptive, see `found_options`.
        last_kernel: Kernel of the last convolution: 3 (published code) or 1 (paper).
        attention: Attention of the fused levels: mixed (published code), or pooled or channel_spatial for all of them.
        stretch: Whether `forward` stretches each image to the full range, as the published test code does.
    """

    summary = "asymmetric fusion of a visible UNet and an infrared UNet that it guides"
    source = "Huang et al., MMA-UNet"
    parts = ("vi_unet", "ir_unet", "fusion", "joint")
    optional_parts = ("joint",)  # ASSUME: no paper has it; narrow networks need it, see docs/decisions/0006-mma-unet.md
    adaptive_options = ("pairing",)
    loss_terms: ClassVar[dict[str, tuple[str, ...]]] = {
        "vi_unet": ("mse",),
        "ir_unet": ("mse",),
        "fusion": ("mse", "ssim", "detail"),
        "joint": ("mse", "ssim", "detail"),
    }

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
        stretch: bool = False,
    ) -> None:
        super().__init__()
        pairs = [(v, i) for v, i in PAPER_PAIRING] if pairing is None else _checked(pairing)
        known = output in OUTPUTS and attention in ATTENTIONS
        if not known or min(width, channels) < 1 or last_kernel % 2 == 0:
            raise UserError(
                "MMA-UNet cannot use these options.",
                expected=f"output {', '.join(OUTPUTS)}; attention {', '.join(ATTENTIONS)}; width and channels from 1; "
                "an odd last_kernel",
                found=f"output {output}, attention {attention}, width {width}, channels {channels}, last_kernel "
                f"{last_kernel}",
            )
        self.channels, self.stretch = channels, stretch
        self.vi_unet = UNet(channels, width, output, guided=False)
        self.ir_unet = UNet(channels, width, output, guided=guidance)
        self.fusion = FusionNetwork(pairs, width, channels, last_kernel, attention)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """See `FusionMethod.forward`."""
        height, width = a.shape[-2:]
        fused = self._fuse(pad_to_multiple(a, 16), pad_to_multiple(b, 16))
        # M10: the published code keeps one of three channels that have the same target; the mean is less noisy
        fused = fused.mean(dim=1, keepdim=True)[..., :height, :width]
        if self.stretch:
            low, high = fused.amin(dim=(2, 3), keepdim=True), fused.amax(dim=(2, 3), keepdim=True)
            fused = (fused - low) / (high - low).clamp_min(1e-6)
        return fused.clamp(0, 1)

    def _fuse(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the fused image before averaging and clamping, (B, channels, H, W)."""
        return self.fusion(*self._encode(a, b))

    def _encode(self, a: Tensor, b: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the five levels of the visible and of the infrared encoder."""
        visible = self.vi_unet.encoder(self._repeat(b))
        return visible, self.ir_unet.encoder(self._repeat(a), visible)

    def _repeat(self, luminance: Tensor) -> Tensor:
        """Repeat a grey image for the three input channels of the paper's UNets."""
        return luminance.expand(-1, self.channels, -1, -1)

    def part_modules(self, part: str) -> dict[str, nn.Module]:
        """See `FusionMethod.part_modules`; M9: stage II leaves the encoders as they are, `joint` trains them along."""
        return self.deployed_modules() if part == "joint" else {part: getattr(self, part)}

    def deployed_modules(self) -> dict[str, nn.Module]:
        """Both encoders and the fusion network; the decoders of stage I have done their work."""
        return {
            "vi_unet.encoder": self.vi_unet.encoder,
            "ir_unet.encoder": self.ir_unet.encoder,
            "fusion": self.fusion,
        }

    def found_options(self, names: Sequence[str], batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Any]:
        """Return the pairing of the four levels whose features are most alike, by CKA of both trained encoders.

        Source: MMA-UNet 3.2 asks for "features from different modalities with same information space distributions" and
        pairs by hand; 5.2 leaves the choice to future work. The rule is ours: `mmfuse.nn.cka.best_pairing`.
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

    def part_losses(self, part: str, a: Tensor, b: Tensor, weights: dict[str, float]) -> dict[str, Tensor]:
        """MSE in stage I (eq. 1); MSE, SSIM and detail in stage II (eq. 5).

        Raises:
            UserError: the sides do not divide by 16.
        """
        if a.shape[-2] % 16 or a.shape[-1] % 16:
            raise UserError(
                "MMA-UNet trains and validates on images whose sides divide by 16.",
                found=f"{a.shape[-2]} x {a.shape[-1]}",
                fix="choose such a height and width for crop; validation images need at least 32 pixels a side",
            )
        if part == "vi_unet":
            visible = self._repeat(b)
            return {"mse": weights["mse"] * F.mse_loss(self.vi_unet(visible), visible)}
        if part == "ir_unet":
            infrared = self._repeat(a)
            with torch.no_grad():
                guidance = self.vi_unet.encoder(self._repeat(b))
            return {"mse": weights["mse"] * F.mse_loss(self.ir_unet(infrared, guidance), infrared)}
        return self._fusion_losses(a, b, weights)

    def _fusion_losses(self, a: Tensor, b: Tensor, weights: dict[str, float]) -> dict[str, Tensor]:
        """Stage II: eq. 3 to 5 with the weights of the published code (M7: 10 x detail, 0.5 x SSIM)."""
        fused = self._fuse(a, b)
        a, b = self._repeat(a), self._repeat(b)
        # M7: square of the mean absolute difference, where eq. 4 leaves the norm open
        gap = (sobel_magnitude(fused) - torch.maximum(sobel_magnitude(a), sobel_magnitude(b))).abs().mean()
        return {
            "mse": weights["mse"] * F.mse_loss(fused, (a + b) / 2),
            "ssim": weights["ssim"] * (ssim_loss(fused, a) + ssim_loss(fused, b)),
            "detail": weights["detail"] * gap**2,
        }


METHOD = MMAUNet

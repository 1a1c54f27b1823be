"""SMFNet: base, detail and graph features of both images, trained to restore each image and then to fuse them.

Source: Zhang et al., "A Semantic-Aware and Multi-Guided Network for Infrared-Visible Image Fusion".
Stage I (`reconstruction`) trains encoder, graph and decoder to restore both images. Stage II (`fusion`) adds the two
fusion layers and trains everything. Here `a` is infrared (or MRI) and `b` visible (or CT, PET, SPECT).
What paper and published code leave open or say differently: docs/decisions/0013-smfnet.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfuse.errors import UserError
from mmfuse.methods.base import FusionMethod
from mmfuse.nn.graph import NODES, GraphReasoning
from mmfuse.nn.invertible import InvertibleBlocks
from mmfuse.nn.losses import (
    correlation,
    gram_matrix,
    lovasz_jaccard,
    lovasz_softmax,
    sobel_magnitude,
    spatial_gradient,
    ssim_loss,
)
from mmfuse.nn.transformer import CrossAttention, ResidualTransformer, transformer

SOFTNESS = 0.1  # ASSUME: scale of the sigmoid around the threshold, for images in [0, 1]
CHOICES = {
    "nodes": tuple(NODES),
    "join": ("sum", "concat"),
    "decomposition": ("by_channel", "detached"),
    "semantic": ("threshold", "labels", "constant"),
    "gram": ("image", "features"),
    "spatial": ("visible", "both"),
    "interaction": ("graph", "detail"),
}


class Features(NamedTuple):
    """What a decoder gets: (B, dim, H, W) each; no graph features in a network without graph."""

    base: Tensor
    detail: Tensor
    graph: Tensor | None


class DetailBranch(nn.Module):
    """Cross attention between the halves of the channels, then invertible blocks; (B, dim, H, W) in and out.

    Source: SMFNet 2.2.1 (CAI).
    """

    def __init__(self, dim: int, heads: int, layers: int, *, cross_attention: bool) -> None:
        super().__init__()
        self.cross = CrossAttention(dim // 2, heads) if cross_attention else None
        self.blocks = InvertibleBlocks(dim, layers, scale_both=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the detail features."""
        if self.cross is not None:
            x = torch.cat(self.cross(*x.chunk(2, dim=1)), dim=1)
        return self.blocks(x)


class Encoder(nn.Module):
    """Shallow features of one image, and the base and detail features that come from them."""

    def __init__(self, shallow: nn.Sequential, base: nn.Module, detail: nn.Module) -> None:
        super().__init__()
        self.shallow, self.base, self.detail = shallow, base, detail

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return shallow, base and detail features; (B, 1, H, W) to (B, dim, H, W) each."""
        shallow = self.shallow(image)
        return shallow, self.base(shallow), self.detail(shallow)


class Decoder(nn.Module):
    """From base, detail and graph features to an image: transformer, two convolutions, sigmoid."""

    def __init__(self, dim: int, branches: int, layers: nn.Sequential, join: str) -> None:
        super().__init__()
        # S9: the published code adds the features where the paper's text concatenates them
        self.join = nn.Conv2d(branches * dim, dim, 1) if join == "concat" else None
        self.layers = layers
        self.out = nn.Sequential(
            nn.Conv2d(dim, dim // 2, 3, padding=1, padding_mode="reflect"),
            nn.LeakyReLU(inplace=True),
            nn.Conv2d(dim // 2, 1, 3, padding=1, padding_mode="reflect"),
            nn.Sigmoid(),
        )

    def forward(self, features: Features) -> Tensor:
        """Return the image, (B, 1, H, W) in (0, 1)."""
        parts = [part for part in features if part is not None]
        x = sum(parts[1:], start=parts[0]) if self.join is None else self.join(torch.cat(parts, dim=1))
        return self.out(self.layers(x))


class GradientDenseBlock(nn.Module):
    """Densely connected convolutions beside the strength of the gradient; (B, dim, H, W) in and out.

    Source: Tang et al. 2022 (SeAFusion), gradient residual dense block, which SMFNet takes its losses from too.
    """

    def __init__(self, dim: int, *, train_sobel: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(dim, dim, 3, padding=1)
        self.second = nn.Conv2d(2 * dim, dim, 3, padding=1)
        self.merge = nn.Conv2d(3 * dim, dim, 1)
        differ = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
        kernel = torch.stack([differ, differ.T]).repeat(dim, 1, 1)[:, None]  # (2 dim, 1, 3, 3): gx, gy of each channel
        self.sobel: Tensor
        if train_sobel:  # S8: the published code starts from Sobel filters and trains them along
            self.sobel = nn.Parameter(kernel)
        else:
            self.register_buffer("sobel", kernel)
        self.gradient = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the enhanced features."""
        first = F.leaky_relu(self.first(x))
        second = F.leaky_relu(self.second(torch.cat([x, first], dim=1)))
        responses = F.conv2d(x, self.sobel, padding=1, groups=x.shape[1])  # (B, 2 dim, H, W)
        strength = responses.unflatten(1, (-1, 2)).abs().sum(dim=2)
        return self.merge(torch.cat([x, first, second], dim=1)) + self.gradient(strength)


class DetailFusion(nn.Module):
    """Gradient dense block, then invertible blocks run backwards; (B, dim, H, W) in and out.

    Source: SMFNet eq. 7 and 8.
    """

    def __init__(self, dim: int, layers: int, *, train_sobel: bool) -> None:
        super().__init__()
        self.dense = GradientDenseBlock(dim, train_sobel=train_sobel)
        self.blocks = InvertibleBlocks(dim, layers, scale_both=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the fused detail features."""
        return self.blocks.inverse(self.dense(x))


class SMFNet(FusionMethod):
    """The whole network.

    Args:
        dim: Channels of all features; 64 in the published code.
        heads: Heads of every attention.
        blocks: Transformer blocks of the shallow encoder and of the decoder.
        base_layers: Transformer blocks of the base branch and of the base fusion layer.
        expansion: Widening inside the feed-forward networks.
        invertible: Invertible blocks of the detail branch and of the detail fusion layer.
        scales: Scales of the graph's nodes, in pixels.
        iterations: Rounds of messages in the graph.
        nodes: How nodes are made: dilated (published code) or pooled (eq. 11).
        join: How the decoder joins its features: sum (published code) or concat (text).
        cross_attention: Whether the detail branch has its cross attention (Table 5: CAI->INN).
        residual: Whether the base branch has its convolution and shortcut (Table 5: w/o residual transformer).
        graph: Whether there is a graph (Table 5: w/o GNN).
        decomposition: Correlation by_channel (paper), or detached, one number without gradient (published code).
        semantic: Regions by threshold, labels (the dataset's masks), or constant, without gradient (published code).
        classes: Number of classes in the masks, for `labels`.
        gram: Gram matrix of the image (published code) or of its shallow features.
        spatial: Which images the spatial gradient is for: visible (published code) or both.
        both_stages: Whether stage I's decomposition has the graph's correlation too (Table 5: both cc_G).
        interaction: Second correlation of stage II: graph (paper) or detail once more (published code).
        exchange: Whether the two fusion layers change places (Table 5: INN<->transformer).
        train_sobel: Whether the gradient filters of the detail fusion layer are trained.
        stretch: Whether `forward` stretches each image to the full range, as the published test code does.
    """

    summary = "base, detail and graph features, trained to restore and then to fuse"
    source = "Zhang et al., SMFNet"
    parts = ("reconstruction", "fusion")
    loss_terms: ClassVar[dict[str, tuple[str, ...]]] = {
        "reconstruction": ("ssim", "semantic", "intensity", "gradient", "spatial", "decomposition"),
        "fusion": ("intensity", "gradient", "decomposition"),
    }

    def __init__(
        self,
        *,
        dim: int = 64,
        heads: int = 8,
        blocks: int = 4,
        base_layers: int = 2,
        expansion: int = 4,
        invertible: int = 2,
        scales: Sequence[int] = (4, 8, 16),
        iterations: int = 2,
        nodes: str = "dilated",
        join: str = "sum",
        cross_attention: bool = True,
        residual: bool = True,
        graph: bool = True,
        decomposition: str = "by_channel",
        semantic: str = "threshold",
        classes: int = 9,
        gram: str = "image",
        spatial: str = "visible",
        both_stages: bool = False,
        interaction: str = "graph",
        exchange: bool = False,
        train_sobel: bool = True,
        stretch: bool = False,
    ) -> None:
        super().__init__()
        chosen = (nodes, join, decomposition, semantic, gram, spatial, interaction)
        _check(dim, heads, list(scales), dict(zip(CHOICES, chosen, strict=True)))
        self.decomposition, self.semantic, self.gram, self.spatial = decomposition, semantic, gram, spatial
        self.both_stages, self.interaction, self.stretch = both_stages, interaction, stretch

        def stack(layers: int) -> nn.Sequential:
            return transformer(dim, heads, expansion, layers)

        # PAPER: shallow features come from a depthwise convolution, which for one channel is an ordinary one
        shallow = nn.Sequential(nn.Conv2d(1, dim, 3, padding=1, padding_mode="reflect"), stack(blocks))
        base = ResidualTransformer(dim, heads, expansion, base_layers) if residual else stack(base_layers)
        self.encoder = Encoder(shallow, base, DetailBranch(dim, heads, invertible, cross_attention=cross_attention))
        self.graph = GraphReasoning(dim, scales, iterations, nodes) if graph else None
        self.decoder = Decoder(dim, 3 if graph else 2, stack(blocks), join)
        base_layer, detail_layer = stack(base_layers), DetailFusion(dim, invertible, train_sobel=train_sobel)
        self.base_fusion: nn.Module = detail_layer if exchange else base_layer
        self.detail_fusion: nn.Module = base_layer if exchange else detail_layer
        self.labeller = _labeller(dim, classes) if semantic == "labels" else None

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """See `FusionMethod.forward`."""
        _, features = self._features(torch.cat([a, b]))
        fused = self._fuse(features)
        if self.stretch:
            low, high = fused.amin(dim=(2, 3), keepdim=True), fused.amax(dim=(2, 3), keepdim=True)
            fused = (fused - low) / (high - low).clamp_min(1e-6)
        return fused.clamp(0, 1)

    def _features(self, images: Tensor) -> tuple[Tensor, Features]:
        """Return shallow and further features of the first images of a batch and, after them, of the second ones.

        Shape: images (2 B, 1, H, W); all features (2 B, dim, H, W).
        """
        shallow, base, detail = self.encoder(images)
        graph = None if self.graph is None else torch.cat(self.graph(*shallow.chunk(2)))
        return shallow, Features(base, detail, graph)

    def _fuse(self, features: Features) -> Tensor:
        """Return the fused image, (B, 1, H, W) in (0, 1)."""
        # PAPER: 2.1, base and detail features are aggregated, then enhanced; S8: no fusion layer for the graph's
        base, detail = (first + second for first, second in (part.chunk(2) for part in features[:2]))
        graph = None if features.graph is None else torch.stack(features.graph.chunk(2)).sum(dim=0)
        return self.decoder(Features(self.base_fusion(base), self.detail_fusion(detail), graph))

    def part_modules(self, part: str) -> dict[str, nn.Module]:
        """See `FusionMethod.part_modules`; S10: stage II goes on with everything that stage I trained."""
        other = {"labeller"} if part == "fusion" else {"base_fusion", "detail_fusion"}
        return {name: module for name, module in self.named_children() if name not in other}

    def deployed_modules(self) -> dict[str, nn.Module]:
        """See `FusionMethod.deployed_modules`."""
        return self.part_modules("fusion")

    def masked_parts(self) -> tuple[str, ...]:
        """See `FusionMethod.masked_parts`."""
        return ("reconstruction",) if self.semantic == "labels" else ()

    def part_losses(
        self, part: str, a: Tensor, b: Tensor, weights: dict[str, float], mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Eq. 17 to 26 in stage I, with `mask` (B, H, W) int64 for `labels`; eq. 27 to 30 in stage II."""
        losses = self._reconstruction_losses(a, b, mask) if part == "reconstruction" else self._fusion_losses(a, b)
        return {term: weights[term] * value for term, value in losses.items()}

    def _reconstruction_losses(self, a: Tensor, b: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Stage I, eq. 17 to 26."""
        images = torch.cat([a, b])
        shallow, features = self._features(images)
        restored = self.decoder(features)
        infrared, visible = restored.chunk(2)
        compared = (infrared, a) if self.gram == "image" else (self.encoder.shallow(infrared), shallow[: len(a)])
        # S4: as published, the gradient that alpha_2 weights is the visible image's alone
        pairs = [(visible, b), (infrared, a)][: 2 if self.spatial == "both" else 1]
        with _single_precision(a):
            restored, visible = restored.float(), visible.float()
            slopes = [F.l1_loss(spatial_gradient(x.float()), spatial_gradient(y)) for x, y in pairs]
            return {
                # S4: half of the paper's 1 - SSIM; like the gradient, it sums over both images
                "ssim": 2 * ssim_loss(restored, images),
                "semantic": self._semantic_loss(visible, b, mask),
                "intensity": _gram_distance(*compared),
                "gradient": 2 * F.l1_loss(sobel_magnitude(restored), sobel_magnitude(images)),
                "spatial": torch.stack(slopes).sum(),
                "decomposition": self._decomposition_loss(features, "graph" if self.both_stages else None),
            }

    def _fusion_losses(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Stage II, eq. 27 to 30."""
        _, features = self._features(torch.cat([a, b]))
        fused = self._fuse(features)
        with _single_precision(a):
            fused = fused.float()
            strongest = torch.maximum(sobel_magnitude(a), sobel_magnitude(b))
            return {
                "intensity": F.l1_loss(fused, torch.maximum(a, b)),
                "gradient": F.l1_loss(sobel_magnitude(fused), strongest),
                "decomposition": self._decomposition_loss(features, self.interaction),
            }

    def _semantic_loss(self, restored: Tensor, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """How badly the regions of the image overlap with those of its restoration (eq. 21 to 25)."""
        if self.labeller is not None:
            assert mask is not None
            return lovasz_softmax(self.labeller(restored), mask)
        if self.semantic == "constant":
            # S5: softmax over one channel is one everywhere, and the labels are compared with zero: what is left of the
            # loss is the share of pixels that are not black
            return (image != 0).float().mean()
        # ASSUME: images have no labels, so the bright region, above the image's mean, stands for the object
        image, restored = image.flatten(1), restored.flatten(1)
        threshold = image.mean(dim=1, keepdim=True)
        labels = image > threshold
        bright = torch.sigmoid((restored - threshold) / SOFTNESS)
        return lovasz_jaccard(torch.where(labels, 1 - bright, bright), labels).mean()  # PAPER: eq. 22

    def _decomposition_loss(self, features: Features, second: str | None) -> Tensor:
        """Unlike details, like bases (eq. 26 and 27); `second` names the other features that shall be unlike."""
        alike = self._correlation(features.detail) ** 2
        if second == "detail":  # S2: the published code squares the details' correlation twice
            alike = 2 * alike
        elif second == "graph" and features.graph is not None:
            alike = alike + self._correlation(features.graph) ** 2
        return alike / (self._correlation(features.base) + 1.01)

    def _correlation(self, features: Tensor) -> Tensor:
        """Correlation of both modalities' features, one number."""
        a, b = features.float().chunk(2)
        if self.decomposition == "detached":  # S1: as published, over everything at once and without gradient
            return correlation(a.flatten(), b.flatten()).detach()
        return correlation(a.flatten(2), b.flatten(2)).mean()


def _labeller(dim: int, classes: int) -> nn.Module:
    """Return a small network that tells the classes of a restored image's pixels; only training needs it.

    ASSUME: the paper compares the one-channel restoration itself with labels, which can name no more than two classes.
    """
    return nn.Sequential(
        nn.Conv2d(1, dim, 3, padding=1),
        nn.LeakyReLU(inplace=True),
        nn.Conv2d(dim, dim, 3, padding=2, dilation=2),
        nn.LeakyReLU(inplace=True),
        nn.Conv2d(dim, classes, 3, padding=4, dilation=4),
    )


def _single_precision(image: Tensor) -> torch.autocast:
    """Losses are differences of small numbers: no mixed precision in them."""
    return torch.autocast(image.device.type, enabled=False)


def _gram_distance(x: Tensor, y: Tensor) -> Tensor:
    """Distance of two Gram matrices (eq. 20), mean over the batch."""
    return torch.linalg.matrix_norm(gram_matrix(x.float()) - gram_matrix(y.float())).mean()


def _check(dim: int, heads: int, scales: list[int], chosen: dict[str, str]) -> None:
    """Refuse options that the network cannot be built with."""
    wrong = [f"{name} {value}" for name, value in chosen.items() if value not in CHOICES[name]]
    if not wrong and min(dim, heads, *(scales or [0])) > 0 and dim % (2 * heads) == 0:
        return
    raise UserError(
        "SMFNet cannot use these options.",
        expected="; ".join(f"{name} {', '.join(known)}" for name, known in CHOICES.items())
        + "; a dim that divides by twice the heads; scales from 1",
        found=", ".join(wrong) or f"dim {dim}, heads {heads}, scales {scales}",
    )


METHOD = SMFNet

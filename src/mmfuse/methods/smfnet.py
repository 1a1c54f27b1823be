"""SMFNet: base, detail and graph features of both images, trained to restore each image and then to fuse them.

Source: Zhang et al., "A Semantic-Aware and Multi-Guided Network for Infrared-Visible Image Fusion".
Stage I (`reconstruction`) trains encoder, graph and decoder to restore both images. Stage II (`fusion`) adds the two
fusion layers and trains everything. Here `a` is infrared (or MRI) and `b` visible (or CT, PET, SPECT).
Points that the paper and the published code leave open or treat differently: docs/decisions/0013-smfnet.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmfuse.errors import UserError
from mmfuse.methods.base import FusionMethod
from mmfuse.nn.losses import (
    BORDERS,
    correlation,
    gram_matrix,
    lovasz_jaccard,
    lovasz_softmax,
    sobel_magnitude,
    spatial_gradient,
    ssim_loss,
    ssim_map,
    strongest_gradient_loss,
    strongest_intensity_loss,
)
from mmfuse.nn.reach import spread
from mmfuse.nn.smfnet.graph import NODES, REASONING
from mmfuse.nn.smfnet.parts import Decoder, DetailBranch, DetailFusion, Encoder, Features, Graph, labeller
from mmfuse.nn.smfnet.published import UnusedTensors, authors_names
from mmfuse.nn.smfnet.transformer import BaseBranch, transformer
from mmfuse.nn.stretch import Stretch

SOFTNESS = 0.1  # ASSUME: scale of the sigmoid around the threshold, for images in [0, 1]
CHOICES = {
    "nodes": tuple(NODES),
    "reasoning": REASONING,
    "join": ("sum", "concat"),
    "decomposition": ("by_channel", "detached"),
    "interaction": ("graph", "detail"),
    "semantic": ("threshold", "labels", "constant"),
    "gram": ("image", "features"),
    "gram_norm": ("squared", "plain"),
    "similarity": ("halved", "plain"),
    "spatial": ("visible", "both"),
    "ssim_border": tuple(BORDERS),
    "sobel_border": tuple(BORDERS),
    "spatial_border": tuple(BORDERS),
}


class SMFNet(FusionMethod):
    """The whole network.

    Args:
        dim: Channels of all features. The default values are those of the published code.
        heads: Heads of each attention.
        blocks: Transformer blocks of the shallow encoder, of the base fusion layer and of the decoder.
        base_groups: Groups of the base branch, each with a shortcut.
        base_pairs: Pairs of transformer blocks (one of each kind) in a group.
        expansion: Widening factor of the LeFF.
        invertible: Invertible blocks of the detail branch.
        fusion_invertible: Invertible blocks of the detail fusion layer.
        scales: Scales of the graph's nodes, in pixels.
        iterations: Rounds of messages in the graph.
        nodes: Construction of the nodes: dilated (published code) or pooled (eq. 11).
        reasoning: Messages between the nodes: published (published code) or printed (eq. 12 to 16).
        join: How the decoder joins its features: sum (published code) or concat (paper).
        cross_attention: Whether the detail branch has cross attention (Table 5: CAI->INN).
        residual: Whether the base branch has convolutions and shortcuts (Table 5: w/o residual transformer).
        graph: Whether there is a graph (Table 5: w/o GNN).
        exchange: Whether the two fusion layers are swapped (Table 5: INN<->transformer).
        train_sobel: Whether to train the gradient filters.
        decomposition: Correlation by_channel (paper), or detached: one number without gradient (published code).
        both_stages: Whether stage I's decomposition also includes the graph's correlation (Table 5: both cc_G).
        interaction: Second correlation of stage II: graph (paper) or detail again (published code).
        semantic: Regions by threshold, labels (the dataset's masks), or constant, without gradient (published code).
        classes: Number of classes in the masks, for `labels`.
        gram: Gram matrix of the image (published code) or of its shallow features.
        gram_norm: Distance of Gram matrices: squared (published code) or plain (eq. 20).
        similarity: SSIM loss: halved, clamp(1 - SSIM, 0, 1) / 2 (published code), or plain, 1 - SSIM (paper).
        spatial: Images with the spatial gradient loss: visible (published code) or both.
        ssim_border: Border extension in SSIM: zeros, reflect or replicate.
        ssim_range: Intensity range in the constants of SSIM.
        sobel_border: Border extension for the gradient strength, likewise.
        spatial_border: Border extension for the spatial gradient, likewise.
        stretch: Whether `forward` stretches each image to the full range, like the published test code.
        unused: Whether the network contains the tensors that the published network holds but never uses.
    """

    summary = "base, detail and graph features, trained to restore and then to fuse"
    source = "Zhang et al., SMFNet"
    parts = ("reconstruction", "fusion")
    fused_parts = ("fusion",)
    loss_terms: ClassVar[dict[str, tuple[str, ...]]] = {
        "reconstruction": ("ssim", "semantic", "intensity", "gradient", "spatial", "decomposition"),
        "fusion": ("intensity", "gradient", "decomposition"),
    }
    published_options: ClassVar[tuple[dict[str, Any], ...]] = (
        {
            "decomposition": "detached",
            "interaction": "detail",
            "semantic": "constant",
            "stretch": True,
            "unused": True,
        },
    )
    published_note = "Each image is stretched to the full range, as in the authors' test code."

    def __init__(
        self,
        *,
        dim: int = 64,
        heads: int = 8,
        blocks: int = 1,
        base_groups: int = 2,
        base_pairs: int = 2,
        expansion: int = 1,
        invertible: int = 1,
        fusion_invertible: int = 2,
        scales: Sequence[int] = (4, 8, 16),
        iterations: int = 2,
        nodes: str = "dilated",
        reasoning: str = "published",
        join: str = "sum",
        cross_attention: bool = True,
        residual: bool = True,
        graph: bool = True,
        exchange: bool = False,
        train_sobel: bool = True,
        decomposition: str = "by_channel",
        both_stages: bool = False,
        interaction: str = "graph",
        semantic: str = "threshold",
        classes: int = 9,
        gram: str = "image",
        gram_norm: str = "squared",
        similarity: str = "halved",
        spatial: str = "visible",
        ssim_border: str = "reflect",
        ssim_range: float = 1.0,
        sobel_border: str = "zeros",
        spatial_border: str = "replicate",
        stretch: bool = False,
        unused: bool = False,
    ) -> None:
        super().__init__()
        chosen = (
            nodes, reasoning, join, decomposition, interaction, semantic, gram, gram_norm, similarity, spatial,
            ssim_border, sobel_border, spatial_border,
        )  # fmt: skip
        counts = {
            "blocks": blocks, "base_groups": base_groups, "base_pairs": base_pairs, "expansion": expansion,
            "invertible": invertible, "fusion_invertible": fusion_invertible, "iterations": iterations,
        }  # fmt: skip
        _check(dim, heads, list(scales), ssim_range, counts, dict(zip(CHOICES, chosen, strict=True)))
        self.decomposition, self.both_stages, self.interaction = decomposition, both_stages, interaction
        self.semantic, self.gram, self.gram_norm = semantic, gram, gram_norm
        self.similarity, self.spatial, self.stretch = similarity, spatial, stretch
        self.ssim_border, self.ssim_range = ssim_border, ssim_range
        self.sobel_border, self.spatial_border = sobel_border, spatial_border
        self.nodes, self.scales = nodes, list(scales)

        def stack() -> nn.Sequential:
            return transformer(dim, heads, expansion, blocks)

        # PAPER: a depthwise convolution extracts shallow features; for one channel it is an ordinary one
        shallow = nn.Sequential(nn.Conv2d(1, dim, 3, padding=1, bias=False), stack())
        base = BaseBranch(dim, heads, expansion, base_groups, base_pairs, residual=residual)
        detail = DetailBranch(dim, heads, invertible, cross_attention=cross_attention, train_sobel=train_sobel)
        self.encoder = Encoder(shallow, base, detail)
        self.graph = Graph(dim, scales, iterations, nodes, reasoning) if graph else None
        self.decoder = Decoder(dim, 3 if graph else 2, stack(), join)
        base_layer, detail_layer = stack(), DetailFusion(dim, fusion_invertible, train_sobel=train_sobel)
        self.base_fusion: nn.Module = detail_layer if exchange else base_layer
        self.detail_fusion: nn.Module = base_layer if exchange else detail_layer
        self.to_full_range = Stretch() if stretch else nn.Identity()
        # these are initialised last, so that the rest has the same initial values with and without them
        self.labeller = labeller(dim, classes) if semantic == "labels" else None
        self.unused = UnusedTensors(dim, len(scales)) if unused else None

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """See `FusionMethod.forward`."""
        fused = self._fuse(self._features(a, b)[1])
        return self.to_full_range(fused).clamp(0, 1)

    def reach(self) -> int | None:
        """See `FusionMethod.reach`; branches that are parallel count once."""
        if self.nodes == "pooled" and self.graph is not None:
            return None  # where the cells of a node lie depends on the size of the image
        nodes = 0 if self.graph is None else max(self.scales) + spread(self.graph.reasoning.merge[:1])
        branches = max(spread(self.encoder.base), spread(self.encoder.detail), nodes)
        fusion = max(spread(self.base_fusion), spread(self.detail_fusion))
        return spread(self.encoder.shallow) + branches + fusion + spread(self.decoder)

    def _features(self, a: Tensor, b: Tensor) -> tuple[Tensor, Features]:
        """Return shallow features and all further features, of the infrared images followed by the visible ones.

        Shape: a, b (B, 1, H, W); all features (2 B, dim, H, W).
        """
        shallow, base, detail = self.encoder(torch.cat([a, b]))
        graph = None if self.graph is None else torch.cat(self.graph.reasoning(*shallow.chunk(2)))
        return shallow, Features(base, detail, graph)

    def _fuse(self, features: Features) -> Tensor:
        """Return the fused image, (B, 1, H, W) in (0, 1)."""
        # PAPER: 2.1, base and detail features are aggregated, then enhanced
        base, detail = (infrared + visible for infrared, visible in (part.chunk(2) for part in features[:2]))
        graph = None
        if self.graph is not None and features.graph is not None:
            graph = self.graph.join(torch.cat(features.graph.chunk(2), dim=1))  # (B, 2 dim, H, W) to (B, dim, H, W)
        return self.decoder(Features(self.base_fusion(base), self.detail_fusion(detail), graph))

    def part_modules(self, part: str) -> dict[str, nn.Module]:
        """See `FusionMethod.part_modules`; S10: stage II continues to train everything from stage I."""
        modules = {name: module for name, module in self.named_children() if name != "unused"}
        if part == "fusion":
            modules.pop("labeller", None)
            return modules
        del modules["base_fusion"], modules["detail_fusion"]
        if self.graph is not None:  # each image is restored from its own graph features, so nothing is joined
            del modules["graph"]
            modules["graph.reasoning"] = self.graph.reasoning
        return modules

    def deployed_modules(self) -> dict[str, nn.Module]:
        """See `FusionMethod.deployed_modules`."""
        return {name: module for name, module in self.named_children() if name != "labeller"}

    def masked_parts(self) -> tuple[str, ...]:
        """See `FusionMethod.masked_parts`."""
        return ("reconstruction",) if self.semantic == "labels" else ()

    def part_outputs(self, part: str, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        """Return features of both modalities, and the restored images in stage I or the fused image in stage II."""
        shallow, features = self._features(a, b)
        outputs = {}
        for name, both in features._asdict().items():
            if both is not None:
                outputs[f"{name}_infrared"], outputs[f"{name}_visible"] = both.chunk(2)
        if part == "fusion":
            return outputs | {"fused": self._fuse(features)}
        outputs["infrared"], outputs["visible"] = self.decoder(features).chunk(2)
        if self.gram == "features":
            outputs["shallow_infrared"], _ = shallow.chunk(2)
            outputs["shallow_restored"] = self.encoder.shallow(outputs["infrared"])
        if self.labeller is not None:
            outputs["scores"] = self.labeller(outputs["visible"])  # (B, classes, H, W)
        return outputs

    def part_terms(
        self, part: str, outputs: Mapping[str, Tensor], a: Tensor, b: Tensor, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Eq. 17 to 26 in stage I, with `mask` (B, H, W) int64 for `labels`; eq. 27 to 30 in stage II."""
        if part == "fusion":
            return {
                "intensity": strongest_intensity_loss(outputs["fused"], a, b),  # eq. 29
                "gradient": strongest_gradient_loss(outputs["fused"], a, b, border=self.sobel_border),  # eq. 30
                "decomposition": self._decomposition_loss(outputs, self.interaction),  # eq. 27
            }
        infrared, visible = outputs["infrared"], outputs["visible"]
        both = ((infrared, a), (visible, b))
        # S4: in the published code, alpha_2 weights the gradient of the visible image only
        sloped = both if self.spatial == "both" else both[1:]
        return {
            "ssim": _sum(self._ssim_loss(restored, image) for restored, image in both),
            "semantic": self._semantic_loss(outputs, b, mask),
            "intensity": self._gram_loss(outputs, a),  # eq. 20
            "gradient": _sum(self._gradient_loss(restored, image) for restored, image in both),
            "spatial": _sum(self._slope_loss(restored, image) for restored, image in sloped),
            "decomposition": self._decomposition_loss(outputs, "graph" if self.both_stages else None),  # eq. 26
        }

    def _ssim_loss(self, restored: Tensor, image: Tensor) -> Tensor:
        if self.similarity == "plain":
            return 1 - ssim_map(restored, image, border=self.ssim_border, data_range=self.ssim_range).mean()
        # S4: half the paper's 1 - SSIM
        return ssim_loss(restored, image, border=self.ssim_border, data_range=self.ssim_range)

    def _gradient_loss(self, restored: Tensor, image: Tensor) -> Tensor:
        restored, image = (sobel_magnitude(x, border=self.sobel_border) for x in (restored, image))
        return F.l1_loss(restored, image)

    def _slope_loss(self, restored: Tensor, image: Tensor) -> Tensor:
        restored, image = (spatial_gradient(x, border=self.spatial_border) for x in (restored, image))
        return F.l1_loss(restored, image)

    def _gram_loss(self, outputs: Mapping[str, Tensor], image: Tensor) -> Tensor:
        """Distance between two Gram matrices (eq. 20), mean over the batch."""
        if self.gram == "features":
            restored, image = outputs["shallow_restored"], outputs["shallow_infrared"]
        else:
            restored = outputs["infrared"]
        difference = gram_matrix(restored) - gram_matrix(image)  # (B, 1, 1) of images
        # S6: the published code squares; the paper has a 2-norm
        return (
            difference.square().mean() if self.gram_norm == "squared" else torch.linalg.matrix_norm(difference).mean()
        )

    def _semantic_loss(self, outputs: Mapping[str, Tensor], image: Tensor, mask: Tensor | None) -> Tensor:
        """Measure how badly the regions of the image and of its restoration overlap (eq. 21 to 25)."""
        if self.semantic == "labels":
            assert mask is not None
            return lovasz_softmax(outputs["scores"], mask)
        if self.semantic == "constant":
            # S5: softmax over one channel is always one, and the labels are compared with zero; the loss reduces to the
            # share of pixels that are not black, if any pixel is black
            lit = (image != 0).to(image.dtype).mean()
            return torch.where(lit < 1, lit, 0)
        # ASSUME: images have no labels, so the region brighter than the image's mean represents the object
        image, restored = image.flatten(1), outputs["visible"].flatten(1)
        threshold = image.mean(dim=1, keepdim=True)
        labels = image > threshold
        bright = torch.sigmoid((restored - threshold) / SOFTNESS)
        return lovasz_jaccard(torch.where(labels, 1 - bright, bright), labels).mean()  # PAPER: eq. 22

    def _decomposition_loss(self, outputs: Mapping[str, Tensor], second: str | None) -> Tensor:
        """Make details dissimilar and bases similar (eq. 26, 27); `second` names the other dissimilar features."""
        alike = self._correlation(outputs, "detail") ** 2
        if second == "detail":  # S2: the published code squares the details' correlation twice
            alike = 2 * alike
        elif second == "graph" and self.graph is not None:
            alike = alike + self._correlation(outputs, "graph") ** 2
        return alike / (self._correlation(outputs, "base") + 1.01)

    def _correlation(self, outputs: Mapping[str, Tensor], name: str) -> Tensor:
        """Return the correlation between both modalities' features, one number."""
        infrared, visible = outputs[f"{name}_infrared"], outputs[f"{name}_visible"]
        if self.decomposition == "detached":  # S1: as published, over all values at once and without gradient
            return correlation(infrared.flatten(), visible.flatten()).detach()
        return correlation(infrared.flatten(2), visible.flatten(2)).mean()

    def published_names(self) -> dict[str, dict[str, str]]:
        """See `FusionMethod.published_names`."""
        return authors_names(self.state_dict())


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()


def _check(
    dim: int, heads: int, scales: list[int], ssim_range: float, counts: dict[str, int], chosen: dict[str, str]
) -> None:
    """Reject options with which the network cannot be built."""
    wrong = [f"{name} {value}" for name, value in chosen.items() if value not in CHOICES[name]]
    wrong += [f"{name} {value}" for name, value in counts.items() if value < 1]
    if ssim_range <= 0:
        wrong.append(f"ssim_range {ssim_range}")
    if min(dim, heads) < 1 or dim % 4 or dim % (2 * heads):
        wrong.append(f"dim {dim}, heads {heads}")
    if len(scales) < 2 or min(scales) < 1:
        wrong.append(f"scales {scales}")
    if wrong:
        raise UserError(
            "SMFNet cannot use these options.",
            expected="; ".join(f"{name} {', '.join(known)}" for name, known in CHOICES.items())
            + f"; {', '.join(counts)} from 1; a dim divisible by 4 and by twice the heads; two scales or more; "
            "ssim_range above 0",
            found=", ".join(wrong),
        )


METHOD = SMFNet

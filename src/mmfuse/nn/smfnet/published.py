"""The checkpoint of the published SMFNet: its names of our tensors, and its unused tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from torch import nn

from mmfuse.nn.smfnet.graph import merging
from mmfuse.nn.smfnet.transformer import narrow_convolutions

# our names of modules and tensors, and the authors'
_ATTENTION = {
    "attention.0": "norm1.body",
    "attention.1.out": "attn.project_out",
    "attention.1.project.0": "attn.qkv",
    "attention.1.project.1": "attn.qkv_dwconv",
    "attention.1.temperature": "attn.temperature",
    "feed_forward.0": "norm2.body",
}
_LEFF = {"0": "linear1.0", "2": "dwconv.0", "4": "linear2.0"}
_BLOCK = _ATTENTION | {f"feed_forward.1.{ours}": f"ffn_leff.{theirs}" for ours, theirs in _LEFF.items()}
_FUSION_BLOCK = _ATTENTION | {f"feed_forward.1.{ours}": f"mlp.{theirs}" for ours, theirs in _LEFF.items()}
_DENSE_BLOCK = {
    "attention.0": "norm1.body",
    "attention.1.out": "attn.proj",
    "attention.1.project.0": "attn.qkv1",
    "attention.1.project.1": "attn.qkv2",
    "attention.1.temperature": "attn.scale",
    "feed_forward.0": "norm2.body",
    "feed_forward.1.0": "mlp.project_in",
    "feed_forward.1.2": "mlp.project_out",
}
_GRADIENT_DENSE = {
    "first": "conv.conv",
    "second": "GRDB.dense.conv1.conv",
    "third": "GRDB.dense.conv2.conv",
    "merge": "GRDB.convdown.conv",
    "sobel_x": "GRDB.sobelconv.convx.weight",
    "sobel_y": "GRDB.sobelconv.convy.weight",
    "gradient": "GRDB.convup.conv",
}
_BOTTLENECK = {"0": "bottleneckBlock.0", "2": "bottleneckBlock.3", "4": "bottleneckBlock.5"}
_WITHIN = {
    "edges": "C_wgt",
    "update.gates": "ConvGRU.ConvGates",
    "update.candidate": "ConvGRU.Conv_ct",
    "gamma": "gamma",
}
_PROJECTION = {"0": "", "1": "_dwconv"}
_SAME = {"": ""}

# for each group of tensors that the authors save together: our name, the authors' name, and the names of submodules;
# each # is a number, the same in both names
_GROUPS: dict[str, tuple[tuple[str, str, dict[str, str]], ...]] = {
    "encoder": (
        ("encoder.shallow.0", "patch_embed.proj", _SAME),
        ("encoder.shallow.1.#.", "encoder_level1.#.", _BLOCK),
        ("encoder.base.conv", "baseFeature.conv_first", _SAME),
        ("encoder.base.groups.#.blocks.#.0.", "baseFeature.layers.#.residual_group.#.0.", _BLOCK),
        ("encoder.base.groups.#.blocks.#.1.", "baseFeature.layers.#.residual_group.#.1.", _DENSE_BLOCK),
        ("encoder.base.groups.#.conv", "baseFeature.layers.#.conv", _SAME),
        ("encoder.detail.dense.", "GRDB_module.", _GRADIENT_DENSE),
        ("encoder.detail.cross.query.", "detailFeature.TCA.q", _PROJECTION),
        ("encoder.detail.cross.key_value.", "detailFeature.TCA.kv", _PROJECTION),
        ("encoder.detail.cross.temperature", "detailFeature.TCA.temperature", _SAME),
        ("encoder.detail.cross.out", "detailFeature.TCA.project_out", _SAME),
        ("encoder.detail.blocks.0.mix", "detailFeature.layer.shffleconv", _SAME),
        ("encoder.detail.blocks.0.shift_second.", "detailFeature.layer.theta_phi.", _BOTTLENECK),
        ("encoder.detail.blocks.0.scale_first.", "detailFeature.layer.theta_rho.", _BOTTLENECK),
        ("encoder.detail.blocks.0.shift_first.", "detailFeature.layer.theta_eta.", _BOTTLENECK),
        ("unused.base_reduce", "baseFeature.reduce_channel", _SAME),
        ("unused.base_norm", "baseFeature.norm", _SAME),
        ("unused.base_conv", "baseFeature.conv_after_body", _SAME),
    ),
    "decoder": (
        ("decoder.layers.#.", "encoder_level1.#.", _BLOCK),
        ("decoder.out", "output", _SAME),
    ),
    "graph": (
        # "rgb" and index 0 are infrared, "dep" and index 1 visible
        ("graph.reasoning.nodes.0.#", "graph.graph.ppm_rgb.convs.#", _SAME),
        ("graph.reasoning.nodes.1.#", "graph.graph.ppm_dep.convs.#", _SAME),
        ("graph.reasoning.across.to_visible", "graph.graph.C_pa.0", _SAME),
        ("graph.reasoning.across.to_infrared", "graph.graph.C_pa.1", _SAME),
        ("graph.reasoning.within.0.", "graph.graph.graph_rgb.", _WITHIN),
        ("graph.reasoning.within.1.", "graph.graph.graph_dep.", _WITHIN),
        ("graph.reasoning.merge.#", "graph.C_cat.#", _SAME),
        ("graph.join", "C_cls", _SAME),
        ("unused.graph_attention.#", "graph.graph.C_ca.#", _SAME),
        ("unused.graph_merge.#", "graph.C_cat.#", _SAME),
        ("unused.graph_join", "graph.C_cls", _SAME),
    ),
    "base_fusion": (
        ("base_fusion.0.", "", _FUSION_BLOCK),
        ("unused.fusion_reduce", "reduce_channel", _SAME),
    ),
    "detail_fusion": (
        ("detail_fusion.dense.", "GRDB.", _GRADIENT_DENSE),
        ("detail_fusion.blocks.#.mix", "net.#.shffleconv", _SAME),
        ("detail_fusion.blocks.#.scale_second.", "net.#.r.", _BOTTLENECK),
        ("detail_fusion.blocks.#.shift_second.", "net.#.y.", _BOTTLENECK),
        ("detail_fusion.blocks.#.shift_first.", "net.#.f.", _BOTTLENECK),
        ("detail_fusion.blocks.#.scale_first.", "net.#.p.", _BOTTLENECK),
    ),
}


class UnusedTensors(nn.Module):
    """Tensors that the published network holds but never uses, so that its checkpoints fit.

    Args:
        dim: Channels of the network's features.
        nodes: Nodes of its graph for each modality.
    """

    def __init__(self, dim: int, nodes: int) -> None:
        super().__init__()
        self.base_reduce = nn.Conv2d(2 * dim, dim, 1, bias=False)
        self.base_norm = nn.LayerNorm(dim)
        self.base_conv = narrow_convolutions(dim)
        self.graph_attention = nn.ModuleList(
            nn.ModuleDict(
                {"1": nn.Conv2d(2 * dim, dim // 2, 1, bias=False), "3": nn.Conv2d(dim // 2, dim, 1, bias=False)}
            )
            for _ in range(2)
        )
        self.graph_merge = nn.ModuleDict({str(number): merging(dim, nodes) for number in range(2, 6)})
        self.graph_join = nn.Conv2d(2 * dim, dim, 1)
        self.fusion_reduce = nn.Conv2d(2 * dim, dim, 1, bias=False)


def authors_names(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the authors' names of a network's tensors, as `FusionMethod.published_names`.

    Args:
        names: Our names of the network's tensors; tensors that the published network lacks are left out.
    """
    ours = list(names)
    return {group: dict(_pairs(ours, rules)) for group, rules in _GROUPS.items()}


def _pairs(names: list[str], rules: Iterable[tuple[str, str, dict[str, str]]]) -> Iterator[tuple[str, str]]:
    """Yield the authors' name and our name of each tensor that a rule matches."""
    for ours, theirs, below in rules:
        for our_end, their_end in below.items():
            pattern = re.escape(ours + our_end).replace(r"\#", "#").replace("#", r"(\d+)")
            for name in names:
                found = re.match(rf"{pattern}(?=\.|$)", name)
                if found:
                    numbers = iter(found.groups())
                    start = re.sub("#", lambda _: next(numbers), theirs + their_end)  # noqa: B023 - used at once
                    yield start + name[found.end() :], name

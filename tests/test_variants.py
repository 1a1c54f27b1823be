"""What each row of the papers' tables of ablations changes in the network, layer by layer, and what it leaves alone."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from mmfuse.study import plan
from mmfuse.study.settings import network_options
from mmfuse.training.checkpoints import build

CONFIGS = Path(__file__).parents[1] / "workflow/configs"
PAPER, SMALL_MIF, SMALL_MMA, DEMO = (
    yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    for name in ("paper", "small_mif", "small_mma", "demo")
)
NORMS = (nn.GroupNorm, nn.BatchNorm2d)
Layers = dict[str, str]


def layers(parameters: dict, method: str, variant: str) -> Layers:
    """Return a word for every layer of a variant's network, by its name."""
    with torch.device("meta"):
        network = build(method, network_options(plan.settings_of(parameters, method, variant)))
    return {name: word(module) for name, module in network.named_modules() if not list(module.children())}


def word(layer: nn.Module) -> str:
    if isinstance(layer, nn.GroupNorm):
        return f"GN({layer.num_groups}) of {layer.num_channels}"
    if isinstance(layer, nn.BatchNorm2d):
        return f"BN of {layer.num_features}"
    if isinstance(layer, nn.Conv2d):
        size, groups, bias = layer.kernel_size[0], layer.groups, layer.bias is not None
        return f"conv {size} {layer.in_channels}>{layer.out_channels} groups {groups} bias {bias}"
    return str(layer)


def changes(parameters: dict, method: str, variant: str) -> dict[str, tuple[str | None, str | None]]:
    """Return what each layer was in `base` and is in a variant, where they differ; None where there is none."""
    base, other = layers(parameters, method, "base"), layers(parameters, method, variant)
    return {k: (base.get(k), other.get(k)) for k in base | other if base.get(k) != other.get(k)}


def channels(norm: str) -> str:
    return norm.rpartition(" of ")[2]


# --------------------------------------------------------------------------------------------- LKC-FUNet, Table 2


def norms_of(found: Layers) -> Layers:
    return {name: layer for name, layer in found.items() if layer.startswith(("GN", "BN"))}


def large_kernels_of(found: Layers) -> Layers:
    """Layers whose kernel is none of 1x1 convolutions, nor of those 3x3 that no variant changes."""
    fixed = ("net.init.thin", "net.downs.", "net.ups.", "net.out.")
    convolutions = {name: layer for name, layer in found.items() if layer.startswith("conv ")}
    return {k: v for k, v in convolutions.items() if not v.startswith("conv 1 ") and not k.startswith(fixed)}


def with_kernel(layer: str, size: int) -> str:
    return " ".join(["conv", str(size), *layer.split()[2:]])


def all_bn(base: Layers) -> dict[str, tuple[str, str]]:
    """InitBlock, both norms of each LKC, the four of each LKDC, the three of each MPAFM, and the last one."""
    return {name: (norm, f"BN of {channels(norm)}") for name, norm in norms_of(base).items()}


def conv_3x3(base: Layers) -> dict[str, tuple[str, str]]:
    """InitBlock, both kernels of each LKC, and the depthwise kernel of each LKDC."""
    found = {name: (layer, with_kernel(layer, 3)) for name, layer in large_kernels_of(base).items()}
    return {name: (before, after) for name, (before, after) in found.items() if before != after}


def no_norm(base: Layers) -> dict[str, tuple[str, str]]:
    """No norm anywhere; the three convolutions of an LKDC, which have a norm behind them, get their biases."""
    gone = {name: (norm, "Identity()") for name, norm in norms_of(base).items()}
    unbiased = {name: layer for name, layer in base.items() if layer.endswith("bias False")}
    return gone | {name: (layer, layer.replace("bias False", "bias True")) for name, layer in unbiased.items()}


def no_mpafm(base: Layers) -> dict[str, tuple[str | None, str | None]]:
    """Concatenation in the place of each MPAFM; it has twice the channels too, so that the decoder stays."""
    gone = {name: (layer, None) for name, layer in base.items() if name.startswith("net.skips.")}
    return gone | {f"net.skips.{step}": (None, "Concatenation()") for step in range(3)}


TABLE_2: dict[str, Any] = {
    "all_bn_3x3": lambda base: all_bn(base) | conv_3x3(base),
    "all_bn": all_bn,
    "bn_gn": lambda base: {"net.init.wide.0": (base["net.init.wide.0"], f"BN of {channels(base['net.init.wide.0'])}")},
    "in_gn_3x3": conv_3x3,
    "no_norm": no_norm,
    "no_mpafm": no_mpafm,
}


def test_norms_and_kernels_of_the_whole_network():
    """What `all BN`, `w/o Norm` and `3*3 Conv` have to reach: 7 LKC, 10 LKDC, 3 MPAFM, InitBlock and the last norm."""
    base = layers(PAPER, "lkc_funet", "base")
    assert len(norms_of(base)) == 1 + 7 * 2 + 10 * 4 + 3 * 3 + 1
    assert len(large_kernels_of(base)) == 1 + 7 * 2 + 10
    assert sorted({layer.split()[1] for layer in large_kernels_of(base).values()}, key=int) == ["5", "11", "15"]
    assert base["net.init.wide.0"] == "GN(32) of 32", "an instance norm"
    of_lkdc = {"net.encoder.0.1.units.0": 128, "net.encoder.0.1.units.2": 192, "net.encoder.0.1.units.5": 192}
    assert {base[name] for name in of_lkdc} == {f"GN(1) of {c}" for c in of_lkdc.values()}
    assert base["net.encoder.0.1.units.8"] == "GN(1) of 128"


@pytest.mark.parametrize("study", ["paper", "small_mif"])
@pytest.mark.parametrize("variant", TABLE_2)
def test_a_row_of_table_2(variant, study):
    parameters = {"paper": PAPER, "small_mif": SMALL_MIF}[study]
    expected = TABLE_2[variant](layers(parameters, "lkc_funet", "base"))
    assert changes(parameters, "lkc_funet", variant) == expected != {}


@pytest.mark.parametrize("variant", TABLE_2)
def test_a_row_of_table_2_trains_as_base_does(variant):
    for parameters in (PAPER, SMALL_MIF):
        base, other = (plan.settings_of(parameters, "lkc_funet", name) for name in ("base", variant))
        assert {**base, "network": None} == {**other, "network": None}
        switches = {"init_norm", "norm", "mpafm", "kernels", "bottleneck_kernel", "init_kernel", "skip"}
        assert {k for k in other["network"] if other["network"][k] != base["network"].get(k)} <= switches


def test_the_demos_first_row_of_table_2():
    assert changes(DEMO, "lkc_funet", "all_bn_3x3") == TABLE_2["all_bn_3x3"](layers(DEMO, "lkc_funet", "base"))


@pytest.mark.parametrize(("variant", "init"), [("as_published", "BN of 32"), ("as_published_medical", "GN(32) of 32")])
def test_lkc_funet_as_published(variant, init):
    base, found = layers(PAPER, "lkc_funet", "base"), changes(PAPER, "lkc_funet", variant)
    of_skips = {k: (v, f"BN of {channels(v)}") for k, v in norms_of(base).items() if k.startswith("net.skips.")}
    of_init = {"net.init.wide.0": ("GN(32) of 32", init)}
    assert found == of_skips | (of_init if variant == "as_published" else {})
    settings = plan.settings_of(PAPER, "lkc_funet", variant)
    network, part = settings["network"], settings["parts"]["net"]
    assert network["mpafm"] == {"norm": "batch", "sides": "code"}
    assert network["training_range"] == "symmetric"
    assert {"ssim_border", "ssim_range", "gradient_border"}.isdisjoint(network), "the defaults are the code's"
    expected = {"learning_rate": 0.0002, "flip": True, "vertical_flip": True, "drop_last": True, "weights": "last"}
    assert {key: part[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("variant", "kernels", "init"),
    [("in_gn_k7", (7, 7, 5), 7), ("in_gn_k11", (11, 11, 5), 11), ("in_gn_k19", (19, 11, 5), 19)],
)
def test_kernel_variants_change_kernels_alone(variant, kernels, init):
    base, found = layers(PAPER, "lkc_funet", "base"), changes(PAPER, "lkc_funet", variant)
    now = dict(zip((15, 11, 5), kernels, strict=True))
    expected = {}
    for name, layer in large_kernels_of(base).items():
        size = init if name.startswith("net.init") else now[int(layer.split()[1])]
        if with_kernel(layer, size) != layer:
            expected[name] = (layer, with_kernel(layer, size))
    assert found == expected != {}
    normed = {name: change for name, change in all_bn(base).items() if name not in expected}
    assert changes(PAPER, "lkc_funet", variant.replace("in_gn", "bn")) == expected | normed


# ---------------------------------------------------------------------------------------------- MMA-UNet, Table 4

LEVELS = {
    "base": [(1, 2), (2, 3), (3, 4), (4, 5)],
    "e2_shallow": [(1, 1), (2, 2), (3, 3), (4, 4)],
    "e2_deep": [(2, 2), (3, 3), (4, 4), (5, 5)],
    "e3": [(1, 2), (2, 3), (3, 4), (4, 5)],
    "e4": [(1, 3), (2, 4), (3, 5)],
    "e5": [(2, 1), (3, 2), (4, 3), (5, 4)],
}
GUIDED = {"base", "e4", "e5"}


def below(found: dict[str, Any], *prefixes: str) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name.startswith(prefixes)}


@pytest.mark.parametrize("study", ["paper", "small_mma"])
@pytest.mark.parametrize("variant", LEVELS)
def test_a_row_of_table_4_changes_guidance_and_pairing_alone(variant, study):
    parameters = {"paper": PAPER, "small_mma": SMALL_MMA}[study]
    base, found = layers(parameters, "mma_unet", "base"), changes(parameters, "mma_unet", variant)
    guides = below(base, "ir_unet.encoder.guides.")
    assert len(guides) == 5 * 2
    gone = {} if variant in GUIDED else {name: (layer, None) for name, layer in guides.items()}
    assert below(found, "vi_unet.", "ir_unet.") == gone
    same_fusion = LEVELS[variant] == LEVELS["base"]
    assert (not below(found, "fusion.")) == same_fusion
    settings, plain = (deepcopy(plan.settings_of(parameters, "mma_unet", name)) for name in (variant, "base"))
    for block in (settings, plain):
        block["parts"]["ir_unet"].pop("network")
        block["parts"]["fusion"]["network"].pop("pairing")
    assert settings == plain, "trained as base is"


@pytest.mark.parametrize("study", ["paper", "small_mma"])
@pytest.mark.parametrize("variant", LEVELS)
def test_the_levels_of_a_row_of_table_4(variant, study):
    """Which side is brought to the other's size, the attention of each pair, and how far the decoder goes."""
    parameters = {"paper": PAPER, "small_mma": SMALL_MMA}[study]
    width = parameters["methods"]["mma_unet"]["network"]["width"]
    found = below(layers(parameters, "mma_unet", variant), "fusion.")
    pairs = LEVELS[variant]
    for number, (visible, infrared) in enumerate(pairs):
        target = max(visible, infrared)
        for side, level in (("visible", visible), ("infrared", infrared)):
            own = below(found, f"fusion.pairs.{number}.{side}")
            if level == target:
                assert list(own.values()) == ["Identity()"]
            else:
                c, d = (width * 2 ** (n - 1) for n in (level, target))
                factor = 2 ** (target - level)
                pool = f"AvgPool2d(kernel_size={factor}, stride={factor}, padding=0)"
                assert list(own.values()) == [pool, f"conv 1 {c}>{d} groups 1 bias True"]
        deep = number >= len(pairs) // 2
        attention = set(below(found, f"fusion.pairs.{number}.attention"))
        kinds = ("channel.squeeze", "channel.excite", "spatial") if deep else ("mix",)
        assert attention == {f"fusion.pairs.{number}.attention.{kind}" for kind in kinds}
    levels = [max(pair) for pair in pairs]
    ups = {name.split(".")[3] for name in below(found, "fusion.decoder.ups.")}
    joins = {name.split(".")[3] for name in below(found, "fusion.decoder.joins.")}
    assert ups == {str(level) for level in range(2, max(levels) + 1)}
    assert joins == {str(level) for level in levels[:-1]}


def test_mma_unet_as_published():
    # the published code stretches the fused image
    assert changes(PAPER, "mma_unet", "as_published") == {"to_full_range": ("Identity()", "Stretch()")}
    base, settings = (plan.settings_of(PAPER, "mma_unet", name) for name in ("base", "as_published"))
    with torch.device("meta"):
        network = build("mma_unet", network_options(settings))
    assert (network.stretch, network.channel, network.padding) == (True, "first", "published")
    assert settings["parts"]["fusion"]["loss"] == {"mse": 1.0, "ssim": 0.5, "detail": 10.0}
    for name, part in settings["parts"].items():
        assert part["weights"] == "last"
        assert {**part, "network": None} == {**base["parts"][name], "network": None}

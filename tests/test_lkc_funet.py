"""LKC-FUNet: shapes, parameter counts, options, normalisation, MPAFM, black images, colour, and a short training."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import yaml
from torch import nn

from mmfuse.errors import UserError
from mmfuse.inference.fusing import fuse_pair
from mmfuse.methods.lkc_funet import BlockOptions, InitBlock, LKCBlock, LKDCBlock
from mmfuse.nn.losses import BORDERS, strongest_gradient_loss, strongest_intensity_loss, two_source_ssim_loss
from mmfuse.nn.mpafm import MPAFM
from mmfuse.nn.stochastic_depth import StochasticDepth
from mmfuse.study import plan
from mmfuse.study.settings import network_options
from mmfuse.training.checkpoints import build
from mmfuse.training.loop import prepare_part

ROOT = Path(__file__).parents[1]
PAPER = yaml.safe_load((ROOT / "workflow/configs/paper.yaml").read_text(encoding="utf-8"))
VARIANTS = list(PAPER["methods"]["lkc_funet"]["variants"])
TINY = {
    "width": 4, "channels": 8, "kernels": [5, 3, 3], "bottleneck_kernel": 3, "init_kernel": 7, "groups": 2,
    "dropout": 0.0, "drop_path": 0.0,
}  # fmt: skip
ONES = {"ssim": 1.0, "intensity": 1.0, "gradient": 1.0}
BODY = BlockOptions(norm="group", groups=2, depthwise_groups=1, dropout=0.0, drop_path=0.0, expansion=1.5)


def tiny(seed: int = 0, **changes: Any) -> nn.Module:
    torch.manual_seed(seed)
    return build("lkc_funet", TINY | changes)


def pair(height: int = 32, width: int = 32, batch: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = torch.rand(2, batch, 1, height, width, generator=torch.Generator().manual_seed(seed))
    return a, b


def losses(method: nn.Module, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return sum(method.part_losses("net", a, b, ONES).values())


# ------------------------------------------------------------------------------------------------------------- shapes


def test_the_papers_network_line_by_line():
    """The network of Fig. 2 at its full size: what goes in and out of every block, for a small image."""
    with torch.device("meta"):
        method = build("lkc_funet", {})
        seen: dict[str, tuple[int, ...]] = {}
        for name, module in method.net.named_modules():
            module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
        a, b = torch.rand(2, 1, 1, 32, 48)
        assert method(a, b).shape == (1, 1, 32, 48)
    full, half, quarter = (32, 48), (16, 24), (8, 12)
    thin, wide = seen.pop("init")
    assert thin.shape == (1, 32, *full)
    assert wide.shape == (1, 128, *full)
    expected = {
        "encoder.0": (128, full), "downs.0": (128, half), "encoder.1": (128, half), "downs.1": (128, quarter),
        "encoder.2": (128, quarter), "bottleneck": (128, quarter),
        "skips.0": (256, quarter), "decoder.0": (128, quarter), "ups.0": (128, half),
        "skips.1": (256, half), "decoder.1": (128, half), "ups.1": (128, full),
        "skips.2": (256, full), "decoder.2": (128, full), "last": (128, full), "out": (1, full),
    }  # fmt: skip
    assert {name: (seen[name].shape[1], tuple(seen[name].shape[2:])) for name in expected} == expected
    kernels = {name: module.kernel_size[0] for name, module in method.net.named_modules() if hasattr(module, "weight")
               and getattr(module, "kernel_size", (1,))[0] > 3}  # fmt: skip
    by_place = {"init": 15, "encoder.0": 15, "encoder.1": 11, "encoder.2": 5, "bottleneck": 5, "decoder.0": 5,
                "decoder.1": 11, "decoder.2": 15, "last": 15}  # fmt: skip
    lkc, lkdc = 2, 1  # large kernels in a block
    assert len(kernels) == 1 + 3 * (lkc + lkdc) + 2 * lkdc + 2 * (lkc + 2 * lkdc) + (lkc + lkdc) + lkc
    for name, kernel in kernels.items():
        assert kernel == next(k for place, k in by_place.items() if name.startswith(place)), name


def layers(block: nn.Module) -> list[str]:
    """What a sequence of units does, one word a layer."""

    def word(layer: nn.Module) -> str:
        if isinstance(layer, nn.Conv2d):
            depthwise = "depthwise " * (layer.groups == layer.in_channels)
            bias = "" if layer.bias is not None else " no bias"
            return f"{depthwise}conv {layer.kernel_size[0]} {layer.in_channels}>{layer.out_channels}{bias}"
        if isinstance(layer, nn.GroupNorm):
            return f"GN({layer.num_groups}) of {layer.num_channels}"
        if isinstance(layer, nn.BatchNorm2d):
            return f"BN of {layer.num_features}"
        return {nn.ReLU: "ReLU", nn.Identity: "-", StochasticDepth: "drop path"}.get(type(layer), "") or str(layer)

    return [word(layer) for layer in block]


def test_the_papers_blocks_line_by_line():
    with torch.device("meta"):
        net = build("lkc_funet", {}).net
    assert layers(net.init.wide) == ["GN(32) of 32", "ReLU", "Dropout(p=0.2, inplace=False)", "conv 15 32>128"]
    lkc, lkdc = net.encoder[0]
    assert layers(lkc.units[0]) == ["GN(32) of 128", "ReLU", "-", "conv 15 128>128"]
    assert layers(lkc.units[1]) == ["GN(32) of 128", "ReLU", "Dropout(p=0.2, inplace=False)", "conv 15 128>128"]
    assert layers(lkdc.units) == [
        "GN(1) of 128", "conv 1 128>192 no bias", "GN(1) of 192", "ReLU", "depthwise conv 15 192>192 no bias",
        "GN(1) of 192", "ReLU", "conv 1 192>128 no bias", "GN(1) of 128", "drop path",
    ]  # fmt: skip
    assert isinstance(lkc.shortcut, nn.Identity)
    assert layers([net.decoder[0][0].shortcut, net.last.shortcut]) == ["conv 1 256>128", "conv 1 160>128"]
    assert layers(net.out) == ["GN(32) of 128", "ReLU", "conv 3 128>1"]
    kinds = {LKCBlock: "lkc", LKDCBlock: "lkdc"}
    places = [*net.encoder, net.bottleneck, *net.decoder, [net.last]]
    assert [[kinds[type(block)] for block in place] for place in places] == [
        ["lkc", "lkdc"], ["lkc", "lkdc"], ["lkc", "lkdc"],
        ["lkdc", "lkdc"],
        ["lkc", "lkdc", "lkdc"], ["lkc", "lkdc", "lkdc"],
        ["lkc", "lkdc"], ["lkc"],
    ]  # fmt: skip


@pytest.mark.parametrize("block", [LKCBlock, LKDCBlock])
@torch.no_grad()
def test_a_block_adds_its_input(block):
    """Without its last convolution, a block gives its input, or the input's 1x1 convolution where channels change."""
    for channels_in in (8, 6):
        module = block(channels_in, 8, 5, BODY).eval()
        last = module.units[1][3] if block is LKCBlock else module.units[7]
        for parameter in last.parameters():
            parameter.zero_()
        x = torch.rand(2, channels_in, 9, 7)
        assert torch.equal(module(x), x if channels_in == 8 else module.shortcut(x))
        assert isinstance(module.shortcut, nn.Identity) == (channels_in == 8)


@torch.no_grad()
def test_the_papers_network_runs():
    torch.manual_seed(0)
    method = build("lkc_funet", {}).eval()
    a, b = pair(17, 16, batch=1)
    fused = method(a, b)
    assert fused.shape == a.shape
    assert 0 <= fused.min() < fused.max() <= 1
    assert torch.equal(method(a, b), fused)


@pytest.mark.parametrize("shape", [(16, 16), (17, 33), (61, 40), (31, 18)])
@pytest.mark.parametrize("kernels", [[3], [5, 3], [5, 3, 3, 3]], ids=str)
@torch.no_grad()
def test_any_number_of_levels_and_any_size(kernels, shape):
    method = tiny(kernels=kernels).eval()
    a, b = pair(*shape)
    assert method(a, b).shape == a.shape
    assert method.multiple == 2 ** (len(kernels) - 1)
    assert losses(method, a, b).isfinite(), "training needs no special size either"


@pytest.mark.parametrize("blocks", [["lkc"], ["lkdc"], ["lkdc", "lkdc", "lkc", "lkc"]], ids=str)
@pytest.mark.parametrize("place", ["encoder", "bottleneck", "decoder", "finest"])
@torch.no_grad()
def test_any_blocks(place, blocks):
    kinds = {"lkc": LKCBlock, "lkdc": LKDCBlock}
    usual = {"encoder": ["lkc", "lkdc"], "bottleneck": ["lkdc", "lkdc"], "decoder": ["lkc", "lkdc", "lkdc"],
             "finest": ["lkc", "lkdc", "lkc"]}  # fmt: skip
    net = (method := tiny(**{f"{place}_blocks": blocks}).eval()).net
    found = {"encoder": net.encoder[1], "bottleneck": net.bottleneck, "decoder": net.decoder[1],
             "finest": [*net.decoder[2], net.last]}  # fmt: skip
    for name, modules in found.items():
        assert [type(block) for block in modules] == [kinds[kind] for kind in (usual | {place: blocks})[name]], name
    assert method(*pair()).isfinite().all()


@torch.no_grad()
def test_there_need_be_no_bottleneck():
    method = tiny(bottleneck_blocks=[]).eval()
    assert len(method.net.bottleneck) == 0
    assert method(*pair()).isfinite().all()


# --------------------------------------------------------------------------------------------------- parameter counts


def lkc_count(channels_in: int, c: int, k: int, norm: bool) -> int:
    shortcut = 0 if channels_in == c else channels_in * c + c
    return norm * 2 * (channels_in + c) + k * k * (channels_in + c) * c + 2 * c + shortcut


def lkdc_count(c: int, k: int, norm: bool) -> int:
    hidden = 3 * c // 2
    convolutions = c * hidden + k * k * hidden + hidden * c
    # four normalisations; without them the three convolutions have biases
    return convolutions + (2 * (c + hidden + hidden + c) if norm else hidden + hidden + c)


def mpafm_count(c: int, norm: bool, *, attention: bool = True, recalibration: bool = True) -> int:
    hidden = max(4, c // 8)
    channel, spatial = c * hidden + hidden + hidden * c + c, 2 + 1 + norm * 2
    refine = norm * 2 * c + 2 * c + 2
    recalibrate = c * c + c + norm * 2 * c
    return attention * (channel + spatial + refine) + recalibration * recalibrate + 2 * c * c + 2 * c


def count(
    kernels: tuple[int, ...] = (15, 11, 5),
    bottleneck: int = 5,
    init: int = 15,
    *,
    norm: bool = True,
    init_norm: int = 2 * 32,
    skip: int | None = None,
) -> int:
    """Parameters of the paper's size, added up by hand; normalisations have two a channel, of whatever kind."""
    w, c = 32, 128
    total = 2 * w * 9 + w + init_norm + init * init * w * c + c
    total += sum(lkc_count(c, c, k, norm) + lkdc_count(c, k, norm) for k in kernels)
    total += 2 * lkdc_count(c, bottleneck, norm)
    total += 2 * (len(kernels) - 1) * (9 * c * c + c)  # strided convolutions down, convolutions up
    total += len(kernels) * (mpafm_count(c, norm) if skip is None else skip)
    for level, k in enumerate(kernels):
        total += lkc_count(2 * c, c, k, norm) + lkdc_count(c, k, norm)
        # at the finest level the features of the first convolution join
        total += lkc_count(c + w, c, k, norm) if level == 0 else lkdc_count(c, k, norm)
    return total + norm * 2 * c + 9 * c + 1


COUNTS = {
    "base": count(),
    "all_bn_3x3": count((3, 3, 3), 3, 3),
    "all_bn": count(),
    "bn_gn": count(),
    "in_gn_3x3": count((3, 3, 3), 3, 3),
    "no_norm": count(norm=False, init_norm=0),
    "no_mpafm": count(skip=0),
    "no_attention": count(skip=mpafm_count(128, True, attention=False)),
    "no_gating": count(),
    "no_recalibration": count(skip=mpafm_count(128, True, recalibration=False)),
    "init_gn": count(),
    "init_none": count(init_norm=0),
    "init_per_modality": count(init_norm=2 * 2),
    "in_gn_k7": count((7, 7, 5), 5, 7),
    "in_gn_k11": count((11, 11, 5), 5, 11),
    "in_gn_k19": count((19, 11, 5), 5, 19),
    "bn_k7": count((7, 7, 5), 5, 7),
    "bn_k11": count((11, 11, 5), 5, 11),
    "bn_k19": count((19, 11, 5), 5, 19),
    "groups_1": count(),
    "groups_8": count(),
    "groups_channels": count(),
    "kernels_15_7_5": count((15, 7, 5)),
    "kernels_15_7_5_5": count((15, 7, 5, 5)),
    "as_published": count(),
    "as_published_medical": count(),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameter_counts_of_the_papers_size(variant):
    settings = plan.settings_of(PAPER, "lkc_funet", variant)
    with torch.device("meta"):
        method = build("lkc_funet", network_options(settings))
    assert sum(parameter.numel() for parameter in method.parameters()) == COUNTS[variant]


def test_the_papers_size_in_numbers():
    assert set(COUNTS) == set(VARIANTS)
    assert (COUNTS["base"], COUNTS["in_gn_3x3"], COUNTS["no_norm"]) == (41_174_438, 3_983_782, 41_160_480)


def test_paper_yaml_is_the_default_network():
    with torch.device("meta"):
        by_default, by_study = build("lkc_funet", {}), build("lkc_funet", PAPER["methods"]["lkc_funet"]["network"])
    assert str(by_default) == str(by_study)


# ------------------------------------------------------------------------------------------------------------ options

OPTIONS: list[dict[str, Any]] = [
    *({"init_norm": kind} for kind in ("batch", "group", "none", "per_modality")),
    *({"norm": kind} for kind in ("batch", "none")),
    *({"groups": groups} for groups in (1, 4, "channels")),
    *({"depthwise_groups": groups} for groups in (2, "channels")),
    *({"mpafm": {"norm": kind}} for kind in ("batch", "none")),
    {"mpafm": {"sides": "code"}},
    {"mpafm": {"weighting": "sigmoid"}},
    *({"mpafm": {part: False}} for part in ("residual", "attention", "gating", "recalibration")),
    {"mpafm": {"recalibrated": "encoder"}},
    {"mpafm": {"reduction": 1}},
    {"skip": "concat"},
    {"kernels": [3, 3, 3]},
    {"kernels": [5, 3]},
    {"bottleneck_kernel": 5},
    {"bottleneck_blocks": ["lkdc"]},
    {"bottleneck_blocks": ["lkc", "lkdc"]},
    {"finest_blocks": ["lkc", "lkdc", "lkdc"]},
    {"finest_blocks": ["lkc"]},
    {"init_kernel": 3},
    {"encoder_blocks": ["lkdc"]},
    {"decoder_blocks": ["lkc"]},
    {"expansion": 2},
    {"padding": "replicate"},
    {"padding": "constant"},
]


@pytest.mark.parametrize("option", OPTIONS, ids=str)
@torch.no_grad()
def test_each_option_changes_the_image(option):
    """Where an option leaves the weights' shapes alone, the same weights give another image."""
    base, other = tiny().eval(), tiny(1, **option).eval()
    own = other.state_dict()
    shared = {k: v for k, v in base.state_dict().items() if k in own and own[k].shape == v.shape}
    other.load_state_dict(shared, strict=False)
    a, b = pair(30, 33)  # 30 and 33 do not divide by 4, so that padding counts
    assert (base.net(torch.cat(pair(), 1)) - tiny().eval().net(torch.cat(pair(), 1))).abs().max() == 0
    assert (base._fuse(a, b) - other._fuse(a, b)).abs().max() > 1e-5


@pytest.mark.parametrize(
    "option",
    [
        {"dropout": 0.5}, {"drop_path": 0.5}, {"training_range": "symmetric"}, {"ssim_range": 2.0},
        *({f"{term}_border": border} for term in ("ssim", "gradient") for border in ("reflect", "replicate")),
    ],
    ids=str,
)  # fmt: skip
@torch.no_grad()
def test_options_of_training_change_the_loss_and_not_the_image(option):
    base, other = tiny(), tiny(**option)
    a, b = pair(batch=4)
    assert torch.equal(base.eval()(a, b), other.eval()(a, b))
    torch.manual_seed(0)
    assert losses(base.train(), a, b) != losses(other.train(), a, b)


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ({"init_norm": "layer"}, "init_norm"),
        ({"norm": "instance"}, "support this norm"),
        ({"skip": "none"}, "skip"),
        ({"padding": "circular"}, "padding"),
        ({"training_range": "percent"}, "training_range"),
        ({"mpafm": {"sides": "left"}}, "sides"),
        ({"mpafm": {"weighting": "linear"}}, "weighting"),
        ({"mpafm": {"recalibrated": "both"}}, "recalibrated"),
        ({"mpafm": {"gates": 1}}, "gates"),
        ({"groups": 3}, "groups"),
        ({"groups": "all"}, "groups"),
        ({"groups": 0}, "groups"),
        ({"kernels": [4, 3]}, "blocks"),
        ({"kernels": []}, "blocks"),
        ({"width": 0}, "blocks"),
        ({"encoder_blocks": []}, "blocks"),
        ({"encoder_blocks": ["resnet"]}, "resnet"),
        ({"bottleneck_blocks": ["resnet"]}, "resnet"),
        ({"decoder_blocks": []}, "blocks"),
        ({"finest_blocks": []}, "blocks"),
        ({"finest_blocks": ["lkc", "resnet"]}, "resnet"),
        ({"dropout": -0.1}, "dropout"),
        ({"drop_path": 1.0}, "drop_path"),
        ({"ssim_range": 0.0}, "ssim_range"),
        ({"ssim_border": "wrap"}, "ssim_border"),
        ({"gradient_border": "constant"}, "gradient_border"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(option, word):
    with pytest.raises(UserError) as caught:
        tiny(**option)
    assert word in str(caught.value)


# ------------------------------------------------------------------------------------------------------ normalisation


def init_block(norm: str) -> InitBlock:
    torch.manual_seed(3)
    return InitBlock(width=4, channels=8, kernel=7, norm=norm, groups=2, dropout=0.0).eval()


@pytest.mark.parametrize("norm", ["instance", "per_modality", "batch", "none"])
@torch.no_grad()
def test_instance_norm_removes_gain_and_offset(norm):
    """A brighter copy of a pair gives the same features; per modality even if only one image is brighter."""
    a, b = pair(64, 64, batch=1)
    block = init_block(norm)

    def change(a2: torch.Tensor, b2: torch.Tensor) -> float:
        before, after = (block(torch.cat(images, 1))[1][..., 12:-12, 12:-12] for images in ((a, b), (a2, b2)))
        return ((before - after).std() / before.std()).item()

    both, one, offset = change(0.3 * a, 0.3 * b), change(0.3 * a, b), change(a + 0.4, b + 0.4)
    assert (both < 0.01) == (norm in ("instance", "per_modality"))
    assert (one < 0.01) == (norm == "per_modality")
    # the zeros beyond the border do not get the offset, so that the mean of a feature is a little different
    assert (offset < 0.15) == (norm in ("instance", "per_modality"))


@pytest.mark.parametrize("norm", ["instance", "group", "batch"])
@torch.no_grad()
def test_only_batch_norm_mixes_the_images_of_a_batch(norm):
    kind = {"instance": "instance", "group": "group", "batch": "batch"}[norm]
    body = "batch" if norm == "batch" else "group"
    method = tiny(init_norm=kind, norm=body, mpafm={"norm": body}).train()
    a, b = pair(batch=2)
    alone = method._fuse(a[:1], b[:1])
    assert torch.allclose(method._fuse(a, b)[:1], alone, atol=1e-5) == (norm != "batch")


@pytest.mark.parametrize(("norm", "word"), [("group", "GN(2)"), ("batch", "BN"), ("none", "-")])
def test_norm_is_that_of_every_place_of_a_block(norm, word):
    options = BlockOptions(**{**vars(BODY), "norm": norm})
    lkc, lkdc = LKCBlock(8, 8, 7, options), LKDCBlock(8, 8, 7, options)
    of_lkdc = {"GN(2)": "GN(1)"}.get(word, word)  # one group whatever the other blocks have
    assert [layers(unit)[0].split()[0] for unit in lkc.units] == [word] * 2
    assert [layers(lkdc.units)[place].split()[0] for place in (0, 2, 5, 8)] == [of_lkdc] * 4
    biases = [lkdc.units[place].bias is not None for place in (1, 4, 7)]
    assert biases == [norm == "none"] * 3, "a bias before a normalisation would do nothing"


@torch.no_grad()
def test_dropout_is_in_the_second_unit_alone():
    """And in the InitBlock: with a dropout of nearly 1, what comes before it goes on as it was."""
    options = BlockOptions(**{**vars(BODY), "dropout": 0.999})
    torch.manual_seed(0)
    block = LKCBlock(8, 8, 5, options).train()
    x = torch.rand(2, 8, 9, 9)
    assert torch.equal(block.units[0](x), block.units[0].eval()(x))
    with_dropout, without = block.units[1](x), block.units[1].eval()(x)
    assert (with_dropout - without).abs().max() > 0.01
    places = {name for name, module in tiny(dropout=0.5).net.named_modules() if isinstance(module, nn.Dropout)}
    lkc = ("encoder.0.0", "encoder.1.0", "encoder.2.0", "decoder.0.0", "decoder.1.0", "decoder.2.0", "last")
    assert places == {"init.wide.2", *(f"{place}.units.1.2" for place in lkc)}


@torch.no_grad()
def test_a_dropped_path_leaves_the_image_as_it_is():
    block = LKDCBlock(8, 8, 7, BlockOptions(**{**vars(BODY), "drop_path": 0.5})).train()
    torch.manual_seed(0)
    x = torch.rand(16, 8, 6, 6)
    kept = (block(x) == x).flatten(1).all(dim=1)
    assert 0 < kept.sum() < 16
    assert not (block.eval()(x) == x).flatten(1).all(dim=1).any()


@pytest.mark.parametrize("shape", [(7, 3), (16, 2, 3, 3)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_stochastic_depth_is_what_torchvision_does(shape, training):
    theirs, ours = torchvision.ops.StochasticDepth(0.3, "row").train(training), StochasticDepth(0.3).train(training)
    x = torch.rand(shape)
    torch.manual_seed(3)
    expected = theirs(x)
    torch.manual_seed(3)
    assert torch.equal(ours(x), expected)
    assert torch.equal(expected, x) != training


# -------------------------------------------------------------------------------------------------------------- MPAFM


def mpafm(**options: Any) -> MPAFM:
    torch.manual_seed(5)
    return MPAFM(8, **options).eval()


def features(scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    e, d = scale * torch.randn(2, 2, 8, 12, 10, generator=torch.Generator().manual_seed(1))
    return e, d


@pytest.mark.parametrize("sides", ["paper", "code"])
@pytest.mark.parametrize("weighting", ["softmax", "sigmoid"])
@torch.no_grad()
def test_weights_are_bounded(sides, weighting):
    module = mpafm(sides=sides, weighting=weighting)
    for scale in (0.0, 1.0, 1000.0):
        for weight in module.weights(*features(scale)):
            assert weight.shape == (2, 1, 12, 10)
            assert 0 <= weight.min() <= weight.max() <= 1
    of_encoder, of_decoder = module.weights(*features())
    assert all(0 < weight.min() < weight.max() < 1 for weight in (of_encoder, of_decoder))
    assert torch.allclose(of_encoder + of_decoder, torch.ones(2, 1, 12, 10)) == (weighting == "softmax")


@pytest.mark.parametrize("recalibrated", ["decoder", "encoder"])
@torch.no_grad()
def test_recalibration_weighs_each_pixel_of_its_side(recalibrated):
    module = mpafm(recalibrated=recalibrated)
    module.out = nn.Identity()
    e, d = features()
    share = module(e, d) / (d if recalibrated == "decoder" else e)
    assert 0 < share.min() < share.max() < 1


@torch.no_grad()
def test_paper_and_code_look_at_different_sides():
    """Eq. 1: the encoder's channels and the decoder's places count; moving pixels about tells which is which."""
    e, d = features()
    mixed = torch.randperm(120, generator=torch.Generator().manual_seed(2))

    def shuffled(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2)[..., mixed].view_as(x)

    for sides, pooled, spatial in (("paper", 0, 1), ("code", 1, 0)):
        module = mpafm(sides=sides)
        inputs = [e, d]
        before = module.weights(*inputs)[0]
        inputs[pooled] = shuffled(inputs[pooled])
        assert torch.allclose(module.weights(*inputs)[0], before, atol=1e-6), "channel attention sees no places"
        inputs[spatial] = shuffled(inputs[spatial])
        assert not torch.allclose(module.weights(*inputs)[0], before, atol=1e-3)


def settled_mpafm(**options: Any) -> MPAFM:
    """One whose normalisations do something."""
    module = mpafm(norm="batch", **options)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.weight.data, layer.running_var):
                values.uniform_(0.5, 1.5)
            for values in (layer.bias.data, layer.running_mean):
                values.uniform_(-0.5, 0.5)
    return module


def matrix(module: MPAFM, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Weights (out, in) and bias (out, 1) of a 1x1 convolution."""
    layer = module.get_submodule(name)
    return layer.weight.detach().numpy()[..., 0, 0], layer.bias.detach().numpy()[:, None]


def normalised(module: MPAFM, name: str, x: np.ndarray) -> np.ndarray:
    layer = module.get_submodule(name)
    mean, variance, weight, bias = (
        values.detach().numpy()[:, None] for values in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    )
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("sides", ["paper", "code"])
@torch.no_grad()
def test_mpafm_by_hand(sides, residual):
    """Eq. 1 to 5 in matrices: features are (channels, pixels)."""
    module = settled_mpafm(sides=sides, residual=residual)
    images = features()
    e, d = (image[0].flatten(1).numpy() for image in images)
    for_channels, for_pixels = (e, d) if sides == "paper" else (d, e)

    (squeeze, squeeze_bias), (excite, excite_bias) = matrix(module, "channel.1"), matrix(module, "channel.3")
    hidden = np.maximum(squeeze @ for_channels.mean(axis=1, keepdims=True) + squeeze_bias, 0)
    channel = excite @ hidden + excite_bias  # (channels, 1), no sigmoid
    mix, mix_bias = matrix(module, "spatial.0")
    pooled = np.stack([for_pixels.mean(axis=0), for_pixels.max(axis=0)])
    spatial = normalised(module, "spatial.1", mix @ pooled + mix_bias)  # (1, pixels)
    select, select_bias = matrix(module, "refine.1")
    maps = np.exp(select @ normalised(module, "refine.0", channel + spatial) + select_bias)
    first, second = maps / maps.sum(axis=0)
    # the paper's first map A belongs to the encoder, the code's to the decoder: each to the side of channel attention
    of_e, of_d = (first, second) if sides == "paper" else (second, first)
    e_att, d_att = (of_e + residual) * e, (of_d + residual) * d

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    f = sigmoid(e_att) * d_att + sigmoid(d_att) * e_att
    project, project_bias = matrix(module, "recalibrate.0")
    gate = sigmoid(normalised(module, "recalibrate.1", project @ f + project_bias))
    out, out_bias = matrix(module, "out")
    expected = out @ (gate * d) + out_bias
    found = module(*images)[0].flatten(1).numpy()
    assert found.shape == (16, 120)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@torch.no_grad()
def test_parts_of_mpafm_by_hand():
    """Eq. 2 to 4 with weights that are known."""
    e, d = features()
    plain = mpafm(attention=False, recalibration=False)
    plain.out = nn.Identity()
    assert torch.allclose(plain(e, d), e.sigmoid() * d + d.sigmoid() * e)
    added = mpafm(attention=False, gating=False, recalibration=False)
    added.out = nn.Identity()
    assert torch.equal(added(e, d), e + d)
    for residual in (True, False):
        module = mpafm(residual=residual, gating=False, recalibration=False)
        module.out = nn.Identity()
        module.weights = lambda e, d: (torch.tensor(0.25), torch.tensor(0.75))  # noqa: ARG005
        assert torch.allclose(module(e, d), (residual + 0.25) * e + (residual + 0.75) * d)
    names = {name.partition(".")[0] for name, _ in mpafm(attention=False, recalibration=False).named_parameters()}
    assert names == {"out"}, "what is left out has no weights"


# ------------------------------------------------------------------------------------------------- losses and training


def test_losses_by_hand():
    a, b = pair(batch=1)
    assert two_source_ssim_loss(a, a, a).item() == pytest.approx(0, abs=1e-6)
    assert strongest_intensity_loss(torch.maximum(a, b), a, b) == 0
    assert strongest_gradient_loss(a, a, torch.zeros_like(a)) == 0
    flat = torch.full((1, 1, 16, 16), 0.25)
    step = flat.clone()
    step[..., 8:] = 0.75
    assert strongest_intensity_loss(flat, flat, step).item() == pytest.approx(0.25)
    for border in ("reflect", "replicate"):  # two columns of 16 beside the step, weights 1 + 2 + 1
        found = strongest_gradient_loss(flat, flat, step, border=border)
        assert found.item() == pytest.approx(4 * 0.5 * 2 / 16)
    # beyond the border zeros: the right-hand column of the brighter half differs by 4 * 0.5 as well, in 14 rows; the
    # first and the last row see the border above or below, and three quarters of a step in their own columns
    edge = (1.5 + 0.5) + (1.5 + 1.5) + 6 * 4 * 0.5 + (1.5 + 1.5)
    zeros = (14 * 3 * 4 * 0.5 + 2 * edge) / 256
    assert strongest_gradient_loss(flat, flat, step).item() == pytest.approx(zeros)
    c1, grey = 0.01**2, torch.full_like(flat, 0.5)
    similarity = (2 * 0.25 * 0.5 + c1) / (0.25**2 + 0.5**2 + c1)
    found = two_source_ssim_loss(flat, flat, grey, border="reflect")
    assert found.item() == pytest.approx(1 - (1 + similarity) / 2, abs=1e-5)


@pytest.mark.parametrize("data_range", [1.0, 2.0])
def test_similarity_with_zeros_beyond_the_border_by_hand(data_range):
    """Flat images: near the border a window sees a share s of the image, and zeros are deviations from the mean."""
    flat, grey = torch.full((1, 1, 16, 16), 0.25), torch.full((1, 1, 16, 16), 0.5)
    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    inside = np.convolve(np.ones(16), taps / taps.sum(), mode="same")
    s = np.outer(inside, inside)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    spread = s - s**2
    luminance = (2 * 0.25 * 0.5 * s**2 + c1) / ((0.25**2 + 0.5**2) * s**2 + c1)
    contrast = (2 * 0.25 * 0.5 * spread + c2) / ((0.25**2 + 0.5**2) * spread + c2)
    expected = 1 - (1 + (luminance * contrast).mean()) / 2
    found = two_source_ssim_loss(flat, flat, grey, data_range=data_range)
    assert found.item() == pytest.approx(expected, abs=1e-5)


def test_the_methods_losses_are_these():
    method = tiny().eval()
    a, b = pair()
    found = method.part_losses("net", a, b, {"ssim": 2.0, "intensity": 3.0, "gradient": 5.0})
    fused = method._fuse(a, b)
    assert found["ssim"].item() == pytest.approx(2 * two_source_ssim_loss(fused, a, b).item())
    assert found["intensity"].item() == pytest.approx(3 * strongest_intensity_loss(fused, a, b).item())
    assert found["gradient"].item() == pytest.approx(5 * strongest_gradient_loss(fused, a, b).item())
    for border in BORDERS:
        other = tiny(ssim_border=border, gradient_border=border, ssim_range=2.0).eval()
        found = other.part_losses("net", a, b, ONES)
        ssim = two_source_ssim_loss(fused, a, b, border=border, data_range=2.0)
        assert found["ssim"].item() == pytest.approx(ssim.item())
        gradient = strongest_gradient_loss(fused, a, b, border=border)
        assert found["gradient"].item() == pytest.approx(gradient.item())
    symmetric = tiny(training_range="symmetric").eval()
    found = symmetric.part_losses("net", a, b, ONES)
    fused = symmetric._fuse(2 * a - 1, 2 * b - 1)
    assert found["intensity"].item() == pytest.approx(strongest_intensity_loss(fused, 2 * a - 1, 2 * b - 1).item())


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_reach_every_parameter_of_every_variant(variant):
    reached: set[str] = set()
    options = network_options(plan.settings_of(PAPER, "lkc_funet", variant))
    small = {"width": 4, "channels": 8, "groups": "channels" if options["groups"] == "channels" else 2}
    for seed in range(4):  # a unit that is dead for one start is alive for another
        torch.manual_seed(seed)
        method = build("lkc_funet", options | small)
        prepare_part(method, "net")
        losses(method, *pair(16, 24, seed=seed)).backward()
        reached |= {k for k, p in method.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        if len(reached) == len(list(method.parameters())):
            break
    assert reached == {key for key, _ in method.named_parameters()}


def test_a_few_steps_lower_the_loss():
    draw = torch.Generator().manual_seed(0)
    a, b = nn.functional.interpolate(torch.rand(2, 4, 6, 6, generator=draw), (24, 24), mode="bicubic").clamp(0, 1)
    a, b = a[:, None], b[:, None]
    method = tiny(kernels=[3, 3], init_kernel=5)
    optimiser = torch.optim.Adam(prepare_part(method, "net"), 0.01)
    course = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = losses(method, a, b)
        loss.backward()
        optimiser.step()
        course.append(loss.item())
    assert min(course[-3:]) < 0.6 * course[0]


def test_equal_seeds_give_equal_losses():
    a, b = pair()
    found = []
    for seed in (0, 0, 1):
        method = tiny(dropout=0.3, drop_path=0.3).train()
        torch.manual_seed(seed)
        found.append(losses(method, a, b).item())
    assert found[0] == found[1] != found[2]


# --------------------------------------------------------------------------------------------------- black, and colour


@pytest.mark.parametrize("variant", ["base", "no_norm", "all_bn", "init_per_modality", "groups_channels", "init_gn"])
def test_black_images_leave_no_nan(variant):
    """Medical images are black around the head, and random crops may be black throughout."""
    options = network_options(plan.settings_of(PAPER, "lkc_funet", variant))
    small = {"width": 4, "channels": 8, "groups": "channels" if options["groups"] == "channels" else 2}
    torch.manual_seed(0)
    method = build("lkc_funet", options | small)
    a, b = pair(batch=3)
    a[0], b[0], b[1] = 0, 0, 0  # nothing at all; nothing in one image
    a[2, ..., 10:], b[2, ..., 10:] = 0, 0  # a black background
    prepare_part(method, "net")
    loss = losses(method, a, b)
    loss.backward()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in method.parameters())
    with torch.no_grad():
        assert method.eval()(a, b).isfinite().all()


@torch.no_grad()
def test_a_pet_pair_keeps_its_colours():
    random = np.random.default_rng(0)
    mri = random.integers(60, 190, (45, 38), dtype=np.uint8)
    pet = random.integers(100, 150, (45, 38, 3), dtype=np.uint8)
    method = tiny().eval()
    method.net.out[-1].bias.fill_(0.5)
    method.net.out[-1].weight.mul_(0.1)  # grey in the middle, so that no colour is clipped
    fused = fuse_pair(method, mri, pet, torch.device("cpu"))
    assert fused.shape == (45, 38, 3)
    assert fused.dtype == np.uint8
    assert 0 < fused.min() < fused.max() < 255, "nothing is clipped"
    own, new = (image.astype(int) for image in (pet, fused))
    for first, second in ((0, 1), (1, 2)):
        before, after = own[..., first] - own[..., second], new[..., first] - new[..., second]
        assert np.abs(before - after).max() <= 1, "differences between channels are the chroma"
    assert fuse_pair(method, mri, mri, torch.device("cpu")).shape == (45, 38), "grey stays grey"


def test_names_in_weights_files_stay():
    """Published weights are found by these names: if this fails, old files no longer load."""
    names = sorted(f"{key} {tuple(value.shape)}" for key, value in tiny().state_dict().items())
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    assert (len(names), digest) == (246, "d797fda4cbfcd1e5")

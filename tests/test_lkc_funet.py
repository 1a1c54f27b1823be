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

from mmfuse import plan
from mmfuse.checkpoints import build
from mmfuse.errors import UserError
from mmfuse.fusing import fuse_pair
from mmfuse.methods.lkc_funet import MPAFM, BlockOptions, InitBlock, LKCBlock, LKDCBlock
from mmfuse.nn.losses import strongest_gradient_loss, strongest_intensity_loss, two_source_ssim_loss
from mmfuse.nn.stochastic_depth import StochasticDepth
from mmfuse.stages.train import network_options
from mmfuse.training import prepare_part

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
    assert len(kernels) == 1 + 4 * 3 + 3 * 5, "one in the InitBlock; LKC has two, LKDC one"
    for name, kernel in kernels.items():
        assert kernel == next(k for place, k in by_place.items() if name.startswith(place)), name


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
@torch.no_grad()
def test_any_blocks(blocks):
    method = tiny(encoder_blocks=blocks, decoder_blocks=blocks).eval()
    kinds = {"lkc": LKCBlock, "lkdc": LKDCBlock}
    assert [type(block) for block in method.net.encoder[1]] == [kinds[name] for name in blocks]
    assert [type(block) for block in method.net.decoder[0]] == [kinds[name] for name in blocks]
    assert isinstance(method.net.last, kinds[blocks[-1]])
    assert method(*pair()).isfinite().all()


# --------------------------------------------------------------------------------------------------- parameter counts


def lkc_count(channels_in: int, c: int, k: int, norm: bool) -> int:
    shortcut = 0 if channels_in == c else channels_in * c + c
    return norm * 2 * (channels_in + c) + k * k * (channels_in + c) * c + 2 * c + shortcut


def lkdc_count(c: int, k: int, norm: bool) -> int:
    hidden = 3 * c // 2
    return norm * 2 * c + (c * hidden + hidden) + (k * k * hidden + hidden) + (hidden * c + c)


def mpafm_count(c: int, norm: bool, *, attention: bool = True, recalibration: bool = True) -> int:
    hidden = max(4, c // 8)
    channel, spatial = c * hidden + hidden + hidden * c + c, 2 + (2 if norm else 1)
    refine = norm * 2 * c + 2 * c + 2
    recalibrate = c * c + (2 * c if norm else c)
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
    total += sum(lkc_count(c, c, k, norm) + lkdc_count(c, k, norm) for k in (*kernels, bottleneck))
    total += 2 * (len(kernels) - 1) * (9 * c * c + c)  # strided convolutions down, convolutions up
    total += len(kernels) * (mpafm_count(c, norm) if skip is None else skip)
    for level, k in enumerate(kernels):
        thin = w if level == 0 else 0  # the features of the first convolution join at the finest level
        total += lkc_count(2 * c, c, k, norm) + lkdc_count(c, k, norm) + lkc_count(c + thin, c, k, norm)
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
    "kernels_15_7_5_5": count((15, 7, 5, 5)),
    "as_published": count(),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameter_counts_of_the_papers_size(variant):
    settings = plan.settings_of(PAPER, "lkc_funet", variant)
    with torch.device("meta"):
        method = build("lkc_funet", network_options(settings))
    assert sum(parameter.numel() for parameter in method.parameters()) == COUNTS[variant]


def test_the_papers_size_in_numbers():
    assert set(COUNTS) == set(VARIANTS)
    assert (COUNTS["base"], COUNTS["in_gn_3x3"], COUNTS["no_norm"]) == (46_591_971, 4_710_371, 46_582_752)


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


@pytest.mark.parametrize("option", [{"dropout": 0.5}, {"drop_path": 0.5}, {"training_range": "symmetric"}], ids=str)
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
        ({"norm": "instance"}, "know this norm"),
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
        ({"dropout": -0.1}, "dropout"),
        ({"drop_path": 1.0}, "drop_path"),
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


def test_variants_have_the_normalisations_that_their_names_say():
    def norms(variant: str) -> tuple[set[str], set[str], set[str]]:
        with torch.device("meta"):
            net = build("lkc_funet", network_options(plan.settings_of(PAPER, "lkc_funet", variant))).net

        def kinds(module: nn.Module) -> set[str]:
            found = {m for m in module.modules() if isinstance(m, (nn.GroupNorm, nn.BatchNorm2d))}
            return {
                "BN" if isinstance(m, nn.BatchNorm2d) else "IN" if m.num_groups == m.num_channels > 1 else "GN"
                for m in found
            }

        return kinds(net.init), kinds(net.encoder) | kinds(net.decoder) | kinds(net.out), kinds(net.skips)

    assert norms("base") == ({"IN"}, {"GN"}, {"GN"})
    assert norms("bn_gn") == ({"BN"}, {"GN"}, {"GN"})
    assert norms("all_bn") == norms("all_bn_3x3") == norms("bn_k19") == ({"BN"}, {"BN"}, {"BN"})
    assert norms("no_norm") == (set(), set(), set())
    assert norms("no_mpafm") == ({"IN"}, {"GN"}, set())
    assert norms("as_published") == ({"BN"}, {"GN"}, {"BN"})
    assert norms("groups_channels") == ({"IN"}, {"IN", "GN"}, {"GN"}), "LKDC keeps its one group"
    assert norms("init_none") == (set(), {"GN"}, {"GN"})


def test_lkdc_has_one_group_and_a_depthwise_kernel():
    block = LKDCBlock(8, 8, 7, BODY)
    norm, expand, depthwise, _, project, _ = block.units
    assert norm.num_groups == 1
    assert (expand.out_channels, depthwise.groups, depthwise.kernel_size, project.in_channels) == (12, 12, (7, 7), 12)


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
def test_gates_are_bounded(sides, weighting):
    module = mpafm(sides=sides, weighting=weighting)
    for scale in (0.0, 1.0, 1000.0):
        weight = module.weights(*features(scale))
        assert weight.shape == (2, 2, 12, 10)
        assert 0 <= weight.min() <= weight.max() <= 1
        if weighting == "softmax":
            assert torch.allclose(weight.sum(dim=1), torch.ones(2, 12, 10))
    assert 0 < module.weights(*features()).min() < module.weights(*features()).max() < 1
    assert torch.allclose(module.weights(*features()).sum(dim=1), torch.ones(2, 12, 10)) == (weighting == "softmax")


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
        before = module.weights(*inputs)
        inputs[pooled] = shuffled(inputs[pooled])
        assert torch.allclose(module.weights(*inputs), before, atol=1e-6), "channel attention sees no places"
        inputs[spatial] = shuffled(inputs[spatial])
        assert not torch.allclose(module.weights(*inputs), before, atol=1e-3)


@torch.no_grad()
def test_mpafm_by_hand():
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
        module.weights = lambda e, d: torch.tensor([0.25, 0.75]).view(1, 2, 1, 1)  # noqa: ARG005
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
    assert strongest_gradient_loss(flat, flat, step).item() == pytest.approx(4 * 0.5 * 2 / 16)
    c1 = 0.01**2
    similarity = (2 * 0.25 * 0.5 + c1) / (0.25**2 + 0.5**2 + c1)
    grey = torch.full_like(flat, 0.5)
    assert two_source_ssim_loss(flat, flat, grey).item() == pytest.approx(1 - (1 + similarity) / 2, abs=1e-5)


def test_the_methods_losses_are_these():
    method = tiny().eval()
    a, b = pair()
    found = method.part_losses("net", a, b, {"ssim": 2.0, "intensity": 3.0, "gradient": 5.0})
    fused = method._fuse(a, b)
    assert found["ssim"].item() == pytest.approx(2 * two_source_ssim_loss(fused, a, b).item())
    assert found["intensity"].item() == pytest.approx(3 * strongest_intensity_loss(fused, a, b).item())
    assert found["gradient"].item() == pytest.approx(5 * strongest_gradient_loss(fused, a, b).item())
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
    assert (len(names), digest) == (210, "4ef160812047151c")

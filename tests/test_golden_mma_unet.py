"""MMA-UNet against its authors' networks: features point by point, losses with gradients, training steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from golden_networks import (
    DEVICES,
    FOLDER,
    batch,
    check_gradients,
    check_points,
    check_terms,
    check_training,
    features,
    in_single_precision,
    needs_golden,
    published,
    result,
    source,
)
from mmfuse.methods.mma_unet import MMAUNet
from mmfuse.training.loop import prepare_part

pytestmark = needs_golden
TABLES = {group: f"mma_unet.{group}" for group in ("vi", "ir", "fusion")}
PARTS = {"vi": "vi_unet", "ir": "ir_unet", "fusion": "fusion"}
WEIGHTS = {"mse": 1.0, "ssim": 0.5, "detail": 10.0}  # of the published code


def points(method: nn.Module) -> dict[str, nn.Module]:
    """Return the module that gives each named point."""
    found: dict[str, nn.Module] = {}
    for name in ("vi", "ir"):
        unet = getattr(method, f"{name}_unet")
        guided = name == "ir"
        for level, block in enumerate(unet.encoder.blocks, start=1):
            found[f"{name}.level.{level}{'.before_guidance' * guided}"] = block
            if guided:
                found[f"ir.level.{level}.guidance"] = unet.encoder.guides[level - 1]
        for step, (up, block) in enumerate(zip(unet.decoder.ups, unet.decoder.blocks, strict=True), start=1):
            found |= {f"{name}.decoder.{step}.up": up, f"{name}.decoder.{step}": block}
        found[f"{name}.reconstruction"] = unet.activation
    fusion = method.fusion
    for number, level in enumerate(fusion.pairs, start=1):
        found |= {f"fusion.{number}.visible_halved": level.visible, f"fusion.{number}": level}
    for step, level in enumerate("5432", start=1):
        found[f"fusion.decoder.{step}.up"] = fusion.decoder.ups[level]
        if step < 4:
            found[f"fusion.decoder.{step}"] = fusion.decoder.joins[str(int(level) - 1)]
    return found | {"fusion.out.1": fusion.decoder.out[2], "fusion.out.2": fusion.decoder.out[5], "fused": fusion}


@torch.no_grad()
def run(method: nn.Module, infrared: Tensor, visible: Tensor) -> Tensor:
    """Run all three networks, the decoders of stage I too; return the fused image as `forward` gives it."""
    levels = method.vi_unet.encoder(visible.expand(-1, 3, -1, -1))
    method.vi_unet(visible.expand(-1, 3, -1, -1))
    method.ir_unet(infrared.expand(-1, 3, -1, -1), levels)
    return method(infrared, visible)


def images(use: str = "image") -> tuple[Tensor, Tensor]:
    """Return the infrared and the visible image."""
    infrared, visible = (source(f"mma_unet/alpha/{use}/{name}", 48, 64) for name in ("infrared", "visible"))
    return infrared, visible


@pytest.mark.parametrize("device", DEVICES)
def test_every_point_of_the_published_networks(device):
    method = published("mma_unet", TABLES).to(device)
    deep = method.fusion.pairs[2].attention
    more = {"channel": deep.channel, "spatial": deep.spatial}
    shown: list[Tensor] = []
    pair = [image.to(device) for image in images()]
    found = features(points(method) | more, lambda: shown.append(run(method, *pair)), inputs={"added": deep})
    for level in range(1, 6):
        guidance = found[f"ir.level.{level}.guidance"]  # (1, C, 1, 1)
        found[f"ir.level.{level}"] = found[f"ir.level.{level}.before_guidance"] * guidance
        found[f"ir.level.{level}.guidance"] = guidance.flatten(1)
    added = found.pop("added")
    found["fusion.3.channel_attention"] = added * found.pop("channel")
    found["fusion.3.spatial_attention"] = added * found.pop("spatial").sigmoid()
    check_points("mma_unet.alpha", found)
    picture = np.load(FOLDER / "mma_unet.alpha.outputs.npz")["saved_picture"].squeeze()
    cut = (shown[0][0, 0].cpu().numpy() * 255 + 1e-9).astype(np.uint8)
    assert np.array_equal(cut, picture)


@pytest.mark.parametrize("device", DEVICES)
def test_the_published_networks_in_single_precision(device):
    method = in_single_precision(published("mma_unet", TABLES), device)
    infrared, visible = (image.float().to(device) for image in images())
    found = features({"fused": method.fusion}, lambda: method(infrared, visible))
    expected = np.load(FOLDER / "mma_unet.alpha.outputs.npz")["fused"]
    assert np.abs(found["fused"].cpu().numpy() - expected).max() < 1e-3 * expected.std()


def test_as_many_parameters_as_published():
    method = MMAUNet(**MMAUNet.published_options[0])
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in method.named_children()}
    assert counts == {"vi_unet": 31_037_763, "ir_unet": 31_212_355, "fusion": 36_397_263, "to_full_range": 0}
    named = [ours for names in method.published_names().values() for ours in names.values()]
    assert sorted(named) == sorted(method.state_dict())


def test_every_loss_term_of_stage_one_and_its_gradient():
    method = MMAUNet(width=2)
    infrared, visible = (batch(source, f"mma_unet/alpha/loss/{name}", 40, 48) for name in ("infrared", "visible"))
    rebuilt = fused_image()
    terms = {
        f"mse_of_{name}": method.full_precision_terms(part, {"restored": rebuilt}, infrared, visible)["mse"]
        for name, part in (("visible", "vi_unet"), ("infrared", "ir_unet"))
    }
    check_terms("mma_unet.alpha", "reconstruction", terms)
    check_gradients("mma_unet.alpha", "reconstruction", terms, {"fused": rebuilt})


def fused_image() -> Tensor:
    """Return two fused images of three channels that differ, as a leaf."""
    channels = [
        torch.cat([result(f"mma_unet/alpha/loss/fused/{i}/{c}", 40, 48) for c in range(3)], dim=1) for i in range(2)
    ]
    return torch.cat(channels).requires_grad_()


def test_every_loss_term_of_stage_two_and_its_gradient():
    method = MMAUNet(width=2)
    infrared, visible = (batch(source, f"mma_unet/alpha/loss/{name}", 40, 48) for name in ("infrared", "visible"))
    fused = fused_image()
    terms = method.full_precision_terms("fusion", {"fused": fused}, infrared, visible)
    terms["total"] = sum(WEIGHTS[name] * value for name, value in terms.items())
    check_terms("mma_unet.alpha", "fusion", terms)
    check_gradients("mma_unet.alpha", "fusion", terms, {"fused": fused})


@pytest.mark.parametrize("run_of", PARTS)
def test_a_training_step(run_of):
    method = published("mma_unet", TABLES)
    infrared, visible = (batch(source, f"mma_unet/alpha/train/{name}", 32, 32) for name in ("infrared", "visible"))
    trained = prepare_part(method, PARTS[run_of])
    loss = sum(method.part_losses(PARTS[run_of], infrared, visible, WEIGHTS).values())
    loss.backward()
    names = {
        f"mma_unet.{group}/{theirs}": ours
        for group, names in method.published_names().items()
        for theirs, ours in names.items()
    }
    tolerance = 1e-5 if run_of == "fusion" else 1e-8  # the authors' SSIM window is rounded to single precision
    check_training("mma_unet.alpha", run_of, loss, method, names, {f"mma_unet.{run_of}": trained}, tolerance)


@pytest.mark.parametrize("shape", [(49, 70), (31, 17), (64, 47)])
@torch.no_grad()
def test_sides_that_do_not_divide_by_16_as_published(shape):
    """Pooling drops the last row or column, decoders pad, and the result, with even sides, is resized."""
    method = MMAUNet(width=2, padding="published").eval()
    a, b = torch.rand(2, 1, 1, *shape)
    inside = method._fuse(a, b)
    assert inside.shape[-2:] == tuple(2 * (side // 2) for side in shape)
    assert method(a, b).shape == a.shape

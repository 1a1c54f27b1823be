"""LKC-FUNet against its authors' network: features point by point, losses with gradients, a training step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

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
from mmfuse.methods.lkc_funet import LKCFUNet

pytestmark = needs_golden
TABLES = {"net": "lkc_funet"}
ONES = dict.fromkeys(LKCFUNet.loss_terms["net"], 1.0)
FORMS = {0: "lkc_funet.alpha", 1: "lkc_funet.alpha.instance"}


def points(net: nn.Module) -> dict[str, nn.Module]:
    """Return the module that gives each named point; InitBlock and the sums are taken apart by the caller."""
    found = {"init.conv3x3": net.init.thin, "init.norm": net.init.wide[0], "init": net.init.wide, "fused": net}
    found["encoder.1.lkc.unit1"] = net.encoder[0][0].units[0]
    for name, place in {"norm": 0, "widen": 3, "depthwise": 5, "narrow": 8}.items():
        found[f"encoder.1.lkdc.{name}"] = net.encoder[0][1].units[place]
    for level in (1, 2, 3):
        found |= {
            f"encoder.{level}.{name}": block
            for name, block in zip(("lkc", "lkdc"), net.encoder[level - 1], strict=True)
        }
        mpafm = net.skips[3 - level]
        parts = {
            "channel": mpafm.channel, "spatial": mpafm.spatial, "sum": mpafm.refine[0],
            "two_maps_before_softmax": mpafm.refine[1], "recalibration_before_sigmoid": mpafm.recalibrate,
        }  # fmt: skip
        found |= {f"mpafm.{level}.{name}": module for name, module in parts.items()} | {f"mpafm.{level}": mpafm}
        names = ("lkc1", "lkdc") if level == 1 else ("lkc", "lkdc1", "lkdc2")
        found |= {f"decoder.{level}.{name}": block for name, block in zip(names, net.decoder[3 - level], strict=True)}
    found |= {f"encoder.{level}.down": net.downs[level - 1] for level in (1, 2)}
    found |= {f"decoder.{level}.up": net.ups[3 - level] for level in (2, 3)}
    found |= {f"bottleneck.{place + 1}": block for place, block in enumerate(net.bottleneck)}
    return found | {"decoder.1.lkc2": net.last}


def images(device: str, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Return the infrared and the visible image."""
    return [source(f"lkc_funet/alpha/image/{name}", 32, 48).to(device, dtype) for name in ("infrared", "visible")]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
def test_every_point_of_the_published_network(form, device):
    method = published("lkc_funet", TABLES, form=form).to(device)
    inputs = {f"mpafm.{level}.interaction": method.net.skips[3 - level].recalibrate for level in (1, 2, 3)}
    found = features(points(method.net), lambda: method(*images(device)), inputs=inputs)
    check_points(FORMS[form], found)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", FORMS)
def test_the_published_network_in_single_precision(form, device):
    method = in_single_precision(published("lkc_funet", TABLES, form=form), device)
    found = features({"fused": method.net}, lambda: method(*images(device, torch.float32)))
    expected = np.load(FOLDER / f"{FORMS[form]}.outputs.npz")["fused"]
    assert np.abs(found["fused"].cpu().numpy() - expected).max() < 1e-3 * expected.std()


@pytest.mark.parametrize("form", FORMS)
def test_as_many_parameters_as_published(form):
    method = LKCFUNet(**LKCFUNet.published_options[form])
    assert sum(parameter.numel() for parameter in method.parameters()) == 41_174_438
    assert set(method.published_names()["net"].values()) == set(method.state_dict())


@pytest.mark.parametrize("stage", ["unit", "symmetric"])
def test_every_loss_term_and_its_gradient(stage):
    method = LKCFUNet(width=32, channels=32, training_range=stage)
    infrared, visible = (batch(source, f"lkc_funet/alpha/loss/{name}", 40, 48) for name in ("infrared", "visible"))
    image = batch(result, "lkc_funet/alpha/loss/fused", 40, 48)
    fused = (2 * image - 1 if stage == "symmetric" else image).requires_grad_()
    terms = method.full_precision_terms("net", {"fused": fused}, infrared, visible)
    terms["total"] = sum(terms.values())
    check_terms("lkc_funet.alpha", stage, terms)
    check_gradients("lkc_funet.alpha", stage, terms, {"fused": fused})


@pytest.mark.parametrize("run", ["batch_symmetric", "instance_unit"])
def test_a_training_step(run):
    norm, training_range = run.split("_")
    method = published(
        "lkc_funet", TABLES, form=0 if norm == "batch" else 1, training_range=training_range, dropout=0.0, drop_path=0.0
    )
    infrared, visible = (batch(source, f"lkc_funet/alpha/train/{name}", 32, 32) for name in ("infrared", "visible"))
    loss = sum(method.train().part_losses("net", infrared, visible, ONES).values())
    loss.backward()
    names = {f"lkc_funet/{theirs}": ours for theirs, ours in method.published_names()["net"].items()}
    check_training(
        "lkc_funet.alpha", run, loss, method, names, {"lkc_funet": list(method.parameters())}, tolerance=1e-8
    )
    assert torch.isfinite(loss)

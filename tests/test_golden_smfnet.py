"""SMFNet against its authors' network: features point by point, losses with gradients, a step of each stage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

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
    generator,
    in_single_precision,
    needs_golden,
    published,
    result,
    rows,
    source,
    unused,
)
from mmfuse.methods.smfnet import SMFNet
from mmfuse.training.checkpoints import build

pytestmark = needs_golden
GROUPS = ("encoder", "decoder", "graph", "base_fusion", "detail_fusion")
TABLES = {group: f"smfnet.{group}" for group in GROUPS}
IMAGES = ("infrared", "visible")
PUBLISHED = SMFNet.published_options[0]
WEIGHTS = {
    "reconstruction": {
        "ssim": 8.0, "semantic": 1.0, "intensity": 1.0, "gradient": 10.0, "spatial": 5.0, "decomposition": 2.0,
    },
    "fusion": {"intensity": 1.0, "gradient": 10.0, "decomposition": 2.0},
}  # fmt: skip


def calls(modules: Mapping[str, nn.Module], run) -> tuple[dict[str, list], dict[str, list]]:
    """Return what each named module gets first and what it gives, call by call."""
    got: dict[str, list] = defaultdict(list)
    gave: dict[str, list] = defaultdict(list)

    def keep(name):
        def hook(_module, inputs, output):
            got[name].append(inputs[0])
            gave[name].append(output)

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return got, gave


def forward_images(dtype: torch.dtype = torch.float64, device: str = "cpu") -> list[Tensor]:
    return [source(f"smfnet/alpha/image/{name}", 40, 48).to(device, dtype) for name in IMAGES]


def encoder_points(net: SMFNet, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Features of the encoder, which both images pass as one batch."""
    encoder = net.encoder
    group, dense = encoder.base.groups[0], encoder.detail.dense
    first, second = group.blocks[0]
    modules = {
        "first_conv": encoder.shallow[0],
        "shallow.attention": encoder.shallow[1][0].attention,
        "shallow.leff": encoder.shallow[1][0].feed_forward,
        "shallow": encoder.shallow,
        "detail.gradient_dense": dense,
        "detail.cross_attention": encoder.detail.cross,
        "detail.mix": encoder.detail.blocks[0].mix,
        "detail": encoder.detail,
        "base.conv": encoder.base.conv,
        "base.group.1.first": first,
        "base.group.1.second.attention": second.attention,
        "base.group.1.second": second,
        "base.group.1.conv": group.conv,
        "base.group.1": group,
        "base.group.2": encoder.base.groups[1],
    }
    inputs = {"detail.conv": dense.second, "detail.dense": dense.merge, "detail.sobel": dense.gradient}
    got, gave = calls(modules | inputs, lambda: net(a, b))
    found = {name: gave[name][0] for name in modules} | {name: got[name][0] for name in inputs}
    found["detail.cross_attention"], found["detail.cross_attention.2"] = found["detail.cross_attention"]
    return {
        f"{name}.{point}": value
        for point, both in found.items()
        for name, value in zip(IMAGES, both.chunk(2), strict=True)
    }


def graph_points(net: SMFNet, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Features of the graph, round by round."""
    graph = net.graph.reasoning
    modules = {"across": graph.across, "graph": net.graph.join}
    for name, nodes, within, merge in zip(IMAGES, graph.nodes, graph.within, graph.merge, strict=True):
        modules |= {f"{name}.node.{number + 1}": node for number, node in enumerate(nodes)}
        modules |= {f"{name}.within": within, f"{name}.merged": merge}
    _, gave = calls(modules, lambda: net(a, b))
    found = {"graph": gave["graph"][0]}
    for place, name in enumerate(IMAGES):
        found[f"graph.{name}.merged"] = gave[f"{name}.merged"][0]
        for number in range(3):
            found[f"graph.{name}.node.{number + 1}"] = gave[f"{name}.node.{number + 1}"][0]
            for turn in range(2):
                point = f"graph.{name}.node.{number + 1}"
                found[f"{point}.cross_{turn + 1}"] = gave["across"][3 * turn + number][place]
                found[f"{point}.within_{turn + 1}"] = gave[f"{name}.within"][turn][number]
    return found


def fusion_points(net: SMFNet, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Features of the fusion layers and of the decoder in both of its uses."""
    layers, out = net.decoder.layers, net.decoder.out
    second = net.detail_fusion.blocks[1]
    modules = {
        "base_fusion": net.base_fusion, "detail_fusion": net.detail_fusion, "dense": net.detail_fusion.dense,
        "second": second.mix, "block": layers, "before_sigmoid": out, "decoder": net.decoder,
    }  # fmt: skip
    got, gave = calls(modules, lambda: net(a, b))
    found = {name: gave[name][0] for name in ("base_fusion", "detail_fusion")}
    found |= {"detail_fusion.gradient_dense": gave["dense"][0], "detail_fusion.invertible.1": got["second"][0]}
    found |= {"fusion.sum": got["block"][0], "fused": gave["decoder"][0]}
    found |= {f"fusion.decoder.{name}": gave[name][0] for name in ("block", "before_sigmoid")}
    _, gave = calls(modules, lambda: net.part_outputs("reconstruction", a, b))
    for place, name in enumerate(IMAGES):
        found |= {f"{name}.decoder.{point}": gave[point][0][place : place + 1] for point in ("block", "before_sigmoid")}
        found[f"{name}.reconstruction"] = gave["decoder"][0][place : place + 1]
    return found


@pytest.mark.parametrize("device", DEVICES)
def test_every_point_of_the_published_network(device):
    net = published("smfnet", TABLES).to(device)
    images = forward_images(device=device)
    check_points(
        "smfnet.alpha", encoder_points(net, *images) | graph_points(net, *images) | fusion_points(net, *images)
    )


@torch.no_grad()
def test_the_saved_picture_is_the_stretched_image():
    expected = np.load(FOLDER / "smfnet.alpha.outputs.npz")["saved_luminance"].astype(np.float64)
    stretched = published("smfnet", TABLES)(*forward_images())[0, 0].numpy()
    np.testing.assert_allclose(stretched, expected, rtol=0, atol=1e-6 * expected.std())
    plain = published("smfnet", TABLES, stretch=False)(*forward_images())[0, 0].numpy()
    assert np.abs(plain - expected).max() > 1e-4


@pytest.mark.parametrize("device", DEVICES)
@torch.no_grad()
def test_the_published_network_in_single_precision(device):
    net = in_single_precision(published("smfnet", TABLES, stretch=False), device)
    images = forward_images(torch.float32, device)
    table = np.load(FOLDER / "smfnet.alpha.outputs.npz")
    found = {"fused": net(*images)}
    outputs = net.part_outputs("reconstruction", *images)
    found |= {f"{name}.reconstruction": outputs[name] for name in IMAGES}
    for name, value in found.items():
        assert np.abs(value.cpu().numpy() - table[name]).max() < 1e-3 * table[name].std(), name


def test_as_many_parameters_as_published():
    published_network, plain = (build("smfnet", options) for options in (PUBLISHED, {}))
    counts = {
        "encoder": 1_886_768,
        "decoder": 50_520,
        "graph": 964_994,
        "base_fusion": 35_528,
        "detail_fusion": 211_008,
    }
    parameters = {name: value.numel() for name, value in published_network.named_parameters()}
    names = published_network.published_names()
    assert {group: sum(parameters.get(ours, 0) for ours in names[group].values()) for group in GROUPS} == counts
    assert sum(parameters.values()) == 3_148_818
    assert sum(value.numel() for value in plain.parameters()) == 2_650_098


def test_every_tensor_of_the_checkpoint_has_a_name():
    net = build("smfnet", PUBLISHED)
    names = net.published_names()
    assert {group: set(found) for group, found in names.items()} == {
        group: {row["name"] for row in rows(f"smfnet.{group}.tensors.csv")} for group in GROUPS
    }
    ours = [name for group in names.values() for name in group.values()]
    assert sorted(ours) == sorted(net.state_dict())
    idle = {names[group][name] for group in GROUPS for name in unused(f"smfnet.{group}")}
    assert {name for name in idle if not name.endswith("num_batches_tracked")} == {
        name for name in net.state_dict() if name.startswith("unused.") and not name.endswith("num_batches_tracked")
    }


def test_names_do_not_depend_on_the_size():
    small = build("smfnet", PUBLISHED | {"dim": 8, "heads": 2})
    assert small.published_names() == build("smfnet", PUBLISHED).published_names()
    plain = build("smfnet", {"dim": 8, "heads": 2, "base_groups": 1, "scales": [2, 4]})
    named = [name for group in plain.published_names().values() for name in group.values()]
    assert sorted(named) == sorted(plain.state_dict())


# --------------------------------------------------------------------------------------------------------- losses


def decomposed() -> dict[str, Tensor]:
    """Features for the decomposition, by the rule."""

    def draw(name: str) -> Tensor:
        values = generator(f"smfnet/alpha/loss/{name}").standard_normal((2, 8, 10, 12))
        return torch.from_numpy(values.astype(np.float32).astype(np.float64))

    base, detail = draw("base_visible"), draw("detail_visible")
    return {
        "base_visible": base,
        "base_infrared": 0.8 * base + 0.6 * draw("base_infrared"),
        "detail_visible": detail,
        "detail_infrared": 0.3 * detail + draw("detail_infrared"),
    }


def loss_images() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sources and results of the table of losses."""
    sources = {name: batch(source, f"smfnet/alpha/loss/{name}", 40, 48) for name in IMAGES}
    names = ("fused", "reconstructed_visible", "reconstructed_infrared")
    return sources, {name: batch(result, f"smfnet/alpha/loss/{name}", 40, 48).requires_grad_() for name in names}


def published_terms(net: SMFNet, stage: str, outputs: dict[str, Tensor], a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Loss terms under the names of the table: those of both images one by one, and the total."""
    terms = net.full_precision_terms(stage, outputs, a, b)
    found = {f"correlation_{name}": net._correlation(outputs, name) for name in ("base", "detail")}
    found |= {"decomposition": terms["decomposition"]}
    found["total"] = sum(WEIGHTS[stage][term] * value for term, value in terms.items())
    if stage == "fusion":
        return found | {"intensity": terms["intensity"], "gradient": terms["gradient"]}
    found |= {"gram_infrared": terms["intensity"], "spatial_gradient_visible": terms["spatial"]}
    found |= {"semantic_visible": terms["semantic"]}
    for name, image in (("infrared", a), ("visible", b)):
        found[f"ssim_{name}"] = net._ssim_loss(outputs[name], image)
        found[f"gradient_{name}"] = net._gradient_loss(outputs[name], image)
    for term in ("ssim", "gradient"):
        assert terms[term].item() == pytest.approx((found[f"{term}_infrared"] + found[f"{term}_visible"]).item())
    return found


def test_every_loss_term_and_its_gradient():
    net = build("smfnet", PUBLISHED | {"dim": 8, "heads": 2}).double()
    sources, results = loss_images()
    restored = {name: results[f"reconstructed_{name}"] for name in IMAGES}
    for stage, outputs in (("reconstruction", restored), ("fusion", {"fused": results["fused"]})):
        terms = published_terms(net, stage, outputs | decomposed(), *sources.values())
        check_terms("smfnet.alpha", stage, terms)
        check_gradients("smfnet.alpha", stage, terms, results)


def test_the_published_semantic_term_without_a_black_pixel():
    net = build("smfnet", PUBLISHED | {"dim": 8, "heads": 2}).double()
    sources, results = loss_images()
    outputs = {name: results[f"reconstructed_{name}"] for name in IMAGES} | decomposed()
    lit = sources["visible"].clamp_min(np.float32(1 / 255))
    terms = published_terms(net, "reconstruction", outputs, sources["infrared"], lit)
    check_terms(
        "smfnet.alpha", "reconstruction_no_black", {name: terms[name] for name in ("semantic_visible", "total")}
    )


@pytest.mark.parametrize("stage", ["reconstruction", "fusion"])
def test_a_training_step(stage):
    net = published("smfnet", TABLES)
    a, b = (batch(source, f"smfnet/alpha/train/{name}", 32, 32) for name in IMAGES)
    net.train()
    outputs = net.part_outputs(stage, a, b)
    terms = net.full_precision_terms(stage, outputs, a, b)
    loss = sum(WEIGHTS[stage][term] * value for term, value in terms.items())
    loss.backward()
    expected = {
        row["quantity"]: float(row["value"]) for row in rows("smfnet.alpha.training.csv") if row["run"] == stage
    }
    for name in ("base", "detail"):
        assert float(net._correlation(outputs, name)) == pytest.approx(expected[f"correlation_{name}"], rel=1e-9)
    names = {
        f"smfnet.{group}/{theirs}": ours
        for group, found in net.published_names().items()
        for theirs, ours in found.items()
    }
    parts = {f"smfnet.{group}": list(net.get_submodule(group).parameters()) for group in GROUPS}
    check_training(
        "smfnet.alpha", stage, loss, net, names, parts, tolerance=1e-5 if stage == "reconstruction" else 1e-8
    )

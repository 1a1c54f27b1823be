"""SMFNet: its layers by hand, its two stages, its losses, and every option."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from mmfuse.data.packs import Pack
from mmfuse.errors import UserError
from mmfuse.methods.smfnet import SMFNet
from mmfuse.nn.losses import (
    correlation,
    gram_matrix,
    lovasz_jaccard,
    lovasz_softmax,
    sobel_magnitude,
    spatial_gradient,
    ssim_map,
)
from mmfuse.nn.smfnet.gradient_dense import GradientDenseBlock
from mmfuse.nn.smfnet.graph import AcrossModalities, GatedUpdate, GraphReasoning, WithinModality
from mmfuse.nn.smfnet.invertible import BackwardBlock, InvertibleBlock
from mmfuse.nn.smfnet.parts import DetailFusion
from mmfuse.nn.smfnet.transformer import (
    ChannelNorm,
    CrossAttention,
    DenseTransformerBlock,
    LocalFeedForward,
    TransformerBlock,
    TransformerGroup,
    channel_attention,
)
from mmfuse.study import plan
from mmfuse.study.settings import network_options
from mmfuse.training.batches import TrainingPairs, validation_pairs
from mmfuse.training.checkpoints import build, load_state
from mmfuse.training.loop import make_fabric, prepare_part, train_part

ROOT = Path(__file__).parents[1]
TINY = {"dim": 8, "heads": 2, "base_groups": 1, "base_pairs": 1, "iterations": 1}
PUBLISHED = {"decomposition": "detached", "semantic": "constant", "interaction": "detail"}


def tiny(seed: int = 0, **changes) -> SMFNet:
    """A narrow network whose graph has opened up: gamma starts at zero."""
    torch.manual_seed(seed)
    method = build("smfnet", TINY | changes)
    open_graph(method)
    return method


def open_graph(module: nn.Module, gamma: float = 0.5) -> None:
    for name, parameter in module.named_parameters():
        if name.endswith("gamma"):
            nn.init.constant_(parameter, gamma)


def pair(height: int = 32, width: int = 48, batch: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two smooth random images, each with a bright block of its own."""
    draw = torch.Generator().manual_seed(seed)
    images = nn.functional.avg_pool2d(torch.rand(2 * batch, 1, height + 2, width + 2, generator=draw), 3, 1)
    images[:batch, :, 4:12, 4:12] = 0.9
    images[batch:, :, 12:, 20:30] = 0.8
    return images[:batch], images[batch:]


def losses(method: SMFNet, part: str, a: torch.Tensor, b: torch.Tensor, weight: float = 1.0) -> dict[str, torch.Tensor]:
    return method.part_losses(part, a, b, dict.fromkeys(method.loss_terms[part], weight))


def gradient_norm(value: torch.Tensor, method: nn.Module) -> float:
    """Length of the gradient of one loss term."""
    if not value.requires_grad:
        return 0.0
    found = torch.autograd.grad(value, list(method.parameters()), allow_unused=True, retain_graph=True)
    return sum(g.square().sum().item() for g in found if g is not None) ** 0.5


# ---------------------------------------------------------------------------------------------- invertible blocks


@pytest.mark.parametrize("make", [InvertibleBlock, BackwardBlock])
@pytest.mark.parametrize(("gain", "dtype", "tolerance"), [(1, torch.float32, 1e-5), (2, torch.float64, 1e-9)])
@torch.no_grad()
def test_the_coupling_is_undone(make, gain, dtype, tolerance):
    """In single precision at the size of fresh weights; with weights that blow up the features, rounding needs more."""
    torch.manual_seed(0)
    block = make(16).to(dtype)
    for parameter in block.parameters():
        parameter.mul_(gain)
    halves = torch.randn(2, 2, 8, 17, 33, dtype=dtype)
    there = block.couple(*halves)
    assert max((new - old).abs().max() for new, old in zip(there, halves, strict=True)) > 0.1
    for back in (block.uncouple(*there), block.couple(*block.uncouple(*halves))):
        assert all((new - old).abs().max() < tolerance for new, old in zip(back, halves, strict=True))


@torch.no_grad()
def test_invertible_blocks_are_their_equations():
    torch.manual_seed(0)
    x = torch.randn(1, 4, 8, 8)
    block = InvertibleBlock(4)
    first, second = block.mix(x).chunk(2, dim=1)
    second = second + block.shift_second(first)  # eq. 6
    first = first * torch.exp(block.scale_first(second)) + block.shift_first(second)  # eq. 5
    assert torch.allclose(block(x), torch.cat([first, second], 1), atol=1e-6)
    block = BackwardBlock(4)
    first, second = block.mix(x).chunk(2, dim=1)
    second = (second - block.shift_second(first)) * torch.exp(2 - 4 * block.scale_second(first).sigmoid())  # eq. 8
    first = (first - block.shift_first(second)) * torch.exp(2 - 4 * block.scale_first(second).sigmoid())  # eq. 7
    assert torch.allclose(block(x), torch.cat([first, second], 1), atol=1e-6)


# ---------------------------------------------------------------------------------------------------- transformer


def naive_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, temperature: list[float]) -> np.ndarray:
    """One image, channel by channel."""
    channels, per_head = len(v), len(v) // len(temperature)
    out = np.zeros_like(v)
    for i in range(channels):
        head = i // per_head
        members = range(head * per_head, (head + 1) * per_head)
        scores = np.array([(q[i] * k[j]).sum() / np.linalg.norm(q[i]) / np.linalg.norm(k[j]) for j in members])
        weights = np.exp(scores * temperature[head])
        out[i] = sum(w * v[j] for w, j in zip(weights / weights.sum(), members, strict=True))
    return out


def test_channel_attention_by_hand():
    torch.manual_seed(0)
    q, k, v = torch.rand(3, 2, 6, 5, 7, dtype=torch.float64)
    temperature = [3.0, 0.5]
    ours = channel_attention(q, k, v, torch.tensor(temperature, dtype=torch.float64).view(2, 1, 1))
    for n in range(2):
        assert np.allclose(ours[n], naive_attention(q[n].numpy(), k[n].numpy(), v[n].numpy(), temperature), atol=1e-12)


def test_attention_of_nothing_is_finite():
    nothing = torch.zeros(1, 4, 4, 4, requires_grad=True)
    out = channel_attention(nothing, nothing, nothing + 1, torch.ones(2, 1, 1))
    out.sum().backward()
    assert torch.equal(out, torch.ones_like(out))
    assert nothing.grad.isfinite().all()


@torch.no_grad()
def test_cross_attention_takes_the_other_half_as_queries():
    attention = CrossAttention(4, 2)
    first, second, other = torch.randn(3, 1, 4, 9, 9)
    one, two = attention(first, second)
    assert all(torch.equal(x, y) for x, y in zip(attention(second, first), (two, one), strict=True))
    k, v = attention.key_value(first).chunk(2, dim=1)
    assert torch.allclose(one, attention.out(channel_attention(attention.query(second), k, v, attention.temperature)))
    assert not torch.allclose(attention(first, other)[0], one)


@torch.no_grad()
def test_channel_norm():
    norm = ChannelNorm(6)
    normal = norm(torch.rand(2, 6, 5, 4) * 7 + 3)
    assert normal.mean(dim=1).abs().max() < 1e-5
    assert torch.allclose(normal.var(dim=1, unbiased=False), torch.ones(2, 5, 4), atol=1e-3)


@torch.no_grad()
def test_blocks_have_their_shortcuts():
    x = torch.randn(1, 8, 9, 10)
    block, dense = TransformerBlock(8, 2, 2), DenseTransformerBlock(8, 2)
    group = TransformerGroup(8, 2, 1, 2, residual=True)
    for layer in (block.attention[1].out, dense.attention[1].out, dense.feed_forward[1][2], group.conv[4]):
        layer.weight.zero_()
        if layer.bias is not None:
            layer.bias.zero_()
    for parameter in block.feed_forward[1].parameters():
        parameter.zero_()
    assert torch.allclose(block(x), x + block.feed_forward[0](x)), "the LeFF has a shortcut of its own"
    assert torch.equal(dense(x), x)
    assert torch.equal(group(x), x)
    assert not torch.equal(group.blocks(x), x)


@torch.no_grad()
def test_the_leff_ends_in_a_gelu_and_its_input():
    leff, x = LocalFeedForward(4, 3), torch.randn(1, 4, 9, 9)
    narrow = leff[4](nn.functional.gelu(leff[2](nn.functional.gelu(leff[0](x)))))
    assert narrow.shape == x.shape
    assert leff[2].groups == leff[2].out_channels == 12
    assert torch.allclose(leff(x), nn.functional.gelu(narrow) + x)


# ---------------------------------------------------------------------------------------------------------- graph


@pytest.mark.parametrize("nodes", ["dilated", "pooled"])
@pytest.mark.parametrize("reasoning", ["published", "printed"])
@torch.no_grad()
def test_both_modalities_matter_and_have_their_own_weights(nodes, reasoning):
    torch.manual_seed(0)
    graph = GraphReasoning(6, [4, 8, 16], 2, nodes, reasoning).eval()
    open_graph(graph)
    for module in graph.modules():
        if isinstance(module, GatedUpdate):
            nn.init.normal_(module.gates.weight), nn.init.normal_(module.candidate.weight)
    infrared, visible = torch.randn(2, 2, 6, 17, 20)
    both = graph(infrared, visible)
    assert both[0].shape == both[1].shape == infrared.shape
    assert not torch.allclose(graph(visible, infrared)[1], both[0], atol=1e-2)
    for number, other in enumerate((graph(infrared, infrared), graph(visible, visible))):
        assert not torch.allclose(other[number], both[number], atol=1e-3), "the other modality matters"


@torch.no_grad()
def test_messages_across_modalities_by_hand():
    torch.manual_seed(0)
    infrared, visible = torch.randn(2, 1, 3, 2, 2)
    across = AcrossModalities(3)
    to_infrared, to_visible = (layer.weight[0, :, 0, 0] for layer in (across.to_infrared, across.to_visible))
    found = across(infrared, visible)
    for y, x in np.ndindex(2, 2):
        i, v = infrared[0, :, y, x], visible[0, :, y, x]
        assert torch.allclose(found[0][0, :, y, x], i + v * torch.sigmoid(to_infrared @ (v - i)))
        assert torch.allclose(found[1][0, :, y, x], v + i * torch.sigmoid(to_visible @ (i - v)))
    printed = AcrossModalities(3, printed=True)
    message = visible * torch.sigmoid(printed.to_infrared(visible - infrared))  # eq. 12 to 15
    assert torch.allclose(printed(infrared, visible)[0], printed.updates[0](message, infrared))  # eq. 16
    assert printed.to_infrared.out_channels == 3


@torch.no_grad()
def test_a_gated_update_by_hand():
    torch.manual_seed(0)
    update = GatedUpdate(3)
    for layer in (update.gates, update.candidate):
        nn.init.normal_(layer.weight)
    message, node = torch.randn(2, 2, 3, 1, 1)
    r, u = torch.sigmoid(update.gates(torch.cat([message, node], 1))).chunk(2, 1)
    new = torch.tanh(update.candidate(torch.cat([message, r * node], 1)))
    assert torch.allclose(update(message, node), (1 - u) * node + u * new, atol=1e-6)


@pytest.mark.parametrize("count", [2, 3, 4])
@torch.no_grad()
def test_messages_within_a_modality_by_hand(count):
    """As published, gates alternate over the channels of the joined neighbours."""
    torch.manual_seed(0)
    within = WithinModality(4, count)
    within.gamma.fill_(0.7)
    nodes = [torch.randn(1, 4, 1, 1) for _ in range(count)]
    for number, new in enumerate(within(nodes)):
        others = [node for k, node in enumerate(nodes) if k != number]
        gates = [
            torch.sigmoid(within.edges.weight[k, :, 0, 0] @ (nodes[number] - other)[0, :, 0, 0])
            for k, other in enumerate(others)
        ]
        message = torch.zeros(1, 4, 1, 1)
        for k, other in enumerate(others):
            for channel in range(4):
                message[0, channel] += other[0, channel] * gates[(4 * k + channel) % len(others)]
        assert torch.allclose(new, nodes[number] + 0.7 * within.update(message, nodes[number]), atol=1e-6)


@torch.no_grad()
def test_messages_within_a_modality_as_printed():
    torch.manual_seed(0)
    within = WithinModality(4, 3, printed=True)
    node, one, two = (torch.randn(1, 4, 5, 5) for _ in range(3))
    of_one, of_two = torch.sigmoid(within.edges(torch.cat([node - one, node - two], 1))).chunk(2, 1)  # eq. 12
    expected = within.update(of_one * one + of_two * two, node)  # eq. 15 and 16
    assert torch.allclose(within([node, one, two])[0], expected, atol=1e-6)
    assert within.gamma is None


@torch.no_grad()
def test_gamma_lets_the_other_scales_in():
    torch.manual_seed(0)
    graph = GraphReasoning(4, [1, 2], 1).eval()
    first, second = torch.randn(2, 1, 4, 12, 12)
    before = graph(first, second)[0]
    graph.within[0].edges.weight.normal_()
    assert torch.equal(graph(first, second)[0], before), "gamma starts at zero"
    graph.within[0].gamma.fill_(1)
    assert not torch.allclose(graph(first, second)[0], before, atol=1e-3)


@pytest.mark.parametrize(("nodes", "reach"), [("dilated", 8), ("pooled", 15)])
@torch.no_grad()
def test_a_node_sees_as_far_as_its_scale(nodes, reach):
    torch.manual_seed(0)
    node = GraphReasoning(8, [8, 16], 1, nodes).eval().nodes[0][0]
    x = torch.zeros(1, 8, 64, 64)
    x[..., 32, 32] = 1
    touched = (node(x) != node(torch.zeros_like(x))).any(dim=1)[0].nonzero()
    distance = (touched - 32).abs().max().item()
    assert reach <= distance <= reach + 8


# --------------------------------------------------------------------------------------------------------- losses


def jaccard_by_sets(wrong: set[int], foreground: set[int]) -> float:
    """Jaccard loss of a set of wrongly labelled pixels: |M| / |Y or M|, and none for no errors."""
    return len(wrong) / len(foreground | wrong) if wrong else 0.0


def lovasz_by_definition(errors: list[float], foreground: set[int]) -> float:
    """Berman et al. 2018, eq. 9: errors in decreasing order, each times what it adds to the set function."""
    order = sorted(range(len(errors)), key=lambda n: -errors[n])
    total, before = 0.0, 0.0
    for k, n in enumerate(order):
        now = jaccard_by_sets(set(order[: k + 1]), foreground)
        total, before = total + errors[n] * (now - before), now
    return total


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_lovasz_is_its_definition(share):
    draw = np.random.default_rng(0)
    errors, labels = draw.random((5, 23)), draw.random((5, 23)) < share
    ours = lovasz_jaccard(torch.from_numpy(errors), torch.from_numpy(labels))
    for n in range(5):
        expected = lovasz_by_definition(errors[n].tolist(), set(np.flatnonzero(labels[n])))
        assert ours[n].item() == pytest.approx(expected, abs=1e-12)


def test_lovasz_of_right_and_wrong_pixels_is_one_minus_iou():
    draw = np.random.default_rng(1)
    truth, guess = draw.random((2, 50, 30)) < 0.4
    wrong = torch.from_numpy((truth != guess).astype(float))
    iou = (truth & guess).sum(1) / (truth | guess).sum(1)
    assert np.allclose(lovasz_jaccard(wrong, torch.from_numpy(truth)), 1 - iou, atol=1e-12)


def test_correlation_is_that_of_numpy():
    x, y = torch.rand(2, 3, 4, 50, dtype=torch.float64)
    y = 0.3 * x + y
    for n, c in np.ndindex(3, 4):
        assert correlation(x, y)[n, c].item() == pytest.approx(np.corrcoef(x[n, c], y[n, c])[0, 1], abs=1e-6)
    assert correlation(x, -x).mean().item() == pytest.approx(-1, abs=1e-6)
    flat = torch.full((2, 9), 0.4, requires_grad=True)
    still = correlation(flat, torch.rand(2, 9))
    still.sum().backward()
    assert still.abs().max() < 1e-3
    assert flat.grad.isfinite().all()


def test_gram_and_gradient_by_hand():
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, -1.0]]]])
    assert gram_matrix(features)[0].tolist() == [[2.5, 0.5], [0.5, 5.0]]
    ramp = torch.arange(6.0).view(1, 1, 1, 6).expand(1, 1, 5, 6) / 10
    assert torch.allclose(spatial_gradient(ramp)[0, 0, 0, :, 1:-1], torch.full((5, 4), 0.1))
    assert spatial_gradient(ramp)[0, 0, 1].abs().max() < 1e-6
    image = torch.rand(2, 3, 8, 9)
    strength = 8 * spatial_gradient(image).abs().sum(dim=2)
    assert torch.allclose(strength, sobel_magnitude(image, border="replicate"), atol=1e-6)


def test_losses_of_stage_one_by_hand():
    a, b = pair()
    stage_one = ("reconstruction", a, b)
    images = torch.cat([a, b])

    def with_decoder(restored: torch.Tensor, **changes) -> SMFNet:
        method = tiny(**changes)
        method.decoder.forward = lambda features: restored  # noqa: ARG005
        return method

    perfect = losses(with_decoder(images), *stage_one)
    for term in ("ssim", "intensity", "gradient", "spatial"):
        assert perfect[term].item() == pytest.approx(0, abs=1e-6)
    assert 0 < perfect["semantic"] < 0.5
    restored = images * 0.5
    half = losses(with_decoder(restored), *stage_one)
    lost = 0.75 * a.square().mean(dim=(1, 2, 3))
    assert half["intensity"].item() == pytest.approx(lost.square().mean().item(), rel=1e-5)
    plain = losses(with_decoder(restored, gram_norm="plain", similarity="plain", spatial="both"), *stage_one)
    assert plain["intensity"].item() == pytest.approx(lost.mean().item(), rel=1e-5)
    similarity = sum(ssim_map(restored[k : k + 2], images[k : k + 2]).mean().item() for k in (0, 2))
    assert plain["ssim"].item() == pytest.approx(2 - similarity, rel=1e-5)
    bordered = losses(with_decoder(restored, similarity="plain", ssim_border="zeros", ssim_range=2.0), *stage_one)
    halves = ((restored[k : k + 2], images[k : k + 2]) for k in (0, 2))
    similarity = sum(ssim_map(*half, border="zeros", data_range=2.0).mean().item() for half in halves)
    assert bordered["ssim"].item() == pytest.approx(2 - similarity, rel=1e-5)
    assert abs(bordered["ssim"].item() - plain["ssim"].item()) > 1e-4
    slopes = sum(spatial_gradient(image).abs().mean().item() for image in (a, b))
    assert plain["spatial"].item() == pytest.approx(slopes / 2, rel=1e-5)
    strength = sum(sobel_magnitude(image).mean().item() for image in (a, b))
    assert half["gradient"].item() == pytest.approx(strength / 2, rel=1e-5)
    assert half["spatial"].item() == pytest.approx(spatial_gradient(b).abs().mean().item() / 2, rel=1e-5)
    assert half["semantic"] > perfect["semantic"]


def test_losses_of_stage_two_by_hand():
    method = tiny()
    a, b = pair()
    method.decoder.forward = lambda features: torch.maximum(a, b)  # noqa: ARG005
    assert losses(method, "fusion", a, b)["intensity"] == 0
    method.decoder.forward = lambda features: torch.zeros_like(a)  # noqa: ARG005
    dark = losses(method, "fusion", a, b)
    assert dark["intensity"].item() == pytest.approx(torch.maximum(a, b).mean().item())
    stronger = torch.maximum(sobel_magnitude(a), sobel_magnitude(b))
    assert dark["gradient"].item() == pytest.approx(stronger.mean().item())


def numpy_correlation(features: torch.Tensor, *, whole: bool) -> float:
    a, b = features.detach().double().numpy().reshape(2, -1) if whole else features.detach().double().chunk(2)
    if whole:
        return np.corrcoef(a, b)[0, 1]
    pairs = zip(a.flatten(0, 1).numpy(), b.flatten(0, 1).numpy(), strict=True)
    # a channel that a ReLU leaves at zero is correlated with nothing
    return np.mean([np.corrcoef(x.ravel(), y.ravel())[0, 1] if x.std() * y.std() else 0 for x, y in pairs])


@pytest.mark.parametrize(
    ("part", "changes", "numerator"),
    [
        ("reconstruction", {}, lambda d, _: d**2),
        ("reconstruction", {"both_stages": True}, lambda d, g: d**2 + g**2),
        ("fusion", {}, lambda d, g: d**2 + g**2),
        ("fusion", {"interaction": "detail"}, lambda d, _: 2 * d**2),
        ("fusion", PUBLISHED, lambda d, _: 2 * d**2),
        ("fusion", {"graph": False}, lambda d, _: d**2),
    ],
)
def test_decomposition_by_hand(part, changes, numerator):
    """Eq. 26 and 27, and S1, S2."""
    method = tiny(**changes).eval()
    a, b = pair()
    features = method._features(a, b)[1]
    whole = changes.get("decomposition") == "detached"
    base, detail = (numpy_correlation(part, whole=whole) for part in features[:2])
    graph = 0 if features.graph is None else numpy_correlation(features.graph, whole=whole)
    expected = numerator(detail, graph) / (base + 1.01)
    assert losses(method, part, a, b)["decomposition"].item() == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("part", ["reconstruction", "fusion"])
def test_the_decomposition_steers_by_default_and_not_as_published(part):
    a, b = pair()
    for changes, steers in (({}, True), (PUBLISHED, False)):
        method = tiny(**changes)
        assert (gradient_norm(losses(method, part, a, b)["decomposition"], method) > 1e-5) == steers


def test_the_semantic_loss_steers_by_default_and_not_as_published():
    a, b = pair()
    b[:, :, 0, :6] = 0
    for changes, steers in (({}, True), (PUBLISHED, False)):
        method = tiny(**changes)
        value = losses(method, "reconstruction", a, b)["semantic"]
        assert 0 < value <= 1
        assert (gradient_norm(value, method) > 1e-4) == steers
    assert not value.requires_grad
    assert value.item() == pytest.approx(1 - 6 / b[0].numel())
    assert losses(method, "reconstruction", a, b + 0.01)["semantic"] == 0, "no pixel is black"


def test_the_semantic_loss_wants_the_bright_region_bright():
    method = tiny()

    def loss(restored: torch.Tensor) -> torch.Tensor:
        return method._semantic_loss({"visible": restored}, image, None)

    image = torch.full((1, 1, 8, 8), 0.2)
    image[..., 2:5, 2:5] = 0.7
    restored = image.clone().requires_grad_()
    loss(restored).backward()
    inside = image > 0.5
    assert (restored.grad[inside] < 0).all()
    assert (restored.grad[~inside] >= 0).all()
    assert loss(0.9 - image) > 0.9 > loss(image)


# --------------------------------------------------------------------------------------------------- the network


def test_parameters_at_the_paper_size():
    """Counted layer by layer: a convolution has inputs x outputs x taps weights and, unless said, a bias an output."""
    c, half, heads = 64, 32, 8
    block = 4 * c + (3 * c * c + 27 * c) + heads + c * c + 2 * (c * c + c) + 10 * c
    dense_block = 4 * c + (3 * c * c + 9 * (3 * c) ** 2) + heads + c * c + 4 * c * c
    group = 2 * (block + dense_block) + (9 * c * c // 4 + c // 4) + ((c // 4) ** 2 + c // 4) + (9 * c * c // 4 + c)
    dense = 2 * (9 * c * c + c) + (18 * c * c + c) + (3 * c * c + c) + 18 * c + (c * c + c)
    bottleneck = 4 * half**2 + 9 * 2 * half
    mix = c * c + c
    query, key_value = half**2 + 11 * half, 2 * half**2 + 22 * half
    cross = query + key_value + heads + half**2 + half
    encoder = 9 * c + block + (9 * c * c + c) + 2 * group + dense + cross + mix + 3 * bottleneck
    update = (4 * c * c + 2 * c) + (2 * c * c + c)
    within = 2 * c + update + 1
    graph = 2 * (3 * (9 * c * c + 2 * c) + within + c + (27 * c * c + 2 * c)) + (2 * c * c + c)
    expected = {
        "encoder": encoder, "graph": graph, "decoder": block + 9 * c * half + 9 * half * half // 2 + 9 * half // 2,
        "base_fusion": block, "detail_fusion": dense + 2 * (mix + 4 * bottleneck), "to_full_range": 0,
    }  # fmt: skip
    method = build("smfnet", {})
    found = {name: sum(p.numel() for p in module.parameters()) for name, module in method.named_children()}
    assert found == expected
    assert sum(found.values()) == 2_650_098
    held = build("smfnet", {"unused": True})
    assert sum(p.numel() for p in held.parameters()) == 3_148_818
    assert sum(p.numel() for p in held.unused.parameters()) == 3_148_818 - 2_650_098


def test_unused_tensors_are_kept_and_never_trained():
    plain, held = tiny(), tiny(unused=True)
    assert all(torch.equal(value, held.state_dict()[key]) for key, value in plain.state_dict().items())
    assert torch.equal(plain.eval()(*pair()), held.eval()(*pair()))
    assert "unused" in held.deployed_modules()
    for part in held.parts:
        prepare_part(held, part)
        assert not any(parameter.requires_grad for parameter in held.unused.parameters())


@torch.no_grad()
def test_the_same_twice():
    a, b = pair(17, 33)
    method = tiny().eval()
    assert torch.equal(method(a, b), method(a, b))
    assert torch.equal(tiny().eval()(a, b), method(a, b))


@pytest.mark.parametrize("part", ["reconstruction", "fusion"])
def test_each_stage_trains_its_modules(part):
    method = tiny(3)
    trained = {id(parameter) for parameter in prepare_part(method, part)}
    sum(losses(method, part, *pair()).values()).backward()
    for key, parameter in method.named_parameters():
        frozen = part == "reconstruction" and key.startswith(("base_fusion.", "detail_fusion.", "graph.join."))
        assert (id(parameter) not in trained) == frozen == (parameter.grad is None), key
        assert frozen or parameter.grad.abs().max() > 0, f"{key} is not reached"


@pytest.mark.parametrize("part", ["reconstruction", "fusion"])
def test_a_few_steps_lower_the_loss(part):
    method = tiny()
    a, b = pair()
    optimiser = torch.optim.Adam(prepare_part(method, part), lr=0.005)
    seen = []
    for _ in range(12):
        optimiser.zero_grad()
        terms = losses(method, part, a, b)
        sum(terms.values()).backward()
        optimiser.step()
        seen.append({term: value.item() for term, value in terms.items()})
    totals = [sum(terms.values()) for terms in seen]
    assert totals[-1] < 0.8 * totals[0]
    assert seen[-1]["gradient"] < seen[0]["gradient"]


def labelled(a: torch.Tensor) -> torch.Tensor:
    """Masks with three classes: background and two blocks."""
    mask = torch.zeros(a.shape[0], *a.shape[2:], dtype=torch.int64)
    mask[:, 4:12, 4:12] = 1
    mask[:, 12:, 20:30] = 2
    return mask


def test_the_loss_of_labels_is_one_minus_the_mean_iou_of_a_sure_answer():
    mask = labelled(pair()[0])
    answer = mask.clone()
    answer[:, :, :8] = 0  # misses half of the first block
    scores = 1000.0 * nn.functional.one_hot(answer, 5).movedim(-1, 1)  # classes 3 and 4 are nowhere
    shares = [(answer == k).logical_and(mask == k).sum() / (answer == k).logical_or(mask == k).sum() for k in range(3)]
    assert lovasz_softmax(scores, mask).item() == pytest.approx(1 - sum(shares).item() / 3, abs=1e-6)
    assert lovasz_softmax(1000.0 * nn.functional.one_hot(mask, 3).movedim(-1, 1), mask) == 0


def test_the_labels_train_decoder_and_labeller_and_only_stage_one():
    a, b = pair()
    method = tiny(semantic="labels", classes=3)
    assert method.masked_parts() == ("reconstruction",)
    assert tiny().masked_parts() == ()
    # the labeller is drawn last: the rest starts alike
    assert all(torch.equal(value, method.state_dict()[key]) for key, value in tiny().state_dict().items())
    ones = dict.fromkeys(method.loss_terms["reconstruction"], 1.0)
    value = method.part_losses("reconstruction", a, b, ones, labelled(a))["semantic"]
    assert 0 < value < 1
    for module in (method.labeller, method.decoder, method.encoder):
        assert gradient_norm(value, module) > 0
    assert "labeller" in method.part_modules("reconstruction")
    assert "labeller" not in method.part_modules("fusion")
    assert "labeller" not in method.deployed_modules()


def test_a_class_beyond_those_told_of_is_refused():
    a, b = pair()
    with pytest.raises(UserError, match="class that the network does not have"):
        method = tiny(semantic="labels", classes=2)
        ones = dict.fromkeys(method.loss_terms["reconstruction"], 1.0)
        method.part_losses("reconstruction", a, b, ones, labelled(a))


def test_a_killed_stage_two_goes_on_with_the_same_bits(make_pack, tmp_path):
    """Several modules in the optimiser, two of them with another rate than the rest."""
    crop = {"height": 32, "width": 32, "scale": None, "ratio": [1.0, 1.0]}
    falling = {"step_epochs": 1, "factor": 0.5, "floor": 0.0001, "ahead": 1}
    settings = {
        "steps": 4, "batch": 2, "crop": crop, "flip": True, "optimiser": "adam", "learning_rate": 0.01,
        "weight_decay": 0.0, "schedule": falling, "warmup": 0, "clip": 0.01,
        "loss": {"intensity": 1.0, "gradient": 10.0, "decomposition": 2.0},
    }  # fmt: skip
    loop = {
        "accelerator": "cpu", "devices": 1, "precision": "32-true", "threads": 1, "log_every": 1, "save_every": 2,
        "validate_every": 2,
    }  # fmt: skip
    packs = [Pack(make_pack(3))]

    def train(fingerprint, on_rows):
        return train_part(
            make_fabric(loop), tiny(), "fusion", settings=settings, loop=loop, pairs=TrainingPairs(packs, settings, 0),
            validation=validation_pairs(packs, 1, 32), seed=0, resume=tmp_path / "state.pt", fingerprint=fingerprint,
            on_rows=on_rows,
        )  # fmt: skip

    def crash(_):
        raise KeyboardInterrupt

    whole = train("whole", lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        train("killed", crash)
    assert load_state(tmp_path / "state.pt")["step"] == 2
    again = train("killed", lambda _: None)
    assert again.history == whole.history
    assert all(torch.equal(again.last[key], value) for key, value in whole.last.items())
    assert {key.partition(".")[0] for key in whole.last} == {
        name for name, module in tiny().named_children() if module.state_dict()
    }


@pytest.mark.parametrize("part", ["reconstruction", "fusion"])
def test_mixed_precision_changes_the_losses_little(part):
    """On a GPU the networks run in bf16, the losses in single precision."""
    a, b = pair()
    method = tiny()
    exact = losses(method, part, a, b)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = losses(method, part, a, b)
    sum(mixed.values()).backward()
    for term, value in exact.items():
        assert mixed[term].dtype == torch.float32
        assert mixed[term].item() == pytest.approx(value.item(), rel=0.1, abs=0.01)


@pytest.mark.parametrize("changes", [{}, PUBLISHED, {"gram": "features"}, {"nodes": "pooled"}], ids=str)
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_flat_images_give_numbers(changes, level):
    method = tiny(**changes)
    flat = torch.full((2, 1, 32, 32), level)
    for part in method.parts:
        terms = losses(method, part, flat, flat)
        sum(terms.values()).backward()
        assert all(value.isfinite() for value in terms.values())
        assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)
    assert method.eval()(flat, flat).isfinite().all()


# -------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("part", "term", "changes"),
    [
        ("reconstruction", "decomposition", {"decomposition": "detached"}),
        ("reconstruction", "decomposition", {"both_stages": True}),
        ("reconstruction", "semantic", {"semantic": "constant"}),
        ("reconstruction", "intensity", {"gram": "features"}),
        ("reconstruction", "spatial", {"spatial": "both"}),
        ("fusion", "decomposition", {"interaction": "detail"}),
    ],
    ids=str,
)
def test_an_option_of_a_loss_changes_that_loss_alone(part, term, changes):
    a, b = pair()
    one, other = (losses(method.eval(), part, a, b) for method in (tiny(), tiny(**changes)))
    assert {name for name in one if one[name].item() != other[name].item()} == {term}


@pytest.mark.parametrize("changes", [{"iterations": 2}, {"scales": [2, 8, 16]}, {"stretch": True}], ids=str)
@torch.no_grad()
def test_an_option_without_weights_changes_the_result(changes):
    a, b = pair()
    plain = tiny().eval()
    other = build("smfnet", TINY | changes)
    other.load_state_dict(plain.state_dict())
    assert not torch.allclose(other.eval()(a, b), plain(a, b), atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "gone", "new"),
    [
        ({"cross_attention": False}, "encoder.detail.cross.", None),
        ({"residual": False}, "encoder.base.groups.0.conv.", None),
        ({"graph": False}, "graph.", None),
        ({"join": "concat"}, None, "decoder.join."),
        ({"exchange": True}, "base_fusion.0.", "base_fusion.dense."),
        ({"reasoning": "printed"}, "graph.reasoning.within.0.gamma", "graph.reasoning.across.updates."),
        ({"nodes": "pooled"}, None, "graph.reasoning.nodes.0.0.embed."),
    ],
    ids=str,
)
@torch.no_grad()
def test_an_option_of_the_network_takes_or_adds_weights(changes, gone, new):
    plain, other = tiny(), tiny(**changes).eval()
    before, after = ({key for key, _ in method.named_parameters()} for method in (plain, other))
    assert not gone or any(key.startswith(gone) for key in before - after)
    assert not gone or not any(key.startswith(gone) for key in after)
    assert bool(new) == any(key.startswith(new or "-") for key in after - before)
    a, b = pair(17, 33)
    assert not torch.allclose(other(a, b), plain.eval()(a, b), atol=1e-4)
    for part in other.parts:
        assert all(value.isfinite() for value in losses(other, part, a, b).values())


@torch.no_grad()
def test_stretching_fills_the_range():
    fused = tiny(stretch=True).eval()(*pair())
    assert fused.amin(dim=(1, 2, 3)).tolist() == [0, 0]
    assert fused.amax(dim=(1, 2, 3)).tolist() == pytest.approx([1, 1])


def test_sobel_filters_are_trained_unless_they_are_not():
    x = torch.rand(1, 4, 9, 9)
    for train in (True, False):
        block = GradientDenseBlock(4, train_sobel=train)
        assert torch.allclose(block._strength(x), sobel_magnitude(x, border="zeros"), atol=1e-5)
        assert {"sobel_x", "sobel_y"} <= block.state_dict().keys()
        assert ("sobel_x" in dict(block.named_parameters())) == ("sobel_y" in dict(block.named_parameters())) == train
    method = tiny(train_sobel=False)
    trained = prepare_part(method, "fusion")
    for block in (method.encoder.detail.dense, method.detail_fusion.dense):
        assert not any(parameter is block.sobel_x for parameter in trained)
        assert not block.sobel_x.requires_grad


@torch.no_grad()
def test_the_gradient_dense_block_by_hand():
    torch.manual_seed(0)
    block, x = GradientDenseBlock(4), torch.randn(1, 4, 9, 9)

    def leaky(values: torch.Tensor, slope: float) -> torch.Tensor:
        return torch.where(values > 0, values, slope * values)

    one = leaky(block.first(x), 0.2)
    two = leaky(block.second(one), 0.2)
    three = leaky(block.third(torch.cat([one, two], 1)), 0.2)
    strength = sobel_magnitude(one, border="zeros")
    expected = leaky(block.merge(torch.cat([one, two, three], 1)) + block.gradient(strength), 0.1)
    assert torch.allclose(block(x), expected, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"dim": 10},
        {"dim": 0},
        {"heads": 3},
        {"scales": []},
        {"scales": [0]},
        {"nodes": "cubic"},
        {"semantic": "masks"},
        {"ssim_range": 0.0},
    ],
    ids=str,
)
def test_wrong_options_are_refused(changes):
    with pytest.raises(UserError, match="SMFNet cannot use these options") as caught:
        build("smfnet", TINY | changes)
    assert str(next(iter(changes.values()))) in str(caught.value)


def differing(one: SMFNet, other: SMFNet) -> set[str]:
    """Return the parts whose tensors differ in name or shape, and the options of the losses that differ."""
    shapes = [{key: value.shape for key, value in method.state_dict().items()} for method in (one, other)]
    keys = {key for key in shapes[0].keys() | shapes[1].keys() if shapes[0].get(key) != shapes[1].get(key)}
    simple = [{key: v for key, v in vars(method).items() if isinstance(v, str | bool)} for method in (one, other)]
    return {key.partition(".")[0] for key in keys} | {key for key in simple[0] if simple[0][key] != simple[1][key]}


@pytest.mark.parametrize("name", ["paper", "small_smfnet"])
def test_every_row_of_table_five_changes_what_it_says(name):
    parameters = yaml.safe_load((ROOT / f"workflow/configs/{name}.yaml").read_text(encoding="utf-8"))
    found = {}
    for variant in parameters["methods"]["smfnet"]["variants"]:
        settings = plan.settings_of(parameters, "smfnet", variant)
        found[variant] = build("smfnet", network_options(settings))
    names = {variant: set(method.state_dict()) for variant, method in found.items()}
    base = found["base"]
    changed = {
        "both_correlations": {"both_stages"}, "one_stage": set(), "no_intensity_semantic": set(),
        "no_residual": {"encoder"}, "inn_only": {"encoder"}, "no_graph": {"graph"},
        "exchanged": {"base_fusion", "detail_fusion"},
    }  # fmt: skip
    for variant, where in changed.items():
        assert differing(found[variant], base) == where, variant
    gone = {name for name in names["base"] if name.startswith("graph.")}
    assert names["base"] - names["no_graph"] == gone != set()
    gone = {name for name in names["base"] if name.startswith("encoder.detail.cross.")}
    assert names["base"] - names["inn_only"] == gone != set()
    gone = {name for name in names["base"] if re.match(r"encoder\.base\.groups\.\d\.conv\.", name)}
    assert names["base"] - names["no_residual"] == gone != set()
    for variant in ("no_graph", "inn_only", "no_residual"):
        assert names[variant] <= names["base"]
    assert isinstance(found["exchanged"].base_fusion, DetailFusion)
    assert not isinstance(found["exchanged"].detail_fusion, DetailFusion)
    settings = plan.settings_of(parameters, "smfnet", "as_published")
    assert network_options(settings).items() >= SMFNet.published_options[0].items()
    quiet = plan.settings_of(parameters, "smfnet", "no_intensity_semantic")["parts"]["reconstruction"]["loss"]
    assert (quiet["semantic"], quiet["intensity"]) == (0, 0)


def test_names_in_weights_files_stay():
    """Published weights are found by these names: if this fails, old files no longer load."""
    names = sorted(f"{key} {tuple(value.shape)}" for key, value in tiny().state_dict().items())
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    assert (len(names), digest) == (216, "fa61f200cf8deee8")

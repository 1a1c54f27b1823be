"""SMFNet: its layers by hand, its two stages, its losses, and every option."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from mmfuse import plan
from mmfuse.batches import TrainingPairs, validation_pairs
from mmfuse.checkpoints import build, load_state
from mmfuse.errors import UserError
from mmfuse.methods.smfnet import GradientDenseBlock, SMFNet
from mmfuse.nn.graph import Delivery, GraphReasoning
from mmfuse.nn.invertible import InvertibleBlocks
from mmfuse.nn.losses import correlation, gram_matrix, lovasz_jaccard, lovasz_softmax, sobel_magnitude, spatial_gradient
from mmfuse.nn.transformer import ChannelNorm, CrossAttention, ResidualTransformer, TransformerBlock, channel_attention
from mmfuse.packs import Pack
from mmfuse.stages.train import network_options
from mmfuse.training import make_fabric, prepare_part, train_part

ROOT = Path(__file__).parents[1]
TINY = {"dim": 8, "heads": 2, "blocks": 1, "base_layers": 1, "expansion": 2, "invertible": 2, "iterations": 1}
PUBLISHED = {"decomposition": "detached", "semantic": "constant", "interaction": "detail"}


def tiny(seed: int = 0, **changes) -> SMFNet:
    """A narrow network whose graph has opened up: gamma starts at zero."""
    torch.manual_seed(seed)
    method = build("smfnet", TINY | changes)
    if method.graph is not None:
        nn.init.constant_(method.graph.gamma, 0.5)
    return method


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


@pytest.mark.parametrize("scale_both", [False, True])
@pytest.mark.parametrize(("gain", "dtype", "tolerance"), [(1, torch.float32, 1e-5), (2, torch.float64, 1e-8)])
@torch.no_grad()
def test_invertible_blocks_are_undone(scale_both, gain, dtype, tolerance):
    """In single precision at the size of fresh weights; with weights that blow up the features, rounding needs more."""
    torch.manual_seed(0)
    blocks = InvertibleBlocks(16, 3, scale_both=scale_both).to(dtype)
    for parameter in blocks.parameters():
        parameter.mul_(gain)
    x = torch.randn(2, 16, 17, 33, dtype=dtype)
    there = blocks(x)
    assert (there - x).abs().max() > 0.1
    assert (blocks.inverse(there) - x).abs().max() < tolerance
    assert (blocks(blocks.inverse(x)) - x).abs().max() < tolerance


@torch.no_grad()
def test_an_invertible_block_is_its_equations():
    block = InvertibleBlocks(4, 1, scale_both=False).blocks[0]
    first, second = torch.randn(2, 1, 2, 8, 8)
    after = second + block.shift_second(first)  # eq. 6
    before = first * torch.exp(torch.tanh(block.scale_first(after))) + block.shift_first(after)  # eq. 5
    assert torch.allclose(block(torch.cat([first, second], 1)), torch.cat([before, after], 1), atol=1e-6)


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
    q = attention.project(second)[:, :4]
    k, v = attention.project(first)[:, 4:].chunk(2, dim=1)
    assert torch.allclose(one, channel_attention(q, k, v, attention.temperature))
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
    block, residual = TransformerBlock(8, 2, 2), ResidualTransformer(8, 2, 2, 2)
    for layer in (block.attention[1].out, block.feed_forward[1][4], residual.conv):
        layer.weight.zero_()
        if layer.bias is not None:
            layer.bias.zero_()
    assert torch.equal(block(x), x)
    assert torch.equal(residual(x), x)


# ---------------------------------------------------------------------------------------------------------- graph


@pytest.mark.parametrize("nodes", ["dilated", "pooled"])
@torch.no_grad()
def test_exchanging_the_modalities_exchanges_the_results(nodes):
    torch.manual_seed(0)
    graph = GraphReasoning(6, [4, 8, 16], 2, nodes).eval()
    graph.gamma.fill_(0.7)
    first, second = torch.randn(2, 2, 6, 17, 20)
    one, two = graph(first, second)
    assert one.shape == first.shape
    again = graph(second, first)
    assert torch.allclose(again[0], two, atol=1e-6)
    assert torch.allclose(again[1], one, atol=1e-6)
    assert not torch.allclose(one, two, atol=1e-2)
    assert not torch.allclose(graph(first, first)[0], one, atol=1e-3), "the other modality matters"


@torch.no_grad()
def test_a_delivery_by_hand():
    torch.manual_seed(0)
    delivery = Delivery(3)
    node, one, two = torch.randn(3, 2, 3, 1, 1)
    message = sum(torch.sigmoid(delivery.edge(node - other)) * other for other in (one, two))  # eq. 12 to 15
    z, r = torch.sigmoid(delivery.gates(torch.cat([message, node], 1))).chunk(2, 1)
    new = torch.tanh(delivery.candidate(torch.cat([message, r * node], 1)))
    assert torch.allclose(delivery(node, [one, two]), (1 - z) * node + z * new, atol=1e-6)


@torch.no_grad()
def test_gamma_lets_the_other_scales_in():
    torch.manual_seed(0)
    graph = GraphReasoning(4, [1, 2], 1, "dilated").eval()
    first, second = torch.randn(2, 1, 4, 12, 12)
    before = graph(first, second)[0]
    graph.within.edge.weight.normal_()
    assert torch.equal(graph(first, second)[0], before), "gamma starts at zero"
    graph.gamma.fill_(1)
    assert not torch.allclose(graph(first, second)[0], before, atol=1e-3)


@pytest.mark.parametrize(("nodes", "reach"), [("dilated", 8), ("pooled", 15)])
@torch.no_grad()
def test_a_node_sees_as_far_as_its_scale(nodes, reach):
    graph = GraphReasoning(2, [8], 1, nodes).eval()
    x = torch.zeros(1, 2, 64, 64)
    x[..., 32, 32] = 1
    touched = (graph.nodes[0](x) != graph.nodes[0](torch.zeros_like(x))).any(dim=1)[0].nonzero()
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
    assert torch.allclose(8 * spatial_gradient(image).abs().sum(dim=2), sobel_magnitude(image), atol=1e-6)


def test_losses_of_stage_one_by_hand():
    method = tiny()
    a, b = pair()
    images = torch.cat([a, b])
    method.decoder.forward = lambda features: images  # noqa: ARG005
    perfect = losses(method, "reconstruction", a, b)
    for term in ("ssim", "intensity", "gradient", "spatial"):
        assert perfect[term].item() == pytest.approx(0, abs=1e-6)
    assert 0 < perfect["semantic"] < 0.5
    restored = images * 0.5
    method.decoder.forward = lambda features: restored  # noqa: ARG005
    half = losses(method, "reconstruction", a, b)
    assert half["intensity"].item() == pytest.approx(0.75 * a.square().mean(dim=(1, 2, 3)).mean().item(), rel=1e-5)
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
    return np.mean([np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(a.flatten(0, 1), b.flatten(0, 1))])  # noqa: B905


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
    features = method._features(torch.cat([a, b]))[1]
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
    for changes, steers in (({}, True), (PUBLISHED, False)):
        method = tiny(**changes)
        value = losses(method, "reconstruction", a, b)["semantic"]
        assert 0 < value <= 1
        assert (gradient_norm(value, method) > 1e-4) == steers
    assert not value.requires_grad


def test_the_semantic_loss_wants_the_bright_region_bright():
    method = tiny()
    image = torch.full((1, 1, 8, 8), 0.2)
    image[..., 2:5, 2:5] = 0.7
    restored = image.clone().requires_grad_()
    method._semantic_loss(restored, image).backward()
    inside = image > 0.5
    assert (restored.grad[inside] < 0).all()
    assert (restored.grad[~inside] >= 0).all()
    contrary = 0.9 - image
    assert method._semantic_loss(contrary, image) > 0.9 > method._semantic_loss(image, image)


# --------------------------------------------------------------------------------------------------- the network


def test_parameters_at_the_paper_size():
    """Counted layer by layer: a convolution has inputs x outputs x taps weights and, unless said, a bias an output."""
    c, half, heads = 64, 32, 8
    projection = c * 3 * c + 3 * c * 9
    block = 4 * c + projection + heads + c * c + (c * 4 * c + 4 * c) + 40 * c + (4 * c * c + c)
    bottleneck = 2 * half**2 + 2 * half + 20 * half + 2 * half**2 + half
    cross = half * 3 * half + 3 * half * 9 + heads
    encoder = 10 * c + 4 * block + (2 * block + 9 * c * c + c) + cross + 2 * 3 * bottleneck
    delivery = (c * c + c) + (4 * c * c + 2 * c) + (2 * c * c + c)
    graph = 3 * (9 * c * c + 2 * c) + 2 * delivery + 1 + (2 * c * c + c)
    decoder = 4 * block + (9 * c * half + half) + (9 * half + 1)
    dense = (9 * c * c + c) + (18 * c * c + c) + (3 * c * c + c) + 18 * c + (c * c + c)
    expected = {
        "encoder": encoder, "graph": graph, "decoder": decoder, "base_fusion": 2 * block,
        "detail_fusion": dense + 2 * 4 * bottleneck,
    }  # fmt: skip
    method = build("smfnet", {})
    found = {name: sum(p.numel() for p in module.parameters()) for name, module in method.named_children()}
    assert found == expected
    assert sum(found.values()) == 1081674


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
        frozen = part == "reconstruction" and key.startswith(("base_fusion.", "detail_fusion."))
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
    with pytest.raises(UserError, match="class that the network was not told of"):
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
    assert {key.partition(".")[0] for key in whole.last} == {name for name, _ in tiny().named_children()}


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
        ({"residual": False}, "encoder.base.conv.", None),
        ({"graph": False}, "graph.", None),
        ({"join": "concat"}, None, "decoder.join."),
        ({"exchange": True}, "base_fusion.0.", "base_fusion.dense."),
        ({"nodes": "pooled"}, None, "graph.nodes.0.embed."),
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
        responses = nn.functional.conv2d(x, block.sobel, padding=1, groups=4).unflatten(1, (4, 2)).abs().sum(dim=2)
        assert torch.allclose(responses[..., 1:-1, 1:-1], sobel_magnitude(x)[..., 1:-1, 1:-1], atol=1e-5)
        assert "sobel" in block.state_dict()
        assert ("sobel" in dict(block.named_parameters())) == train
    method = tiny(train_sobel=False)
    assert not any(parameter is method.detail_fusion.dense.sobel for parameter in prepare_part(method, "fusion"))
    assert not method.detail_fusion.dense.sobel.requires_grad


@pytest.mark.parametrize(
    "changes",
    [{"dim": 10}, {"dim": 0}, {"heads": 3}, {"scales": []}, {"scales": [0]}, {"nodes": "cubic"}, {"semantic": "masks"}],
    ids=str,
)
def test_wrong_options_are_refused(changes):
    with pytest.raises(UserError, match="SMFNet cannot use these options") as caught:
        build("smfnet", TINY | changes)
    assert str(next(iter(changes.values()))) in str(caught.value)


@pytest.mark.parametrize("name", ["paper", "small_smfnet"])
def test_every_row_of_table_five_changes_what_it_says(name):
    parameters = yaml.safe_load((ROOT / f"workflow/configs/{name}.yaml").read_text(encoding="utf-8"))
    found = {}
    for variant in parameters["methods"]["smfnet"]["variants"]:
        settings = plan.settings_of(parameters, "smfnet", variant)
        found[variant] = build("smfnet", network_options(settings))
    base = found["base"]
    assert found["both_correlations"].both_stages and not base.both_stages
    assert found["no_graph"].graph is None and base.graph is not None
    assert found["inn_only"].encoder.detail.cross is None and base.encoder.detail.cross is not None
    assert isinstance(base.encoder.base, ResidualTransformer)
    assert not isinstance(found["no_residual"].encoder.base, ResidualTransformer)
    assert type(found["exchanged"].base_fusion) is type(base.detail_fusion)
    published = found["as_published"]
    chosen = (published.decomposition, published.semantic, published.interaction, published.stretch)
    assert chosen == ("detached", "constant", "detail", True)
    quiet = plan.settings_of(parameters, "smfnet", "no_intensity_semantic")["parts"]["reconstruction"]["loss"]
    assert (quiet["semantic"], quiet["intensity"]) == (0, 0)


def test_names_in_weights_files_stay():
    """Published weights are found by these names: if this fails, old files no longer load."""
    names = sorted(f"{key} {tuple(value.shape)}" for key, value in tiny().state_dict().items())
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    assert (len(names), digest) == (193, "3af739be00d2bd88")

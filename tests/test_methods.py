"""Every fusion method, found by itself: shapes, range, batches, gradients, checkpoints; and MMA-UNet's options."""

from __future__ import annotations

import copy
import hashlib
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from conftest import demo_parameters
from mmfuse import methods
from mmfuse.errors import UserError
from mmfuse.methods.base import FusionMethod
from mmfuse.nn.attention import ChannelSpatialAttention, PooledConvAttention
from mmfuse.stages.train import check_parts
from mmfuse.study import plan
from mmfuse.study.settings import network_options, without_adaptive
from mmfuse.training.checkpoints import (
    WeightsCard,
    build,
    load_into,
    load_method,
    load_state,
    read_weights,
    save_weights,
    weights_of,
)
from mmfuse.training.loop import prepare_part

NAMES = methods.available()
ROOT = Path(__file__).parents[1]
PARAMETERS = demo_parameters()
PARTS = [(name, part) for name in NAMES for part in methods.load(name).parts]
PAIRINGS = [
    [[1, 2], [2, 3], [3, 4], [4, 5]],
    [[1, 1], [2, 2], [3, 3], [4, 4]],
    [[2, 2], [3, 3], [4, 4], [5, 5]],
    [[1, 3], [2, 4], [3, 5]],
    [[2, 1], [3, 2], [4, 3], [5, 4]],
]


def options(name: str) -> dict:
    """The study's options of a method, as narrow as it can be."""
    found = network_options(plan.settings_of(PARAMETERS, name, "base"))
    return found | ({"width": 4} if "width" in inspect.signature(methods.load(name)).parameters else {})


def small(name: str, seed: int = 0, **changes) -> FusionMethod:
    torch.manual_seed(seed)
    return build(name, options(name) | changes)


def pair(height: int, width: int, batch: int = 1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    a, b = torch.rand(2, batch, 1, height, width, generator=draw)
    return a, b


def settle(method: FusionMethod) -> FusionMethod:
    """Give batch norms statistics that are not those of the start, so that eval mode means something."""
    with torch.no_grad():
        for module in method.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.02, 0.2)
    return method.eval()


def open_up(method: FusionMethod) -> FusionMethod:
    """Open the gates that start at zero: until their first step they let no gradient through to what lies behind."""
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.numel() == 1 and parameter == 0:
                parameter.fill_(0.5)
    return method


def lively(name: str) -> FusionMethod:
    """A method whose result is a picture: fresh weights often end in black."""
    a, b = pair(32, 32)
    candidates = (settle(small(name, seed)) for seed in range(30))
    return next(method for method in candidates if method(a, b).std() > 0.01)


def weights(name: str, part: str, value: float = 1.0) -> dict[str, float]:
    return dict.fromkeys(methods.load(name).loss_terms[part], value)


# ---------------------------------------------------------------------------------------------------- every method


def test_methods_are_found_by_their_files():
    folder = Path(methods.__file__).parent
    assert set(NAMES) == {path.stem for path in folder.glob("*.py")} - {"__init__", "base"}
    assert {"average", "maximum", "laplacian", "mma_unet"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_says_what_it_is(name):
    method = methods.load(name)
    assert issubclass(method, FusionMethod)
    assert method.summary
    assert method.source
    assert set(method.tasks) <= {"ivif", "mif"}
    assert set(method.loss_terms) == set(method.parts)


@pytest.mark.parametrize("name", NAMES)
def test_the_study_has_parameters_for_it(name):
    settings = plan.settings_of(PARAMETERS, name, "base")
    method = build(name, network_options(settings))
    if method.parts:
        check_parts(method, settings)


@pytest.mark.parametrize("path", sorted((ROOT / "workflow/configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_variant_of_every_configuration_can_be_built(path):
    parameters = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name, block in parameters["methods"].items():
        for variant in block.get("variants", {"base": {}}):
            settings = plan.settings_of(parameters, name, variant)
            options = [without_adaptive(network_options(settings, part)) for part in (None, *settings.get("parts", {}))]
            for number, found in enumerate(options):
                if found not in options[:number]:
                    with torch.device("meta"):  # at full size, but without its memory
                        method = build(name, found)
            if method.parts:
                check_parts(method, settings)


@pytest.mark.parametrize("shape", [(16, 16), (17, 33), (61, 40)])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_any_size_and_range(name, shape):
    method = lively(name)
    a, b = pair(*shape, batch=2)
    before = a.clone(), b.clone()
    for first, second in ((a, b), (a.round(), b.round()), (torch.zeros_like(a), torch.ones_like(a))):
        fused = method(first, second)
        assert fused.shape == a.shape
        assert fused.dtype == a.dtype
        assert fused.isfinite().all()
        assert fused.min() >= 0
        assert fused.max() <= 1
    method(a, b)
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_batch_is_its_images_one_by_one(name):
    method = lively(name)
    a, b = pair(33, 40, batch=3)
    singles = torch.cat([method(a[n : n + 1], b[n : n + 1]) for n in range(3)])
    assert torch.allclose(method(a, b), singles, atol=1e-5)  # another batch is convolved by another algorithm
    assert not torch.allclose(singles[0], singles[1], atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_both_images_matter(name):
    method = lively(name)
    a, b = pair(32, 32)
    other, _ = pair(32, 32, seed=9)
    assert not torch.allclose(method(a, b), method(other, b), atol=1e-5)
    assert not torch.allclose(method(a, b), method(a, other), atol=1e-5)


@pytest.mark.parametrize("name", ["average", "maximum", "laplacian"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (16, 16), (17, 33), (61, 40)])
def test_an_image_fused_with_itself(name, shape):
    a, _ = pair(*shape)
    assert torch.allclose(small(name)(a, a), a, rtol=0, atol=1e-6)


def test_the_simple_methods_by_hand():
    a, b = torch.tensor([[0.25, 1.0]])[None, None], torch.tensor([[0.75, 0.0]])[None, None]
    assert small("average")(a, b).flatten().tolist() == [0.5, 0.5]
    assert small("maximum")(a, b).flatten().tolist() == [0.75, 1.0]


def test_laplacian_keeps_the_stronger_detail():
    flat = torch.full((1, 1, 32, 32), 0.5)
    detail = flat + 0.2 * (torch.arange(32) % 2 * 2 - 1)
    fused = small("laplacian")(flat, detail)
    assert torch.allclose(fused, detail, atol=0.02)
    assert torch.allclose(fused, small("laplacian")(detail, flat), atol=1e-6)
    smooth = build("laplacian", {"levels": 0})(flat, detail)
    assert torch.allclose(smooth, (flat + detail) / 2)


def test_laplacian_of_flat_images_is_their_mean():
    flat, other = torch.full((1, 1, 33, 40), 0.2), torch.full((1, 1, 33, 40), 0.6)
    assert torch.allclose(small("laplacian")(flat, other), torch.full_like(flat, 0.4), atol=1e-6)


def test_an_unknown_method_or_option():
    with pytest.raises(UserError, match="did you mean 'mma_unet'"):
        methods.load("mma-unet")
    with pytest.raises(UserError, match="Unknown method 'base'"):
        methods.load("base")
    with pytest.raises(UserError, match="levls"):
        build("laplacian", {"levls": 3})


@pytest.mark.parametrize("number", [0, 1])
def test_the_examples_of_the_how_to_are_methods(number):
    """What docs/how-to/add-a-method.md shows runs as it stands, and trains."""
    text = (ROOT / "docs/how-to/add-a-method.md").read_text(encoding="utf-8")
    defined: dict = {}
    exec(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[number], defined)  # noqa: S102 - our own text
    torch.manual_seed(0)
    method = defined["METHOD"]()
    a, b = pair(17, 33, batch=2)
    assert method(a, b).shape == a.shape
    assert (method.summary, method.parts) == [("weighted mean of both images", ()), ("three convolutions", ("net",))][
        number
    ]
    for part in method.parts:
        block = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)[1])["methods"]["tiny"]
        check_parts(method, block)
        optimiser = torch.optim.Adam(prepare_part(method, part), block["parts"][part]["learning_rate"])
        course = []
        for _ in range(10):
            optimiser.zero_grad()
            loss = sum(method.part_losses(part, a, b, block["parts"][part]["loss"]).values())
            loss.backward()
            optimiser.step()
            course.append(loss.item())
        assert course[-1] < course[0]


# ---------------------------------------------------------------------------------------------- methods with weights


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_gradients_reach_what_a_part_trains_and_nothing_else(name, part):
    reached: set[str] = set()
    for seed in range(4):  # a unit that is dead for one start is alive for another
        method = open_up(small(name, seed))
        trained = prepare_part(method, part)
        losses = method.part_losses(part, *pair(32, 48, batch=2, seed=seed), weights(name, part))
        sum(losses.values()).backward()
        own = {id(parameter) for parameter in trained}
        for key, parameter in method.named_parameters():
            if id(parameter) not in own:
                assert parameter.grad is None, f"{key} is frozen"
                assert not parameter.requires_grad
            elif parameter.grad is not None and parameter.grad.abs().max() > 0:
                reached.add(key)
    assert reached == {key for key, parameter in method.named_parameters() if id(parameter) in own}


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_frozen_batch_statistics_stay(name, part):
    method = settle(small(name)).train()
    prepare_part(method, part)
    before = copy.deepcopy(method.state_dict())
    method.part_losses(part, *pair(32, 32, batch=2), weights(name, part))
    trained = tuple(f"{module}." for module in method.part_modules(part))
    changed = {key for key, value in method.state_dict().items() if not torch.equal(value, before[key])}
    normed = [m for module in method.part_modules(part).values() for m in module.modules()]
    assert bool(changed) == any(isinstance(m, torch.nn.BatchNorm2d) for m in normed), "the trained part's own move"
    assert all(key.startswith(trained) for key in changed)


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_loss_terms_are_weighted(name, part):
    method = settle(small(name))
    a, b = pair(32, 32, batch=2)
    once, thrice, none = (method.part_losses(part, a, b, weights(name, part, w)) for w in (1.0, 3.0, 0.0))
    assert set(once) == set(methods.load(name).loss_terms[part])
    for term, value in once.items():
        assert value.ndim == 0
        assert value > 0
        assert thrice[term].item() == pytest.approx(3 * value.item(), rel=1e-5)
        assert none[term] == 0


trained = pytest.mark.parametrize("name", [name for name in NAMES if methods.load(name).parts])


@pytest.fixture
def saved(name, tmp_path):
    method = lively(name)
    card = WeightsCard(name, "base", "ivif", 3, method.parts[-1], options(name), complete=True)
    path = tmp_path / "w.safetensors"
    save_weights(path, weights_of(method.deployed_modules()), card)
    return method, card, path


@trained
@torch.no_grad()
def test_round_trip_gives_the_same_image(saved):
    method, card, path = saved
    loaded, found = load_method(path)
    assert found == card
    assert not loaded.training
    a, b = pair(33, 40)
    assert torch.equal(loaded(a, b), method(a, b))


@trained
def test_equal_weights_give_equal_bytes(saved, tmp_path):
    method, card, path = saved
    save_weights(tmp_path / "again", dict(reversed(weights_of(method.deployed_modules()).items())), card)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@trained
def test_weights_are_copies(saved):
    method, _, _ = saved
    copied = weights_of(method.deployed_modules())
    before = {key: value.clone() for key, value in copied.items()}
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(1)
    assert all(torch.equal(copied[key], value) for key, value in before.items())


@trained
def test_a_missing_tensor_is_noticed(saved):
    _, card, path = saved
    tensors = load_file(path)
    lost = sorted(tensors)[0]
    save_weights(path, {key: value for key, value in tensors.items() if key != lost}, card)
    with pytest.raises(UserError, match="do not fit") as caught:
        load_method(path)
    assert lost in str(caught.value)


@trained
def test_weights_of_other_options_are_refused(name, saved):
    _, _, path = saved
    if "width" not in options(name):
        pytest.skip(f"{name} has no width to change")
    with pytest.raises(UserError, match="do not fit") as caught:
        load_into(small(name, width=8), path)
    assert "'width': 4" in str(caught.value)


@trained
def test_an_intermediate_part_is_no_network(name, saved, tmp_path):
    method, card, _ = saved
    first = method.parts[0]
    if len(method.parts) == 1:
        pytest.skip(f"{name} has one part")
    part = WeightsCard(**{**vars(card), "part": first, "complete": False})
    save_weights(tmp_path / "part", weights_of(method.part_modules(first)), part)
    with pytest.raises(UserError, match=f"only the part '{first}'"):
        load_method(tmp_path / "part")
    load_into(small(name), tmp_path / "part")


@trained
def test_garbage_is_named(saved, tmp_path):
    _, _, path = saved
    good = path.read_bytes()
    for number, bad in enumerate([b"", b"garbage", good[:100], good[:-1], b"\xff" * 1000]):  # cut in header and data
        (tmp_path / f"bad{number}").write_bytes(bad)
        with pytest.raises(UserError, match=f"Not a readable weights file: .*bad{number}"):
            read_weights(tmp_path / f"bad{number}")
    save_file({"x": torch.zeros(2)}, tmp_path / "foreign")
    with pytest.raises(UserError, match="Not a readable weights file"):
        load_method(tmp_path / "foreign")
    with pytest.raises(UserError, match="Weights not found"):
        load_method(tmp_path / "none")


def test_no_training_state_is_read_from_a_damaged_file(tmp_path):
    assert load_state(tmp_path / "none") is None
    for content in (b"", b"garbage", b"PK\x03\x04" + b"\0" * 100, b"\x80\x04\x95garbage."):
        (tmp_path / "bad").write_bytes(content)
        assert load_state(tmp_path / "bad") is None


# --------------------------------------------------------------------------------------------------------- MMA-UNet


@pytest.mark.parametrize("guidance", [True, False])
@pytest.mark.parametrize("pairing", PAIRINGS, ids=str)
@torch.no_grad()
def test_every_pairing_of_the_paper(pairing, guidance):
    method = settle(small("mma_unet", pairing=pairing, guidance=guidance))
    a, b = pair(33, 40)
    assert method(a, b).shape == a.shape
    losses = method.part_losses("fusion", *pair(32, 32, batch=2), weights("mma_unet", "fusion"))
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize(
    "pairing",
    [[[1, 1], [1, 1]], [[2, 2], [1, 1]], [[1, 6]], [[0, 1]], [[1, 2], [2, 1]], [], [[1, 2, 3]], [[1]], [1, 2], "ab"],
    ids=str,
)
def test_a_wrong_pairing_is_refused(pairing):
    with pytest.raises(UserError, match=r"pairing|options"):
        build("mma_unet", {"width": 4, "pairing": pairing})


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"output": "relu"}, "output"),
        ({"attention": "none"}, "attention"),
        ({"channel": "last"}, "channel"),
        ({"padding": "zeros"}, "padding"),
        ({"ssim_border": "wrap"}, "ssim_border"),
        ({"gradient_border": "constant"}, "gradient_border"),
        ({"width": 0}, "width 0"),
        ({"channels": 0}, "channels 0"),
        ({"last_kernel": 2}, "last_kernel 2"),
        ({"ssim_range": 0.0}, "ssim_range 0"),
    ],
    ids=str,
)
def test_other_wrong_options_are_refused(changes, word):
    with pytest.raises(UserError, match=word):
        small("mma_unet", **changes)


@pytest.mark.parametrize(("attention", "deep"), [("mixed", 2), ("pooled", 0), ("channel_spatial", 4)])
@torch.no_grad()
def test_attentions(attention, deep):
    method = settle(small("mma_unet", attention=attention))
    kinds = [type(level.attention).__name__ for level in method.fusion.pairs]
    assert kinds == ["PooledConvAttention"] * (4 - deep) + ["ChannelSpatialAttention"] * deep
    assert method(*pair(32, 32)).isfinite().all()


@pytest.mark.parametrize(
    ("channels", "taps"),
    [(4, 1), (8, 3), (16, 3), (32, 3), (64, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7)],
)
def test_taps_of_the_pooled_attention(channels, taps):
    """ECA's rule: the odd number from (log2 C + 1) / 2, rounded down; 5 in the paper's two shallow pairs."""
    mix = PooledConvAttention(channels).mix
    assert (mix.kernel_size, mix.padding, mix.bias) == ((taps,), (taps // 2,), None)


@torch.no_grad()
def test_pooled_attention_by_hand():
    torch.manual_seed(0)
    attention, x = PooledConvAttention(128), torch.randn(2, 128, 5, 6)
    taps = attention.mix.weight[0, 0].numpy()
    for image, found in zip(x.numpy(), attention(x).numpy(), strict=True):
        pooled = image.mean(axis=(1, 2)) + image.max(axis=(1, 2))  # one convolution for both, so for their sum
        score = np.correlate(np.pad(pooled, 2), taps, mode="valid")
        np.testing.assert_allclose(found, image / (1 + np.exp(-score[:, None, None])), atol=1e-5)


@torch.no_grad()
def test_channel_spatial_attention_by_hand():
    torch.manual_seed(0)
    attention, x = ChannelSpatialAttention(8), torch.randn(2, 8, 5, 6)
    squeeze, excite, spatial = attention.channel.squeeze, attention.channel.excite, attention.spatial
    assert (squeeze.out_features, spatial.out_channels) == (4, 1), "reduction 2; one map"
    names = ["channel.squeeze", "channel.excite", "spatial"]
    assert {key for key, _ in attention.named_parameters()} == {f"{n}.{k}" for n in names for k in ("weight", "bias")}
    arrays = (values.numpy() for layer in (squeeze, excite, spatial) for values in (layer.weight, layer.bias))
    w1, b1, w2, b2, w3, b3 = arrays
    for image, found in zip(x.numpy(), attention(x).numpy(), strict=True):
        channel = 1 / (1 + np.exp(-(w2 @ np.maximum(w1 @ image.mean(axis=(1, 2)) + b1, 0) + b2)))
        pixel = 1 / (1 + np.exp(-(np.tensordot(w3[0, :, 0, 0], image, axes=1) + b3)))
        expected = np.maximum(image * channel[:, None, None], image * pixel)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("last_kernel", [3, 1])
def test_the_papers_networks_line_by_line(last_kernel):
    """Widths, kernels and biases at the paper's size; levels 2 to 5 are fused."""
    with torch.device("meta"):
        method = build("mma_unet", {"last_kernel": last_kernel})

    def convolutions(module: torch.nn.Module) -> list[tuple[int, int, int, bool]]:
        kinds = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
        found = [layer for layer in module.modules() if isinstance(layer, kinds)]
        return [(c.in_channels, c.out_channels, c.kernel_size[0], c.bias is not None) for c in found]

    for unet in (method.vi_unet, method.ir_unet):
        widths = [3, 64, 128, 256, 512, 1024]
        for block, c, d in zip(unet.encoder.blocks, widths, widths[1:], strict=False):
            assert convolutions(block) == [(c, d, 3, False), (d, d, 3, False)]
        for up, block, c in zip(unet.decoder.ups, unet.decoder.blocks, (1024, 512, 256, 128), strict=True):
            assert convolutions(up) == [(c, c // 2, 2, True)]
            assert convolutions(block) == [(c, c // 2, 3, False), (c // 2, c // 2, 3, False)]
        assert convolutions(unet.decoder.out) == [(64, 3, 1, True)]
    assert method.vi_unet.encoder.guides is None
    for guide, c in zip(method.ir_unet.encoder.guides, (64, 128, 256, 512, 1024), strict=True):
        assert (guide.squeeze.in_features, guide.squeeze.out_features, guide.excite.out_features) == (c, c // 16, c)
        assert guide.squeeze.bias is guide.excite.bias is None
    for pair, c in zip(method.fusion.pairs, (64, 128, 256, 512), strict=True):
        assert isinstance(pair.visible[0], torch.nn.AvgPool2d)
        assert convolutions(pair.visible) == [(c, 2 * c, 1, True)]
        assert isinstance(pair.infrared, torch.nn.Identity)
    decoder = method.fusion.decoder
    assert {level: convolutions(up) for level, up in decoder.ups.items()} == {
        str(level): [(c, 2 * c, 3, False)] for level, c in ((5, 1024), (4, 512), (3, 256), (2, 128))
    }
    assert {level: convolutions(join) for level, join in decoder.joins.items()} == {
        str(level): [(2 * c, c, 3, False), (c, c, 3, False)] for level, c in ((4, 512), (3, 256), (2, 128))
    }
    assert convolutions(decoder.out) == [(64, 32, 3, True), (32, 16, 3, True), (16, 3, last_kernel, True)]
    norms = [layer.num_features for layer in decoder.out if isinstance(layer, torch.nn.BatchNorm2d)]
    assert norms == [32, 16], "none after the last convolution"


def test_the_joint_part_trains_the_encoders_as_well():
    method = small("mma_unet")
    trained = {id(parameter) for parameter in prepare_part(method, "joint")}
    sum(method.part_losses("joint", *pair(32, 32, batch=2), weights("mma_unet", "fusion")).values()).backward()
    for key, parameter in method.named_parameters():
        own = key.startswith(("vi_unet.encoder.", "ir_unet.encoder.", "fusion."))
        assert (id(parameter) in trained) == own, key
        assert (parameter.grad is not None) == own, key


def test_optional_parts_may_be_left_out_from_the_end_alone():
    method, block = small("mma_unet"), {"loss": {"mse": 1.0, "ssim": 1.0, "detail": 1.0}}
    stage_one = {"vi_unet": {"loss": {"mse": 1.0}}, "ir_unet": {"loss": {"mse": 1.0}}}
    check_parts(method, {"parts": stage_one | {"fusion": block}})
    check_parts(method, {"parts": stage_one | {"fusion": block, "joint": block}})
    for parts in (stage_one, stage_one | {"joint": block}):
        with pytest.raises(UserError, match="training parts") as error:
            check_parts(method, {"parts": parts})
        assert "joint may be left out" in str(error.value)


def fusing_to(fused: torch.Tensor, **changes) -> FusionMethod:
    """A method whose fusion network gives a known image."""
    method = settle(small("mma_unet", **changes))
    method.fusion.forward = lambda visible, infrared: fused  # noqa: ARG005
    return method


@torch.no_grad()
def test_what_becomes_of_three_channels():
    draw = torch.Generator().manual_seed(0)
    fused = 3 * torch.rand(2, 3, 32, 32, generator=draw) - 1
    a, b = pair(32, 32, batch=2)
    assert torch.equal(fusing_to(fused)(a, b), fused.mean(dim=1, keepdim=True).clamp(0, 1))
    assert torch.equal(fusing_to(fused, channel="first")(a, b), fused[:, :1].clamp(0, 1))


@torch.no_grad()
def test_stretching_takes_the_range_of_all_three_channels():
    """Each image by itself; the values that reach 0 and 1 may stand in another channel than the one that is kept."""
    fused = torch.full((2, 3, 32, 32), 0.5)
    fused[0, 1, 3, 4], fused[0, 2, 5, 6], fused[0, 0, 7, 8] = -0.5, 1.5, 1.0
    fused[1, 0, 3, 4], fused[1, 0, 5, 6] = 0.25, 1.25
    found = fusing_to(fused, channel="first", stretch=True)(*pair(32, 32, batch=2))
    assert found[0].unique().tolist() == pytest.approx([0.5, 0.75])
    assert found[1].unique().tolist() == pytest.approx([0.0, 0.25, 1.0])
    found = fusing_to(fused, stretch=True)(*pair(32, 32, batch=2))[0]
    assert found.unique().tolist() == pytest.approx([1 / 3, 0.5, (0.5 + 0.5 + 0.75) / 3, 2 / 3])
    extended = torch.full((1, 3, 48, 48), 9.0)  # what is cut away does not count
    extended[..., :33, :40] = torch.linspace(-1, 1, 33)[:, None]
    found = fusing_to(extended, stretch=True)(*pair(33, 40))
    assert torch.allclose(found, torch.linspace(0, 1, 33)[:, None].expand(1, 1, 33, 40), atol=1e-6)


@torch.no_grad()
def test_padding_matters_only_where_sides_do_not_divide():
    reflect, published = (settle(small("mma_unet", padding=padding)) for padding in ("reflect", "published"))
    assert torch.equal(reflect(*pair(32, 48)), published(*pair(32, 48)))
    for shape in ((32, 50), (33, 48), (17, 31)):
        found = published(*pair(*shape))
        assert found.shape[-2:] == shape
        assert not torch.allclose(reflect(*pair(*shape)), found, atol=1e-3)
    even = published._fuse(*pair(34, 46))
    assert torch.equal(published(*pair(34, 46)), even.mean(dim=1, keepdim=True).clamp(0, 1)), "nothing is resized"


@torch.no_grad()
def test_guidance_lets_the_visible_features_weight_the_infrared_ones():
    a, b = pair(32, 32)
    other, _ = pair(32, 32, seed=5)
    for guidance in (True, False):
        method = settle(small("mma_unet", guidance=guidance))
        for guide in method.ir_unet.encoder.guides or ():
            guide.squeeze.weight.abs_()  # no dead unit
        image = method._repeat(a)
        features = [method.ir_unet.encoder(image, method.vi_unet.encoder(method._repeat(v))) for v in (b, other)]
        same = [torch.equal(x, y) for x, y in zip(*features, strict=True)]
        assert same == [not guidance] * 5
    assert not any("guides" in key for key in small("mma_unet", guidance=False).state_dict())


@torch.no_grad()
def test_encoder_levels_halve_the_resolution_and_double_the_channels():
    method = small("mma_unet")
    features = method.vi_unet.encoder(torch.rand(1, 3, 32, 48))
    assert [tuple(f.shape[1:]) for f in features] == [
        (4, 32, 48), (8, 16, 24), (16, 8, 12), (32, 4, 6), (64, 2, 3),
    ]  # fmt: skip


@pytest.mark.parametrize(("output", "low", "high"), [("tanh", -1, 1), ("sigmoid", 0, 1), ("linear", -99, 99)])
@torch.no_grad()
def test_output_activation_of_stage_one(output, low, high):
    method = settle(small("mma_unet", output=output))
    method.vi_unet.decoder.out.weight.mul_(50)
    image = method.vi_unet(torch.rand(1, 3, 32, 32))
    assert low <= image.min() < image.max() <= high
    assert (image.abs().max() > 1) == (output == "linear")


@torch.no_grad()
def test_fusion_losses_by_hand():
    """Eq. 3 to 5 for a network whose output is replaced by a known image."""
    method = settle(small("mma_unet"))
    a, b = pair(32, 32)
    method.fusion.forward = lambda visible, infrared: ((a + b) / 2).expand(-1, 3, -1, -1)  # noqa: ARG005
    losses = method.part_losses("fusion", a, b, weights("mma_unet", "fusion"))
    assert losses["mse"] == 0
    method.fusion.forward = lambda visible, infrared: a.expand(-1, 3, -1, -1)  # noqa: ARG005
    losses = method.part_losses("fusion", a, a, weights("mma_unet", "fusion"))
    assert {term: round(value.item(), 6) for term, value in losses.items()} == {"mse": 0, "ssim": 0, "detail": 0}
    flat = torch.full_like(a, 0.25)
    method.fusion.forward = lambda visible, infrared: flat.expand(-1, 3, -1, -1)  # noqa: ARG005
    step = flat.clone()
    step[..., 16:] = 0.75
    losses = method.part_losses("fusion", flat, step, weights("mma_unet", "fusion"))
    assert losses["mse"].item() == pytest.approx(0.25**2 / 2)
    # beyond the border zeros: in 30 rows the gradient differs by 4 * 0.5 in two columns and at the right-hand border;
    # the first and the last row see the border above or below, and three quarters of the step in their own columns
    edge = (1.5 + 0.5) + (1.5 + 1.5) + 14 * 4 * 0.5 + (1.5 + 1.5)
    assert losses["detail"].item() == pytest.approx(((30 * 3 * 4 * 0.5 + 2 * edge) / 1024) ** 2)
    for border in ("reflect", "replicate"):  # gradient 4 * 0.5 in 2 of 32 columns: mean 0.125
        method.gradient_border = border
        losses = method.part_losses("fusion", flat, step, weights("mma_unet", "fusion"))
        assert losses["detail"].item() == pytest.approx(0.125**2)


@torch.no_grad()
def test_options_of_the_fusion_loss():
    a, b = pair(32, 32, batch=2)
    base = settle(small("mma_unet"))
    once = base.part_losses("fusion", a, b, weights("mma_unet", "fusion"))
    for option, changed in ({"ssim_border": "zeros"}, "ssim"), ({"ssim_border": "replicate"}, "ssim"), (
        {"ssim_range": 2.0}, "ssim"), ({"gradient_border": "reflect"}, "detail"):  # fmt: skip
        other = settle(small("mma_unet", **option))
        other.load_state_dict(base.state_dict())
        found = other.part_losses("fusion", a, b, weights("mma_unet", "fusion"))
        assert {term for term in once if not torch.equal(once[term], found[term])} == {changed}
        assert torch.equal(base(a, b), other(a, b))


def test_training_on_a_size_that_does_not_divide_by_sixteen_is_refused():
    method = small("mma_unet")
    for part in method.parts:
        for shape in ((40, 32), (32, 40)):
            with pytest.raises(UserError, match="divisible by 16"):
                method.part_losses(part, *pair(*shape, batch=2), weights("mma_unet", part))


def test_names_in_weights_files_stay():
    """Published weights are found by these names: if this fails, old files no longer load."""
    names = sorted(f"{key} {tuple(value.shape)}" for key, value in small("mma_unet").state_dict().items())
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    assert (len(names), digest) == (324, "b06762f874f9fdb0")

"""What applies a network: precision, programs other than torch, and the benchmark that compares them."""

from __future__ import annotations

import copy
import json
import math
import shutil
import signal
import subprocess
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor

from mmfuse.benchmarks import backends as compared
from mmfuse.data.images import luminance, read_image, write_image
from mmfuse.errors import UserError
from mmfuse.inference import backends
from mmfuse.inference.fast_copy import for_inference
from mmfuse.inference.half_precision import HalfConv2d, agreement, check, has_bf16, in_bf16, noise_pair
from mmfuse.scenes import synthetic_brain, synthetic_road
from mmfuse.training.checkpoints import build, load_method
from mmfuse.weights import shipped

CPU = torch.device("cpu")
SMALL = {
    "lkc_funet": {"width": 8, "channels": 8, "groups": 4, "kernels": [15, 11, 5]},
    "mma_unet": {"width": 8},
    "smfnet": {"dim": 16, "heads": 4},
}
SHIPPED = sorted(shipped.read_index().weights)


def untrained(name: str):
    """A network with random weights whose features neither fade nor grow."""
    torch.manual_seed(0)
    return compared.with_statistics(build(name, SMALL.get(name, {})))


@pytest.mark.parametrize("name", sorted(SMALL))
def test_untrained_networks_give_images(name):
    image = untrained(name)(*noise_pair(64, 64))
    assert image.std() > 0.01
    assert ((image > 0) & (image < 1)).float().mean() > 0.9


def drawn(task: str) -> tuple[Tensor, Tensor]:
    """Draw a pair of a task."""
    rng = np.random.default_rng(1)
    if task == "ivif":
        images = synthetic_road.render(rng, "night", 96, 128)[:2]
    else:
        images = synthetic_brain.render(rng, "pet", 96, 96)[:2]
    first, second = (torch.from_numpy(luminance(image).copy())[None, None].float() / 255 for image in images)
    return first, second


# ---------------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("name", SHIPPED)
@torch.inference_mode()
def test_bf16_keeps_the_images_of_trained_weights(name):
    one = shipped.named(name)
    fast = for_inference(load_method(shipped.verified(one))[0])
    half = in_bf16(fast)
    assert sum(isinstance(module, HalfConv2d) for module in half.modules()) > 20
    for images in (noise_pair(96, 128), *(drawn(task) for task in one.tasks)):
        single = fast(*images)
        found = agreement(single, half(*images))
        assert single.std() > 0.05
        assert found.good, found
        assert found.psnr < 100, "nothing was rounded"


@pytest.mark.parametrize(("name", "least"), [("smfnet", 50), ("mma_unet", 30), ("lkc_funet", 30)])
@torch.inference_mode()
def test_bf16_keeps_the_images_of_random_weights(name, least):
    """The images of the last two are mostly noise, unlike those of trained weights."""
    fast = for_inference(untrained(name))
    half = in_bf16(fast)
    for images in (noise_pair(48, 64), drawn("ivif")):
        found = agreement(fast(*images), half(*images))
        assert least < found.psnr < 120


@torch.inference_mode()
def test_layers_that_read_or_write_images_are_not_rounded():
    half = in_bf16(for_inference(untrained("mma_unet")))
    kinds = {min(m.in_channels, m.out_channels): type(m) for m in half.modules() if isinstance(m, torch.nn.Conv2d)}
    assert all((kind is HalfConv2d) == (least >= 8) for least, kind in kinds.items())
    assert set(kinds) >= {1, 8} or set(kinds) >= {3, 8}
    layer = next(module for module in half.modules() if isinstance(module, HalfConv2d))
    image = torch.rand(1, layer.in_channels, 9, 9)
    assert layer(image).dtype == torch.float32
    exact = torch.nn.Conv2d._conv_forward(layer, image.double(), layer.weight.double(), None)
    bias = 0 if layer.bias is None else layer.bias[:, None, None]
    assert 0 < (layer(image) - exact - bias).abs().max() < 0.02 * exact.abs().max()


def test_agreement_by_hand():
    image = torch.full((1, 1, 10, 100), 0.5)
    other = image.clone()
    other[..., 0, 0] += 3 / 255
    found = agreement(image, other)
    assert found.within_one == 0.999
    assert found.psnr == pytest.approx(-10 * math.log10((3 / 255) ** 2 / 1000), abs=1e-4)
    assert found.good
    other[..., 0, 1] += 3 / 255
    assert not agreement(image, other).good, "two of a thousand pixels are off"
    assert not agreement(image, image + 0.9 / 255).good, "below 50 dB"
    other[..., 0, 0] = torch.nan
    assert agreement(image, other) == (0, 0), "not finite"
    assert agreement(image, image).good


def test_auto_needs_hardware_and_agreement(monkeypatch):
    network = load_method(shipped.verified(shipped.named("lkc_ivif")))[0]

    def used() -> dict:
        fuse, record = backends.prepared(network, CPU, precision="auto")
        assert isinstance(fuse, torch.nn.Module)
        rounded = any(isinstance(module, HalfConv2d) for module in fuse.modules())
        assert rounded == (record["precision"] == "bf16")
        return record

    monkeypatch.setattr(backends, "has_bf16", lambda _: False)
    assert used() == {"backend": "torch", "precision": "fp32"}
    monkeypatch.setattr(backends, "has_bf16", lambda _: True)
    record = used()
    assert record["precision"] == "bf16"
    assert record["bf16_psnr"] > 50
    assert record["bf16_within_one_level"] > 0.999
    monkeypatch.setattr(backends, "in_half", lambda *_: for_inference(broken(network)))
    record = used()
    assert record["precision"] == "fp32"
    assert record["bf16_psnr"] < 50


def broken(network):
    """Return a copy with other weights in its last layer."""
    network = copy.deepcopy(network)
    network.net.out[2].weight.data += 0.1
    return network


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({}, False), ({"avx2": True}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)],
    ids=str,
)
def test_which_processors_have_bf16(flags, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert has_bf16(CPU) is expected


def test_check_uses_one_fixed_pair():
    seen = []

    def look(a: Tensor, b: Tensor) -> Tensor:
        seen.append((a, b))
        return a

    assert check(look, look, CPU).psnr > 100
    for a, b in seen:
        assert torch.equal(a, seen[0][0]) and torch.equal(b, seen[0][1])
        assert (a.min(), a.max()) == (b.min(), b.max()) == (0, 1)
        assert not torch.equal(a, b)


# ----------------------------------------------------------------------------------------------------------- backends


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", ["average", *SMALL])
@torch.inference_mode()
def test_another_program_gives_the_same_image(name, backend):
    if any(find_spec(package) is None for package in backends.PACKAGES[backend]):
        pytest.skip("the optional extra mmfuse[backends] is not installed")
    network = untrained(name)
    fuse, _ = backends.prepared(network, CPU, backend=backend)
    for images in (noise_pair(33, 48), noise_pair(32, 32)):
        torch.testing.assert_close(fuse(*images), network(*images), rtol=0, atol=1e-4)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
@torch.inference_mode()
def test_a_compiled_method_gives_the_same_image():
    network = untrained("average")
    fuse, record = backends.prepared(network, CPU, backend="compile")
    torch.testing.assert_close(fuse(*noise_pair(32, 48)), network(*noise_pair(32, 48)))
    assert record["backend"] == "compile"


def test_each_of_many_sizes_is_compiled_once(monkeypatch, capsys):
    """Torch compiles a function for 8 sizes by default, and then runs it uncompiled."""
    from torch._dynamo.testing import CompileCounter

    counter, compile_ = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda network, **options: compile_(network, backend=counter, **options))
    torch.compiler.reset()
    network = untrained("average")
    fuse, _ = backends.prepared(network, CPU, backend="compile")
    for number in range(20):
        images = noise_pair(32 + number, 48)
        for _ in range(2):
            assert torch.equal(fuse(*images), network(*images))
        assert counter.frame_count == number + 1
    said = capsys.readouterr().err
    assert said.count("note: compile prepares the network for each image size") == 1
    assert "recompile_limit" not in said
    torch.compiler.reset()


def test_few_sizes_are_kept(monkeypatch):
    prepared = []
    monkeypatch.setattr(backends, "_compiled", lambda network, a, _b: prepared.append(tuple(a.shape[2:])) or network)
    fuse, _ = backends.prepared(untrained("average"), CPU, backend="compile")
    sides = [(16, 16 + side) for side in (0, 1, 0, 2, 3, 4, 0)]
    for height, width in sides:
        fuse(*noise_pair(height, width))
    assert prepared == [(16, 16), (16, 17), (16, 18), (16, 19), (16, 20), (16, 16)]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_missing_packages_are_named(backend, monkeypatch):
    monkeypatch.setattr(backends, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"mmfuse\[backends\]") as error:
        backends.prepared(untrained("average"), CPU, backend=backend)
    assert f"no {backend}" in str(error.value)


def test_a_network_that_a_program_cannot_convert(monkeypatch):
    def fail(*_):
        raise RuntimeError("no operator\nand a long explanation")

    monkeypatch.setattr(backends, "_compiled", fail)
    fuse, _ = backends.prepared(untrained("average"), CPU, backend="compile")
    with pytest.raises(UserError, match="compile cannot run this network") as error:
        fuse(*noise_pair(16, 16))
    assert error.value.found == "RuntimeError: no operator"


def test_submodules_called_graph_keep_their_place():
    network = untrained("smfnet")
    before = network(*noise_pair(16, 16))
    renamed = backends._renamed(network)
    assert "graph" not in renamed._modules
    assert torch.equal(renamed(*noise_pair(16, 16)), before)


@pytest.mark.parametrize("choice", [{"backend": "onnxruntime"}, {"backend": "compile"}], ids=str)
def test_bf16_where_a_program_has_none(choice):
    with pytest.raises(UserError, match="only computes in single precision"):
        backends.prepared(untrained("average"), CPU, precision="bf16", **choice)


def test_fuse_takes_precision_and_backend(mmfuse, tmp_path):
    for kind, image in zip("ab", synthetic_road.render(np.random.default_rng(0), "day", 64, 80)[:2], strict=True):
        write_image(tmp_path / kind / "one.png", image)

    def fused(name: str, *words: str) -> np.ndarray:
        code, _, err = mmfuse("fuse", str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / name), *words)
        assert code == 0, err
        return read_image(tmp_path / name / "one.png").astype(int)

    trained = ("--weights", "lkc_ivif")
    single, half = fused("single", *trained), fused("half", *trained, "--precision", "bf16")
    assert np.array_equal(single, fused("same", *trained, "--precision", "fp32", "--backend", "torch"))
    assert 0 < np.abs(single - half).max() <= 4
    assert fused("auto", *trained, "--precision", "auto").shape == single.shape
    for words in (["--precision", "fp16"], ["--backend", "tensorrt"]):
        assert mmfuse("fuse", str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "no"), *words)[0] == 2
    assert not (tmp_path / "no").exists()


# ---------------------------------------------------------------------------------------------------------- benchmark


def test_the_benchmark_lists_every_backend(mmfuse):
    words = ["benchmark", "network", "lkc_funet", "--height", "32", "--width", "48", "--repeats", "3", "--threads", "1"]
    for option in ("width=8", "channels=8", "groups=4", "kernels=[3]", "decoder_blocks=[lkc]"):
        words += ["--network", option]
    code, out, err = mmfuse(*words, "--backends", "readable,copy,bf16,onnxruntime,openvino", "--json")
    assert code == 0, err
    result = json.loads(out)
    asked = {"readable", "copy", "bf16", "onnxruntime", "openvino"}
    run, reasons = result["seconds"].keys(), result["reasons"]
    assert run | reasons.keys() == asked
    assert not run & reasons.keys()
    assert run >= {"readable", "copy", "bf16"}
    for key in ("seconds", "processor_seconds", "peak_mib", "difference", "psnr", "within_one_level"):
        assert result[key].keys() == run
        assert all(value >= 0 for value in result[key].values())
    assert max(result["difference"][name] for name in ("readable", "copy")) < 1e-5 < result["difference"]["bf16"] < 0.05
    for name, reason in reasons.items():
        assert f"no {name}" in reason


def test_reasons_are_shown(monkeypatch, mmfuse):
    def refuse(_case, name, out, *, limit):
        if name == "openvino":
            raise UserError(f"It took longer than {limit:g} s.")
        torch.save(torch.zeros(1, 1, 16, 16), out)
        return {"seconds": 1.0, "processor_seconds": 1.0, "seconds_to_prepare": 1.0, "peak_mib": 1.0}

    monkeypatch.setattr(compared, "_in_own_process", refuse)
    code, out, err = mmfuse("benchmark", "network", "average", "--backends", "all", "--limit", "7")
    assert code == 0, err
    assert "openvino     cannot run: It took longer than 7 s." in out
    assert all(f"  {name}" in out for name in compared.ALL)


@pytest.mark.parametrize("name", ["copy", "openvino"])
def test_a_backend_that_crashes(name, monkeypatch, tmp_path):
    """A failure of ours is an error; that of another program is a reason."""
    case = compared.Case("average", {}, 16, 16, 1, False, 1, 1, 16, 16)
    monkeypatch.setattr(compared.sys, "executable", shutil.which("false"))
    with pytest.raises(compared.MmfuseError) as error:
        compared._in_own_process(case, name, tmp_path / "out.pt", limit=60)
    assert isinstance(error.value, UserError) == (name == "openvino")


def test_an_interrupted_benchmark_ends_its_process(monkeypatch, tmp_path):
    case = compared.Case("average", {}, 16, 16, 1, False, 1, 1, 16, 16)
    communicate, begun = subprocess.Popen.communicate, []

    def interrupted(self, *_, timeout=None):
        begun.append(self)
        if timeout is not None:
            raise KeyboardInterrupt
        return communicate(self)

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compared._in_own_process(case, "copy", tmp_path / "out.pt", limit=60)
    assert begun[0].returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "words",
    [
        ["average", "--backends", "tensorrt"],
        ["average", "--backends", "copy", "--train"],
        ["average", "--backends", "copy", "--batch", "2"],
        ["no_such_weights", "--backends", "copy"],
        ["lkc_ivif", "--backends", "copy", "--network", "width=3"],
    ],
    ids=str,
)
def test_the_benchmark_refuses(words, mmfuse):
    assert mmfuse("benchmark", "network", *words)[0] == 2


# ------------------------------------------------------------------------------------------------------ first picture


def test_demo(mmfuse, tmp_path):
    out = tmp_path / "demo"
    code, said, err = mmfuse("demo", "--out", str(out))
    assert code == 0, err
    assert "mmfuse fuse" in said
    pictures = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert pictures == ["fused/night.png", "infrared/night.png", "picture.png", "visible/night.png"]
    before = {name: (out / name).read_bytes() for name in pictures}
    height, width, _ = read_image(out / "visible/night.png").shape
    picture = read_image(out / "picture.png")
    assert picture.shape == (height, 3 * width, 3)
    assert np.array_equal(picture[:, 2 * width :], read_image(out / "fused/night.png"))
    assert mmfuse("demo", "--out", str(out))[0] == 0
    assert {name: (out / name).read_bytes() for name in pictures} == before
    (out / "own.txt").write_text("mine", encoding="utf-8")
    code, _, err = mmfuse("demo", "--out", str(out))
    assert code == 2
    assert "own.txt" in err

"""A network made ready for inference gives the same images; the network itself stays as it is."""

import json

import pytest
import torch
import yaml
from torch import nn

from mmfuse import methods
from mmfuse.benchmarks import convolution, variants
from mmfuse.benchmarks import network as measured
from mmfuse.cli import app as cli
from mmfuse.fastconv.convolution_cost import LayerUse
from mmfuse.fastconv.large_kernel import LargeKernelConv2d
from mmfuse.inference.fast_copy import for_inference
from mmfuse.training.checkpoints import build

SMALL = {
    "lkc_funet": {"width": 8, "channels": 8, "groups": 4, "kernels": [15, 11, 5]},
    "mma_unet": {"width": 4},
    "smfnet": {"dim": 16, "heads": 4},
}


def images(height, width):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, 1, height, width, generator=generator) for _ in range(2)]


def network(name, **changes):
    """A network with weights and batch statistics of no special values."""
    torch.manual_seed(0)
    net = build(name, SMALL.get(name, {}) | changes)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net


@pytest.mark.parametrize("name", methods.available())
def test_every_method_gives_the_same_image(name):
    net = network(name).eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    fast = for_inference(net)
    for sides in ((32, 48), (17, 30)):
        with torch.inference_mode():
            expected = net(*images(*sides))
            for _ in range(3):
                torch.testing.assert_close(fast(*images(*sides)), expected, rtol=0, atol=1e-4)
    assert all(value.equal(before[key]) for key, value in net.state_dict().items())
    assert not fast.training
    assert not any(parameter.requires_grad for parameter in fast.parameters())


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("lkc_funet", {"norm": "batch", "init_norm": "batch", "mpafm": {"norm": "batch", "sides": "code"}}),
        ("lkc_funet", {"norm": "none", "init_norm": "none", "mpafm": {"norm": "none"}}),
        ("lkc_funet", {"init_norm": "per_modality", "skip": "concat", "kernels": [3, 3, 3]}),
        ("lkc_funet", {"groups": "channels", "depthwise_groups": 4, "finest_blocks": ["lkc"], "bottleneck_blocks": []}),
        ("mma_unet", {"attention": "channel_spatial", "padding": "published", "stretch": True, "channel": "first"}),
        ("mma_unet", {"attention": "pooled", "pairing": [[1, 3], [2, 4], [3, 5]], "guidance": False}),
        ("mma_unet", {"pairing": "learned", "width": 16}),
    ],
    ids=str,
)
def test_every_kind_of_block_gives_the_same_image(name, changes):
    net = network(name, **changes).eval()
    fast = for_inference(net)
    for sides in ((32, 48), (17, 30)):
        with torch.inference_mode():
            expected = net._fuse(*images(*sides))  # before it is clamped: fresh weights often end in black
            assert expected.std() > 0.001
            for _ in range(2):
                torch.testing.assert_close(fast._fuse(*images(*sides)), expected, rtol=0, atol=1e-4 * expected.std())
            torch.testing.assert_close(fast(*images(*sides)), net(*images(*sides)), rtol=0, atol=1e-4)


def test_what_changes_is_in_the_copy():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout(0.5), nn.BatchNorm2d(4), nn.ReLU(), nn.Sequential(nn.ReLU()))
    fast = for_inference(net)
    names = ["SmallKernelConv2d", "Identity", "Identity", "ReLU", "Sequential"]
    assert [type(layer).__name__ for layer in fast] == names
    assert fast[3].inplace
    assert not fast[4][0].inplace  # what it gets may be used elsewhere
    assert [type(layer).__name__ for layer in net] == ["Conv2d", "Dropout", "BatchNorm2d", "ReLU", "Sequential"]
    assert net.training and not net[3].inplace


@pytest.mark.parametrize(
    ("name", "changes", "last"),
    [
        ("lkc_funet", {"kernels": [3, 3, 3], "bottleneck_kernel": 3, "init_kernel": 3}, False),
        ("lkc_funet", {"kernels": [3, 3, 3], "bottleneck_kernel": 3, "init_kernel": 3, "channels": 128}, True),
        ("lkc_funet", {"kernels": [3, 3, 3], "norm": "batch", "init_norm": "batch", "mpafm": {"norm": "batch"}}, True),
        ("mma_unet", {}, True),
        ("smfnet", {}, True),
    ],
    ids=str,
)
def test_channels_are_last_where_that_saves_time(name, changes, last):
    """A narrow network with group norm keeps its layout, and every bit of its result."""
    net = network(name, **changes).eval()
    fast = for_inference(net)
    dense = [m for m in fast.modules() if isinstance(m, nn.Conv2d) and type(m) is not LargeKernelConv2d]
    square = [m for m in dense if m.kernel_size == (3, 3) and min(m.in_channels, m.out_channels) > 1]
    assert square
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) == last for m in square)
    kinds = {type(module).__name__ for module in fast.modules()}
    assert ("SmallKernelConv2d" in kinds) == ("PointwiseConv2d" in kinds) == last
    if not last:
        with torch.inference_mode():
            for sides in ((32, 48), (17, 30)):
                assert torch.equal(fast(*images(*sides)), net(*images(*sides)))


@pytest.mark.parametrize("groups", [1, 4, 24])
@pytest.mark.parametrize(("height", "width"), [(57, 71), (3, 5), (160, 641)])  # few rows, none, several blocks
def test_group_norm_keeps_its_digits(groups, height, width):
    generator = torch.Generator().manual_seed(0)
    norm = nn.GroupNorm(groups, 24).eval().requires_grad_(False)
    norm.weight.copy_(torch.rand(24, generator=generator) + 0.5)
    norm.bias.copy_(torch.randn(24, generator=generator))
    stable = for_inference(nn.Sequential(norm))
    # far from zero beside its spread, as the features of a pale image are
    image = (10 + torch.rand(2, 24, height, width, generator=generator)).contiguous(memory_format=torch.channels_last)
    exact = nn.functional.group_norm(image.double(), groups, norm.weight.double(), norm.bias.double())
    found = stable(image)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found - exact).abs().max() < 2e-5
    if height > 3:
        assert (norm(image) - exact).abs().max() > 2e-5
    other = image.contiguous()
    torch.testing.assert_close(stable(other), norm(other), rtol=0, atol=0)


@pytest.mark.parametrize("threads", [1, 2])
def test_1x1_convolutions_are_the_same(threads, monkeypatch):
    before = torch.get_num_threads()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(24, 36, 1), nn.Conv2d(36, 2, 1, bias=False), nn.Conv2d(2, 3, 1, stride=2))
    fast = for_inference(net)
    assert [type(layer).__name__ for layer in fast] == ["PointwiseConv2d", "PointwiseConv2d", "Conv2d"]
    image = torch.rand(2, 24, 40, 56)
    torch.set_num_threads(threads)
    try:
        for form in (torch.contiguous_format, torch.channels_last):
            with torch.inference_mode():
                found = fast(image.contiguous(memory_format=form))
                torch.testing.assert_close(found, net(image), rtol=0, atol=1e-5)
                with monkeypatch.context() as change:
                    change.setattr(torch.backends.mkldnn, "is_available", lambda: False)
                    torch.testing.assert_close(fast(image), net(image), rtol=0, atol=1e-5)
    finally:
        torch.set_num_threads(before)


def test_batch_norm_without_statistics_stays():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    image = torch.rand(2, 1, 9, 9)
    torch.testing.assert_close(for_inference(net)(image), net(image))


@pytest.fixture
def benchmark(capsys, monkeypatch):
    """Run `mmfuse benchmark network` with these words; return exit code and output."""

    def run(*words):
        monkeypatch.setattr("sys.argv", ["mmfuse", "benchmark", "network", *words, "--repeats", "1", "--threads", "1"])
        with pytest.raises(SystemExit) as leaving:
            cli.main()
        return leaving.value.code, capsys.readouterr().out

    return run


KEYS = {
    "speedup", "max_abs_diff", "seconds_direct", "seconds_ours", "peak_mib_direct", "peak_mib_ours", "parameters",
    "multiply_adds",
}  # fmt: skip


@pytest.mark.parametrize("train", [False, True])
def test_benchmark_of_a_network(train, benchmark, monkeypatch):
    if train:  # each process of its own costs seconds
        monkeypatch.setattr(measured, "_peak_in_own_process", measured._peak)
    words = ["lkc_funet", "--height", "16", "--width", "20", "--batch", "1", "--json"]
    for option in ("width=8", "channels=8", "groups=4", "kernels=[15]", "decoder_blocks=[lkc, lkdc]"):
        words += ["--network", option]
    code, out = benchmark(*words, *(["--train"] if train else []))
    assert code == 0
    result = json.loads(out)
    assert result.keys() >= KEYS
    assert result["network"]["kernels"] == [15]
    assert 0 < result["max_abs_diff"] < 1e-2 * result["max_abs_value"]
    assert train or 0 < result["error_ours"] < 1e-4
    assert all(result[f"{what}_{way}"] > 0 for what in ("seconds", "peak_mib") for way in ("direct", "ours"))
    assert result["multiply_adds"] > result["parameters"] > 10_000
    assert train or {"net", "net.init"} <= result["stages"]["ours"].keys()
    assert result["speedup"] == result["seconds_direct"] / result["seconds_ours"]


def test_the_cost_of_variants_is_counted_by_hand(parameters, project):
    """A layer of C channels, K x K, on N pixels has C C K K weights and N times as many multiply-adds."""
    block = parameters["methods"]["lkc_funet"]
    block["variants"]["wide"] = {"network": {"init_kernel": block["network"]["init_kernel"] + 2}}
    path = project / "params.yaml"
    path.write_text(yaml.safe_dump(parameters), encoding="utf-8")
    found = {row["variant"]: row for row in variants.run("lkc_funet", params=path, height=32, width=64)}
    base, wide = found["base"], found["wide"]
    again = build("lkc_funet", block["network"])
    assert base["parameters"] == sum(values.numel() for values in again.parameters())
    more = wide["parameters"] - base["parameters"]
    assert more > 0
    assert wide["multiply_adds"] - base["multiply_adds"] == more * 32 * 64
    assert [row["parameters"] for row in variants.run("average", params=path, height=32, width=32)] == [0]


def test_benchmark_of_a_method_without_large_kernels(benchmark, monkeypatch):
    monkeypatch.setattr(measured, "_peak_in_own_process", measured._peak)
    code, out = benchmark("laplacian", "--height", "32", "--width", "32")
    assert code == 0
    assert "times as fast" in out


@pytest.mark.parametrize("words", [["laplacian", "--train"], ["laplacian", "--network", "levels"], ["no_such_method"]])
def test_benchmark_refuses(words, benchmark):
    assert benchmark(*words)[0] == 2


def test_benchmark_of_the_convolution(monkeypatch):
    monkeypatch.setattr(convolution, "_AT_LEAST", 0.0)
    threads = torch.get_num_threads()
    result = convolution.run(layers=(LayerUse(1, 32, 32, 9, 8, 8), LayerUse(1, 32, 32, 15, 16, 16)))
    torch.set_num_threads(threads)
    assert result["fitted"].keys() == result["rates"].keys()
    for row in result["layers"]:
        for use in ("inference", "training"):
            assert 0 < row[use]["best"] <= min(row[use]["as_chosen"], row[use]["direct"])
    assert len(list(convolution.lines(result))) == 2 + len(result["rates"]) + 4

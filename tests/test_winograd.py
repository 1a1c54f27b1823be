"""3x3 convolutions through tiles, and blocks done band by band, are what torch computes."""

import pytest
import torch
from torch import nn

from mmfuse.fastconv import convolution_cost, small_kernel, winograd, workspace
from mmfuse.fastconv.convolution_cost import LayerUse, best_winograd_tile
from mmfuse.fastconv.small_kernel import SmallKernelConv2d
from mmfuse.inference import smfnet_blocks
from mmfuse.inference.fast_copy import for_inference
from mmfuse.nn.smfnet.graph import GraphReasoning
from mmfuse.nn.smfnet.invertible import Bottleneck
from mmfuse.nn.smfnet.transformer import DenseTransformerBlock, LocalFeedForward, TransformerBlock

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


def draw(*shape, dtype=torch.float32):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.fixture(autouse=True)
def limits():
    before = (workspace.LIMITS.workspace, workspace.LIMITS.spectra)
    yield
    workspace.set_limits(workspace=before[0], spectra=before[1])


@pytest.fixture
def tile(request, monkeypatch):
    """Go through tiles of this size, whatever it costs."""
    monkeypatch.setattr(small_kernel, "best_winograd_tile", lambda _task, _threads: request.param)
    return request.param


def close(found, expected):
    """Compare, relative to the largest value."""
    largest = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE[expected.dtype] * largest)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("tile", winograd.TILES, indirect=True)
@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"padding": 0, "bias": False},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": 1, "padding_mode": "replicate"},
        {"padding": 4, "dilation": 4, "bias": False},
        {"padding": 3, "dilation": 3, "padding_mode": "reflect"},
        {"padding": 0, "dilation": 2},
    ],
    ids=str,
)
def test_the_result_is_that_of_conv2d(tile, options, dtype):
    assert tile in winograd.TILES
    torch.manual_seed(0)
    plain = nn.Conv2d(5, 7, 3, dtype=dtype, **options).requires_grad_(False)
    assert SmallKernelConv2d.fits(plain)
    ours = SmallKernelConv2d(plain).eval()
    for batch, height, width in ((1, 12, 18), (2, 7, 23), (3, 5, 6)):
        image = draw(batch, 5, height, width, dtype=dtype)
        for x in (image, image.contiguous(memory_format=torch.channels_last)):
            for _ in range(3):  # without spectra, making them, with them
                close(ours(x), plain(x))
    assert ours._spectra.tensor is not None


@pytest.mark.parametrize("tile", winograd.TILES, indirect=True)
@pytest.mark.parametrize("limit", [{"workspace": 0.01}, {"spectra": 0.0}], ids=str)
def test_less_memory_gives_the_same(tile, limit):
    plain = nn.Conv2d(16, 16, 3, padding=1).requires_grad_(False)
    image = draw(2, 16, 33, 40)
    tiling = winograd.Tiling(2, 33, 40, winograd.KERNEL, tile)
    assert len(list(tiling.bands(32, 4))) == 1
    workspace.set_limits(**limit)
    assert len(list(tiling.bands(32, 4))) == (tiling.rows if "workspace" in limit else 1)
    ours = SmallKernelConv2d(plain).eval()
    for _ in range(3):
        close(ours(image), plain(image))
    assert (ours._spectra.tensor is None) == ("spectra" in limit)


@pytest.mark.parametrize("tile", [4], indirect=True)
def test_a_changed_weight_counts(tile):
    plain = nn.Conv2d(4, 4, tile - 1, padding=1).requires_grad_(False)
    ours = SmallKernelConv2d(plain).eval()
    image = draw(1, 4, 9, 9)
    for _ in range(2):
        ours(image), ours(image)
        close(ours(image), plain(image))
        ours.weight.mul_(2)  # the same tensor as the plain layer's


@pytest.mark.parametrize(
    "options", [{"stride": 2}, {"groups": 2}, {"padding": 2}, {"padding": "same"}, {"dilation": (1, 2)}], ids=str
)
def test_other_layers_stay_as_they_are(options):
    assert not SmallKernelConv2d.fits(nn.Conv2d(4, 4, 3, **options))
    assert not SmallKernelConv2d.fits(nn.Conv2d(4, 4, 5))


def test_the_way_depends_on_shapes():
    wide, narrow = LayerUse(1, 64, 64, 3, 256, 256, kept=True), LayerUse(1, 64, 64, 3, 8, 8, kept=True)
    assert best_winograd_tile(wide, 1) in winograd.TILES
    assert best_winograd_tile(narrow, 1) is None
    direct = convolution_cost.seconds_direct(wide, 1)
    assert all(
        convolution_cost.RATES.seconds(convolution_cost.work_of_winograd(wide, tile), 1) < direct
        for tile in winograd.TILES
    )


def random(block):
    """A block with weights of no special values, ready."""
    torch.manual_seed(0)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return block.double().eval()


@pytest.mark.parametrize("band", [1, 3 * 2**19])
@pytest.mark.parametrize(
    "make",
    [
        lambda: TransformerBlock(8, 2, 3),
        lambda: DenseTransformerBlock(8, 2),
        lambda: LocalFeedForward(8, 2),
        lambda: Bottleneck(8),
    ],
)
def test_blocks_in_bands_give_the_same(make, band, monkeypatch):
    monkeypatch.setattr(smfnet_blocks, "_BAND_BYTES", band)
    monkeypatch.setattr(smfnet_blocks, "_DENSE_BYTES", band)
    plain = random(make())
    fast = for_inference(nn.Sequential(plain))
    assert type(fast[0]).__name__.startswith("Banded")
    for batch, height, width in ((1, 2, 3), (2, 7, 5), (1, 21, 4)):
        x = draw(batch, 8, height, width, dtype=torch.float64)
        with torch.inference_mode():
            for image in (x, x.contiguous(memory_format=torch.channels_last)):
                close(fast(image), plain(image))


@pytest.mark.parametrize("band", [1, 2**22])
@pytest.mark.parametrize("nodes", ["dilated", "pooled"])
@pytest.mark.parametrize("scales", [(2, 3), (2, 3, 5), (2, 3, 5, 7)], ids=str)
def test_the_graph_in_bands_gives_the_same(nodes, scales, band, monkeypatch):
    monkeypatch.setattr(smfnet_blocks, "_GRAPH_BYTES", band)
    plain = random(GraphReasoning(6, scales, 2, nodes))
    fast = for_inference(nn.Sequential(plain))[0]
    assert isinstance(fast, smfnet_blocks.BandedGraphReasoning)
    first, second = draw(2, 2, 6, 11, 13, dtype=torch.float64)
    with torch.inference_mode():
        for found, expected in zip(fast(first, second), plain(first, second), strict=True):
            close(found, expected)


@pytest.mark.parametrize(
    "graph", [GraphReasoning(4, (2, 3, 5, 7), 1), GraphReasoning(4, (2, 3), 1, "dilated", "printed")]
)
def test_a_graph_whose_gates_lie_otherwise_stays_as_it_is(graph):
    fast = for_inference(nn.Sequential(random(graph)))[0]
    assert isinstance(fast, GraphReasoning)
    first, second = draw(2, 1, 4, 11, 13, dtype=torch.float64)
    with torch.inference_mode():
        for found, expected in zip(fast(first, second), graph(first, second), strict=True):
            close(found, expected)

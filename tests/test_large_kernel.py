"""The large-kernel convolution is a plain convolution in all but speed."""

import copy
import io
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmfuse.errors import UserError
from mmfuse.fastconv import convolution_cost, spectra, workspace
from mmfuse.fastconv.convolution_cost import LayerUse, best_tiling
from mmfuse.fastconv.depthwise import DepthwiseConvolution
from mmfuse.fastconv.large_kernel import LargeKernelConv2d, TiledConvolution, plain
from mmfuse.fastconv.overlap_save import Tiling, convolve, gradients, kernel_spectra


@pytest.fixture(autouse=True)
def _one_thread_and_fresh_limits():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    limits = (workspace.LIMITS.workspace, workspace.LIMITS.spectra)
    yield
    torch.set_num_threads(threads)
    workspace.set_limits(workspace=limits[0], spectra=limits[1])


@pytest.fixture
def always_tiles(monkeypatch):
    """Take the way through tiles whatever it costs."""
    monkeypatch.setattr(convolution_cost, "MARGIN", math.inf)
    best_tiling.cache_clear()
    yield
    best_tiling.cache_clear()


def draw(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def pair(channels_in, channels_out, kernel, **options):
    """The layer and a plain convolution with the same weights."""
    ours = LargeKernelConv2d(channels_in, channels_out, kernel, **options)
    theirs = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, **options)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def through_tiles(image, weight, bias, tile, **options):
    """`convolve` with the channels first."""
    tiling = Tiling(image.shape[0], *image.shape[2:], weight.shape[-1], tile)
    return convolve(image.permute(0, 2, 3, 1).contiguous(), weight, bias, tiling, **options).permute(0, 3, 1, 2)


@pytest.mark.parametrize("kernel", [3, 5, 11, 15, 19, 31])
@pytest.mark.parametrize(("height", "width", "tile"), [(33, 47, 16), (7, 50, 32), (20, 5, 9), (16, 16, 16), (1, 1, 8)])
def test_tiles_equal_direct_convolution(kernel, height, width, tile):
    image, bias = draw(2, 3, height, width, dtype=torch.float64), draw(5, dtype=torch.float64)
    weight = draw(5, 3, kernel, kernel, dtype=torch.float64, seed=1)
    expected = F.conv2d(image, weight, bias, padding=kernel // 2)
    torch.testing.assert_close(through_tiles(image, weight, bias, tile), expected, rtol=0, atol=1e-10)


@pytest.mark.usefixtures("always_tiles")
@pytest.mark.parametrize("kernel", range(3, 32, 4))
def test_single_precision_is_exact_to_1e_4(kernel):
    ours, theirs = pair(24, 16, kernel)
    image = draw(1, 24, 70, 45)
    scale = theirs(image).std().item()
    assert (ours(image) - theirs(image)).abs().max().item() < 2e-5 * scale


@pytest.mark.parametrize("kernel", [3, 11, 15, 31])
@pytest.mark.parametrize("shape", [(1, 6, 9, 40), (3, 6, 50, 33)])
def test_depthwise_equals_direct_convolution(kernel, shape):
    ours, theirs = pair(6, 6, kernel, groups=6)
    image, gradient = draw(*shape).requires_grad_(), draw(*shape, seed=1)
    torch.testing.assert_close(ours(image), theirs(image), rtol=0, atol=1e-5)
    wanted = torch.autograd.grad(theirs(image), [image, *theirs.parameters()], gradient)
    for ours_one, one in zip(
        torch.autograd.grad(ours(image), [image, *ours.parameters()], gradient), wanted, strict=True
    ):
        torch.testing.assert_close(ours_one, one, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kernel", "height", "width", "tile"), [(3, 9, 8, 6), (7, 13, 20, 8), (11, 6, 5, 7)])
def test_gradients_equal_those_of_direct_convolution(kernel, height, width, tile):
    image = draw(2, 3, height, width, dtype=torch.float64).requires_grad_()
    weight = draw(4, 3, kernel, kernel, dtype=torch.float64, seed=1).requires_grad_()
    bias = draw(4, dtype=torch.float64, seed=2).requires_grad_()
    gradient = draw(2, 4, height, width, dtype=torch.float64, seed=3)
    tiling = Tiling(2, height, width, kernel, tile)
    ours = torch.autograd.grad(TiledConvolution.apply(image, weight, bias, tiling), (image, weight, bias), gradient)
    theirs = torch.autograd.grad(F.conv2d(image, weight, bias, padding=kernel // 2), (image, weight, bias), gradient)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    last = [tensor.detach().permute(0, 2, 3, 1).contiguous() for tensor in (image, gradient)]
    assert gradients(*last, weight.detach(), tiling, of_image=False, of_weight=True)[0] is None
    assert gradients(*last, weight.detach(), tiling, of_image=True, of_weight=False)[1] is None


def test_gradients_by_finite_differences():
    image = draw(1, 2, 7, 6, dtype=torch.float64).requires_grad_()
    weight = draw(3, 2, 5, 5, dtype=torch.float64, seed=1).requires_grad_()
    bias = draw(3, dtype=torch.float64, seed=2).requires_grad_()
    tiling = Tiling(1, 7, 6, 5, 6)
    assert torch.autograd.gradcheck(lambda *x: TiledConvolution.apply(*x, tiling), (image, weight, bias))
    of_each = draw(2, 1, 5, 5, dtype=torch.float64, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: DepthwiseConvolution.apply(x, w, None), (image, of_each))


@pytest.mark.usefixtures("always_tiles")
def test_training_goes_like_with_plain_convolution():
    ours = nn.Sequential(LargeKernelConv2d(3, 8, 9), nn.ReLU(), LargeKernelConv2d(8, 2, 7))
    theirs = plain(copy.deepcopy(ours))
    assert [type(module) for module in theirs] == [nn.Conv2d, nn.ReLU, nn.Conv2d]
    image = draw(2, 3, 21, 18)
    for network in (ours, theirs):
        optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
        for _ in range(5):
            optimiser.zero_grad()
            (network(image) ** 2).mean().backward()
            optimiser.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("always_tiles")
def test_equal_inputs_give_equal_bytes():
    layer = LargeKernelConv2d(4, 4, 9).eval()
    image = draw(1, 4, 30, 30)
    with torch.no_grad():
        first, second, third = layer(image), layer(image), layer(image)
    assert layer._spectra.tensor is not None  # made at the second use
    assert first.equal(second) and second.equal(third)


@pytest.mark.usefixtures("always_tiles")
def test_a_changed_weight_is_noticed():
    ours, theirs = pair(4, 4, 9)
    image = draw(1, 4, 30, 30)

    def check():
        theirs.load_state_dict(ours.state_dict())
        with torch.no_grad():
            for _ in range(3):
                torch.testing.assert_close(ours(image), theirs(image), rtol=0, atol=1e-5)

    ours.eval()
    check()
    assert ours._spectra.tensor is not None
    optimiser = torch.optim.Adam(ours.parameters(), lr=0.1)
    ours(image).sum().backward()
    optimiser.step()
    check()
    ours.load_state_dict(LargeKernelConv2d(4, 4, 9).state_dict())
    check()
    ours.weight = nn.Parameter(draw(4, 4, 9, 9, seed=4) / 18)
    check()
    with torch.no_grad():
        ours.weight.mul_(2)
    check()
    ours.train()
    assert ours._spectra.tensor is None
    check()
    assert ours._spectra.tensor is None
    ours.eval()
    check()


def test_same_weights_as_a_plain_convolution():
    torch.manual_seed(3)
    ours = LargeKernelConv2d(3, 8, 7)
    torch.manual_seed(3)
    theirs = nn.Conv2d(3, 8, 7, padding=3)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(value.equal(ours.state_dict()[name]) for name, value in theirs.state_dict().items())
    assert LargeKernelConv2d(3, 8, 7, bias=False).state_dict().keys() == {"weight"}


@pytest.mark.usefixtures("always_tiles")
def test_copies_and_files_leave_the_spectra_out():
    layer = LargeKernelConv2d(4, 4, 9).eval()
    image = draw(1, 4, 20, 20)
    with torch.no_grad():
        expected = [layer(image) for _ in range(2)][-1]
        assert layer._spectra.tensor is not None
        file = io.BytesIO()
        torch.save(layer, file)
        assert file.tell() < 2 * layer.weight.nbytes + 10_000
        file.seek(0)
        for other in (copy.deepcopy(layer), torch.load(file, weights_only=False)):
            assert other._spectra.tensor is None
            assert other(image).equal(expected)


@pytest.mark.usefixtures("always_tiles")
@pytest.mark.parametrize("groups", [1, 4])
def test_every_mode_of_torch(groups):
    ours, theirs = pair(4, 4, 15, groups=groups)
    image = draw(2, 4, 24, 40)
    expected = theirs(image).detach()

    def check(result):
        torch.testing.assert_close(result.float(), expected, rtol=0, atol=1e-5)

    with torch.inference_mode():
        for network in (ours.train(), ours.eval()):
            for _ in range(3):
                check(network(image))
    with torch.no_grad():
        check(ours(image))
    check(ours(image))  # spectra and buffers made in inference mode serve here too
    ours(image).sum().backward()
    check(ours(image.to(memory_format=torch.channels_last)))
    check(ours(image.transpose(2, 3).contiguous().transpose(2, 3)))
    check(ours(torch.cat([image, image], dim=3)[..., :40]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        check(ours(image))  # in single precision all the same
        result = ours(image.bfloat16().requires_grad_())
        assert result.dtype == torch.float32
        result.sum().backward()
    with torch.inference_mode():
        inner = LargeKernelConv2d(4, 4, 15, groups=groups).eval()
        inner.load_state_dict(theirs.state_dict())
        for _ in range(2):
            check(inner(image))


def test_what_the_layer_leaves_to_torch():
    ours, theirs = pair(4, 4, 7)
    image = draw(4, 30, 30)
    assert ours(image).equal(theirs(image))  # no batch
    assert ours(image[None][:0]).shape == (0, 4, 30, 30)
    half = copy.deepcopy(ours).bfloat16()
    assert half(image[None].bfloat16()).dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="channels"):
        ours(image[None, :3])


@pytest.mark.parametrize("arguments", [(3, 3, 4), (3, 3, 33), (4, 8, 5, 2), (4, 8, 5, 4)])
def test_what_there_is_not(arguments):
    channels_in, channels_out, kernel, groups = (*arguments, 1)[:4]
    with pytest.raises(UserError):
        LargeKernelConv2d(channels_in, channels_out, kernel, groups=groups)


def buffered():
    """Return the size of this thread's buffers, in bytes."""
    return sum(flat.numel() * flat.element_size() for flat in workspace._BUFFERS.flat.values())


@pytest.mark.usefixtures("always_tiles")
def test_little_memory_changes_nothing_but_time():
    image = draw(2, 4, 64, 80)
    layer = LargeKernelConv2d(4, 4, 9).eval()
    with torch.no_grad():
        workspace._BUFFERS.flat.clear()
        expected = [layer(image) for _ in range(2)][-1]
        large = buffered()
        assert layer._spectra.tensor is not None
        workspace._BUFFERS.flat.clear()
        workspace.set_limits(workspace=0.3, spectra=0)
        got = [layer(image) for _ in range(2)][-1]
    assert buffered() < large / 2
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    tiling = Tiling(2, 64, 80, 9, 16)
    assert len(list(tiling.bands(8, 4))) > 2
    image, gradient = (draw(2, 64, 80, 4, seed=seed) for seed in (1, 2))
    small = gradients(image, gradient, layer.weight.detach(), tiling, of_image=True, of_weight=True)
    workspace.set_limits(workspace=256)
    for one, other in zip(
        small, gradients(image, gradient, layer.weight.detach(), tiling, of_image=True, of_weight=True), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


@pytest.mark.usefixtures("always_tiles")
def test_kept_spectra_stay_within_their_limit():
    layers = [LargeKernelConv2d(4, 4, 9).eval() for _ in range(3)]
    image = draw(1, 4, 40, 40)
    before = sum(spectra._KEPT.values())
    with torch.no_grad():
        layers[0](image), layers[0](image)
        one = sum(spectra._KEPT.values()) - before
        assert one == layers[0]._spectra.tensor.nbytes
        workspace.set_limits(spectra=(before + 2.5 * one) / 2**20)
        for layer in layers:
            layer(image), layer(image)
    assert [layer._spectra.tensor is not None for layer in layers] == [True, True, False]
    del layers, layer
    assert sum(spectra._KEPT.values()) == before


def test_the_choice_of_the_way():
    paper = LayerUse(1, 256, 256, 15, 128, 128, kept=True)
    assert best_tiling(paper, 2).tile == 32
    assert best_tiling(LayerUse(8, 64, 64, 15, 128, 128, of_image=True, of_weight=True), 2) is not None
    assert best_tiling(LayerUse(8, 64, 64, 3, 128, 128), 2) is None
    assert best_tiling(LayerUse(1, 16, 16, 15, 8, 8), 2) is None
    tiling = Tiling(1, 40, 40, 9, 16)
    kept = kernel_spectra(draw(2, 3, 9, 9), tiling)
    assert kept.shape == (tiling.half, 3 * tiling.length, 3, 2)

"""Images that do not fit into the memory: tiles without seams, and how much memory a network needs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from conftest import draw_image
from mmfuse import fuse, load, methods
from mmfuse.data.images import luminance, read_image, with_luminance, write_image
from mmfuse.errors import UserError
from mmfuse.fastconv.large_kernel import plain
from mmfuse.inference import memory, tiles
from mmfuse.inference.fast_copy import for_inference
from mmfuse.inference.fusing import fuse_pair
from mmfuse.inference.streamed import streamed
from mmfuse.inference.tiles import Axis, Grid, best_grid, fuse_in_tiles
from mmfuse.methods.base import FusionMethod
from mmfuse.training.checkpoints import build

SMALL_LKC = {"width": 4, "channels": 8, "groups": 4, "kernels": [3, 3], "bottleneck_kernel": 3, "init_kernel": 3}
NETWORKS = {
    "average": ("average", {}),
    "maximum": ("maximum", {}),
    "laplacian": ("laplacian", {}),
    "laplacian of two levels": ("laplacian", {"levels": 2}),
    "lkc_funet": ("lkc_funet", SMALL_LKC),
    "lkc_funet with large kernels": ("lkc_funet", SMALL_LKC | {"kernels": [9, 5], "init_kernel": 7}),
    "lkc_funet with batch norms": (
        "lkc_funet",
        SMALL_LKC | {"norm": "batch", "init_norm": "batch", "mpafm": {"norm": "batch", "sides": "code"}},
    ),
    "lkc_funet with plain skips": ("lkc_funet", SMALL_LKC | {"skip": "concat", "init_norm": "per_modality"}),
    "mma_unet": ("mma_unet", {"width": 4}),
    "mma_unet stretched": ("mma_unet", {"width": 4, "stretch": True, "channel": "first"}),
    "mma_unet of pooled attention": ("mma_unet", {"width": 4, "attention": "pooled", "pairing": "learned"}),
    "mma_unet of deep attention": ("mma_unet", {"width": 4, "attention": "channel_spatial", "guidance": False}),
    "smfnet": ("smfnet", {"dim": 8, "heads": 2, "scales": [2, 4]}),
    "smfnet without graph": ("smfnet", {"dim": 8, "heads": 2, "graph": False, "exchange": True, "stretch": True}),
}

NETWORKS |= {name: (name, {}) for name in methods.available() if name not in {name for name, _ in NETWORKS.values()}}


def network(kind, seed=0):
    """A network with weights and batch statistics of no special values."""
    name, options = NETWORKS[kind]
    torch.manual_seed(seed)
    net = build(name, options).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
        for name, values in net.named_parameters():
            if name.endswith("gamma"):
                values.fill_(0.5)  # opens the graph's messages, which start at zero
    return net


def images(height, width, seed=0):
    pair = (draw_image(2 * seed + n, height, width) for n in (0, 1))
    return [torch.from_numpy(image.copy())[None, None].float() / 255 for image in pair]


def source(image):
    return lambda rows, columns: image[..., rows, columns]


TILED = [kind for kind in NETWORKS if network(kind).reach() is not None]


def test_our_methods_can_be_fused_in_tiles():
    assert len(TILED) >= 14
    # where a pixel lies in these networks depends on the size of the image
    assert build("mma_unet", {"width": 4, "padding": "published"}).reach() is None
    assert build("smfnet", {"dim": 8, "heads": 2, "nodes": "pooled"}).reach() is None


# -------------------------------------------------------------------------------------------------------- the reach


def seen(net, size, axis):
    """How far rows (0) or columns (1) of the sources are that affect a row or column of the result: by gradients.

    The numbers of the whole image are constants, and nothing is clamped.
    """
    made, tile = streamed(plain(net.double()))
    pair = [image.double().requires_grad_() for image in images(*size)]
    tile.see(size, (0, size[0]), (0, size[1]))
    of_image = tile.of_image
    tile.of_image = lambda *arguments, **named: of_image(*arguments, **named).detach()
    fused = made(*pair)
    middle = size[axis] // 2 // net.multiple * net.multiple
    found = []
    for place in (middle, middle + net.multiple - 1):
        gradients = torch.autograd.grad(fused.select(2 + axis, place).sum(), pair, retain_graph=True)
        used = torch.stack(gradients).abs().sum(dim=(0, 1, 2, 4 - axis)).nonzero()
        found += [place - used.min().item(), used.max().item() - place]
    return max(found)


@pytest.mark.parametrize("kind", TILED)
@pytest.mark.parametrize("axis", [0, 1])
def test_the_reach_is_what_gradients_say(kind, axis, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "clamp", lambda self, *_: self)
    net = network(kind)
    reach = net.reach()
    size = [64, 64]
    size[axis] = -(-(2 * reach + 40) // net.multiple) * net.multiple
    found = seen(net, tuple(size), axis)
    assert found <= reach
    assert found >= 0.6 * reach, "the declared reach is not much larger than needed"


# ------------------------------------------------------------------------------------------ numbers of the whole image


@pytest.mark.parametrize("kind", TILED)
def test_one_window_is_the_image(kind):
    net = for_inference(network(kind))
    a, b = images(49, 66)
    made, tile = streamed(net)
    tile.see((49, 66), (0, 49), (0, 66))
    with torch.inference_mode():
        torch.testing.assert_close(made(a, b), net(a, b), rtol=0, atol=1e-4)
    assert bool(tile.place) == bool(net.parts), "only networks use numbers of the whole image"


@pytest.mark.parametrize("kind", TILED)
def test_an_image_in_tiles_is_the_image(kind):
    """At most 1e-4 apart, in tiles along both axes, with sides that no resolution divides."""
    net = for_inference(network(kind))
    halo = -(-net.reach() // net.multiple) * net.multiple
    height, width = 2 * halo + 37, 67
    a, b = images(height, width)
    with torch.inference_mode():
        whole = net(a, b)[0, 0].numpy()
    grid = Grid(Axis(height, 2 * halo or 16, halo), Axis(width, 48, halo))
    assert grid.count >= 4
    assert np.abs(fuse_in_tiles(net, source(a), source(b), grid) - whole).max() <= 1e-4


@pytest.mark.parametrize("task", ["ivif", "mif"])
def test_the_shipped_networks_have_no_seams(task):
    net = for_inference(load(task=task))
    a, b = images(297, 66)
    with torch.inference_mode():
        whole = net(a, b)[0, 0].numpy()
    grid = best_grid(297, 66, reach=net.reach(), multiple=net.multiple, pixels=285 * 66)
    assert grid.count > 1
    assert np.abs(fuse_in_tiles(net, source(a), source(b), grid) - whole).max() <= 1e-4


# --------------------------------------------------------------------------------------------------------- the grid


def test_tiles_cover_each_pixel_once_and_windows_fit():
    random = np.random.default_rng(0)
    none = 0
    for _ in range(300):
        height, width = (int(n) for n in random.integers(16, 3000, 2))
        reach, multiple = int(random.choice([0, 3, 60, 122])), int(random.choice([1, 4, 16]))
        pixels = int(random.choice([2000, 40_000, 300_000, 10_000_000]))
        grid = best_grid(height, width, reach=reach, multiple=multiple, pixels=pixels)
        if grid is None:
            none += 1
            halo = max(reach, 16) + multiple if reach else 0  # a window has at least 16 pixels
            side = 2 * halo + max(multiple, 16)
            assert pixels < (min(side, height) + 2 * multiple) * (min(side, width) + 2 * multiple)
            continue
        count = np.zeros((height, width), np.uint8)
        for own, window in grid:
            count[own] += 1
            for part, around, length in zip(own, window, (height, width), strict=True):
                assert around.start % multiple == 0
                assert around.start == 0 or part.start - around.start >= reach
                assert around.stop == length or around.stop - part.stop >= reach
                assert around.stop <= length
            assert np.prod([around.stop - around.start for around in window]) <= pixels
        assert (count == 1).all()
        assert grid.count == len([*grid])
    assert 0 < none < 200


def test_a_large_room_gives_few_tiles():
    grid = best_grid(6000, 8000, reach=122, multiple=4, pixels=3_000_000)
    assert grid.computed < 1.5 * 6000 * 8000
    assert best_grid(6000, 8000, reach=0, multiple=1, pixels=48_000_000).count == 1


# ------------------------------------------------------------------------------------------------------- the memory


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4GiB", 2**32), ("4 GiB", 2**32), ("1.5 gb", 1_500_000_000), ("500MB", 500_000_000), ("64M", 2**26),
     ("123456", 123456), (123456, 123456), ("2TiB", 2**41), ("10 kB", 10_000)],
)  # fmt: skip
def test_limits_as_people_write_them(text, expected):
    assert memory.parsed(text) == expected
    assert memory.limit(text).asked


@pytest.mark.parametrize("text", ["", "lots", "4 GiBs", "-1", "0", "4,5 GB", "1e9", "GiB", "nan", "0.1 B"])
def test_other_limits_are_refused(text, mmfuse, folders, tmp_path):
    with pytest.raises(UserError, match="The memory limit is wrong"):
        memory.parsed(text)
    with pytest.raises(ValueError, match="The memory limit is wrong"):
        fuse(draw_image(1), draw_image(2), method="average", memory=text)
    if text == "lots":
        code, _, err = mmfuse("fuse", *folders, tmp_path / "out", "--method", "average", "--memory", text)
        assert code == 2
        assert "The memory limit is wrong" in err
        assert not (tmp_path / "out").exists()


def test_the_machine_has_memory():
    assert 2**28 < memory.of_machine() < 2**50
    assert not memory.limit(None).asked
    # in a process of its own, because this one may give memory back at any time
    code = (
        "from mmfuse.inference.memory import in_use; before = in_use(); kept = b'x' * 2**27; print(in_use() - before)"
    )
    grown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 2**26 < int(grown) < 2**29


def test_the_need_grows_with_the_pixels():
    cpu = torch.device("cpu")
    average = memory.need(for_inference(network("average")), cpu)
    assert 16 <= average.pixel / memory._UNSEEN <= 24, "two images, their sum and its half"
    larger = {
        kind: memory.need(for_inference(network(kind)), cpu).pixel for kind in ("laplacian", "lkc_funet", "smfnet")
    }
    assert average.pixel < larger["laplacian"] < larger["lkc_funet"] < tiles._LARGEST_NEED
    assert larger["smfnet"] < tiles._LARGEST_NEED
    need = memory.Need(100, 8)
    assert need.of(10) == 180
    assert need.pixels(180) == 10
    assert need.pixels(50) == 0


@pytest.fixture
def limited(monkeypatch):
    """This process counts as empty, so that a limit is for the network alone."""
    monkeypatch.setattr(memory.Limit, "room", lambda self, *_: self.most)


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize("colour", [False, True])
def test_an_image_beyond_the_limit_is_fused_in_tiles(mmfuse, tmp_path, colour):
    a, b = draw_image(1, 700, 500), draw_image(2, 700, 500, colour=colour)
    write_image(tmp_path / "a.png", a)
    write_image(tmp_path / "b.png", b)
    words = ("fuse", tmp_path / "a.png", tmp_path / "b.png", tmp_path / "out", "--method", "laplacian")
    assert mmfuse(*words)[0] == 0
    whole = read_image(tmp_path / "out/a.png")
    code, _, err = mmfuse(*words, "--memory", "12MB")
    assert code == 0, err
    assert "memory: 700x500 pixels are fused in " in err
    found = read_image(tmp_path / "out/a.png")
    assert np.abs(found.astype(int) - whole).max() <= 1
    assert (found != whole).mean() < 1e-3
    assert np.array_equal(found, fuse(a, b, method="laplacian", memory=12_000_000))
    assert np.array_equal(whole, fuse(a, b, method="laplacian", memory="1 GB"))
    code, _, err = mmfuse(*words, "--memory", "1GB")
    assert code == 0
    assert "tiles" not in err
    assert np.array_equal(read_image(tmp_path / "out/a.png"), whole), "what fits is the same, bit for bit"


def test_other_backends_take_no_limit(mmfuse, folders, tmp_path):
    words = (*folders, tmp_path / "out", "--method", "average", "--memory", "4GiB", "--backend", "onnxruntime")
    code, _, err = mmfuse("fuse", *words)
    assert code == 2
    assert "The memory of the backend onnxruntime cannot be limited" in err


@pytest.mark.usefixtures("limited")
def test_too_little_memory_for_a_tile_is_said(mmfuse, folders, tmp_path):
    code, _, err = mmfuse("fuse", *folders, tmp_path / "out", "--method", "laplacian", "--memory", "20kB")
    assert code == 2
    assert "The memory is too small, even for one tile" in err
    assert "expected: about " in err
    with pytest.raises(ValueError, match="too small, even for one tile"):
        fuse(draw_image(1), draw_image(2), method="laplacian", memory=1000)


def test_a_limit_below_the_process_itself_is_said():
    with pytest.raises(UserError, match="too small, even for one tile"):
        fuse(draw_image(1), draw_image(2), method="average", memory="1 MB")


class Whole(FusionMethod):
    """A method of a user that does not say how far it sees."""

    def forward(self, a, b):
        """See `FusionMethod.forward`."""
        return (a + b) / 2 - (a - b).mean()


@pytest.mark.usefixtures("limited")
def test_what_cannot_be_fused_in_tiles():
    a, b = draw_image(1, 90, 80), draw_image(2, 90, 80)
    cpu = torch.device("cpu")
    expected = fuse_pair(Whole(), a, b, cpu)
    for one in (Whole(), Whole().forward):
        with pytest.raises(UserError, match=r"cannot be fused in tiles(.|\n)*FusionMethod\.reach"):
            fuse_pair(one, a, b, cpu, memory=memory.Limit(1000))
        # the machine's memory is no reason to refuse what may just fit
        assert np.array_equal(fuse_pair(one, a, b, cpu, memory=memory.Limit(1000, asked=False)), expected)
        assert np.array_equal(fuse_pair(one, a, b, cpu, memory=memory.Limit(2**40)), expected)


def test_luminance_in_bands_is_the_same(monkeypatch):
    colour = np.random.default_rng(0).integers(0, 256, (97, 61, 3), dtype=np.uint8)
    y = np.random.default_rng(1).random((97, 61)).astype(np.float32)
    whole = [luminance(colour), fuse(colour[..., 0], colour, method="average")]
    restored = with_luminance(colour, y.astype(np.float64))
    from mmfuse.data import arrays, images

    monkeypatch.setattr(images, "_BAND", 61 * 5)
    assert np.array_equal(luminance(colour), whole[0])
    assert np.array_equal(fuse(colour[..., 0], colour, method="average"), whole[1])
    assert np.array_equal(arrays.from_luminance(y, colour, np.dtype(np.uint8), arrays.BYTES), restored)


def test_the_need_of_a_larger_image_is_known_from_small_ones():
    net = for_inference(load(task="ivif"))
    need = memory.need(net, torch.device("cpu"))
    with torch.inference_mode(), memory._Peak() as peak:
        net(*images(200, 240))
    assert peak.most <= need.of(200 * 240) <= 3 * peak.most

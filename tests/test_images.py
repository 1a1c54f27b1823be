"""Reading, writing and converting images; luminance and chroma; fusing a pair in colour."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmfuse.data.images import (
    SUFFIXES,
    image_files,
    luminance,
    read_image,
    resize,
    to_bytes,
    with_luminance,
    write_image,
)
from mmfuse.errors import UserError
from mmfuse.inference.fast_copy import for_inference
from mmfuse.inference.fusing import fuse_pair, strip
from mmfuse.methods import available, load


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".TIFF", ".PNG"])
@pytest.mark.parametrize("colour", [False, True])
def test_lossless_round_trip(tmp_path, image, suffix, colour):
    pixels = image(1, 17, 23, colour=colour)
    write_image(tmp_path / f"x{suffix}", pixels)
    back = read_image(tmp_path / f"x{suffix}")
    assert back.dtype == np.uint8
    assert np.array_equal(back, pixels)


def test_jpeg_round_trip_is_close(tmp_path, image):
    pixels = np.repeat(image(1, 40, 40)[..., None], 3, axis=2)
    write_image(tmp_path / "x.jpg", pixels)
    back = read_image(tmp_path / "x.jpg")
    assert back.shape == pixels.shape
    assert np.abs(back.astype(int) - pixels).mean() < 10


def test_colour_as_asked_for(tmp_path, image):
    grey, colour = image(1, 16, 20), image(2, 16, 20, colour=True)
    write_image(tmp_path / "grey.png", grey)
    write_image(tmp_path / "colour.png", colour)
    assert np.array_equal(read_image(tmp_path / "grey.png", colour=True), np.stack([grey] * 3, axis=2))
    assert np.array_equal(read_image(tmp_path / "colour.png", colour=False), luminance(colour))
    assert np.array_equal(read_image(tmp_path / "grey.png", colour=False), grey)


@pytest.mark.parametrize(
    ("mode", "shape", "value"),
    [
        ("1", (4, 5), 255),
        ("LA", (4, 5), 90),
        ("RGBA", (4, 5, 3), 90),
        ("P", (4, 5, 3), 90),
        ("CMYK", (4, 5, 3), None),
    ],
)
def test_pixel_formats(tmp_path, mode, shape, value):
    name = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    picture = Image.new("RGB", (5, 4), (90, 90, 90))
    if mode in {"LA", "RGBA"}:
        picture.putalpha(0)
    (picture.quantize(4) if mode == "P" else picture.convert(mode)).save(name)
    pixels = read_image(name)
    assert pixels.shape == shape
    if mode == "1":
        assert set(np.unique(pixels)) <= {0, 255}
    elif value is not None:
        assert (pixels == value).all()  # the alpha channel is dropped, not blended


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_eight_bits_are_refused(tmp_path, mode):
    path = tmp_path / "x.tif"
    Image.fromarray(np.full((4, 4), 300, {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode])).save(path)
    with pytest.raises(UserError, match="8 bits") as caught:
        read_image(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "no.png", tmp_path):
        with pytest.raises(UserError, match="not found") as caught:
            read_image(path)
        assert str(path) in str(caught.value)


@pytest.mark.filterwarnings("ignore::Warning:PIL")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_whatever_is_wrong_with_a_file_is_one_clear_error(tmp_path, image, suffix):
    """Truncated anywhere or with bytes changed: an image or a UserError, never another exception."""
    write_image(tmp_path / f"good{suffix}", image(1, 24, 25, colour=True))
    good = (tmp_path / f"good{suffix}").read_bytes()
    random = np.random.default_rng(0)
    variants = [good[:length] for length in random.integers(0, len(good), 60)] + [b"", b"\0" * len(good)]
    for _ in range(150):
        bad = bytearray(good)
        # the first bytes hold the structure
        for place in random.integers(0, min(len(good), 200), random.integers(1, 5)):
            bad[place] = random.integers(256)
        variants.append(bytes(bad))
    refused = 0
    for data in variants:
        path = tmp_path / f"bad{suffix}"
        path.write_bytes(data)
        try:
            assert read_image(path).dtype == np.uint8
        except UserError as error:
            refused += 1
            assert str(path) in str(error)
    assert refused > 20


def test_every_flipped_bit_of_a_png_is_noticed_or_changes_no_pixel(tmp_path):
    """Decoding alone gives other pixels for some of them."""
    path, pixels = tmp_path / "x.png", np.add.outer(np.arange(40), np.arange(50)).astype(np.uint8)
    write_image(path, pixels)
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            assert np.array_equal(read_image(path), pixels)
        except UserError as error:
            assert "Damaged or unreadable image" in str(error) or "too large" in str(error)


@pytest.mark.mirror
def test_damaged_downloads_are_named():
    if "MMFUSE_MIRROR" not in os.environ:
        pytest.skip("MMFUSE_MIRROR is not set")
    folder = Path(os.environ["MMFUSE_MIRROR"]) / "corrupt"
    outcomes = {}
    for path in image_files(folder).values():
        try:
            outcomes[path.name] = read_image(path).shape
        except UserError as error:
            assert "Damaged or unreadable" in str(error)
            outcomes[path.name] = None
    assert outcomes["msrs_00890N_ir.png"] is None
    assert sum(shape is None for shape in outcomes.values()) >= 2


def test_luminance_is_exact():
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [1, 2, 3]]], np.uint8)
    assert luminance(colours).tolist() == [[76, 150, 29, 255, 2]]  # 76.245, 149.685, 29.07, 255, 1.815
    # 0.299 * 50 + 0.587 * 50 + 0.114 * 25 = 47.15; half-way cases go to the even neighbour
    halves = [(r, g, b) for r in range(256) for g in range(0, 256, 5) for b in range(0, 256, 5)
              if (299 * r + 587 * g + 114 * b) % 1000 == 500][:200]  # fmt: skip
    assert halves
    for value, (r, g, b) in zip(luminance(np.array([halves], np.uint8))[0], halves, strict=True):
        whole = (299 * r + 587 * g + 114 * b) // 1000
        assert value == whole + whole % 2


def test_luminance_of_grey_is_itself(image):
    grey = image(3, 16, 16)
    assert np.array_equal(luminance(np.stack([grey] * 3, axis=2)), grey)
    assert luminance(grey) is grey


def test_a_new_luminance_keeps_the_chroma(image):
    colour = (image(4, 20, 20, colour=True) // 4 + 90).astype(np.uint8)
    wanted = np.full((20, 20), 0.5)
    result = with_luminance(colour, wanted).astype(float)
    assert np.abs(luminance(result.astype(np.uint8)).astype(float) - 127.5).max() <= 1
    for first, second in ((0, 1), (1, 2)):
        before = colour[..., first].astype(float) - colour[..., second]
        assert np.abs(result[..., first] - result[..., second] - before).max() <= 1
    assert np.array_equal(with_luminance(colour, colour @ np.array([0.299, 0.587, 0.114]) / 255), colour)


def test_quantisation_rounds_and_clips():
    assert to_bytes(np.array([-1, 0, 0.5 / 255, 1.5 / 255, 0.9999, 7])).tolist() == [0, 0, 0, 2, 255, 255]


def test_resize(image):
    pixels = image(5, 30, 40, colour=True)
    assert resize(pixels, 30, 40) is pixels
    assert resize(pixels, 15, 10).shape == (15, 10, 3)
    assert resize(pixels[..., 0], 60, 50).shape == (60, 50)
    assert np.abs(resize(np.full((30, 40), 77, np.uint8), 11, 13).astype(int) - 77).max() == 0


def test_image_files(tmp_path, image):
    for name in ("b.png", "a.JPG", ".hidden.png", "dots.in.name.bmp"):
        write_image(tmp_path / name, image(1, 16, 16))
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    assert list(image_files(tmp_path)) == ["a", "b", "dots.in.name"]
    write_image(tmp_path / "b.jpg", image(1, 16, 16))
    with pytest.raises(UserError, match=r"b\.jpg and b\.png"):
        image_files(tmp_path)
    with pytest.raises(UserError, match="Folder not found"):
        image_files(tmp_path / "nowhere")


def test_only_image_names_can_be_written(tmp_path, image):
    with pytest.raises(UserError, match=r"\.png"):
        write_image(tmp_path / "x.gif", image(1, 16, 16))
    assert list(tmp_path.iterdir()) == []


def test_fusing_keeps_colour_and_size(image):
    average, cpu = load("average")(), torch.device("cpu")
    grey, colour = image(1, 33, 47), image(2, 33, 47, colour=True)
    plain = fuse_pair(average, grey, luminance(colour), cpu)
    expected = np.rint((grey.astype(float) + luminance(colour)) / 2)
    assert plain.shape == (33, 47)
    assert np.abs(plain - expected).max() <= 1  # exact halves may round either way in float32
    for a, b in ((grey, colour), (colour, grey)):
        fused = fuse_pair(average, a, b, cpu)
        assert fused.shape == (33, 47, 3)
        assert np.array_equal(fused, with_luminance(colour, fused_luminance(average, a, b)))
    # with two colour images the chroma is the second one's
    other = image(3, 33, 47, colour=True)
    assert np.array_equal(
        fuse_pair(average, other, colour, cpu), with_luminance(colour, fused_luminance(average, other, colour))
    )


def fused_luminance(method, a, b):
    tensors = [torch.from_numpy(luminance(x).copy())[None, None].float() / 255 for x in (a, b)]
    return method(*tensors)[0, 0].double().numpy()


def test_fusing_an_image_with_itself_gives_it_back(image):
    for pixels in (image(1, 33, 47), image(2, 33, 47, colour=True)):
        for name in ("average", "maximum"):
            fused = fuse_pair(load(name)(), pixels, pixels, torch.device("cpu"))
            assert np.abs(fused.astype(int) - pixels).max() <= (0 if pixels.ndim == 2 else 1)


def test_strip_puts_grey_beside_colour(image):
    grey, colour = image(1, 16, 20), image(2, 16, 30, colour=True)
    joined = strip(grey, colour)
    assert joined.shape == (16, 50, 3)
    assert np.array_equal(joined[:, :20, 1], grey)
    assert np.array_equal(joined[:, 20:], colour)
    assert strip(grey, grey).shape == (16, 40)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("visible", [np.full((20, 24), 90, np.uint8), np.full((20, 24, 3), (90, 80, 70), np.uint8)])
def test_a_network_that_gives_no_number_is_refused(value, visible):
    def broken(a, b):
        fused = (a + b) / 2
        fused[..., 3, 4] = value
        return fused

    with pytest.raises(UserError, match="1 of 480 pixels"):
        fuse_pair(broken, np.full((20, 24), 50, np.uint8), visible, torch.device("cpu"))


@pytest.mark.parametrize("name", [name for name in available() if load(name).parts])
@pytest.mark.parametrize("form", [lambda net: net, for_inference], ids=["readable", "copy"])
def test_weights_beyond_all_bounds_make_no_picture(name, form):
    net, generator = load(name)().eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in net.deployed_modules().values():
            for values in module.parameters():
                values.copy_(3e38 * torch.randn(values.shape, generator=generator).sign())
    image = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    with pytest.raises(UserError, match="not finite"):
        fuse_pair(form(net), image, image[::-1].copy(), torch.device("cpu"))

"""Image files with fewer pixels than their header says; Pillow shows black ones, or other bytes of the file."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from bad_inputs import chunk, png_bytes, tiff_bytes
from mmfuse.data.completeness import check_png
from mmfuse.data.images import read_image
from mmfuse.errors import UserError

SIZES = [(1, 1), (2, 1), (1, 2), (3, 5), (5, 3), (8, 8), (9, 7), (16, 33)]


@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("form", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
def test_files_by_pillow_are_whole(tmp_path, form, height, width):
    path = tmp_path / "x.png"
    Image.new(form, (width, height)).save(path)
    check_png(path)


def interlaced(pixels: np.ndarray) -> bytes:
    """The rows of a grey image in the seven passes of Adam7, written out by hand for images of at most 8 x 8."""
    order = ["16462646", "77777777", "56565656", "77777777", "36463646", "77777777", "56565656", "77777777"]
    number = np.array([list(map(int, line)) for line in order])[: pixels.shape[0], : pixels.shape[1]]
    rows = b""
    for which in range(1, 8):
        for line, numbers in zip(pixels, number, strict=True):
            if (numbers == which).any():
                rows += b"\0" + line[numbers == which].tobytes()
    return rows


def adam7(pixels: np.ndarray, cut: int) -> bytes:
    rows = interlaced(pixels)
    header = struct.pack(">IIBBBBB", *pixels.shape[::-1], 8, 0, 0, 0, 1)
    data = zlib.compress(rows[: len(rows) - cut])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("height", range(1, 9))
@pytest.mark.parametrize("width", range(1, 9))
def test_interlaced_files(tmp_path, height, width):
    pixels = np.random.default_rng(height * 9 + width).integers(1, 256, (height, width), dtype=np.uint8)
    path = tmp_path / "x.png"
    path.write_bytes(adam7(pixels, 0))
    assert np.array_equal(read_image(path), pixels)
    path.write_bytes(adam7(pixels, 1))
    with pytest.raises(UserError, match="Damaged"):
        read_image(path)


@pytest.mark.parametrize("depth, colour", [(1, 0), (2, 0), (4, 0), (8, 0), (8, 2), (8, 4), (8, 6)])
@pytest.mark.parametrize("missing", [1, 2, 6, 7])
def test_missing_rows_are_noticed(tmp_path, depth, colour, missing):
    size = 1 + (5 * {0: 1, 2: 3, 4: 2, 6: 4}[colour] * depth + 7) // 8
    path = tmp_path / "x.png"
    path.write_bytes(png_bytes(7, 5, depth=depth, colour=colour, data=bytes(size * (7 - missing))))
    with pytest.raises(UserError, match=f"its pixels end after {size * (7 - missing)} of {size * 7} bytes"):
        read_image(path)


def test_pixels_in_many_chunks_and_more_than_needed(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    whole = stream.getvalue()
    start = whole.index(b"IDAT") - 4
    (size,) = struct.unpack(">I", whole[start : start + 4])
    data = whole[start + 8 : start + 8 + size]
    parts = b"".join(chunk(b"IDAT", data[n : n + 7]) for n in range(0, size, 7))
    path = tmp_path / "x.png"
    path.write_bytes(whole[:start] + parts + chunk(b"IDAT", b"more") + chunk(b"IEND", b""))
    assert np.array_equal(read_image(path), pixels)


@pytest.mark.parametrize("rows", [1, 3, 10, 40])
@pytest.mark.parametrize("fault", ["none", "strip missing", "strip short", "last strip short"])
def test_strips_without_compression(tmp_path, rows, fault):
    pixels = np.random.default_rng(rows).integers(1, 256, (40, 30), dtype=np.uint8)
    strips = [pixels[top : top + rows].tobytes() for top in range(0, 40, rows)]
    if fault == "strip missing":
        strips = strips[:-1] or [b"x"]
    elif fault != "none":
        which = 0 if fault == "strip short" else -1
        strips[which] = strips[which][:-1]
    path = tmp_path / "x.tif"
    path.write_bytes(tiff_bytes(40, 30, strips, t278=rows))
    if fault == "none":
        assert np.array_equal(read_image(path), pixels)
    else:
        with pytest.raises(UserError, match="Damaged or unreadable image"):
            read_image(path)


@pytest.mark.parametrize("missing", [0, 1])
def test_tiles_without_compression(tmp_path, missing):
    pixels = np.random.default_rng(0).integers(1, 256, (48, 32), dtype=np.uint8)
    tiles = [pixels[y : y + 16, x : x + 16].tobytes() for y in (0, 16, 32) for x in (0, 16)]
    path = tmp_path / "x.tif"
    path.write_bytes(tiff_bytes(48, 32, tiles[: 6 - missing], t322=16, t323=16))
    if missing:
        with pytest.raises(UserError, match="1 of its 6 strips or tiles"):
            read_image(path)
    else:
        assert np.array_equal(read_image(path), pixels)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate", "packbits"])
@pytest.mark.parametrize("form", ["1", "L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("height, width", SIZES)
def test_tiff_images_by_pillow_are_whole(tmp_path, form, compression, height, width):
    path = tmp_path / "x.tif"
    Image.new(form, (width, height), 1).save(path, compression=compression)
    assert read_image(path).shape[:2] == (height, width)

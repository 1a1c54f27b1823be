"""Image files of all kinds: those that are read, as a viewer shows them, and those that are refused by their kind."""

from __future__ import annotations

import errno
import io
import itertools
import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image

from bad_inputs import png_bytes, tiff_bytes
from mmfuse.data.images import read_image
from mmfuse.data.kinds import check_kind
from mmfuse.data.reading import _mask
from mmfuse.errors import UserError

# each orientation: where a viewer puts the stored rows and columns
SHOWN = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
FORMATS = {
    "png": {"format": "PNG"},
    "jpg": {"format": "JPEG", "quality": 95},
    "tif": {"format": "TIFF"},
    "lzw.tif": {"format": "TIFF", "compression": "tiff_lzw"},
    "jpeg.tif": {"format": "TIFF", "compression": "jpeg"},
    "packbits.tif": {"format": "TIFF", "compression": "packbits"},
}


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[ExifTags.Base.Orientation] = orientation
    data[ExifTags.Base.Make] = "camera"
    return data


def refusal(path) -> str:
    with pytest.raises(UserError) as caught:
        read_image(path)
    assert str(path) in caught.value.problem
    return str(caught.value)


# ------------------------------------------------------------------------------------------------- EXIF orientation


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "P", "1", "LA", "RGBA"])
def test_images_are_read_as_they_are_displayed(tmp_path, image, form, mode):
    allowed = {"png": {"L", "RGB", "P", "1", "LA", "RGBA"}, "jpg": {"L", "RGB", "CMYK"}, "jpeg.tif": {"L", "RGB"}}
    if mode not in allowed.get(form, {"L", "RGB", "CMYK", "P", "1", "LA", "RGBA"}):
        pytest.skip("the format has no such images")
    picture = Image.fromarray(image(3, 21, 34, colour=True)).convert("RGB" if mode == "P" else mode)
    picture = picture.quantize(16) if mode == "P" else picture
    paths = {number: tmp_path / f"{number}.{form}" for number in SHOWN}
    for number, path in paths.items():
        picture.save(path, exif=exif(number), **FORMATS[form])
    stored = read_image(paths[1])
    assert stored.shape[:2] == (21, 34)
    for number, path in paths.items():
        assert np.array_equal(read_image(path), SHOWN[number](stored)), number


@pytest.mark.parametrize(("form", "mode"), [("png", "P"), ("png", "L"), ("tif", "L"), ("tif", "I;16")])
def test_masks_are_turned_like_images(tmp_path, form, mode):
    ids = np.random.default_rng(0).integers(0, 9, (21, 34), dtype=np.uint8)
    for number, shown in SHOWN.items():
        path = tmp_path / f"{number}.{form}"
        picture = Image.fromarray(ids.astype(np.uint16) if mode == "I;16" else ids)
        if mode == "P":
            picture.putpalette(np.random.default_rng(1).integers(0, 256, 768, dtype=np.uint8).tobytes())
        picture.save(path, exif=exif(number), **FORMATS[form])
        assert np.array_equal(_mask(path, shown(ids).shape), shown(ids)), number


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("form", ["png", "tif"])
@pytest.mark.parametrize("width", [1, 7, 8, 30])
def test_masks_of_few_bits_keep_their_ids(tmp_path, bits, form, width):
    ids = np.random.default_rng(width).integers(0, 2**bits, (24, width), dtype=np.uint8)
    ids.flat[:2] = 0, 2**bits - 1
    rows = [np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :]).tobytes() for row in ids]
    path = tmp_path / f"x.{form}"
    if form == "png":
        path.write_bytes(png_bytes(24, width, depth=bits, data=b"".join(b"\0" + row for row in rows)))
    else:
        path.write_bytes(tiff_bytes(24, width, [b"".join(rows)], t258=bits))
    assert np.array_equal(_mask(path, ids.shape), ids)
    assert np.array_equal(read_image(path), ids * (255 // (2**bits - 1)))


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
@pytest.mark.parametrize("form", ["png", "jpg", "tif"])
def test_an_unknown_orientation_has_no_effect(tmp_path, image, form, value):
    picture = Image.fromarray(image(3, 21, 34, colour=True))
    picture.save(tmp_path / f"x.{form}", exif=exif(value), **FORMATS[form])
    picture.save(tmp_path / f"y.{form}", **FORMATS[form])
    assert np.array_equal(read_image(tmp_path / f"x.{form}"), read_image(tmp_path / f"y.{form}"))


def test_damaged_exif_data_do_not_prevent_reading(tmp_path, image):
    picture, chance = Image.fromarray(image(3, 21, 34, colour=True)), np.random.default_rng(0)
    expected = None
    for number in range(60):
        content = bytearray(exif(1).tobytes())
        for place in chance.integers(6, len(content), number):
            content[place] = chance.integers(256)
        path = tmp_path / "x.png"
        picture.save(path, exif=bytes(content))
        pixels = read_image(path)
        expected = pixels if expected is None else expected
        assert any(np.array_equal(pixels, shown(expected)) for shown in SHOWN.values())


# --------------------------------------------------------------------------------------------------- kinds of TIFF


def tiffs():
    types = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64", "uint64")
    for dtype, bands, separate, compression, order, photometric, tile in itertools.product(
        types, range(1, 6), (False, True), (None, "zlib"), "<>", ("minisblack", "miniswhite", "rgb"), (None, (16, 16))
    ):
        grey = photometric != "rgb"
        if (grey or bands in {3, 4}) and (photometric != "miniswhite" or bands == 1) and not (separate and bands == 1):
            yield dtype, bands, separate, compression, order, photometric, tile


@pytest.mark.filterwarnings("ignore")
def test_each_kind_of_tiff_is_read_rightly_or_refused_by_its_kind(tmp_path, image):
    grey, colour, path = image(1, 40, 48), image(2, 40, 48, colour=True), tmp_path / "t.tif"
    read, refused = 0, 0
    for dtype, bands, separate, compression, order, photometric, tile in tiffs():
        pixels = grey if bands == 1 else np.dstack([colour, grey, 255 - grey])[..., :bands]
        values = pixels.astype(dtype) if dtype.startswith(("u", "f")) else (pixels.astype(int) - 128).astype(dtype)
        if photometric == "miniswhite" and dtype == "uint8":
            values = 255 - values
        planes = np.moveaxis(values, 2, 0).copy() if separate else values
        with warnings.catch_warnings():
            tifffile.imwrite(
                path, planes, photometric=photometric, compression=compression, byteorder=order, metadata=None,
                tile=tile, planarconfig=None if bands == 1 else "separate" if separate else "contig",
                extrasamples=["unspecified"] if photometric == "rgb" and bands == 4 else None,
            )  # fmt: skip
        kind = (dtype, bands, separate, compression, order, photometric, tile)
        try:
            found = read_image(path)
        except UserError as error:
            assert "Damaged" not in str(error), kind
            assert "delete" not in str(error), kind
            assert ("8 bits" in str(error)) == (dtype != "uint8"), kind
            refused += 1
        else:
            assert dtype == "uint8", kind
            expected = colour if photometric == "rgb" else grey if bands == 1 else pixels[..., 0]
            assert bands <= 2 or photometric == "rgb", kind
            assert np.array_equal(found, expected), kind
            read += 1
    assert read > 40
    assert refused > 500


@pytest.mark.parametrize("mode", ["LAB", "YCbCr"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate"])
def test_other_colour_spaces_are_named(tmp_path, image, mode, compression):
    path = tmp_path / "x.tif"
    picture = Image.fromarray(image(1, 20, 24, colour=True))
    picture = Image.merge("LAB", picture.split()) if mode == "LAB" else picture.convert(mode)
    picture.save(path, compression=compression)
    message = refusal(path)
    assert ("CIELAB" if mode == "LAB" else "YCbCr") in message
    assert "convert it to grey or RGB" in message
    assert "8 bits" not in message


@pytest.mark.parametrize("compression", ["jpeg", "tiff_ccitt", "group3", "group4", "tiff_thunderscan", "zstd", "webp"])
def test_further_compressions_are_read_or_named(tmp_path, image, compression):
    path = tmp_path / "x.tif"
    mode = "1" if compression.startswith(("group", "tiff_ccitt")) else "RGB"
    picture = Image.fromarray(image(1, 20, 24, colour=True)).convert(mode)
    try:
        picture.save(path, compression=compression)
    except (OSError, KeyError):
        picture.save(path)
        content = bytearray(path.read_bytes())
        place = content.index(struct.pack("<HHI", 259, 3, 1))
        content[place + 8 : place + 10] = struct.pack("<H", {"zstd": 50000, "webp": 50001}.get(compression, 32809))
        path.write_bytes(content)
        assert "Damaged" not in refusal(path)
    else:
        assert read_image(path).shape[:2] == (20, 24)


def test_an_unknown_compression_of_tiff_is_named(tmp_path, image):
    path = tmp_path / "x.tif"
    for number in (34887, 34712, 50002, 12345):
        Image.fromarray(image(1, 20, 24)).save(path)
        content = bytearray(path.read_bytes())
        place = content.index(struct.pack("<HHI", 259, 3, 1))
        content[place + 8 : place + 10] = struct.pack("<H", number)
        path.write_bytes(content)
        assert str(number) in refusal(path) or "compression" in refusal(path)


# -------------------------------------------------------------------------------------------------- other formats


def with_pillow(form: str, **options) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (12, 8), (10, 20, 30)).save(stream, format=form, **options)
    return stream.getvalue()


def jpeg(marker: int, depth: int) -> bytes:
    """A JPEG file's first segments, with another frame header."""
    content = with_pillow("JPEG")
    place = content.index(b"\xff\xc0")
    length = content[place + 2 : place + 4]
    return content[:place] + bytes([0xFF, marker]) + length + bytes([depth]) + content[place + 5 :]


def bmp(compression: int) -> bytes:
    content = bytearray(with_pillow("BMP"))
    content[30:34] = struct.pack("<I", compression)
    return bytes(content)


def npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros((4, 4), np.uint8))
    return stream.getvalue()


FOREIGN = {
    "GIF": with_pillow("GIF"), "WebP": with_pillow("WEBP"), "JPEG 2000": with_pillow("JPEG2000"),
    "JPEG 2000 ": with_pillow("JPEG2000", no_jp2=True), "Netpbm": with_pillow("PPM"), "icon": with_pillow("ICO"),
    "PDF": with_pillow("PDF"), "PCX": with_pillow("PCX"), "SGI": with_pillow("SGI"), "TGA": with_pillow("TGA"),
    "PostScript": with_pillow("EPS"),
    "AVIF": b"\0\0\0\x20ftypavif" + bytes(40), "HEIC": b"\0\0\0\x18ftypheic" + bytes(40),
    "film": b"\0\0\0\x20ftypisom" + bytes(40), "JPEG XL": b"\xff\x0a" + bytes(40), "Photoshop": b"8BPS\0\1" + bytes(40),
    "DICOM": bytes(128) + b"DICM" + bytes(40), "NIfTI": struct.pack("<I", 348) + bytes(340) + b"n+1\0" + bytes(8),
    "NIfTI ": struct.pack(">I", 348) + bytes(340) + b"ni1\0",
    "NIfTI  ": struct.pack("<I", 540) + b"n+2\0\r\n\x1a\n" + bytes(532),
    "NumPy": npy(), "OpenEXR": b"v/1\x01" + bytes(40), "FITS": b"SIMPLE  =                    T" + bytes(40),
    "compressed": b"\x1f\x8b\x08" + bytes(40), "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(40),
    "NRRD": b"NRRD0004\ntype: uint8\n", "SVG": b"<?xml version='1.0'?>\n<svg width='3'></svg>",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Radiance": b"#?RADIANCE\n",
    "BMP image with compression 4": bmp(4), "BMP image with compression 5": bmp(5),
    "lossless": jpeg(0xC3, 8), "lossless ": jpeg(0xF7, 8), "arithmetic": jpeg(0xC9, 8),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("suffix", ["own", ".png", ".TIF", ""])
def test_a_file_of_another_kind_is_called_by_its_kind(tmp_path, name, suffix):
    own = {"NIfTI": ".nii", "DICOM": ".dcm", "GIF": ".gif"}.get(name.strip(), ".xyz")
    path = tmp_path / f"x{own if suffix == 'own' else suffix}"
    path.write_bytes(FOREIGN[name])
    message = refusal(path)
    assert "This kind of file is not read" in message
    assert name.strip() in message
    assert "delete" not in message
    assert "to do:" in message


@pytest.mark.parametrize(
    ("name", "kind"), [("x.nii.gz", "NIfTI"), ("x.dcm", "DICOM"), ("x.tga", "type .tga"), ("IM0001", "unknown")]
)
def test_a_name_tells_the_kind_where_the_content_does_not(tmp_path, name, kind):
    (tmp_path / name).write_bytes(b"\x1f\x8b\x08" + bytes(300) if name.endswith("gz") else bytes(300))
    assert kind in refusal(tmp_path / name)


@pytest.mark.parametrize("depth", [2, 7, 10, 12, 16])
def test_a_jpeg_image_of_another_depth_is_called_so(tmp_path, depth):
    (tmp_path / "x.jpg").write_bytes(jpeg(0xC1, depth))
    assert f"{depth} bits per channel" in refusal(tmp_path / "x.jpg")


def test_damaged_files_are_still_called_damaged(tmp_path, image):
    """Half of each file, and rubbish with the suffix of an image."""
    for form, options in FORMATS.items():
        path = tmp_path / f"x.{form}"
        Image.fromarray(image(1, 60, 80, colour=True)).save(path, **options)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert "Damaged or unreadable" in refusal(path), form
    for content in (b"", b"rubbish", b"<!DOCTYPE html><html>404</html>"):
        (tmp_path / "x.png").write_bytes(content)
        assert "Damaged or unreadable" in refusal(tmp_path / "x.png")
        assert "download it again" in refusal(tmp_path / "x.png")


def test_headers_with_changed_bytes_pass_or_are_refused(tmp_path, image):
    """The check of the kind itself raises nothing but a UserError."""
    chance = np.random.default_rng(0)
    for form, options in FORMATS.items():
        path = tmp_path / f"x.{form}"
        Image.fromarray(image(1, 24, 25, colour=True)).save(path, exif=exif(6), **options)
        good = path.read_bytes()
        for _ in range(100):
            bad = bytearray(good)
            for place in chance.integers(0, len(good), 6):
                bad[place] = chance.integers(256)
            path.write_bytes(bytes(bad[: chance.integers(len(good))]))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    check_kind(path)
                except UserError as error:
                    assert str(path) in str(error)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_file_that_the_system_does_not_give_is_not_called_damaged(tmp_path, image, monkeypatch, number):
    path = tmp_path / "x.png"
    Image.fromarray(image(1, 20, 24)).save(path)

    def refused(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", refused)
    message = refusal(path)
    assert os.strerror(number) in message
    assert "Damaged" not in message
    assert "delete" not in message

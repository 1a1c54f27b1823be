"""Kinds of image files: which are read, and what the others are called.

A file is judged by its content, not by its name. A valid file of a kind that is not read must not be called damaged:
nobody should delete it.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import BinaryIO

from PIL import TiffImagePlugin
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mmfuse.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_READ = "PNG, JPEG, BMP or TIFF"
_CONVERT = "convert it to PNG or TIFF"
_SLICES = "save its slices as PNG or TIFF"
_WHOLE = "fuse whole volumes, as docs/how-to/fuse-volumes.md explains, or save its slices as PNG or TIFF"
_FRAMES = "save its frames as PNG"
_EXPORT = "export it from its program as PNG or TIFF"
_START = 512  # bytes that contain all signatures

# the first bytes of files that are not read, with what they are and what to do
_FOREIGN = [
    (rb"GIF8", "a GIF image", _CONVERT),
    (rb"RIFF....WEBP", "a WebP image", _CONVERT),
    (rb"RIFF....AVI ", "an AVI film", _FRAMES),
    (rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "a JPEG 2000 image", _CONVERT),
    (rb"\x00\x00\x00\x0cJXL |\xff\x0a", "a JPEG XL image", _CONVERT),
    (rb"II\xbc", "a JPEG XR image", _CONVERT),
    (rb"....ftyp(hei[a-z]|hev[a-z]|mif1|msf1|avi[fs])", "a HEIC or AVIF image", _CONVERT),
    (rb"....ftyp|\x1aE\xdf\xa3", "a film", _FRAMES),
    (rb"P[1-7Ff]\s", "a Netpbm image (PBM, PGM, PPM, PAM or PFM)", _CONVERT),
    (rb"8BPS", "a Photoshop document", _EXPORT),
    (rb"gimp xcf", "a GIMP document", _EXPORT),
    (rb"%PDF|%!PS|\xc5\xd0\xd3\xc6", "a PDF or PostScript document", _CONVERT),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg", "an SVG drawing", _CONVERT),
    (rb"v/1\x01", "an OpenEXR image", _CONVERT),
    (rb"#\?(RADIANCE|RGBE)", "a Radiance image", _CONVERT),
    (rb"SIMPLE  =", "a FITS image", _CONVERT),
    (rb"DDS |qoif|icns|\x00\x00[\x01\x02]\x00[^\x00]\x00|\x59\xa6\x6a\x95", "a DDS, QOI, icon or Sun image", _CONVERT),
    (rb"\x0a[\x00-\x05]\x01[\x01\x02\x04\x08]|\x01\xda[\x00\x01][\x01\x02]", "a PCX or SGI image", _CONVERT),
    (rb"\x93NUMPY", "a NumPy array", _CONVERT),
    (rb"MATLAB 5|\x89HDF|CDF[\x01\x02\x05]", "a MATLAB, HDF5 or NetCDF file", _CONVERT),
    (rb"NRRD0|ObjectType|NDims", "an NRRD or MetaImage volume", _SLICES),
    (rb".{128}DICM", "a DICOM file", _WHOLE),
    (rb"(\x5c\x01\x00\x00|\x00\x00\x01\x5c)", "a NIfTI or Analyze volume", _WHOLE),
    (rb"(\x1c\x02\x00\x00|\x00\x00\x02\x1c)n[+i]2", "a NIfTI volume", _WHOLE),
    (rb"\x1f\x8b|BZh|\xfd7zXZ\x00|PK\x03\x04|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd", "a compressed file", "unpack it first"),
    (rb"FFF\x00|AFF\x00", "a FLIR file", _EXPORT),
    (rb"version https://git-lfs", "a placeholder of Git LFS", "fetch its content with `git lfs pull`"),
]  # fmt: skip
_TGA_END = b"TRUEVISION-XFILE.\x00"
_OURS = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|BM|II[*+]\x00|MM\x00[*+]")
_VOLUMES = {
    ".dcm": "a DICOM file", ".ima": "a DICOM file", ".nii": "a NIfTI volume", ".nii.gz": "a NIfTI volume",
    ".mha": "a MetaImage volume", ".mhd": "a MetaImage volume",
}  # fmt: skip

# names for values of TIFF's tags
_PHOTOMETRIC = {
    4: "a transparency mask", 6: "YCbCr", 8: "CIELAB", 9: "ICCLAB", 10: "ITULAB", 32803: "a camera's raw data",
    32844: "LogL", 32845: "LogLuv", 34892: "a camera's raw data",
}  # fmt: skip
_FORMATS = {
    2: "signed integers", 3: "floating-point numbers", 4: "untyped values", 5: "complex integers", 6: "complex numbers",
}  # fmt: skip
_COMMON = {1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946}  # compressions of TIFF that every build of libtiff has
# bits, compression, photometric interpretation, bands, planar configuration, sample format, extra samples
_TAGS: dict[int, tuple[int, ...]] = {258: (1,), 259: (1,), 262: (0,), 277: (1,), 284: (1,), 339: (1,), 338: ()}
_DEEP = {(1, 16), (2, 16), (2, 32), (3, 32)}  # formats and bits of grey images that Pillow reads as they are
_MOST_BANDS = {0: 2, 1: 2, 2: 6, 3: 2, 5: 5, 6: 3}  # of each photometric interpretation, with an alpha channel
_SOF_READ, _SOF = {0xC0, 0xC1, 0xC2}, {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_BMP_COMPRESSIONS = {0, 1, 2, 3, 6}


def not_read(path: Path, found: str, fix: str) -> UserError:
    """Return the error for a valid file of a kind that is not read."""
    return UserError(f"This kind of file is not read: {path}", expected=_READ, found=found, fix=fix)


def not_8_bits(path: Path, found: str) -> UserError:
    """Return the error for an image with more than 8 bits, or with values that are not counted from zero."""
    return UserError(
        f"Cannot use the image {path}.",
        expected="8 bits per channel, grey or colour",
        found=found,
        fix="convert it to 8 bits first; the scaling of its values is up to you",
    )


def not_grey_or_rgb(path: Path, found: str) -> UserError:
    """Return the error for an image in a colour space that is not read."""
    return UserError(
        f"Cannot use the image {path}.", expected="grey or RGB, with or without an alpha channel", found=found,
        fix="convert it to grey or RGB",
    )  # fmt: skip


def check_kind(path: Path) -> None:
    """Check that a file is of a kind that is read: its format, and what its header says about its pixels.

    A damaged header passes: reading the file tells what is wrong with it.

    Raises:
        UserError: it is of another kind.
    """
    with path.open("rb") as stream:
        start = stream.read(_START)
        if _OURS.match(start):
            _check_header(path, start, stream)
            return
        stream.seek(max(0, path.stat().st_size - len(_TGA_END)))
        if stream.read() == _TGA_END:
            raise not_read(path, "a TGA image", _CONVERT)
    volume = next((name for suffix, name in _VOLUMES.items() if path.name.lower().endswith(suffix)), None)
    if volume is not None:
        raise not_read(path, volume, _SLICES if "MetaImage" in volume else _WHOLE)
    for signature, name, fix in _FOREIGN:
        if re.match(signature, start, re.DOTALL):
            raise not_read(path, name, fix)
    if start and path.suffix.lower() not in SUFFIXES:
        raise not_read(path, f"a file of the type {path.suffix}" if path.suffix else "an unknown file", _CONVERT)


def _check_header(path: Path, start: bytes, stream: BinaryIO) -> None:
    stream.seek(0)
    if start.startswith(b"\xff\xd8"):
        _check_jpeg(path, stream)
    elif start.startswith(b"BM"):
        (compression,) = struct.unpack_from("<I", start, 30) if len(start) >= 54 and start[14] >= 40 else (0,)
        if compression not in _BMP_COMPRESSIONS:
            raise not_read(path, f"a BMP image with compression {compression}", _CONVERT)
    elif start[:2] in {b"II", b"MM"}:
        tags = _tags(stream)
        if tags is not None:
            _check_tiff(path, tags)


def _tags(stream: BinaryIO) -> ImageFileDirectory_v2 | None:
    """Return the tags of a TIFF file's first image; None if they cannot be read."""
    try:
        header = stream.read(8)
        if header[2] == 43 or header[3] == 43:
            header += stream.read(8)
        tags = ImageFileDirectory_v2(header)
        stream.seek(tags.next)
        tags.load(stream)
        return tags if 256 in tags and 257 in tags else None
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, struct.error):
        return None


def _check_tiff(path: Path, tags: ImageFileDirectory_v2) -> None:
    """Check a TIFF file by its tags: Pillow takes some values for unsigned, and bands apart for whole images."""
    known = [numbers for tag, default in _TAGS.items() if (numbers := _numbers(tags.get(tag), default)) is not None]
    if len(known) < len(_TAGS):
        return  # a damaged header
    bits, compressions, photometrics, counts, planes, formats, extra = known
    compression, photometric, bands, planar = compressions[0], photometrics[0], counts[0], planes[0]
    if compression not in TiffImagePlugin.COMPRESSION_INFO:
        raise not_read(path, f"a TIFF image with compression {compression}", _CONVERT)
    if compression == 6:  # the old form of JPEG in TIFF says little about its pixels
        return
    deep = (formats[0], bits[0])
    if bands == 1 and photometric == 1 and (deep in _DEEP or (deep == (1, 32) and tags.prefix == b"II")):
        return
    strange = sorted({*formats} - {1})
    if strange:
        values = _FORMATS.get(strange[0], f"values of the format {strange[0]}")
        raise not_8_bits(path, f"pixel format: {values} of {max(bits)} bits")
    if max(bits) > 8:
        raise not_8_bits(path, f"pixel format: {max(bits)} bits per channel")
    if len({*bits}) > 1:
        raise not_8_bits(path, f"pixel format: channels of {' and '.join(map(str, sorted({*bits})))} bits")
    if photometric not in _MOST_BANDS or (photometric == 6 and (compression != 7 or planar == 2)):
        space = _PHOTOMETRIC.get(photometric, f"photometric interpretation {photometric}")
        raise not_grey_or_rgb(path, f"a TIFF image with the colour space {space}")
    if bands > _MOST_BANDS[photometric] or (photometric in {0, 1, 3} and bands == 2 and not extra):
        raise not_grey_or_rgb(path, f"a TIFF image with {bands} bands")
    apart = planar == 2 and bands > 1
    if apart and (photometric not in {0, 1, 2} or bands > 4 or (compression == 1 and len(extra) > 0)):
        raise not_grey_or_rgb(path, f"a TIFF image with {bands} bands in separate planes")


def _numbers(value: object, default: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the whole numbers of a tag; None if it has others."""
    if value is None:
        return default
    numbers = tuple(value) if isinstance(value, tuple | list) else (value,)
    return numbers if all(isinstance(number, int) for number in numbers) and (numbers or not default) else None


def _check_jpeg(path: Path, stream: BinaryIO) -> None:
    """Check the frame header of a JPEG file."""
    stream.seek(2)
    while True:
        marker = stream.read(4)
        if len(marker) < 4 or marker[0] != 0xFF or marker[1] in {0xD9, 0xDA}:
            return
        if marker[1] == 0xFF:  # fill bytes
            stream.seek(-3, 1)
            continue
        if marker[1] in _SOF:
            depth = stream.read(1)
            if depth and depth[0] != 8 and depth[0] in {2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16}:
                raise not_8_bits(path, f"pixel format: {depth[0]} bits per channel, in a JPEG file")
            if marker[1] not in _SOF_READ:
                raise not_read(path, "a lossless, hierarchical or arithmetic-coded JPEG image", _CONVERT)
            return
        stream.seek(max(0, int.from_bytes(marker[2:]) - 2), 1)


def unusual_compression(path: Path) -> str | None:
    """Return the compression of a TIFF file that not every build of libtiff can undo; else None."""
    with path.open("rb") as stream:
        if stream.read(4)[:2] not in {b"II", b"MM"}:
            return None
        stream.seek(0)
        tags = _tags(stream)
    number = 1 if tags is None else tags.get(259, 1)
    return None if number in _COMMON else str(TiffImagePlugin.COMPRESSION_INFO.get(number, number))

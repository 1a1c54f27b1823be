"""Whether an image file has all its pixels: where some are missing, Pillow may show black ones, or other bytes.

Sources: Portable Network Graphics (PNG) Specification, third edition, sections 7 and 11.2; TIFF, revision 6.0, sections
3 and 15.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from math import ceil
from pathlib import Path

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# first column and row, and distances of columns and rows, of Adam7's seven passes
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _PLANAR = 256, 257, 258, 259, 277, 284  # numbers of TIFF's tags
_STRIP_HEIGHT, _STRIP_BYTES, _TILE_WIDTH, _TILE_HEIGHT, _TILE_BYTES = 278, 279, 322, 323, 325
_PIECE = 1 << 20  # bytes that are decompressed at a time


def check_png(path: Path) -> None:
    """Check the checksums of all chunks of a PNG file, and that its compressed data hold all rows.

    Raises:
        OSError, SyntaxError, ValueError: the file is damaged, as Pillow's readers say it.
    """
    with Image.open(path, formats=("PNG",)) as image:
        image.verify()
    content = path.read_bytes()
    needed = _needed(content)
    found = _stored(content, needed)
    if found < needed:
        raise OSError(f"its pixels end after {found} of {needed} bytes")


def check_tiff(tags: ImageFileDirectory_v2) -> None:
    """Check that the strips or tiles of a TIFF image without compression hold all pixels; libtiff checks the others.

    Raises:
        OSError: some are missing or too short.
    """
    if tags.get(_COMPRESSION, 1) != 1:
        return
    samples, width, height = tags.get(_SAMPLES, 1), tags[_WIDTH], tags[_HEIGHT]
    planes = samples if tags.get(_PLANAR, 1) == 2 else 1
    bits = tags.get(_BITS, (1,))[0] * samples // planes
    if _TILE_WIDTH in tags:
        across, down, counts = tags[_TILE_WIDTH], tags[_TILE_HEIGHT], tags.get(_TILE_BYTES, ())
        sizes = [ceil(across * bits / 8) * down] * (ceil(width / across) * ceil(height / down))
    else:
        step, counts = min(tags.get(_STRIP_HEIGHT, height), height), tags.get(_STRIP_BYTES, ())
        sizes = [ceil(width * bits / 8) * min(step, height - top) for top in range(0, height, step)]
    if not any(counts):  # some programs leave them out
        return
    sizes *= planes
    short = sum(size > count for size, count in zip(sizes, counts, strict=False))
    if len(counts) < len(sizes) or short:
        raise OSError(
            f"{len(sizes) - len(counts) + short} of its {len(sizes)} strips or tiles are missing or too short"
        )


def _needed(content: bytes) -> int:
    """Return the number of bytes of all rows before compression: one for the filter, and the pixels."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    bits = depth * _CHANNELS[colour]
    total = 0
    for left, top, across, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = len(range(left, width, across)), len(range(top, height, down))
        total += rows * (1 + (columns * bits + 7) // 8) if columns else 0
    return total


def _stored(content: bytes, enough: int) -> int:
    """Return the number of bytes that the compressed data hold; not all are counted if there are `enough`."""
    inflater, total = zlib.decompressobj(), 0
    try:
        for piece in _compressed(content):
            rest = piece
            while rest and not inflater.eof and total < enough:
                total += len(inflater.decompress(rest, _PIECE))
                rest = inflater.unconsumed_tail
    except zlib.error as error:
        raise OSError(str(error)) from error
    return total + len(inflater.flush())


def _compressed(content: bytes) -> Iterator[bytes]:
    """Yield the contents of the IDAT chunks."""
    place = len(SIGNATURE)
    while place + 12 <= len(content):
        (size,) = struct.unpack(">I", content[place : place + 4])
        if content[place + 4 : place + 8] == b"IDAT":
            yield content[place + 8 : place + 8 + size]
        place += 12 + size

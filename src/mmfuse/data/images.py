"""Reading and writing images, and the project's luminance convention.

Luminance is Y = 0.299 R + 0.587 G + 0.114 B on 8-bit values, rounded half to even: the grey that the evaluators of
LKC-FUNet, SMFNet and CDDFuse use. Chroma is full-range BT.601 (as in JPEG).
"""

from __future__ import annotations

import base64
import io
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from mmfuse.data.completeness import SIGNATURE, check_png, check_tiff
from mmfuse.data.kinds import SUFFIXES, check_kind, not_8_bits, not_grey_or_rgb, not_read, unusual_compression
from mmfuse.data.names import find_images
from mmfuse.errors import UserError
from mmfuse.files.writing import whole_file

Bytes = NDArray[np.uint8]
# read by content, regardless of their names; Pillow's other readers are disabled for untrusted files, because one of
# them starts a program
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF")
_BAND = 2**21  # pixels
LUMA = np.array([0.299, 0.587, 0.114])
SCALE = "mmfuse_scale"  # key of a number in Pillow's `info`
_MODES = {"L": "L", "1": "L", "LA": "L", "RGB": "RGB", "RGBA": "RGB", "RGBX": "RGB", "P": "RGB", "CMYK": "RGB"}
_TURNS = dict(enumerate(
    (
        Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
        Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90,
    ), start=2,
))  # fmt: skip


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """Open one still image of a known format as a viewer shows it, with one clear error for all reading failures.

    If EXIF data say that the image is turned or mirrored, it is turned back. Grey values of 1, 2 or 4 bits are
    stretched to 0 to 255, by the factor `info[SCALE]`.

    Raises:
        UserError: the file is missing, damaged, empty, of another kind, too large, has colours of more than 8 bits per
            channel, or contains several images.
    """
    if not path.is_file():
        found = "a folder" if path.is_dir() else None
        raise UserError(f"Image not found: {path}", found=found, fix="check the name and the folder")
    try:
        check_kind(path)
        with path.open("rb") as stream:
            if stream.read(len(SIGNATURE)) == SIGNATURE:
                check_png(path)
        # not by its name, because Pillow would map the file into memory, and garble a TIFF image that lies on its side
        with path.open("rb") as stream, Image.open(stream, formats=_FORMATS) as image:
            # a photo's preview (MPO) does not count as a second image; counting a scan's pages may take minutes
            if image.format != "MPO" and getattr(image, "is_animated", False):
                raise UserError(
                    f"Cannot use the image {path}.",
                    expected="one still image",
                    found="several images in one file, as in an animation or a scan of several pages",
                    fix="save each of them as a separate file",
                )
            if isinstance(image, TiffImageFile):
                check_tiff(image.tag_v2)
            depth = _depth(image) if image.mode in _MODES else None
            if depth is not None:
                raise not_8_bits(path, f"pixel format {depth!r}")
            scale = _scale(image)
            upright = _upright(image)
            upright.info[SCALE] = scale
            yield upright
    except Image.DecompressionBombError as error:
        raise UserError(
            f"The image {path} is too large.",
            expected=f"at most {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels",
            found=error,
            fix="split it; or delete it, if it should not be that large",
        ) from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, TypeError, struct.error) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not Pillow's
            raise UserError(
                f"Cannot read the image {path}.", found=error.strerror, fix="check its permissions, and the disk"
            ) from error
        compression = unusual_compression(path)
        if compression is not None:
            found = f"a TIFF image with the compression {compression}, or a damaged one ({error})"
            raise not_read(path, found, "convert it with another program, or download it again") from error
        unknown = isinstance(error, UnidentifiedImageError)
        words = "its content is not an image" if unknown else f"{type(error).__name__}: {error}"
        raise UserError(
            f"Damaged or unreadable image: {path}",
            expected="a complete PNG, JPEG, BMP or TIFF file",
            found=f"{words} ({path.stat().st_size} bytes)",
            fix="delete it and download it again",
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    """Return an image turned and mirrored as its EXIF data say; damaged EXIF data have no effect, as in viewers."""
    image.load()  # Pillow itself turns TIFF images here; a PNG image may have its EXIF data after its pixels
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # EXIF data can be damaged in many ways, while the pixels are whole
        return image
    return image if turn is None else image.transpose(turn)


def _scale(image: Image.Image) -> int:
    """Return the factor by which Pillow stretches grey values of 1, 2 or 4 bits to 0 to 255."""
    found = next((re.match(r"(1)|L;([24])", mode) for mode in _raw_modes(image)), None)
    return 255 // (2 ** int(found[1] or found[2]) - 1) if found and image.mode in {"1", "L"} else 1


def _raw_modes(image: Image.Image) -> list[str]:
    """Return the pixel formats in the file, by Pillow's names."""
    tiles = [tile for tile in getattr(image, "tile", ()) if tile.args]
    return [tile.args if isinstance(tile.args, str) else str(tile.args[0]) for tile in tiles]


def _depth(image: Image.Image) -> str | None:
    """Return the pixel format of an image with more than 8 bits per channel, which Pillow would truncate; else None."""
    modes = _raw_modes(image)
    return next((mode for mode in modes if image.format != "BMP" and re.search(r";(12|16|32)[A-Z]*$", mode)), None)


def read_image(path: Path, *, colour: bool | None = None) -> Bytes:
    """Read an 8-bit image as a viewer shows it; an alpha channel is dropped, a palette is resolved.

    Args:
        path: A PNG, JPEG, BMP or TIFF file.
        colour: True gives RGB, False gives luminance, None gives the file's own format.

    Returns:
        (H, W) grey or (H, W, 3) RGB, uint8.

    Raises:
        UserError: the file is missing, damaged, empty, of another kind, too large, not one image, or not 8 bits per
            channel.
    """
    with open_image(path) as image:
        if image.mode not in _MODES:
            deep = image.mode.startswith(("I", "F"))
            raise (not_8_bits if deep else not_grey_or_rgb)(path, f"pixel format {image.mode!r}")
        pixels = np.asarray(image.convert(_MODES[image.mode]), dtype=np.uint8)
    if colour is True and pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    if colour is False:
        return luminance(pixels)
    return pixels


def luminance(pixels: Bytes) -> Bytes:
    """Return the 8-bit luminance of an (H, W) or (H, W, 3) image, rounded half to even."""
    if pixels.ndim == 2:
        return pixels
    grey = np.empty(pixels.shape[:2], np.uint8)
    for rows in bands(*pixels.shape[:2]):
        # integer thousandths are exact, so that halves really round to even
        thousandths = pixels[rows].astype(np.int64) @ np.array([299, 587, 114])
        grey[rows] = np.rint(thousandths / 1000)
    return grey


def bands(height: int, width: int) -> Iterator[slice]:
    """Yield the rows of an image in bands, so that what is computed from each pixel needs little memory."""
    step = max(1, _BAND // width)
    return (slice(top, top + step) for top in range(0, height, step))


def with_luminance(rgb: Bytes, y: NDArray[np.floating]) -> Bytes:
    """Give a colour image a new luminance and keep its chroma Cb, Cr.

    Shape: rgb (H, W, 3) uint8, y (H, W) in [0, 1]; returns (H, W, 3) uint8.
    """
    values = rgb.astype(np.float64)
    old = values @ LUMA
    # R = Y + 1.402 Cr etc. is linear in Y: a new luminance shifts the three channels by the same amount
    return np.rint(np.clip(values + (255.0 * y - old)[..., None], 0, 255)).astype(np.uint8)


def to_bytes(y: NDArray[np.floating]) -> Bytes:
    """Quantise an image in [0, 1] to 8 bits, rounding half to even; values outside are clipped."""
    return np.rint(np.clip(y, 0.0, 1.0) * 255.0).astype(np.uint8)


def resize(pixels: Bytes, height: int, width: int) -> Bytes:
    """Resize with an antialiased bicubic filter (Pillow); (H, W) or (H, W, 3) uint8 in and out."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def write_image(path: Path, pixels: Bytes) -> None:
    """Write an 8-bit image atomically; the suffix sets the format."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"Cannot write {path}.", expected=f"a name ending in {', '.join(SUFFIXES)}", found=suffix)
    kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF"}.get(suffix, suffix[1:].upper())
    with whole_file(path) as temporary:
        Image.fromarray(pixels).save(temporary, format=kind)


def png(pixels: Bytes) -> bytes:
    """Return an image as the bytes of a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()


def png_text(pixels: Bytes) -> str:
    """Return an image as base64 PNG for JSON files."""
    return base64.b64encode(png(pixels)).decode("ascii")


def from_png_text(text: str) -> Bytes:
    """Return the image that `png_text` wrote."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def image_files(folder: Path) -> dict[str, Path]:
    """Map stem to path for the images directly in a folder.

    Raises:
        UserError: the folder is missing, two files share a stem, or a name cannot be used.
    """
    return dict(find_images(folder).files)

"""Images in a Python program: NumPy arrays and torch tensors, of any type and range of values.

NumPy arrays have channels last and hold one image; tensors have channels first and hold one image or a batch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mmfuse.data.images import LUMA, bands, luminance, to_bytes, with_luminance
from mmfuse.errors import UserTypeError, UserValueError

if TYPE_CHECKING:
    from torch import Tensor

    Image = TypeVar("Image", NDArray[Any], Tensor)

Range = tuple[float, float]
BYTES = (0.0, 255.0)
_RANGES: dict[str, Range] = {"uint8": BYTES, "uint16": (0.0, 65535.0)}
_SHAPES = "NumPy arrays (H, W) or (H, W, 3), or tensors (C, H, W) or (B, C, H, W) with 1 or 3 channels"


@dataclass(frozen=True)
class Form:
    """Form of images: their kind, layout, type and range, in which a result is returned.

    Attributes:
        dims: Dimensions of a tensor, 3 or 4; 0 for NumPy arrays.
        dtype: Type of the values, of NumPy or torch.
        device: Device of a tensor.
        value_range: Values of black and white.
        colour: Whether one of the images has three channels.
    """

    dims: int
    dtype: Any
    device: Any
    value_range: Range
    colour: bool

    def result(self, images: Sequence[NDArray[Any]]) -> Any:
        """Return images, (H, W) or (H, W, 3), in this form; with three channels if `colour`."""
        if self.colour:
            images = [np.repeat(one[..., None], 3, axis=2) if one.ndim == 2 else one for one in images]
        if not self.dims:
            return images[0]
        import torch

        batch = torch.from_numpy(np.stack([np.moveaxis(np.atleast_3d(one), 2, 0) for one in images]))
        return (batch if self.dims == 4 else batch[0]).to(self.device, self.dtype)


def alike(images: Mapping[str, Any], value_range: Range | None = None) -> tuple[list[list[NDArray[Any]]], Form]:
    """Check images of one size and form, and return the pixels of each batch and the form.

    Args:
        images: Names for messages, and images: NumPy arrays (H, W) or (H, W, 3), or tensors (C, H, W) or (B, C, H, W)
            with 1 or 3 channels.
        value_range: Values of black and white; by default, 0 and 255 for uint8, 0 and 65535 for uint16, and 0 and 1 for
            floating-point values.

    Returns:
        For each image, the pixels of its batch (NumPy: a batch of one), (H, W) or (H, W, 3); and the common form.

    Raises:
        UserTypeError: the images are not arrays or tensors of one kind and type, or the type needs a `value_range`.
        UserValueError: wrong or unequal shapes, a wrong range, or values that are not finite or outside the range.
    """
    (first, one), *others = images.items()
    forms = {name: _form(name, image) for name, image in images.items()}
    for name, _ in others:
        if forms[name] != forms[first]:
            raise UserTypeError(
                f"{first} and {name} differ in their form.",
                expected="the same kind (NumPy array or tensor), data type and device",
                found=" and ".join(" ".join(word for word in forms[key] if word) for key in (first, name)),
                fix="convert one of them; images of different types fit together as floating-point values in [0, 1]",
            )
    pixels = {name: _batch(name, image) for name, image in images.items()}
    size = _size(pixels[first])
    for name, _ in others:
        if _size(pixels[name]) != size:
            raise UserValueError(
                f"{first} and {name} differ in size.",
                expected=f"{_as_text(size)}, like {first}",
                found=_as_text(_size(pixels[name])),
                fix="register and crop them to the same field of view; resizing would misalign them",
            )
    tensor = forms[first][0] == "tensor"
    limits = _limits(forms[first][1], value_range)
    for name, batch in pixels.items():
        _check_values(name, batch, limits)
    colour = any(batch[0].ndim == 3 for batch in pixels.values())
    form = Form(one.ndim if tensor else 0, one.dtype, one.device if tensor else None, limits, colour)
    return list(pixels.values()), form


def _form(name: str, image: Any) -> tuple[str, str, str]:
    """Return the kind, data type and device of an image in words."""
    kind = _kind(name, image)
    if kind == "tensor":
        return kind, str(image.dtype).removeprefix("torch."), f"on {image.device}"
    return kind, image.dtype.name, ""


def _kind(name: str, image: Any) -> str:
    if isinstance(image, np.ndarray):
        return "NumPy array"
    torch = sys.modules.get("torch")  # without it, no tensor exists
    if torch is not None and isinstance(image, torch.Tensor):
        return "tensor"
    raise UserTypeError(
        f"{name} is no image.", expected=_SHAPES, found=type(image).__name__,
        fix="convert it, for example with numpy.asarray",
    )  # fmt: skip


def _batch(name: str, image: Any) -> list[NDArray[Any]]:
    """Return the pixels of each image of an array or tensor, (H, W) or (H, W, 3)."""
    tensor = not isinstance(image, np.ndarray)
    shape = tuple(image.shape)
    right = (
        len(shape) in {3, 4} and shape[-3] in {1, 3}
        if tensor
        else len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)
    )
    if not right or 0 in shape:
        raise UserValueError(
            f"{name} has the wrong shape.", expected=_SHAPES, found=f"a {_kind(name, image)} of shape {shape}",
            fix=_advice(shape, tensor=tensor),
        )  # fmt: skip
    if not tensor:
        return [image]
    image = image.detach()
    # NumPy has no bfloat16
    image = (image.float() if str(image.dtype) == "torch.bfloat16" else image).cpu().numpy()
    batch = image if image.ndim == 4 else image[None]
    return [one[0] if len(one) == 1 else np.moveaxis(one, 0, 2) for one in batch]


def _advice(shape: tuple[int, ...], *, tensor: bool) -> str:
    """Return how to change an array of a wrong shape; the first rule that fits."""
    dims, first, last = len(shape), shape[0] if shape else 0, shape[-1] if shape else 0
    rules = (
        (0 in shape, "give images with pixels"),
        (tensor and dims == 2, "add a channel: image[None]"),
        (tensor and dims == 3 and last in {1, 3}, "put the channels first: image.permute(2, 0, 1)"),
        (not tensor and dims == 3 and first == 3, "put the channels last: image.transpose(1, 2, 0)"),
        (not tensor and dims == 3 and first == 1, "remove the channel: image[0]"),
        (not tensor and dims == 3 and last == 1, "remove the channel: image[..., 0]"),
        (not tensor and dims == 3 and last == 4, "remove the alpha channel: image[..., :3]"),
        (not tensor and dims == 4, "give the images one by one, or as a tensor (B, C, H, W)"),
    )
    return next((advice for fits, advice in rules if fits), "give grey or RGB images")


def _size(batch: Sequence[NDArray[Any]]) -> tuple[int, int, int]:
    return len(batch), batch[0].shape[0], batch[0].shape[1]


def _as_text(size: tuple[int, int, int]) -> str:
    count, height, width = size
    return (
        f"{height}x{width} (height x width)" if count == 1 else f"{count} images of {height}x{width} (height x width)"
    )


def _limits(dtype: str, value_range: Range | None) -> Range:
    """Return the values of black and white of a type."""
    if not dtype.startswith(("uint", "int", "float", "bfloat")):
        raise UserTypeError(
            "Images cannot have this type.", expected="integers or floating-point values", found=dtype,
            fix="convert them, for example to uint8",
        )  # fmt: skip
    if value_range is not None:
        try:
            low, high = map(float, value_range)
        except (TypeError, ValueError):
            low = high = np.nan
        if not -np.inf < low < high < np.inf:
            raise UserValueError(
                "The range of values is wrong.", expected="two numbers: that of black, then that of white",
                found=value_range, fix="give value_range=(LOW, HIGH)",
            )  # fmt: skip
        return low, high
    if "float" in dtype:
        return 0.0, 1.0
    if dtype not in _RANGES:
        raise UserTypeError(
            "The range of the values is not known.",
            expected=f"{', '.join(_RANGES)} or floating-point values in [0, 1]",
            found=dtype,
            fix="say which values are black and white: value_range=(LOW, HIGH)",
        )
    return _RANGES[dtype]


def _check_values(name: str, batch: Sequence[NDArray[Any]], limits: Range) -> None:
    low, high = min(float(one.min()) for one in batch), max(float(one.max()) for one in batch)
    if limits[0] <= low <= high <= limits[1]:
        return
    broken = sum(int(np.count_nonzero(~np.isfinite(one))) for one in batch)
    if broken:
        raise UserValueError(
            f"{name} has values that are not finite.", expected="a number for each pixel",
            found=f"{broken} values are NaN or infinite", fix="replace them, for example with numpy.nan_to_num",
        )  # fmt: skip
    raise UserValueError(
        f"{name} has values outside its range.",
        expected=f"values from {limits[0]:g} to {limits[1]:g}",
        found=f"values from {low:g} to {high:g}",
        fix="give the range as value_range=(LOW, HIGH), or clip the values",
    )


# ------------------------------------------------------------------------------- luminance and back, for any range


def unit_luminance(
    pixels: NDArray[Any], value_range: Range = BYTES, dtype: type[np.floating] = np.float32
) -> NDArray[np.floating]:
    """Return the luminance in [0, 1]; that of 8-bit images is rounded to 8 bits, as everywhere in mmfuse.

    Shape: (H, W) or (H, W, 3) to (H, W).
    """
    if is_bytes(pixels, value_range):
        return luminance(pixels).astype(dtype) / dtype(255)
    grey = np.empty(pixels.shape[:2], dtype)
    for rows in bands(*grey.shape):
        values = _unit(pixels[rows], value_range)
        grey[rows] = values @ LUMA if values.ndim == 3 else values
    return grey


def from_luminance(
    y: NDArray[np.floating], coloured: NDArray[Any] | None, dtype: Any, value_range: Range
) -> NDArray[Any]:
    """Return an image of a type and range from its luminance, with the chroma of a colour image if there is one.

    Shape: y (H, W) in [0, 1]; coloured (H, W, 3); returns (H, W) or (H, W, 3).
    """
    image = np.empty(y.shape if coloured is None else coloured.shape, dtype)
    for rows in bands(*y.shape):
        chroma = None if coloured is None else coloured[rows]
        image[rows] = _from_luminance(y[rows].astype(np.float64), chroma, dtype, value_range)
    return image


def _from_luminance(
    y: NDArray[np.float64], coloured: NDArray[Any] | None, dtype: Any, value_range: Range
) -> NDArray[Any]:
    if dtype == np.uint8 and value_range == BYTES:
        return to_bytes(y) if coloured is None else with_luminance(coloured, y)
    if coloured is not None:
        values = _unit(coloured, value_range)
        y = values + (y - values @ LUMA)[..., None]  # as in `with_luminance`
    low, high = value_range
    values = low + np.clip(y, 0, 1) * (high - low)
    return np.rint(values) if np.issubdtype(dtype, np.integer) else values


def as_bytes(pixels: NDArray[Any], value_range: Range) -> NDArray[np.uint8]:
    """Return an image of any range with 8 bits."""
    return pixels if is_bytes(pixels, value_range) else to_bytes(_unit(pixels, value_range))


def is_bytes(pixels: NDArray[Any], value_range: Range) -> bool:
    """Say whether an image has the 8 bits and the range of an image file."""
    return pixels.dtype == np.uint8 and value_range == BYTES


def _unit(pixels: NDArray[Any], value_range: Range) -> NDArray[np.float64]:
    low, high = value_range
    return (pixels.astype(np.float64) - low) / (high - low)

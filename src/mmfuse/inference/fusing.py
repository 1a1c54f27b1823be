"""Application of a fusion method to images: luminance is fused, then the chroma of the colour image is added."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmfuse.data.arrays import BYTES, Range, from_luminance, is_bytes, unit_luminance
from mmfuse.data.images import Bytes, luminance
from mmfuse.errors import UserError
from mmfuse.inference.half_precision import Fuse
from mmfuse.inference.memory import Limit
from mmfuse.inference.tiles import Source, fuse_in_tiles, grid_for
from mmfuse.methods.base import FusionMethod


def best_device() -> torch.device:
    """Return the first accelerator, else the CPU, with TF32 disabled."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def fuse_pair(
    fuse: Fuse,
    a: NDArray[Any],
    b: NDArray[Any],
    device: torch.device,
    *,
    value_range: Range = BYTES,
    memory: Limit | None = None,
) -> NDArray[Any]:
    """Fuse two aligned images of any size.

    Shape: a, b (H, W) or (H, W, 3) of one type, such as uint8; returns (H, W, 3) if one of them has colour,
    else (H, W).
    Range: from black to white `value_range`, in and out.

    Args:
        fuse: What fuses luminance.
        a: First image.
        b: Second image.
        device: Where it computes.
        value_range: Values of black and white.
        memory: How much memory may be used: an image that does not fit is fused in tiles. Without a limit, each image
            is fused as a whole.

    Raises:
        UserError: the network gives a value that is not finite, or the memory is too small.
    """

    def source(image: NDArray[Any]) -> Source:
        return lambda *part: _luminance(image[part], value_range, device)

    first, second = source(a), source(b)
    height, width = a.shape[:2]
    grid = None
    if memory is not None:
        # the fused luminance, the result, and a copy of it that is written
        held = height * width * (4 + 2 * a.itemsize * max(a.ndim, b.ndim))
        room = memory.room(a.nbytes + b.nbytes, held)
        grid = grid_for(fuse, height, width, room=room, limit=memory, device=device)
    if grid is not None:
        assert isinstance(fuse, FusionMethod)  # only these are tiled
        fused = fuse_in_tiles(fuse, first, second, grid)
    else:
        everything = slice(None), slice(None)
        fused = fuse(first(*everything), second(*everything))[0, 0].cpu().numpy()
    broken = np.count_nonzero(~np.isfinite(fused))
    if broken:
        raise UserError(
            "The network gives values that are not finite.",
            expected="weights that give a finite value for every pixel",
            found=f"{broken} of {fused.size} pixels of a pair are NaN or infinite",
            fix="train again, or use other weights",
        )
    # ASSUME: with two colour images, the chroma of the second is used (visible, PET or SPECT by the roles);
    # grey stored as three equal channels is not colour
    coloured = next((image for image in (b, a) if image.ndim == 3 and np.ptp(image, axis=2).any()), None)
    return from_luminance(fused, coloured, a.dtype, value_range)


def _luminance(pixels: NDArray[Any], value_range: Range, device: torch.device) -> Tensor:
    """Return luminance in [0, 1], (1, 1, H, W), in single precision."""
    if not is_bytes(pixels, value_range):
        return torch.from_numpy(unit_luminance(pixels, value_range))[None, None].to(device)
    return torch.from_numpy(luminance(pixels).copy())[None, None].float().to(device) / 255


def strip(*images: Bytes) -> Bytes:
    """Put images of equal height side by side, in colour if one of them is."""
    colour = any(image.ndim == 3 for image in images)
    same = [np.repeat(i[..., None], 3, axis=2) if colour and i.ndim == 2 else i for i in images]
    return np.concatenate(same, axis=1)

"""Application of a fusion method to images: luminance is fused, then the chroma of the colour image is added."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mmfuse.data.images import Bytes, luminance, to_bytes, with_luminance
from mmfuse.errors import UserError
from mmfuse.inference.half_precision import Fuse


def best_device() -> torch.device:
    """Return the first accelerator, else the CPU, with TF32 disabled."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def fuse_luminance(
    fuse: Fuse, a: NDArray[np.float32], b: NDArray[np.float32], device: torch.device
) -> NDArray[np.float64]:
    """Fuse two aligned grey images of any size.

    Shape: a, b (H, W), returns (H, W).
    Range: from black to white [0, 1]; the result may be slightly outside.

    Raises:
        UserError: the network gives a value that is not finite.
    """
    tensors = (torch.from_numpy(image)[None, None].to(device) for image in (a, b))
    fused = fuse(*tensors)[0, 0].double().cpu().numpy()
    if not np.isfinite(fused).all():
        raise UserError(
            "The network gives values that are not finite.",
            expected="weights that give a finite value for every pixel",
            found=f"{np.count_nonzero(~np.isfinite(fused))} of {fused.size} pixels of a pair are NaN or infinite",
            fix="train again, or use other weights",
        )
    return np.asarray(fused)


def fuse_pair(fuse: Fuse, a: Bytes, b: Bytes, device: torch.device) -> Bytes:
    """Fuse two aligned images of any size.

    Shape: a, b (H, W) or (H, W, 3) uint8; returns (H, W, 3) if one of them has colour, else (H, W).

    Raises:
        UserError: the network gives a value that is not finite.
    """
    fused = fuse_luminance(fuse, *(luminance(image).astype(np.float32) / 255 for image in (a, b)), device)
    # ASSUME: with two colour images, the chroma of the second is used (visible, PET or SPECT by the roles);
    # grey stored as three equal channels is not colour
    coloured = next((image for image in (b, a) if image.ndim == 3 and np.ptp(image, axis=2).any()), None)
    return to_bytes(fused) if coloured is None else with_luminance(coloured, fused)


def strip(*images: Bytes) -> Bytes:
    """Put images of equal height side by side, in colour if one of them is."""
    colour = any(image.ndim == 3 for image in images)
    same = [np.repeat(i[..., None], 3, axis=2) if colour and i.ndim == 2 else i for i in images]
    return np.concatenate(same, axis=1)

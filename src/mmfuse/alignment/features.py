"""What two modalities have in common: the orientation of edges, wherever an image has content.

An edge in infrared is often an edge in visible light, but its contrast differs and may be inverted. The orientation,
modulo 180 degrees, stays. It is kept as (cos 2θ, sin 2θ), weighted by how much the edge stands out from its
surroundings, so that products of two such maps are large where edges are parallel, and average 0 by chance (normalised
gradient fields; Haber and Modersitzki, "Intensity gradient based registration and fusion of multi-modal images",
MICCAI 2006).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Image = tuple[Floats, Mask]  # (H, W), and where it shows something
Pair = tuple[Image, Image]  # moving, fixed
_SURROUNDING = 8.0  # pixels, standard deviation
_FAINT = 0.25  # edges below this share of the image's mean strength count less
_RECTANGLE = 0.85  # least share of its bounding rectangle that an image with black margins fills


def grey(image: NDArray[Any]) -> Floats:
    """Return the luminance of an image of any type, unscaled.

    Shape: (H, W) or (H, W, 3); returns (H, W).
    """
    values = np.asarray(image, np.float32)
    return values if values.ndim == 2 else values[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)


def content(image: Floats) -> Mask:
    """Return where an image shows something: everywhere, except in black margins that an earlier warp has left.

    The black around a scanned body is content. The two differ in the shape of what remains: an image that was rotated,
    shifted or slightly bent nearly fills a rectangle, a body does not.

    Shape: (H, W) in and out.
    """
    from scipy.ndimage import binary_dilation, binary_opening, label
    from scipy.spatial import ConvexHull, QhullError

    regions, _ = label(image == 0)
    border = np.unique(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]))
    margin = np.isin(regions, border[border > 0])
    shown = binary_opening(~margin, iterations=2)
    if not margin.any() or not shown.any():
        return np.ones(image.shape, bool)
    points = np.argwhere(shown)
    try:
        corners = points[ConvexHull(points).vertices]
    except QhullError:  # a line or a point
        return np.ones(image.shape, bool)
    angles = np.radians(np.arange(-45, 45))
    along = corners @ np.stack([np.cos(angles), np.sin(angles)])
    across = corners @ np.stack([-np.sin(angles), np.cos(angles)])
    rectangle = ((np.ptp(along, axis=0) + 1) * (np.ptp(across, axis=0) + 1)).min()
    if shown.sum() < _RECTANGLE * rectangle:
        return np.ones(image.shape, bool)
    return ~binary_dilation(~shown, iterations=2) if margin.any() else shown


def orientations(image: Floats, mask: Mask, sigma: float = 1.0) -> tuple[Floats, Mask]:
    """Return the orientation of edges, and where it is known.

    Args:
        image: (H, W).
        mask: (H, W), where the image has content.
        sigma: Standard deviation in pixels of the Gaussian whose derivative measures the edges.

    Returns:
        (2, H, W), of length 0 to 1 for each pixel, and the mask without the pixels beside its margins.
    """
    from scipy.ndimage import binary_erosion, gaussian_filter

    known = binary_erosion(mask, iterations=max(2, round(2 * sigma)), border_value=1)
    x, y = (gaussian_filter(image, sigma, order=order, mode="nearest") for order in ((0, 1), (1, 0)))
    energy = (x * x + y * y) * known
    weight = known.astype(np.float32)
    around = gaussian_filter(energy, _SURROUNDING) / np.maximum(gaussian_filter(weight, _SURROUNDING), 1e-3)
    mean = float(energy.sum()) / max(float(weight.sum()), 1.0)
    # (x + iy)^2 = energy (cos 2θ + i sin 2θ); dividing by sqrt(energy) and by the strength around leaves the weight
    strength = np.sqrt(energy * (energy + around + _FAINT**2 * mean)) + 1e-12
    return np.stack([(x * x - y * y) / strength, 2 * x * y / strength]).astype(np.float32) * known, known

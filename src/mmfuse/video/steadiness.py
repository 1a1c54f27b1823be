"""How steady a fused film is: measures of flicker that follow the motion of the sources.

All work on luminance. Optical flow is the TV-L1 flow of scikit-image (Zach, Pock and Bischof 2007; Sánchez Pérez,
Meinhardt-Llopis and Facciolo 2013); the publications below use trained networks (FlowNet2, SEA-RAFT) and colours, so
that their printed values cannot be compared with these.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmfuse.data.images import Bytes, luminance

Flow = NDArray[np.float32]  # (2, H, W): rows and columns from a pixel of the first image to its place in the second
Grey = NDArray[np.float32]
SIDE = 640  # pixels of the longer side of the images whose flow is computed


@dataclass(frozen=True)
class Measure:
    """What a reader needs to know about a measure; lower is better, 0 is best."""

    definition: str
    source: str


MEASURES = {
    "WarpError": Measure(
        "mean squared difference, values in [0, 1], between a fused frame and the next one warped by the flow of the "
        "second film, where that is neither occluded nor at a motion boundary",
        "Lai et al., Learning Blind Video Temporal Consistency, ECCV 2018",
    ),
    "BiSWE": Measure(
        "mean absolute difference, values in [0, 255], between a fused frame and the one before warped by the flow of "
        "the fused film, plus the same for the one after, where the flows of both sources agree with their reverse "
        "within a pixel",
        "Zhao et al., A Unified Solution to Video Fusion, NeurIPS 2025",
    ),
    "MS2R": Measure(
        "mean absolute difference, in pixels, between the change of the flow of the fused film from one frame to the "
        "next and that of each source",
        "Zhao et al., A Unified Solution to Video Fusion, NeurIPS 2025",
    ),
}


def optical_flow(first: Grey, second: Grey, side: int = SIDE) -> Flow:
    """Return the TV-L1 flow from one image to the next one, in pixels.

    Shape: (H, W) in [0, 255] twice; returns (2, H, W).

    Args:
        first: An image.
        second: The next one.
        side: Larger images are reduced until their longer side has so many pixels.
    """
    from skimage.registration import optical_flow_tvl1

    height, width = first.shape
    scale = min(1.0, side / max(height, width))
    size = (max(8, round(height * scale)), max(8, round(width * scale)))
    small = [_resized(image, size) / 255 for image in (first, second)]
    flow: Flow = optical_flow_tvl1(*small, dtype=np.float32)
    if size == (height, width):
        return flow
    ratios = (height / size[0], width / size[1])
    return np.stack([_resized(part, (height, width)) * ratio for part, ratio in zip(flow, ratios, strict=True)])


def _resized(image: Grey, size: tuple[int, int]) -> Grey:
    from PIL import Image

    if image.shape == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def warped(image: NDArray[np.floating], flow: Flow) -> NDArray[np.floating]:
    """Return an image fetched from where a flow leads, with bilinear interpolation; outside, the border continues.

    Shape: (H, W) or (C, H, W), and (2, H, W); returns the shape of the image.
    """
    from scipy.ndimage import map_coordinates

    if image.ndim == 3:
        return np.stack([warped(channel, flow) for channel in image])
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    moved: NDArray[np.floating] = map_coordinates(image, [rows + flow[0], columns + flow[1]], order=1, mode="nearest")
    return moved


def not_occluded(forth: Flow, back: Flow) -> NDArray[np.bool_]:
    """Return where a flow can be followed: it agrees with its reverse, and does not change suddenly (Lai et al. 2018).

    Shape: (2, H, W) twice; returns (H, W).
    """
    reverse = warped(back, forth)
    square = (forth**2).sum(0)
    apart = ((forth + reverse) ** 2).sum(0) > 0.01 * ((reverse**2).sum(0) + square) + 0.5
    down, right = np.zeros_like(forth), np.zeros_like(forth)
    down[:, :-1] = np.diff(forth, axis=1)
    right[:, :, :-1] = np.diff(forth, axis=2)
    boundary = (down**2 + right**2).sum(0) > 0.01 * square + 0.002
    found: NDArray[np.bool_] = ~(apart | boundary)
    return found


def consistent(forth: Flow, back: Flow) -> NDArray[np.bool_]:
    """Return where a flow agrees with its reverse within a pixel (Zhao et al. 2025)."""
    near: NDArray[np.bool_] = np.hypot(*(forth + warped(back, forth))) < 1
    return near


def warp_error(first: Grey, second: Grey, forth: Flow, seen: NDArray[np.bool_]) -> float:
    """Return the mean squared difference between a frame and the warped next one, both in [0, 255], where `seen`.

    All pixels count if none is seen, as in the published code.
    """
    square = ((warped(second, forth) - first) / 255) ** 2
    return float(square[seen].mean() if seen.any() else square.mean())


def self_warping_error(frames: Sequence[Grey], flows: Sequence[Flow], seen: Sequence[NDArray[np.bool_]]) -> float:
    """Return the BiSWE of three frames.

    Args:
        frames: Three frames of the fused film, in [0, 255].
        flows: Its flow from the middle frame to the one before, and to the one after.
        seen: Where the sources can be followed, for both directions.
    """
    total = 0.0
    for other, flow, mask in zip((frames[0], frames[2]), flows, seen, strict=True):
        error = np.abs(warped(other, flow) - frames[1])
        total += float(error[mask].mean()) if mask.any() else 0.0
    return total


def motion_difference(fused: Sequence[Flow], sources: Sequence[Sequence[Flow]]) -> float:
    """Return the MS2R of three frames: of the two flows of the fused film, and of those of each source."""
    change = fused[1] - fused[0]
    return float(np.mean([np.abs(change - (flows[1] - flows[0])).mean() for flows in sources]))


@dataclass
class _Step:
    """A frame of each film, and the flows to the next frame and back."""

    images: dict[str, Grey]
    forth: dict[str, Flow]
    back: dict[str, Flow]


def measure(
    frames: Iterable[Mapping[str, Bytes]], systems: Sequence[str], side: int = SIDE
) -> Iterator[dict[str, dict[str, float]]]:
    """Measure fused films, a few frames at a time.

    Args:
        frames: The frames of all films that are shown at the same time, of one size: under `a` and `b` those of the
            sources, under the names of the systems the fused ones.
        systems: The names of the systems.
        side: As in `optical_flow`.

    Yields:
        For each frame after the first one, the measures of each system: WarpError between the frame before and this
        one, and from the third frame on BiSWE and MS2R of the last three frames.
    """
    last: dict[str, Grey] = {}
    steps: deque[_Step] = deque(maxlen=2)
    for images in frames:
        now = {name: luminance(pixels).astype(np.float32) for name, pixels in images.items()}
        if last:
            forth = {name: optical_flow(last[name], now[name], side) for name in now}
            back = {name: optical_flow(now[name], last[name], side) for name in now}
            steps.append(_Step(last, forth, back))
            seen = not_occluded(forth["b"], back["b"])
            found = {name: {"WarpError": warp_error(last[name], now[name], forth["b"], seen)} for name in systems}
            if len(steps) == 2:
                for name in systems:
                    found[name] |= _three(steps, now, name)
            yield found
        last = now


def _three(steps: Sequence[_Step], now: Mapping[str, Grey], name: str) -> dict[str, float]:
    """Return the measures of the last three frames."""
    before, after = steps
    seen = (
        consistent(before.back["a"], before.forth["a"]) & consistent(before.back["b"], before.forth["b"]),
        consistent(after.forth["a"], after.back["a"]) & consistent(after.forth["b"], after.back["b"]),
    )
    frames = (before.images[name], after.images[name], now[name])
    flows = {film: (before.forth[film], after.forth[film]) for film in ("a", "b", name)}
    return {
        "BiSWE": self_warping_error(frames, (before.back[name], after.forth[name]), seen),
        "MS2R": motion_difference(flows[name], (flows["a"], flows["b"])),
    }

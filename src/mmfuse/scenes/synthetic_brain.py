"""Synthetic brain slices: an MRI-like image, a CT-, PET- or SPECT-like image and a lesion mask, made from a seed.

No patient data are used; the slices replace the AANLIB pairs where those cannot be downloaded. Head, skull, folded
cortex, ventricles and deep nuclei are drawn once as tissue fractions, and each modality has its own levels for them:
T2-like MRI with CT and SPECT, T1-like MRI with PET (as in AANLIB). Fusion is useful by design: some lesions are visible
only in the MRI, some only in the other image, some in both, see `LESIONS`.

Layout: `{split}/mri/NAME.png` (grey), `{split}/functional/NAME.png` (CT grey, PET and SPECT RGB),
`{split}/mask/NAME.png` (0 background, 1 lesion). Names start with ct, pet and spect, in turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, label, map_coordinates

from mmfuse.progress import progress
from mmfuse.scenes.drawing import TILE, Array, image_generator, noise_tile, save_png, window

KINDS = ("ct", "pet", "spect")
SCALP, SKULL, RIM = 0.045, 0.120, 0.134  # depths below the skin where scalp, skull and the fluid around the brain end

# level of each tissue in each kind of image
LEVELS: dict[str, dict[str, float]] = {
    "t2": {"scalp": 0.40, "skull": 0.03, "marrow": 0.13, "fluid": 0.92, "grey": 0.52, "white": 0.35, "deep": 0.42},
    "t1": {"scalp": 0.80, "skull": 0.03, "marrow": 0.30, "fluid": 0.07, "grey": 0.50, "white": 0.79, "deep": 0.60},
    "ct": {"scalp": 0.13, "skull": 1.00, "marrow": 0.97, "fluid": 0.17, "grey": 0.40, "white": 0.345, "deep": 0.41},
    "pet": {"scalp": 0.04, "skull": 0.02, "marrow": 0.03, "fluid": 0.10, "grey": 1.02, "white": 0.30, "deep": 1.05},
    "spect": {"scalp": 0.16, "skull": 0.06, "marrow": 0.06, "fluid": 0.10, "grey": 0.95, "white": 0.42, "deep": 1.00},
}
# ASSUME: colour stops estimated by eye from AANLIB's images: level, red, green, blue
COLOURS = {
    "pet": (
        (0.00, 0, 0, 0), (0.18, 0, 0, 110), (0.36, 0, 75, 255), (0.56, 255, 255, 0), (0.78, 255, 110, 0),
        (0.90, 255, 0, 0), (1.00, 255, 0, 220),
    ),
    "spect": (
        (0.00, 0, 0, 0), (0.20, 40, 68, 72), (0.34, 56, 40, 101), (0.46, 98, 13, 140), (0.62, 168, 72, 125),
        (0.74, 218, 98, 50), (0.82, 255, 112, 10), (0.92, 255, 160, 110), (1.00, 255, 222, 245),
    ),
}  # fmt: skip


class Lesion(NamedTuple):
    """A kind of lesion: its level in the MRI and in the other image (None: invisible), radius, number."""

    mri: float | None
    functional: float | None
    radius: tuple[float, float]
    number: tuple[int, int] = (1, 1)


LESIONS: dict[str, dict[str, Lesion]] = {
    "ct": {
        "calcification": Lesion(None, 0.97, (0.045, 0.075), (1, 3)),
        "fresh bleeding": Lesion(None, 0.74, (0.09, 0.18)),
        "plaques": Lesion(0.88, None, (0.045, 0.085), (2, 4)),
        "infarct": Lesion(0.78, 0.2, (0.16, 0.28)),
    },
    "pet": {
        "hot spot": Lesion(None, 1.6, (0.09, 0.14)),
        "sleeping cortex": Lesion(None, 0.12, (0.16, 0.26)),
        "plaques": Lesion(0.22, None, (0.04, 0.07), (2, 4)),
        "tumour": Lesion(0.30, 1.5, (0.12, 0.20)),
    },
    "spect": {
        "hot spot": Lesion(None, 1.6, (0.11, 0.16)),
        "sleeping cortex": Lesion(None, 0.1, (0.18, 0.28)),
        "plaques": Lesion(0.9, None, (0.045, 0.08), (2, 4)),
        "infarct": Lesion(0.82, 0.08, (0.16, 0.28)),
    },
}


@dataclass
class Slice:
    """One head: the position of each pixel and its tissue fractions, which sum to 1 in the head."""

    x: Array  # horizontal distance from the midline, in half heads
    y: Array  # downwards: the forehead is at the top
    depth: Array  # below the skin
    tissue: dict[str, Array]
    level: float  # 0 at the deep nuclei, 1 near the top of the head
    unit: float  # pixels per half head


def _soft(distance: NDArray, unit: float, width: float = 1.0) -> Array:
    """Return 1 inside (positive distance) and 0 outside, with an edge of `width` pixels."""
    return np.clip(np.asarray(distance, np.float32) * (unit / width) + 0.5, 0, 1)


def _capsule(x: Array, y: Array, start: tuple[float, float], end: tuple[float, float], r0: float, r1: float) -> Array:
    """Return the signed distance to the edge of a tapered stick with round ends, positive inside."""
    (ax, ay), (bx, by) = start, end
    share = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2), 0, 1)
    return np.asarray(
        r0 + (r1 - r0) * share - np.hypot(x - ax - share * (bx - ax), y - ay - share * (by - ay)), np.float32
    )


def _ellipse(x: Array, y: Array, centre: tuple[float, float], radii: tuple[float, float], turn: float = 0.0) -> Array:
    """Return the approximate signed distance to the edge of a rotated ellipse, positive inside."""
    dx, dy = x - centre[0], y - centre[1]
    u, v = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    return (1 - np.hypot(u / radii[0], v / radii[1])) * min(radii)


def _place(rng: np.random.Generator, height: int, width: int, level: float) -> tuple[Array, Array, Array, float]:
    """Return x, y, depth below the skin (all in half heads) and pixels per half head, for a head of random shape."""
    unit = min(height, width) / 2 * float(rng.uniform(0.88, 0.94)) * (1 - 0.08 * level)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    x = (columns - width / 2 + 0.5 - rng.uniform(-3, 3) * unit / 100) / unit
    y = (rows - height / 2 + 0.5 - rng.uniform(-3, 3) * unit / 100) / unit
    turn = rng.normal(0, 0.05)
    x, y = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    bends = [window(noise_tile(2.6, 1, 3), rng, height, width, height / 150) for _ in range(2)]
    x, y = (axis + 0.012 * gaussian_filter(bend, height / 50) for axis, bend in zip((x, y), bends, strict=True))
    roundness, wide = rng.uniform(2.1, 2.5), rng.uniform(0.76, 0.84)
    egg = wide * (1 + 0.07 * y)  # the back of the head is wider than the forehead
    radius = (np.abs(x / egg) ** roundness + np.abs(y) ** roundness) ** (1 / roundness)
    depth = (1 - radius) * 0.88
    return x.astype(np.float32), y.astype(np.float32), depth.astype(np.float32), unit


def _chain(x: Array, y: Array, *knots: tuple[float, float, float]) -> Array:
    """Return the signed distance to the edge of a bent stick through knots (x, y, radius), positive inside."""
    return np.maximum.reduce([_capsule(x, y, p[:2], q[:2], p[2], q[2]) for p, q in pairwise(knots)])


def _ventricles(rng: np.random.Generator, x: Array, y: Array, bend: Array, level: float) -> tuple[Array, Array]:
    """Return signed distances (positive inside) of the ventricles and of the nuclei beside them."""
    swell, shift, lean = float(rng.uniform(0.75, 1.6)) * (1 - 0.4 * level), rng.normal(0, 0.02), rng.normal(0, 0.06)
    if level > 0.75:
        return np.full_like(x, -1), np.full_like(x, -1)
    a = np.asarray(np.abs(x) * (1 + lean * np.sign(x)) + 0.008 * bend, np.float32)
    y = np.asarray(y - shift + 0.010 * np.roll(bend, 31, axis=1), np.float32)
    if level > 0.35:
        body = (0.04, -0.28, 0.01), (0.065, -0.16, 0.040 * swell), (0.065, 0.0, 0.032 * swell)
        return _chain(a, y, *body, (0.09, 0.18, 0.042 * swell), (0.17, 0.33, 0.02)), np.full_like(x, -1)
    front = _chain(a, y, (0.030, -0.10, 0.014), (0.06, -0.20, 0.036 * swell), (0.15, -0.315, 0.034 * swell))
    back = _chain(
        a, y, (0.10, 0.16, 0.014), (0.20, 0.23, 0.046 * swell), (0.25, 0.37, 0.040 * swell), (0.22, 0.5, 0.005)
    )
    third = _chain(a, y, (0.0, -0.03, 0.010 * swell), (0.0, 0.13, 0.018 * swell))
    caudate = _ellipse(a, y, (0.135 + 0.035 * swell, -0.20), (0.042, 0.10), 0.35)
    lentiform = _ellipse(a, y, (0.285, -0.05), (0.070, 0.17), 0.28)
    thalamus = _ellipse(a, y, (0.105, 0.07), (0.080, 0.12), -0.35)
    return np.maximum(np.maximum(front, back), third), np.maximum(np.maximum(caudate, lentiform), thalamus)


def _folds(rng: np.random.Generator, x: Array, y: Array, inner: Array, bend: Array, level: float) -> Array:
    """Return how deep each brain pixel is in a furrow of the cortex (0..1); left and right are similar, not equal."""
    tile, start = noise_tile(0.0, 9, 15), rng.uniform(0, TILE, (2, 2))
    angle = np.arctan2(0.6 * y, np.abs(x) - 0.2)
    furrow = np.zeros_like(x)
    for share, origin, side in ((0.8, start[0], 0.0), (0.6, start[1], 200 * np.sign(x))):
        rows, columns = origin[0] + 84 * angle + 8 * bend + side, origin[1] + 62 * inner + 10 * bend
        furrow = furrow + share * map_coordinates(tile, [rows, columns], order=1, mode="grid-wrap")
    reach = 0.30 + 0.06 * bend - 0.22 * np.clip(1.6 - np.abs(x) / 0.16, 0, 1)  # shallower along the midline
    open_ = np.clip(1.15 - inner / 0.30, 0.35, 1.0) * rng.uniform(0.15, 0.27)
    cleft = np.exp(-((furrow / open_) ** 2)) * np.clip((reach - inner) / 0.04, 0, 1)
    if level < 0.4:  # the large furrow at the temple (lateral sulcus), with the insula behind it
        u = np.asarray(np.abs(x) + 0.02 * bend, np.float32)
        v = np.asarray(y + 0.025 * bend + 0.02 * np.sign(x) * rng.normal(), np.float32)
        temple = _chain(u, v, (0.72, 0.13, 0.020), (0.58, 0.03, 0.013), (0.45, 0.02, 0.010))
        island = _chain(u, v, (0.40, -0.16, 0.006), (0.46, 0.0, 0.012), (0.42, 0.17, 0.006))
        cleft = np.maximum(cleft, np.clip(np.maximum(temple, island) * 70 + 0.5, 0, 1))
    return np.asarray(cleft, np.float32)


def draw_slice(rng: np.random.Generator, height: int, width: int) -> Slice:
    """Draw the anatomy of one slice as tissue fractions."""
    level = float(rng.uniform(0, 1))
    x, y, depth, unit = _place(rng, height, width, level)
    thick = 1 + 0.22 * gaussian_filter(window(noise_tile(2.0, 2, 8), rng, height, width, height / 256), height / 40)
    fissure = np.abs(x) - (0.010 + 0.012 * np.clip(np.abs(y) - 0.35, 0, 1) + 0.05 * np.clip(np.abs(y) - 0.72, 0, 1))
    if level < 0.75:
        fissure = np.where((y > -0.38 + 0.3 * level) & (y < 0.36 - 0.2 * level), 1.0, fissure)
    brain = np.minimum(depth - RIM, fissure)
    inner = np.asarray(distance_transform_edt(brain > 0), np.float32) / unit
    origin = rng.uniform(0, TILE, 2)
    bend = map_coordinates(noise_tile(1.5, 3, 9), [origin[0] + 90 * x, origin[1] + 90 * y], order=1, mode="grid-wrap")
    chambers, nuclei = (gaussian_filter(d, 0.014 * unit) for d in _ventricles(rng, x, y, bend, level))
    cleft = np.maximum(
        _folds(rng, x, y, inner, bend, level), (1 - _soft(brain, unit)) * np.clip(0.75 + 0.3 * bend, 0.35, 1)
    )
    kept, _ = label(cleft >= 0.34)
    kept = (kept > 0) & (np.bincount(kept.ravel()) > (0.036 * unit) ** 2)[kept]  # very small furrows have no cortex
    cleft = np.where(kept | (cleft < 0.34), cleft, 0.0)
    cortex = 0.046 - np.asarray(distance_transform_edt(~kept), np.float32) / unit
    chamber = _soft(chambers, unit, 1.5)
    cleft = np.maximum(cleft * (chambers < -0.04), chamber)
    deep = _soft(nuclei, unit, 3.0)
    grey = gaussian_filter(_soft(cortex, unit, 2.0), 0.5)
    skin, bone, fluid = (_soft(depth - edge * t, unit) for edge, t in ((0, 1), (SCALP, thick), (SKULL, 1)))
    fluid = np.minimum(fluid, bone)
    marrow = _soft(0.016 * thick - np.abs(depth - 0.5 * (SCALP * thick + SKULL)), unit, 2.0) * bone
    sinus = np.zeros_like(x)
    if level < 0.45 and rng.random() < 0.7:  # frontal sinus: air behind the forehead
        for side in (-1, 1):
            hollow = _ellipse(side * x, y, (0.09, -0.905), (0.075 * rng.uniform(0.5, 1.2), 0.035), 0.2)
            sinus = np.maximum(sinus, _soft(hollow, unit))
    skull = (bone - fluid) * (1 - sinus)
    tissue = {"scalp": skin - bone, "skull": skull * (1 - marrow), "marrow": skull * marrow, "fluid": fluid * cleft}
    matter = fluid * (1 - cleft)
    tissue |= {"grey": matter * grey, "deep": matter * (1 - grey) * deep, "white": matter * (1 - grey) * (1 - deep)}
    return Slice(x, y, depth, tissue, level, unit)


def _lesion(rng: np.random.Generator, head: Slice, kind: Lesion) -> Array:
    """Return the fraction (0..1) of a lesion with a ragged edge at a random position in the brain."""
    room = head.tissue["white"] + head.tissue["deep"] if kind.radius[0] < 0.09 else 1 - head.tissue["fluid"]
    radius = float(rng.uniform(*kind.radius))
    rows, columns = np.nonzero(
        (room > 0.9) & (head.depth > RIM + 0.03 + 0.45 * radius) & (np.abs(head.x) > 0.4 * radius)
    )
    total = np.zeros_like(head.x)
    if rows.size == 0:
        return total
    ragged = gaussian_filter(
        window(noise_tile(2.0, 3, 24), rng, total.shape[0], total.shape[1], head.unit / 105), head.unit / 60
    )
    for _ in range(int(rng.integers(kind.number[0], kind.number[1] + 1))):
        chosen = rng.integers(rows.size)
        centre = float(head.x[rows[chosen], columns[chosen]]), float(head.y[rows[chosen], columns[chosen]])
        shape = _ellipse(head.x, head.y, centre, (radius, radius * rng.uniform(0.65, 1.0)), rng.uniform(0, np.pi))
        total = np.maximum(total, _soft(shape + 0.3 * radius * ragged, head.unit, 2.5))
    return total * _soft(head.depth - RIM - 0.01, head.unit)


def _levels(head: Slice, kind: str) -> Array:
    """Paint the tissues with the levels of one kind of image."""
    return np.asarray(sum(share * LEVELS[kind][name] for name, share in head.tissue.items()), np.float32)


def _mri(rng: np.random.Generator, head: Slice, levels: Array) -> NDArray[np.uint8]:
    """Finish an MRI-like image: texture, coil shading, blur and Rician noise on a black background."""
    height, width = levels.shape
    texture = window(noise_tile(0.9, 4), rng, height, width, head.unit / 105)
    scalp = head.tissue["scalp"] * 0.5 * window(noise_tile(1.3, 6), rng, height, width, head.unit / 105)
    levels = levels * (1 + 0.045 * texture + 0.35 * scalp)
    levels = gaussian_filter(levels, 0.55 * head.unit / 105)
    tilt = rng.normal(0, 0.06, 2)
    coil = 0.90 + 0.16 * np.clip(1 - head.depth / 0.6, 0, 1) + tilt[0] * head.x + tilt[1] * head.y
    sigma = rng.uniform(0.010, 0.022)
    real, imaginary = sigma * rng.standard_normal((2, height, width), np.float32)
    picture = np.hypot(levels * coil + real, imaginary) - 1.2 * sigma * (head.depth < 0)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _ct(rng: np.random.Generator, head: Slice, levels: Array) -> NDArray[np.uint8]:
    """Finish a CT-like image: a bright skull, flat soft tissue, grain, and sometimes the head rest."""
    height, width = levels.shape
    brain = head.depth > SKULL
    levels = levels + 0.05 * np.exp(-np.clip(head.depth - SKULL, 0, 1) / 0.05) * brain  # beam hardening by the skull
    levels = gaussian_filter(np.where(head.depth > SCALP * 0.3, levels, levels * 0.6), 0.6 * head.unit / 105)
    if rng.random() < 0.6:
        bowl = np.hypot(head.x / 1.02, (head.y - 0.12) / 1.02) - rng.uniform(1.02, 1.08)
        ends = (head.y > rng.uniform(0.45, 0.65)) & (np.abs(head.x) > rng.uniform(0.5, 0.75))
        levels = np.maximum(levels, 0.85 * _soft(0.008 - np.abs(bowl), head.unit) * ends)
    grain = gaussian_filter(rng.standard_normal((height, width), np.float32), 0.6)
    levels = levels + grain * np.where(head.depth > 0, 0.022, 0.004)
    return np.rint(np.clip(levels, 0, 1) * 255).astype(np.uint8)


def _emission(rng: np.random.Generator, head: Slice, levels: Array, kind: str) -> NDArray[np.uint8]:
    """Finish a PET- or SPECT-like image: coarse, uneven, in the colours of AANLIB."""
    height, width = levels.shape
    blur = (0.030 if kind == "pet" else 0.050) * head.unit
    uneven = window(noise_tile(1.0, 5, 40), rng, height, width, head.unit / 105)
    strength = 0.14 if kind == "pet" else 0.22
    back = 1 + 0.10 * np.clip(head.y, -1, 1)  # the visual cortex is the most active
    levels = gaussian_filter(levels * back * (1 + strength * uneven), blur) * rng.uniform(0.78, 0.92)
    if kind == "pet":
        levels = np.where(levels < 0.05, 0, levels)
    else:
        halo = gaussian_filter(np.asarray(head.depth > -0.02, np.float32), blur) * 0.04
        levels = levels + halo * np.clip(1 + uneven, 0, 2)
    stops = np.array(COLOURS[kind])
    picture = np.stack([np.interp(levels, stops[:, 0], stops[:, c]) for c in (1, 2, 3)], axis=-1)
    return np.rint(picture).astype(np.uint8)


class Sample(NamedTuple):
    """One pair: MRI (H, W), CT (H, W) or PET or SPECT (H, W, 3), lesion mask (H, W), all uint8."""

    mri: NDArray[np.uint8]
    functional: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    lesions: dict[str, NDArray[np.uint8]]


def render(rng: np.random.Generator, kind: str, height: int, width: int) -> Sample:
    """Render one slice as MRI and as CT, PET or SPECT, with one or two kinds of lesions."""
    head = draw_slice(rng, height, width)
    mri, functional = _levels(head, "t1" if kind == "pet" else "t2"), _levels(head, kind)
    texture = gaussian_filter(window(noise_tile(1.2, 6), rng, height, width, head.unit / 105), head.unit / 90)
    lesions: dict[str, NDArray[np.uint8]] = {}
    names = list(LESIONS[kind])
    for index in rng.permutation(len(names))[: rng.integers(1, 3)]:
        lesion = LESIONS[kind][names[index]]
        share = _lesion(rng, head, lesion)
        if lesion.mri is not None:
            mri = mri + share * (lesion.mri * (1 + 0.14 * texture) - mri)
        if lesion.functional is not None:
            functional = functional + share * (lesion.functional * (1 + 0.06 * texture) - functional)
        lesions[names[index]] = np.asarray(share > 0.5, np.uint8)
    mask = np.maximum.reduce(list(lesions.values()))
    other = _ct(rng, head, functional) if kind == "ct" else _emission(rng, head, functional, kind)
    return Sample(_mri(rng, head, mri), other, mask, lesions)


def generate(folder: Path, *, seed: int, height: int, width: int, train: int, val: int, test: int) -> None:
    """Write brain slices for the three splits below `folder`; the same arguments give the same bytes.

    Image k of a split depends only on the seed, the split, k and the size. The caller is responsible for complete
    datasets: write into a temporary folder and rename it.
    """
    for number, (split, count) in enumerate((("train", train), ("val", val), ("test", test))):
        places = [folder / split / part for part in ("mri", "functional", "mask")]
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
        for index in progress(range(count), f"draw {split}", unit="pairs"):
            kind = KINDS[index % len(KINDS)]
            sample = render(image_generator(seed, number, index), kind, height, width)
            for place, pixels in zip(places, sample[:3], strict=False):
                save_png(place / f"{kind}_{index:04d}.png", pixels)
